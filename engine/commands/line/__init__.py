"""The command line itself, before a command runs: its words, its streams."""
