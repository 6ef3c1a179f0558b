"""Pages in another format: back in their own they are the same bytes, and a smaller one is what the format encodes."""

from __future__ import annotations

import numpy as np
import pytest
from rig import stored

from pyllm.kernels import pages
from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS
from pyllm.kernels.page_copies import SmallerCopy
from pyllm.kernels.shapes import PAGE

N = 64


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3 * PAGE, N), np.float32)


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_by_a_larger_format_and_back(name: str) -> None:
    """Floats and bytes come back as they were; other integers may be chosen again, for nearly the same values."""
    fmt = FORMATS[name]
    k, v, _ = stored(rows(1), fmt, np.arange(3 * PAGE), 3)
    for side, page, canonical in (("k", k, pages.canonical_k), ("v", v, pages.canonical_v)):
        how = SmallerCopy(side, fmt, FORMATS["f32"], N)  # type: ignore[arg-type]
        back = how.restore(how.shrink(page))
        assert back.shape == page.shape
        for was, now in zip(page, back, strict=True):
            before, after = (fmt.decode(canonical(p, fmt, N)) for p in (was, now))
            np.testing.assert_allclose(after, before, rtol=2e-3, atol=1e-6)
            if not fmt.bits or name == "q8_0":
                np.testing.assert_array_equal(canonical(now, fmt, N), canonical(was, fmt, N))


@pytest.mark.parametrize("held", CACHE_TYPES)
@pytest.mark.parametrize("smaller", ["q8_0", "q4_0", "q3_1"])
def test_a_smaller_format(held: str, smaller: str) -> None:
    fmt, to = FORMATS[held], FORMATS[smaller]
    x = rows(2)
    k, v, _ = stored(x, fmt, np.arange(3 * PAGE), 3)
    for side, page, canonical in (("k", k, pages.canonical_k), ("v", v, pages.canonical_v)):
        how = SmallerCopy(side, fmt, to, N)  # type: ignore[arg-type]
        copies = how.shrink(page)
        assert copies.shape == (3, how.page_bytes)
        was = fmt.decode(np.concatenate([canonical(p, fmt, N) for p in page]))
        np.testing.assert_array_equal(copies.reshape(len(x), -1), to.encode(was))
        now = np.concatenate([canonical(p, fmt, N) for p in how.restore(copies)])
        np.testing.assert_array_equal(now, fmt.encode(to.decode(to.encode(was))))
