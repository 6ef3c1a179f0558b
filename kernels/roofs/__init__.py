"""Bare loops that show what the machine can do at most."""
