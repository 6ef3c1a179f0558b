"""Norms, activations and the int8 blocks that they leave."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyllm.kernels.ops import activations

EPS = 1e-5
VALUES = st.floats(-1e6, 1e6, width=32)


def norm(x: np.ndarray, weight: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """y, int8 and META of the kernel."""
    m, n = (len(x) if rows is None else len(rows)), x.shape[1]
    y, q, meta = rig.zeros(m, n), rig.zeros(m, n, dtype=np.int8), rig.zeros(m, n // 32, 4, dtype=np.int32)
    rig.run(activations.rms_norm, m, x=x, weight=weight, rows=0 if rows is None else rows, y=y, q=q, meta=meta, half=0,
            n=n, x_stride=x.strides[0], eps=EPS)  # fmt: skip
    return y, q, meta


def check_blocks(y: np.ndarray, q: np.ndarray, meta: np.ndarray) -> None:
    """int8 and META are those of y, bit for bit."""
    expected_q, expected_meta = rig.activations(y)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(meta, expected_meta)


@settings(deadline=None, max_examples=50)
@given(x=st.integers(1, 6).flatmap(lambda n: arrays(np.float32, (2, 32 * n), elements=VALUES)))
def test_rms_norm(x: np.ndarray) -> None:
    weight = np.linspace(-2, 2, x.shape[1], dtype=np.float32)
    y, q, meta = norm(x, weight)
    np.testing.assert_allclose(y, naive.rms_norm(x, weight, np.float32(EPS)), rtol=2e-6, atol=1e-30)
    check_blocks(y, q, meta)


def test_rms_norm_of_chosen_rows() -> None:
    wide = np.random.default_rng(0).standard_normal((7, 96), dtype=np.float32)
    x, weight = wide[:, :64], np.ones(64, np.float32)
    rows = np.array([5, 0, 5])
    for got, all_ in zip(norm(x, weight, rows), norm(x, weight), strict=True):
        np.testing.assert_array_equal(got, all_[rows])


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, rows: list[int]) -> tuple[np.ndarray, ...]:
    m, n = len(rows), x.shape[1]
    y, q, meta = rig.zeros(m, n), rig.zeros(m, n, dtype=np.int8), rig.zeros(m, n // 32, 4, dtype=np.int32)
    rig.run(activations.layer_norm, m, x=x, weight=weight, bias=0 if bias is None else bias, rows=np.array(rows),
            y=y, q=q, meta=meta, half=0, n=n, x_stride=x.strides[0], eps=EPS)  # fmt: skip
    return y, q, meta


@settings(deadline=None, max_examples=50)
@given(x=st.integers(1, 6).flatmap(lambda n: arrays(np.float32, (2, 32 * n), elements=VALUES)))
def test_layer_norm(x: np.ndarray) -> None:
    weight, bias = (np.linspace(*ends, x.shape[1], dtype=np.float32) for ends in ((-2, 2), (3, 1)))
    y, q, meta = layer_norm(x, weight, bias, [0, 1])
    # A mean in float32 is off by some ulps of the largest, and of 1 where all values are as good as equal.
    spread = np.sqrt(x.var(axis=-1, dtype=np.float64) + EPS)[:, None]
    off = 1e-6 + 4e-7 * np.abs(x).max(axis=-1, keepdims=True) / spread
    assert (np.abs(y - naive.layer_norm(x, weight, bias, np.float32(EPS))) <= 2 * off + 3e-6 * np.abs(y)).all()
    check_blocks(y, q, meta)


def test_layer_norm_of_chosen_rows_without_a_bias() -> None:
    wide = np.random.default_rng(0).standard_normal((7, 96), dtype=np.float32) + 100
    x, weight = wide[:, :64], np.linspace(-2, 2, 64, dtype=np.float32)
    y, q, meta = layer_norm(x, weight, None, [5, 0, 5])
    np.testing.assert_allclose(y, naive.layer_norm(x, weight, 0.0, np.float32(EPS))[[5, 0, 5]], atol=1e-4)
    check_blocks(y, q, meta)


def test_layer_norm_keeps_what_is_no_number() -> None:
    for bad in (np.nan, np.inf):
        x = np.ones((1, 64), np.float32)
        x[0, 40] = bad
        y, *_ = layer_norm(x, np.ones(64, np.float32), np.ones(64, np.float32), [0])
        assert np.isnan(y).any()


def test_a_row_of_zeros() -> None:
    for part in norm(np.zeros((1, 64), np.float32), np.ones(64, np.float32)):
        assert not part.any()


def test_scales_that_have_no_inverse() -> None:
    x = np.zeros((1, 96), np.float32)
    x[0, :32], x[0, 32] = 1e-41, 1e-36  # blocks of denormals only; one just above
    check_blocks(*norm(x, np.ones(96, np.float32)))


def test_add_norm() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 80), dtype=np.float32), np.linspace(-2, 2, 64, dtype=np.float32)
    y = rng.standard_normal((3, 64), dtype=np.float32)
    expected = y + naive.rms_norm(x[:, :64], weight, np.float32(EPS))
    rig.run(activations.add_norm, 3, x=x, weight=weight, y=y, n=64, x_stride=x.strides[0], y_stride=y.strides[0],
            eps=EPS)  # fmt: skip
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_hand_over_rows() -> None:
    x = np.random.default_rng(0).standard_normal((3, 96), dtype=np.float32)
    q, meta = rig.zeros(*x.shape, dtype=np.int8), rig.zeros(3, 3, 4, dtype=np.int32)
    rig.run(activations.hand_over_rows, 3, x=x, q=q, meta=meta, half=0, n=96)
    check_blocks(x, q, meta)


@pytest.mark.parametrize("piece", [16, 48, 4096])
def test_soft_cap(piece: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 80), dtype=np.float32) * 40
    x[0, :3] = 0, 1e30, -1e30
    expected = 30 * np.tanh(x.astype(np.float64) / 30)
    rig.run(activations.cap_rows, 3 * -(-80 // piece), x=x, n=80, piece=piece, cap=30.0)
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu_oai"])
@pytest.mark.parametrize("piece", [32, 96])
def test_gate(piece: int, activation: str) -> None:
    rng = np.random.default_rng(0)
    gate, up = (5 * rng.standard_normal((3, 200), dtype=np.float32) for _ in range(2))
    gate[0, :6] = 0, -0.0, 100, -100, 1e30, -1e30
    n = 192
    y, q, meta = rig.zeros(3, n), rig.zeros(3, n, dtype=np.int8), rig.zeros(3, n // 32, 4, dtype=np.int32)
    rig.run(activations.gate(activation), 3 * n // piece, gate=gate, up=up, y=y, q=q, meta=meta, half=0, n=n,
            piece=piece, gate_stride=gate.strides[0], up_stride=up.strides[0])  # fmt: skip
    with np.errstate(over="ignore"):
        expected = naive.gated(activation, gate[:, :n], up[:, :n])
    np.testing.assert_allclose(y[np.abs(expected) < 1e20], expected[np.abs(expected) < 1e20], rtol=2e-6, atol=1e-7)
    check_blocks(y, q, meta)


@pytest.mark.parametrize("activation", ["gelu", "relu2"])
@pytest.mark.parametrize("piece", [32, 96])
def test_activate(piece: int, activation: str) -> None:
    wide = 5 * np.random.default_rng(0).standard_normal((3, 200), dtype=np.float32)
    wide[0, :5] = 0, -0.0, 100, -100, -1e15
    x, n = wide[:, :192], 192
    y, q, meta = rig.zeros(3, n), rig.zeros(3, n, dtype=np.int8), rig.zeros(3, n // 32, 4, dtype=np.int32)
    operands = {"x": x, "y": y, "q": q, "meta": meta, "half": 0, "n": n, "piece": piece, "x_stride": x.strides[0]}
    rig.run(activations.activate(activation), 3 * n // piece, **operands)
    np.testing.assert_allclose(y, naive.UNGATED[activation](x), rtol=2e-6, atol=1e-7)
    check_blocks(y, q, meta)
    wide[0, 7] = np.nan
    rig.run(activations.activate(activation), 3 * n // piece, **operands)
    assert np.isnan(y[0, 7]) and np.isnan(y).sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_block_that_is_no_numbers(value: float) -> None:
    """Its scales are NaN; the other blocks are as ever."""
    x = np.random.default_rng(0).standard_normal((1, 96), dtype=np.float32)
    q, meta = rig.zeros(2, 96, dtype=np.int8), rig.zeros(2, 3, 4, dtype=np.float32)
    rig.run(activations.hand_over_rows, 1, x=x, q=q[0], meta=meta[0], half=0, n=96)
    x[0, 40] = value
    rig.run(activations.hand_over_rows, 1, x=x, q=q[1], meta=meta[1], half=0, n=96)
    assert np.isnan(meta[1, 1, :2]).all()
    np.testing.assert_array_equal(meta[1, ::2], meta[0, ::2])
    np.testing.assert_array_equal(q[1, :32], q[0, :32])
    np.testing.assert_array_equal(q[1, 64:], q[0, 64:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clamps_and_caps_hide_nothing(value: float) -> None:
    x = np.ones((1, 32), np.float32)
    x[0, 3] = value
    y, ones, forms = (
        rig.zeros(1, 32),
        np.ones((1, 32), np.float32),
        {"q": 0, "meta": 0, "half": 0, "n": 32, "piece": 32},
    )
    for gate, up in ((x, ones), (ones, x)):
        rig.run(activations.gate("swiglu_oai"), 1, gate=gate, up=up, y=y, gate_stride=128, up_stride=128, **forms)
        assert not np.isfinite(y[0, 3]) and np.isfinite(y).sum() == 31
    rig.run(activations.activate("relu2"), 1, x=x, y=y, x_stride=128, **forms)
    assert not np.isfinite(y[0, 3]) and np.isfinite(y).sum() == 31
    rig.run(activations.cap_rows, 1, x=x, n=32, piece=32, cap=30.0)
    assert np.isnan(x[0, 3]) and np.isfinite(x).sum() == 31


def test_a_norm_of_squares_that_overflow() -> None:
    x, y = np.full((1, 64), 1e20, np.float32), rig.zeros(1, 64)
    norm = {"x": x, "weight": np.ones(64, np.float32), "rows": 0, "y": y, "q": 0, "meta": 0, "half": 0}
    rig.run(activations.rms_norm, 1, **norm, n=64, x_stride=x.strides[0], eps=EPS)
    assert np.isnan(y).all()
