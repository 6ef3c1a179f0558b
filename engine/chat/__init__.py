"""A conversation at the terminal: the prompt, the answer as it comes, and its statistics."""
