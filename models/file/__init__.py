"""Reads, checks and writes GGUF files."""
