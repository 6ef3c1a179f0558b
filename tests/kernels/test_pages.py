"""K and V in the pages: ggml's blocks bit for bit, whichever slot they lie in."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyllm.kernels import pages
from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS, Format
from pyllm.kernels.ops import rope

TYPE = pytest.mark.parametrize("fmt", [FORMATS[t] for t in CACHE_TYPES], ids=CACHE_TYPES)
VALUES = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-4, 4, width=32)
TOKENS = st.integers(1, 4).flatmap(lambda n: arrays(np.float32, (3, 32 * n), elements=VALUES))


def check(x: np.ndarray, fmt: Format, slots: np.ndarray, expected: np.ndarray) -> None:
    """The pages hold `expected` (bytes of a row) at the slots, and nothing elsewhere."""
    n = x.shape[1]
    k, v, out = rig.stored(x, fmt, slots, 3)
    for name, unpack, stored in (("K", pages.canonical_k, k), ("V", pages.canonical_v, v)):
        rows = np.concatenate([unpack(page, fmt, n) for page in stored])
        np.testing.assert_array_equal(rows[slots], expected, err_msg=name)
        untouched = unpack(np.full_like(stored[0], 255), fmt, n)[0]
        assert (np.delete(rows, slots, axis=0) == untouched).all(), name
    factor, low = np.float32(1), np.float32(0)
    if fmt.layout:
        numbers = fmt.layout.split(expected)
        factor = np.repeat(numbers.d, 32, axis=-1)
        low = np.repeat(numbers.m, 32, axis=-1) if numbers.m is not None else low
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out * factor + low, fmt.decode(expected), err_msg="V as it is read")


@TYPE
@settings(deadline=None, max_examples=40)
@given(x=TOKENS, slots=st.lists(st.integers(0, 191), min_size=3, max_size=3, unique=True).map(np.array))
@example(x=np.zeros((3, 32), np.float32), slots=np.array([0, 15, 16]))
@example(x=np.full((3, 32), 6e-26, np.float32), slots=np.array([0, 1, 2]))  # whose squares are 0
@example(x=np.full((3, 64), 1e-39, np.float32), slots=np.array([63, 64, 191]))
@example(x=np.tile(np.array([3, -3] * 16, np.float32), (3, 1)), slots=np.array([1, 2, 3]))
def test_stored_is_what_the_format_encodes(fmt: Format, x: np.ndarray, slots: np.ndarray) -> None:
    x = x + 0.0  # of -0, ggml's C and its Python differ in the sign of d = 0
    check(x, fmt, slots, without_infinity(fmt, fmt.encode(x)))


def without_infinity(fmt: Format, encoded: np.ndarray) -> np.ndarray:
    """What is too large for float16 is NaN in the cache, where ggml has infinity: a block's d stands for all of it."""
    raw = encoded.copy()
    if fmt.name == "f16":
        raw.view("<u2")[np.isinf(raw.view("<f2"))] = 0x7E00
    elif fmt.layout:
        broken = (
            ~np.isfinite(fmt.layout.split(raw).d)
            | ~np.isfinite(fmt.decode(raw)).reshape(*raw.shape[:-1], -1, 32)[..., 0]
        )
        raw.reshape(*raw.shape[:-1], -1, fmt.nbytes)[broken, fmt.layout.d : fmt.layout.d + 2] = 0, 0x7E
    return raw


@TYPE
def test_every_slot_holds_its_block(fmt: Format) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 64), dtype=np.float32)
    check(x, fmt, rng.permutation(192)[:128], fmt.encode(x))


@TYPE
def test_bytes_of_a_page(fmt: Format) -> None:
    for size in (pages.k_page_bytes, pages.v_page_bytes):
        assert size(fmt, 64) == pages.PAGE * fmt.row_bytes(64)
        assert fmt.bits or size(fmt, 80) == pages.PAGE * fmt.row_bytes(96)


@pytest.mark.parametrize("norm", ["", "head", "row"])
@pytest.mark.parametrize("neox", [False, True])
@pytest.mark.parametrize(
    ("k_dim", "v_dim", "rope_dim", "rotation"),
    [
        (64, 64, 64, (0, 0)),
        (80, 96, 80, (0, 0)),
        (96, 32, 64, (0, 0)),
        (128, 192, 64, (128, 64)),
        (64, 64, 32, (16, 0)),
    ],
)
def test_rope_store(norm: str, neox: bool, k_dim: int, v_dim: int, rope_dim: int, rotation: tuple[int, int]) -> None:
    """K and Q turned by position, Q scaled, in groups and as int8; blocks rotated, dirty scratch, heads padded."""
    rng = np.random.default_rng(0)
    rows, kv_heads, group, max_rows = 5, 2, 3, 7
    q = rng.standard_normal((rows, kv_heads * group, k_dim), dtype=np.float32)
    k, v = (rng.standard_normal((rows, kv_heads, d), dtype=np.float32) for d in (k_dim, v_dim))
    positions, slots = np.array([0, 1, 2, 90, 91]), rng.permutation(128)[:rows]
    angle = naive.angles(np.arange(100), rope_dim, 100.0)
    turns = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    scales = np.linspace(0.1, 0.2, 100, dtype=np.float32)
    f32, n, m = FORMATS["f32"], pages.columns(k_dim), pages.columns(v_dim)
    k_page, v_page = pages.k_page_bytes(f32, k_dim), pages.v_page_bytes(f32, v_dim)
    k_pool, v_pool = (rig.zeros(kv_heads, 2, size, dtype=np.uint8) for size in (k_page, v_page))
    out = rig.zeros(kv_heads, max_rows, group, n)
    out_q, out_meta = rig.zeros(*out.shape, dtype=np.int8), rig.zeros(*out.shape[:-1], n // 32, 4, dtype=np.int32)
    weights = [np.linspace(0.5, 2, x[0].size if norm == "row" else k_dim, dtype=np.float32) for x in (q, k)]
    q_norm, k_norm = weights if norm else (0, 0)
    rig.run(
        rope.rope_store("f32", "f32", neox), rows * kv_heads,
        q=q, k=k, v=v, q_stride=q.strides[0], k_stride=k.strides[0], v_stride=v.strides[0],
        q_norm=q_norm, k_norm=k_norm, norm_rows=int(norm == "row"), eps=1e-5,
        turns=turns, rope_dim=rope_dim, positions=positions, slots=slots,
        k_pool=k_pool, v_pool=v_pool, k_head=2 * k_page, v_head=2 * v_page, k_page=k_page, v_page=v_page,
        out=out, out_q=out_q, out_meta=out_meta, max_rows=max_rows, kv_heads=kv_heads, group=group,
        k_dim=k_dim, v_dim=v_dim, k_columns=n, v_columns=m, scales=scales,
        k_rotation=rotation[0], v_rotation=rotation[1], scratch=np.full(2048, 255, np.uint8), scratch_bytes=0,
    )  # fmt: skip

    def padded(x: np.ndarray, columns: int) -> np.ndarray:
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, columns - x.shape[-1])])

    def in_place(pool: np.ndarray, unpack: object, dim: int) -> np.ndarray:
        found = [np.concatenate([unpack(page, f32, dim) for page in head]) for head in pool]  # type: ignore[operator]
        return np.stack(found, axis=1)[slots].view(np.float32)

    def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        shape = (rows, -1) if norm == "row" else x.shape
        return naive.rms_norm(x.reshape(shape), weight, 1e-5).reshape(x.shape) if norm else x

    expected_q, expected_k = (
        naive.hadamard(naive.rope(normed(x, weight), angle[positions], neox), rotation[0])
        for x, weight in zip((q, k), weights, strict=True)
    )
    v = naive.hadamard(v, rotation[1])
    np.testing.assert_allclose(in_place(k_pool, pages.canonical_k, k_dim), padded(expected_k, n), atol=1e-6)
    np.testing.assert_allclose(
        in_place(v_pool, pages.canonical_v, v_dim), padded(v, m), atol=1e-6 if rotation[1] else 0
    )
    expected_q *= scales[positions][:, None, None]
    grouped = expected_q.reshape(rows, kv_heads, group, k_dim).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(out[:, :rows], padded(grouped, n), atol=1e-6)
    for got, expected in zip((out_q, out_meta), rig.activations(out[:, :rows]), strict=True):
        np.testing.assert_array_equal(got[:, :rows], expected)
    assert not out[:, rows:].any()
