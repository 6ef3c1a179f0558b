"""What quantizing K and V costs, measured cell after cell."""
