"""Attention over the pages, each pair of cache types, against float64 on what the pages hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import naive
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels import pages
from pyllm.kernels.attention import attend_exact, softmax
from pyllm.kernels.attention.combine import combine
from pyllm.kernels.attention.decode import attend_one
from pyllm.kernels.attention.prefill import attend_many
from pyllm.kernels.attention.prefill_amx import attend_wide
from pyllm.kernels.attention.prefill_amx import scratch_bytes as wide_scratch_bytes
from pyllm.kernels.attention.values import as_integers
from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS
from pyllm.kernels.lang import cpu
from pyllm.models.forward import jobs

# Each is a kernel to compile. K and V do not know of each other's type: each type stands once beside itself (for one
# row) and once beside the next.
NEXT = [(k, v) for k, v in zip(CACHE_TYPES, (*CACHE_TYPES[1:], CACHE_TYPES[0]), strict=True)]
KERNELS = [(k, v, 3) for k, v in [*NEXT, *((t, t) for t in CACHE_TYPES)]]
KERNELS += [(k, v, g) for k, v in (("f32", "f32"), ("f16", "bf16"), ("q8_0", "q4_0")) for g in (1, 2, 4, 8)]
KERNELS += [("q8_0", "f16", 16)]
FLOATS = [(k, v) for k, v in NEXT if not FORMATS[k].bits and not FORMATS[v].bits]
WIDE, EXACT = -1, -2
LENGTHS = (1, 15, 16, 17, 63, 64, 65, 128, 300)


def attend(
    k_type: str,
    v_type: str,
    *,
    group: int,
    head_dim: int,
    spans: Sequence[tuple[int, int]],
    size: int = 0,
    kv_heads: int = 2,
    v_dim: int | None = None,
    v_rotation: int = 0,
    window: int = 0,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    seed: int = 0,
    q: np.ndarray | None = None,
    upto: int = softmax.SUMS,
) -> tuple[np.ndarray, np.ndarray]:
    """Got and expected, (rows, heads, v_dim), for spans of (rows, length): a span's rows are the last of its tokens.

    size: parts of the tokens in a job, for spans of one row; 0: the kernel for many rows; WIDE: that for the matrix
    unit; EXACT: that for queries as float32. Tokens before all windows are not there.
    """
    rng = np.random.default_rng(seed)
    kf, vf, v_dim = FORMATS[k_type], FORMATS[v_type], v_dim or head_dim
    n, m = pages.columns(head_dim), pages.columns(v_dim)
    rows, heads, max_rows = sum(r for r, _ in spans), kv_heads * group, sum(r for r, _ in spans) + 3
    n_pages = sum(-(-length // 64) for _, length in spans) + 1
    order = rng.permutation(n_pages)

    k_pool = np.full((kv_heads, n_pages, pages.k_page_bytes(kf, head_dim)), 255, np.uint8)
    v_pool = np.full((kv_heads, n_pages, pages.v_page_bytes(vf, v_dim)), 255, np.uint8)
    if q is None:
        q = rng.standard_normal((rows, heads, head_dim), dtype=np.float32) * np.float32(2 * head_dim**-0.5)
    out = rig.zeros(kv_heads, max_rows, group, n)
    records, tables, expected = np.zeros(len(spans), softmax.SPAN), [], []
    row = 0
    for i, (count, length) in enumerate(spans):
        table = order[: -(-length // 64)].copy()
        order = order[len(table) :]
        tables.append(table)
        slots = (table[:, None] * 64 + np.arange(64)).reshape(-1)[:length]
        gone = max(0, length - count + 1 - window) if window else 0
        table[: gone // 64] = order[0]  # of nobody
        k, v = (rng.standard_normal((length, kv_heads, d), dtype=np.float32) for d in (head_dim, v_dim))
        k[:, :, 3] *= 4  # K has columns that stand out
        for head in range(kv_heads):
            used = table[gone // 64 :]
            k_pool[head, used] = rig.stored(_padded(k[gone:, head], n), kf, slots[gone:], n_pages)[0][used]
            v_pool[head, used] = rig.stored(_padded(v[gone:, head], m), vf, slots[gone:], n_pages)[1][used]
        own = q[row : row + count]
        out[:, row : row + count, :, :head_dim] = own.reshape(count, kv_heads, group, head_dim).transpose(1, 0, 2, 3)
        seen = naive.dequantized(_padded(own, n))[..., :head_dim] if kf.bits and size not in (WIDE, EXACT) else own
        stored = naive.decoded(k, k_type), naive.decoded(v, v_type)
        expected.append(naive.attention(seen, *stored, window, softcap, sinks))
        records[i] = row, count, length - count, (0, table.ctypes.data, 0, 0)  # the second kind's table
        row += count

    many = {0: attend_many, WIDE: attend_wide, EXACT: attend_exact.attend_exact}.get(size)
    ints = kf.bits > 0 and size not in (WIDE, EXACT)
    numbers, meta = out, rig.zeros(kv_heads, max_rows, group, n // 32, 4, dtype=np.int32)
    room = rig.zeros(out.size // n + 8, n, dtype=np.int8 if ints else np.float32)  # kernels read groups of 8
    metas = rig.zeros(len(room), n // 32, 4, dtype=np.int32)
    if ints:
        numbers, meta = rig.activations(out)
    room[: out.size // n], metas[: out.size // n] = numbers.reshape(-1, n), meta.reshape(-1, n // 32, 4)

    work, parts = _work(spans, window, group, size)
    ends = np.cumsum(parts)
    scratch = max(attend_exact.scratch_bytes(group, n, m), wide_scratch_bytes(group, n, m))
    sums, sums_at = rig.zeros(ends[-1], heads, m + softmax.TAIL), ends - parts
    memory = rig.zeros(scratch, dtype=np.uint8)
    memory[:] = 0 if size == WIDE else 255  # NaN, where a kernel reads what it did not write
    rig.run(
        many(k_type, v_type) if many else attend_one(k_type, v_type, group),
        kv_heads * len(work),
        spans=records, table=softmax.table_at(1), window=window or softmax.ALL, softcap=softcap,
        jobs=work, n_jobs=np.array([len(work)]), q=room, meta=metas,
        q_bytes=room.strides[0], meta_bytes=n // 2, max_rows=max_rows, k_pool=k_pool, v_pool=v_pool,
        k_head=k_pool.strides[0], v_head=v_pool.strides[0], k_page=k_pool.strides[1], v_page=v_pool.strides[1],
        k_tile=tiles.tile_bytes(kf, n), v_scales=pages.v_scale_bytes(vf, v_dim), v_row=pages.v_row_bytes(vf, v_dim),
        **softmax.fetch_steps(k_pool.strides[1], v_pool.strides[1], m),
        kv_heads=kv_heads, group=group, k_columns=n, v_columns=m, sums=sums, sums_at=sums_at,
        scratch=memory, scratch_bytes=scratch, upto=upto,
    )  # fmt: skip
    y = rig.zeros(rows, heads * v_dim)
    q8, meta8 = rig.zeros(*y.shape, dtype=np.int8), rig.zeros(rows, heads * v_dim // 32, 4, dtype=np.int32)
    rig.run(combine, rows, sums=sums, sums_at=sums_at, parts=parts, segments=1, parts_stride=0, heads=heads,
            v_dim=v_dim, v_columns=m,
            v_rotation=v_rotation, sinks=0 if sinks is None else sinks, y=y, q=q8, meta=meta8, half=0)  # fmt: skip
    for got, blocked in zip((q8, meta8), rig.activations(y) if upto >= softmax.WEIGHTS else (q8, meta8), strict=True):
        np.testing.assert_array_equal(got, blocked)
    return y.reshape(rows, heads, v_dim), naive.hadamard(np.concatenate(expected), v_rotation)


def _work(spans: Sequence[tuple[int, int]], window: int, group: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The jobs of a step as the kernels take them, and the parts that each row leaves."""
    if size <= 0:
        made = list(jobs.by_rows([(i, rows) for i, (rows, _) in enumerate(spans)], group))
        return np.array(made, softmax.JOB), np.ones(sum(rows for rows, _ in spans), np.int64)
    seen = [jobs.seen(i, length - 1, window) for i, (_, length) in enumerate(spans)]
    made = [
        (row.span, 0, 1, at, min(size, row.first + row.parts - at))
        for row in seen
        for at in range(row.first, row.first + row.parts, size)
    ]
    return np.array(made, softmax.JOB), np.array([row.parts for row in seen])


def _padded(x: np.ndarray, columns: int) -> np.ndarray:
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, columns - x.shape[-1])])


def check(k_type: str, v_type: str, **shape: Any) -> None:
    """Compare what attention gives with what is expected. Weights of an integer V are rounded (see the last test)."""
    rounded = as_integers(v_type) and shape.get("size") != EXACT
    np.testing.assert_allclose(*attend(k_type, v_type, **shape), rtol=0, atol=1e-3 if rounded else 1e-5)


@pytest.mark.parametrize(("k_type", "v_type", "group"), KERNELS)
def test_one_row(k_type: str, v_type: str, group: int) -> None:
    for length in LENGTHS:
        check(k_type, v_type, group=group, head_dim=64, spans=[(1, length)], size=1)
    for size in (1, 2, 7):
        check(k_type, v_type, group=group, head_dim=32, spans=[(1, 600), (1, 1), (1, 265)], size=size)


MATRIX_UNIT = pytest.mark.skipif(not cpu.AMX, reason="this CPU has no matrix unit")


@MATRIX_UNIT
@pytest.mark.parametrize(
    ("k_type", "v_type", "near"),
    [
        ("f16", "f16", 1e-4),
        ("f16", "q8_0", 2e-2),
        ("bf16", "f16", 5e-2),
        ("q8_0", "q4_0", 5e-2),
        ("q4_1", "bf16", 5e-2),
    ],
)
def test_many_rows_on_the_matrix_unit(k_type: str, v_type: str, near: float) -> None:
    """float16 is not rounded; the others are as near as bfloat16 is."""
    for group, head_dim, v_dim in ((1, 64, 64), (2, 32, 96), (3, 64, 64), (8, 64, 32)):
        for spans in ([(1, 1)], [(5, 70), (2, 2), (100, 163)], [(40, 200)]):
            shape = {"group": group, "head_dim": head_dim, "v_dim": v_dim, "spans": spans}
            np.testing.assert_allclose(*attend(k_type, v_type, size=WIDE, **shape), rtol=0, atol=near)
    for extra in ({"window": 30}, {"softcap": 5.0}, {"window": 100, "softcap": 20.0}):
        shape = {"group": 3, "head_dim": 64, "spans": [(70, 200), (3, 64)], **extra}
        np.testing.assert_allclose(*attend(k_type, v_type, size=WIDE, **shape), rtol=0, atol=near)


@pytest.mark.parametrize(("k_type", "v_type"), NEXT)
def test_many_rows(k_type: str, v_type: str) -> None:
    for group in (1, 2, 3, 4, 8):
        check(k_type, v_type, group=group, head_dim=64, spans=[(17, 65), (1, 64), (64, 64), (33, 129)])
    check(k_type, v_type, group=3, head_dim=32, spans=[(130, 300)])


@pytest.mark.parametrize(("k_type", "v_type"), NEXT)
@pytest.mark.parametrize("window", [0, 20])
def test_a_row_gets_the_same_bits_alone_and_with_others(k_type: str, v_type: str, window: int) -> None:
    """Decode and prefill agree wherever a row lies among the vectors that are summed at once."""
    shape: dict[str, Any] = {"group": 3, "head_dim": 64, "window": window}
    q = np.random.default_rng(1).standard_normal((9, 6, 64), dtype=np.float32) / 4
    for length in (17, 33, 66, 81):
        alone = attend(k_type, v_type, spans=[(1, length)], size=1, q=q[-1:], **shape)[0][-1]
        for rows in range(1, 10):
            together = attend(k_type, v_type, spans=[(rows, length)], q=q[-rows:], **shape)[0][-1]
            np.testing.assert_array_equal(together, alone, err_msg=f"{rows} rows of {length} tokens")


@pytest.mark.parametrize(("k_type", "v_type"), NEXT)
def test_queries_as_float32(k_type: str, v_type: str) -> None:
    for group in (1, 3, 8):
        spans = [(17, 65), (1, 64), (64, 64), (33, 129), (1, 600)]
        check(k_type, v_type, group=group, head_dim=64, spans=spans, size=EXACT)


@settings(deadline=None, max_examples=40)
@given(
    pair=st.sampled_from([("f32", "f32"), ("q8_0", "q4_0")]),
    group=st.sampled_from([1, 3]),
    spans=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 600)), min_size=1, max_size=3),
    window=st.integers(1, 600),
    softcap=st.sampled_from([0.0, 2.0]),
    sinks=st.booleans(),
    size=st.sampled_from([EXACT, 0, 1, 2, 3]),
)
def test_windows_soft_caps_and_sinks(
    pair: tuple[str, str], group: int, spans: list[tuple[int, int]], window: int, softcap: float, sinks: bool,
    size: int,
) -> None:  # fmt: skip
    spans = [(1 if size > 0 else rows, rows + past) for rows, past in spans]
    heads = np.linspace(-3, 5, 2 * group, dtype=np.float32) if sinks else None
    check(*pair, group=group, head_dim=64, spans=spans, size=size, window=window, softcap=softcap,
                  sinks=heads)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(
    pair=st.sampled_from([("f32", "f32"), ("q8_0", "q4_0"), ("q4_0", "f32")]),
    group=st.integers(1, 13),
    head_dim=st.sampled_from([32, 64, 96, 128, 256]),
    spans=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 200)), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_any_spans(pair: tuple[str, str], group: int, head_dim: int, spans: list[tuple[int, int]], seed: int) -> None:
    spans = [(rows, rows + past) for rows, past in spans]
    check(*pair, group=group, head_dim=head_dim, spans=spans, kv_heads=1 + seed % 2, seed=seed)


@settings(deadline=None, max_examples=30)
@given(
    pair=st.sampled_from([("f32", "f32"), ("q8_0", "q4_0")]),
    group=st.sampled_from([1, 3, 8]),
    head_dim=st.sampled_from([32, 64, 96, 128, 256]),
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=4),
    size=st.integers(1, 5),
)
def test_any_lengths(pair: tuple[str, str], group: int, head_dim: int, lengths: list[int], size: int) -> None:
    check(*pair, group=group, head_dim=head_dim, spans=[(1, n) for n in lengths], size=size)


@pytest.mark.parametrize(("k_type", "v_type"), FLOATS)
@pytest.mark.parametrize("size", [EXACT, 0, 2])
def test_heads_that_are_no_multiple_of_a_block(k_type: str, v_type: str, size: int) -> None:
    check(k_type, v_type, group=3, head_dim=80, spans=[(1, 130), (1, 7)], size=size)
    check(k_type, v_type, group=3, head_dim=80, v_dim=48, spans=[(1, 70)], size=size)


@pytest.mark.parametrize("size", [0, 3])
def test_values_are_turned_back(size: int) -> None:
    for size in (64, 128):
        check("f32", "f32", group=3, head_dim=32, v_dim=128, spans=[(1, 70)], size=size, v_rotation=size)


@pytest.mark.parametrize("size", [0, 2])
def test_a_part_of_it(size: int) -> None:
    """Where attention stops before V, its sums stay empty, with the softmax's weights or without any."""
    for pair in (("f32", "f32"), ("q8_0", "q4_0")):
        run = {"group": 3, "head_dim": 64, "spans": [(1, 300), (1, 7)], "size": size}
        assert not attend(*pair, upto=softmax.WEIGHTS, **run)[0].any()
        with np.errstate(all="ignore"):
            assert np.isnan(attend(*pair, upto=softmax.SCORES, **run)[0]).all(), "0 of weight 0"


def test_scores_far_apart() -> None:
    """One token takes all the weight, wherever it lies: exponents neither overflow nor vanish."""
    for seed in range(3):
        got, expected = attend("f32", "f32", group=3, head_dim=32, spans=[(1, 600)], size=2, seed=seed)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not as_integers("q8_0"), reason="this CPU sums V as float32")
@pytest.mark.parametrize("v_type", ["q8_0", "q4_0", "q5_1"])
@pytest.mark.parametrize("size", [0, 2])
def test_weights_as_integers_cost_far_less_than_a_quantized_v(v_type: str, size: int) -> None:
    spans = [(1, 300), (1, 64), (1, 7)]
    got, expected = attend("f32", v_type, group=3, head_dim=64, spans=spans, size=size)
    _, unrounded = attend("f32", "f32", group=3, head_dim=64, spans=spans, size=size)
    own, ours = np.std(expected - unrounded), np.std(got - expected)
    assert ours < own / 50, (ours, own)
