"""KIVI in NumPy (Liu et al. 2024, arXiv 2402.02750): K by channel over 32 tokens, V by token over 32 channels.

pyllm perplexity MODEL -f TEXT --kl -ctk f32 -ctv f32 --cache-policy docs/policies/kivi.py,tail=128
"""

import numpy as np

BITS, GROUP = 2, 32


def rounded(x: np.ndarray, axis: int) -> np.ndarray:
    """Return x as integers of BITS bits between the least and the largest value along an axis would give it back."""
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    step = np.maximum(high - low, 1e-9) / (2**BITS - 1)
    return np.rint((x - low) / step) * step + low


def policy(k: np.ndarray, v: np.ndarray, layer: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, heads, head_dim = k.shape
    by_channel = rounded(k.reshape(-1, GROUP, heads, head_dim), axis=1).reshape(k.shape)
    by_token = rounded(v.reshape(tokens, heads, -1, GROUP), axis=3).reshape(v.shape)
    return by_channel, by_token
