"""Cache policies: what a function of the user's own makes of K and V."""
