"""The limits of this machine, and how quiet it is."""
