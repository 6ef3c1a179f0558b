"""What a cache costs in quality: a text through several caches, and how far apart their logits are."""
