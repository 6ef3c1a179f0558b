"""The cost of a cache in quality: a text through several caches, and the KL divergence of their logits."""
