"""The next tokens of several sequences, chosen by all threads: penalty, filters, draw; knows logits, no texts."""

from __future__ import annotations

import numpy as np
from numba import carray

from ..lang.jit import inline, kernel, record
from ..lang.memory import load_f32, peek_i64, pointer
from ..lang.simd import max_lanes, maximum
from .sample import draw, narrowed

CHOICE = np.dtype(
    [
        ("logits", "<i8"),  # an address of float32 (n,), as all the others are addresses
        ("n", "<i8"),
        ("changed", "<i8"),  # room for the logits after the penalty, float32
        ("recent", "<i8"),  # int64, tokens that get the penalty
        ("n_recent", "<i8"),
        ("banned", "<i8"),  # int64, tokens that are never chosen
        ("n_banned", "<i8"),
        ("ids", "<i8"),  # of a Scratch (see sample.py), as the four that follow
        ("distance", "<i8"),
        ("weight", "<i8"),
        ("counts", "<i8"),
        ("bins", "<i8"),
        ("top_k", "<i8"),
        ("top_p", "<f8"),
        ("chance", "<f8"),  # in [0, 1)
        ("penalty", "<f4"),
        ("farthest", "<f4"),  # the largest distance that min_p keeps
        ("scale", "<f4"),  # 1 / temperature; 0: the likeliest token is taken
        ("token", "<i8"),  # the result; -1: the logits are not numbers
    ],
    align=True,
)
"""What the choice of one sequence needs, and what comes of it."""

CHOICES = record(choices="ptr")
"""choices: address of the addresses of CHOICE records, which are the items."""


@kernel(CHOICES)
def choose(a, begin, end, thread):
    """Choose a token for each of the records."""
    for i in range(begin, end):
        c = carray(pointer(peek_i64(a.choices + 8 * i)), 1, CHOICE)[0]
        c.token = _one(c)


@inline
def _one(c):
    """Return the token of a choice, or -1."""
    x = _allowed(c)
    top, numbers = x[0], True
    for t in range(c.n):
        numbers &= x[t] == x[t]
    if c.n >= 16:
        highest = load_f32(x.ctypes.data)
        for t in range(0, c.n - 15, 16):
            highest = maximum(highest, load_f32(x.ctypes.data + 4 * t))
        top = max_lanes(highest)
    for t in range(c.n // 16 * 16, c.n):
        top = max(top, x[t])
    if not numbers or not np.isfinite(top):
        return -1
    if c.scale == 0:
        token = 0
        while x[token] != top:
            token += 1
        return token
    size = (c.n + 15) // 16 * 16
    ids, weight = carray(pointer(c.ids), size, np.int32), carray(pointer(c.weight), size, np.float32)
    distance = carray(pointer(c.distance), size, np.float32)
    counts, bins = carray(pointer(c.counts), 1 << 13, np.int32), carray(pointer(c.bins), 1 << 11, np.float64)
    kept = narrowed(x, top, c.top_k, c.top_p, c.farthest, c.scale, ids, distance, weight, counts, bins)
    return np.int64(draw(ids, weight, kept, c.chance))


@inline
def _allowed(c):
    """Return the logits, with the penalty and without what is banned."""
    logits = carray(pointer(c.logits), c.n, np.float32)
    if c.n_recent == 0 and c.n_banned == 0:
        return logits
    x = carray(pointer(c.changed), c.n, np.float32)
    recent, banned = carray(pointer(c.recent), c.n_recent, np.int64), carray(pointer(c.banned), c.n_banned, np.int64)
    x[:] = logits
    for t in recent:
        x[t] = logits[t] / c.penalty if logits[t] > 0 else logits[t] * c.penalty
    for t in banned:
        x[t] = -np.inf
    return x
