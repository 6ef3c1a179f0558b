"""What this machine can do at most, and how quiet it is."""
