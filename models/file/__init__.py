"""A GGUF file: what is in it, whether it is whole, and how it is written again."""
