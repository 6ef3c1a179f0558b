"""Tokens per second: cases, engines, samples, and a peer to compare with."""
