"""The commands that measure: flags in, a report out."""
