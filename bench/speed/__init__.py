"""Tokens per second: cases, engines, samples, and a peer beside them."""
