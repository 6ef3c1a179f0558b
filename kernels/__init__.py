"""Arithmetic: memory in, memory out. The only folder that imports Numba; knows no file, no model, no session."""
