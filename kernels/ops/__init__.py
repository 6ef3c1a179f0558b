"""The operations of a forward pass other than attention: products, norms, gates, RoPE, experts, sampling."""
