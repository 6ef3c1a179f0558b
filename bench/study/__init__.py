"""A study of what quantizing K and V costs, measured cell after cell."""
