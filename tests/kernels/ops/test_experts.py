"""Mixtures of experts: routing, rows brought together by expert, products and sums, against plain NumPy."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.table import FORMATS, Format
from pyllm.kernels.ops import experts, linear
from pyllm.kernels.shapes import MOST_ROWS

FORMAT = pytest.mark.parametrize("fmt", [FORMATS[t] for t in ("f16", "q8_0", "mxfp4")], ids=lambda f: f.name)
THREADS = 1  # as rig.run runs them


def route(logits: np.ndarray, used: int) -> tuple[np.ndarray, np.ndarray]:
    rows, n = logits.shape
    chosen, shares = np.full((rows, used), -1, np.int64), rig.zeros(rows, used)
    rig.run(experts.route, rows, logits=logits, stride=logits.strides[0], experts=n, used=used, chosen=chosen,
            shares=shares)  # fmt: skip
    return chosen, shares


def group(chosen: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    spans, places = np.full(n, -1, experts.SPAN), np.full(chosen.shape, -1, np.int64)
    rig.run(experts.group, 1, chosen=chosen, rows=np.array([len(chosen)]), used=chosen.shape[1], experts=n,
            spans=spans, places=places)  # fmt: skip
    return spans, places


@st.composite
def logits_and_used(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[np.ndarray, int]:
    n = draw(st.integers(1, 40))
    x = draw(arrays.arrays(np.float32, (draw(st.integers(1, 5)), n), elements=elements))
    return x, draw(st.integers(1, n))


@settings(deadline=None)
@given(logits_and_used(st.floats(-30, 30, width=32) | st.sampled_from([-1.0, 0.0, 1.0])))
def test_route(case: tuple[np.ndarray, int]) -> None:
    logits, used = case
    chosen, shares = route(logits, used)
    expected_chosen, expected_shares = naive.route(logits, used)
    np.testing.assert_array_equal(chosen, expected_chosen)
    np.testing.assert_allclose(shares, expected_shares, rtol=1e-5, atol=1e-30)


@settings(deadline=None)
@given(logits_and_used(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 3e38])))
def test_route_of_what_is_no_number(case: tuple[np.ndarray, int]) -> None:
    """Experts that exist, each once, and shares that are NaN where a logit is no number: damage is not hidden."""
    logits, used = case
    chosen, shares = route(logits, used)
    assert chosen.min() >= 0 and chosen.max() < logits.shape[1]
    assert all(len(set(row)) == used for row in chosen.tolist())
    np.testing.assert_array_equal(np.isnan(shares), ~np.isfinite(logits).all(axis=1, keepdims=True).repeat(used, 1))


@settings(deadline=None)
@given(n=st.integers(1, 20), rows=st.integers(1, 50), seed=st.integers(0, 99), data=st.data())
def test_group(n: int, rows: int, seed: int, data: st.DataObject) -> None:
    used = data.draw(st.integers(1, n))
    chosen = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (rows, 1)), axis=1)[:, :used].copy()
    spans, places = group(chosen, n)
    assert sorted(places.ravel()) == list(range(chosen.size))
    at = {e: (first, count) for e, first, count in spans.tolist() if count}
    assert sorted(at) == np.unique(chosen).tolist()
    assert (spans["rows"][len(at) :] == 0).all()
    for expert, place in zip(chosen.ravel().tolist(), places.ravel().tolist(), strict=True):
        assert at[expert][0] <= place < sum(at[expert])


class Layer:
    """A layer's experts for the kernels, and for the oracle."""

    def __init__(self, fmt: Format, n: int, outputs: int, columns: int, *, bias: bool = True, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        raw = fmt.encode(rng.standard_normal((n * outputs, columns), dtype=np.float32))
        self.fmt, self.n, self.outputs, self.columns = fmt, n, outputs, columns
        self.weights = fmt.decode(raw).reshape(n, outputs, columns)
        self.bias = rng.standard_normal((n, outputs), dtype=np.float32) * bias
        self.operands = {
            "weights": rig.packed(raw, fmt, columns), "bias": rig.zeros(n, outputs) if bias else 0,
            "tiles": outputs // 16, "tile_bytes": tiles.tile_bytes(fmt, columns), "columns": columns,
        }  # fmt: skip
        if bias:
            self.operands["bias"][:] = self.bias

    def seen(self, x: np.ndarray) -> np.ndarray:
        """What the kernels see of activations."""
        return naive.dequantized(x) if self.fmt.bits else x

    def activations(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x as the products take it, with room behind it, and META."""
        room, n = len(x) + MOST_ROWS, x.shape[1]
        numbers, meta = (
            rig.zeros(room, n, dtype=np.int8 if self.fmt.bits else np.float32),
            rig.zeros(room, n // 2, dtype=np.uint8),
        )
        numbers[: len(x)] = x
        if self.fmt.bits:
            numbers[: len(x)], records = rig.activations(x)
            meta[: len(x)] = records.reshape(len(x), -1).view(np.uint8)
        return numbers, meta

    def project_many(self, x: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair, by place; and the places."""
        spans, places = group(chosen, self.n)
        source, meta = self.activations(x)
        room = chosen.size + MOST_ROWS
        to, to_meta = rig.zeros(room, self.columns, dtype=source.dtype), rig.zeros(room, meta.shape[1], dtype=np.uint8)
        rig.run(experts.gather, len(x), places=places, used=chosen.shape[1], x=source, meta=meta,
                x_bytes=source.strides[0], meta_bytes=meta.strides[0], to=to, to_meta=to_meta)  # fmt: skip
        y = rig.zeros(chosen.size, self.outputs)
        kernel, chunk = experts.project_many(self.fmt.name, linear.SHAPE.rows), linear.SHAPE.chunk
        rig.run(kernel, min(chosen.size, self.n) * self.outputs // 16, x=to, meta=to_meta, chunk=chunk, y=y,
                x_stride=to.strides[0], meta_stride=meta.strides[0], y_stride=y.strides[0], spans=spans,
                scratch=rig.zeros(THREADS * experts.SCRATCH, dtype=np.uint8), **self.operands)  # fmt: skip
        return y, places

    def project_one(self, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Of a single row (columns,), by expert chosen."""
        source, meta = self.activations(x[None])
        y = rig.zeros(len(chosen), self.outputs)
        rig.run(experts.project_one(self.fmt.name), y.size // 16, x=source, meta=meta, y=y, y_stride=y.strides[0],
                chosen=chosen, **self.operands)  # fmt: skip
        return y

    def sum_one(self, x: np.ndarray, chosen: np.ndarray, shares: np.ndarray, to: np.ndarray) -> np.ndarray:
        """to (outputs,) and the weighted products of x (used, columns)."""
        source, meta = self.activations(x)
        y = rig.zeros(self.outputs)
        y[:] = to
        rig.run(experts.sum_one(self.fmt.name), self.outputs // 16, x=source, meta=meta, x_stride=source.strides[0],
                meta_stride=meta.strides[0], y=y, chosen=chosen, shares=shares, used=len(chosen),
                **self.operands)  # fmt: skip
        return y


def choice(rows: int, n: int, used: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts and shares; the first expert is everybody's darling."""
    logits = np.random.default_rng(seed).standard_normal((rows, n), dtype=np.float32)
    logits[:, 0] += 2
    return route(logits, used)


@FORMAT
@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 70), n=st.integers(1, 9), blocks=st.integers(1, 4), bias=st.booleans(), data=st.data())
def test_products(fmt: Format, rows: int, n: int, blocks: int, bias: bool, data: st.DataObject) -> None:
    """Of many rows and of single ones, against the oracle; and both the same to the bit."""
    used, seed = data.draw(st.integers(1, n)), data.draw(st.integers(0, 99))
    layer = Layer(fmt, n, 32, 32 * blocks, bias=bias, seed=seed)
    x = np.random.default_rng(seed).standard_normal((rows, layer.columns), dtype=np.float32)
    chosen, _ = choice(rows, n, used, seed)
    y, places = layer.project_many(x, chosen)
    expected = naive.project(layer.seen(x), chosen, layer.weights, layer.bias)
    np.testing.assert_allclose(y[places], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    for row in (0, rows - 1):
        np.testing.assert_array_equal(layer.project_one(x[row], chosen[row]), y[places[row]])


@FORMAT
def test_sums(fmt: Format) -> None:
    """A row's weighted sum: in one go, and from the parts of many; the same to the bit, and the oracle's."""
    rows, n, used = 21, 6, 3
    layer = Layer(fmt, n, 48, 64)
    rng = np.random.default_rng(1)
    chosen, shares = choice(rows, n, used, 1)
    x = rng.standard_normal((rows, used, 64), dtype=np.float32)
    to = rig.zeros(rows, 48)
    to[:] = rng.standard_normal(to.shape)
    parts = np.stack([[layer.project_one(x[r, j], chosen[r, j : j + 1])[0] for j in range(used)] for r in range(rows)])
    places = rng.permutation(rows * used).reshape(rows, used)
    by_place = rig.zeros(rows * used, 48)
    by_place[places] = parts
    y = to.copy()
    rig.run(experts.sum_many, rows, parts=by_place, stride=by_place.strides[0], places=places, shares=shares,
            used=used, y=y, n=48)  # fmt: skip
    np.testing.assert_allclose(y, to + (parts * shares[..., None]).sum(axis=1), rtol=1e-5, atol=1e-5)
    for r in range(rows):
        np.testing.assert_array_equal(layer.sum_one(x[r], chosen[r], shares[r], to[r]), y[r])


def test_many_rows_of_one_expert() -> None:
    """Full groups, and what is left of them row by row."""
    layer = Layer(FORMATS["q8_0"], 2, 16, 32)
    x = np.random.default_rng(0).standard_normal((49, 32), dtype=np.float32)
    for rows in (1, 2, 4, 5, 15, 16, 17, 20, 21, 49):
        chosen = np.ones((rows, 1), np.int64)
        y, places = layer.project_many(x[:rows], chosen)
        expected = naive.project(layer.seen(x[:rows]), chosen, layer.weights, layer.bias)
        np.testing.assert_allclose(y[places], expected, rtol=1e-5, atol=1e-5)
