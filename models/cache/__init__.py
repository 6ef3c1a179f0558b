"""The KV cache: its formats by layer, its memory, its rotation."""
