"""Measurements: throughput, the memory bus, quality; nothing below imports it."""
