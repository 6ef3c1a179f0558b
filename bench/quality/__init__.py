"""What a cache costs in quality: a text through several caches, and the divergence of their logits."""
