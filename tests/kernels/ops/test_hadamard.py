"""The Walsh-Hadamard transform against its matrix."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig

from pyllm.kernels.lang.jit import kernel, record
from pyllm.kernels.ops import hadamard as module

hadamard = module.hadamard


@kernel(record(x="ptr", n="int", size="int"))
def transform(a, begin, end, thread):  # type: ignore[no-untyped-def]
    """Items are rows."""
    for row in range(begin, end):
        hadamard(a.x + row * a.n * 4, a.n, a.size)


@pytest.mark.parametrize(("n", "size"), [(64, 64), (256, 64), (256, 256), (16, 16), (192, 64)])
def test_as_its_matrix_and_its_own_inverse(n: int, size: int) -> None:
    x = np.random.default_rng(n).standard_normal((5, n), dtype=np.float32)
    y = x.copy()
    rig.run(transform, 5, x=y, n=n, size=size)
    np.testing.assert_allclose(y, naive.hadamard(x, size), atol=1e-5)
    rig.run(transform, 5, x=y, n=n, size=size)
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_an_outlier_is_spread() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = 8
    rig.run(transform, 1, x=x, n=64, size=64)
    np.testing.assert_array_equal(np.abs(x), 1)
