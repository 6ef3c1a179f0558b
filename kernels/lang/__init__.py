"""The language that kernels are written in: vectors, memory, the int8 dot product, threads, and how it is compiled."""
