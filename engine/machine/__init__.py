"""This machine: its CPU, its limits, whether a model fits, and how long work shows itself."""
