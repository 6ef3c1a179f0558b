"""What K costs and what V costs, cell after cell."""
