"""The Walsh-Hadamard transform: it spreads an outlier over a whole block, keeps inner products, and is its own inverse.

Vectors rotated by it lose less when they are quantized, and rotated queries have the same products with rotated keys.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from ..lang.jit import inline
from ..lang.memory import load_f32, store_f32
from ..lang.simd import I32, call, unary


@unary
def hadamard_lanes(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Transform a vector's 16 lanes, without normalizing: each stage adds or subtracts the partner of each lane."""
    lanes = range(16)
    for step in (1, 2, 4, 8):
        partners = b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, 16), [i ^ step for i in lanes]))
        signs = ir.Constant(x.type, [-1.0 if i & step else 1.0 for i in lanes])
        x = call(b, "llvm.fma.v16f32", x.type, x, signs, partners)
    return x


@inline
def hadamard(x, n, size):
    """Transform n float32 at x in place, normalized, in blocks of `size` (a power of two from 16 on that divides n)."""
    share = np.float32(1 / np.sqrt(size))
    for i in range(0, 4 * n, 64):  # the transform of every 16 numbers
        store_f32(x + i, hadamard_lanes(load_f32(x + i)) * share)
    step = 64
    while step < 4 * size:
        for block in range(x, x + 4 * n, 2 * step):
            for i in range(block, block + step, 64):  # sums and differences of the two halves of a block
                low, high = load_f32(i), load_f32(i + step)
                store_f32(i, low + high)
                store_f32(i + step, low - high)
        step *= 2
