"""What a study found out, on disk, and which cache types follow from it."""
