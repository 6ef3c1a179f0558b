"""pyllm: GGUF language models on CPUs in pure Python, and what the KV cache's format costs and buys."""

__version__ = "0.1.0"
