"""How many sequences a memory holds, how fast they are, and what limits them, by the types of K and V."""
