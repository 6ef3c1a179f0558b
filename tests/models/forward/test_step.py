"""How the attention of a step is shared between threads: jobs cover everything once, and depend on no result."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyllm.kernels.attention.softmax import block_rows
from pyllm.kernels.shapes import PAGE, PART
from pyllm.models.forward import jobs
from pyllm.models.forward.span import Span
from pyllm.models.forward.step import PlanKind, Step


@given(
    positions=st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    window=st.sampled_from([0, 1, 512, 4096]),
    threads=st.integers(1, 64),
    kv_heads=st.integers(1, 32),
)
def test_each_part_is_done_once(positions: list[int], window: int, threads: int, kv_heads: int) -> None:
    rows = [jobs.seen(i, at, window) for i, at in enumerate(positions)]
    done = Counter((span, part) for span, _, _, first, parts in jobs.by_tokens(rows, threads, kv_heads)
                   for part in range(first, first + parts))  # fmt: skip
    size = PART * PAGE
    first = [max(0, at + 1 - window) // size if window else 0 for at in positions]
    assert done == Counter((i, p) for i, at in enumerate(positions) for p in range(first[i], at // size + 1))


@given(parts=st.integers(1, 1 << 14), threads=st.integers(1, 256), kv_heads=st.integers(1, 128))
def test_there_is_work_for_each_thread(parts: int, threads: int, kv_heads: int) -> None:
    size = jobs.job_parts(parts, threads, kv_heads)
    assert size >= 1 and (threads > 1 or size == parts)
    assert -(-parts // size) * kv_heads >= min(threads, parts * kv_heads)


def test_jobs_become_longer_and_more() -> None:
    found = [jobs.job_parts(parts, threads=2, kv_heads=3) for parts in (1, 4, 16, 64, 256)]
    assert found == [1, 2, 3, 7, 14]
    assert jobs.job_parts(64, 8, 8) > jobs.job_parts(64, 32, 8)


@given(spans=st.lists(st.integers(1, 300), min_size=1, max_size=4), group=st.integers(1, 100))
def test_each_row_is_done_once(spans: list[int], group: int) -> None:
    found = list(jobs.by_rows(list(enumerate(spans)), group))
    assert [(i, r) for i, row, rows, _, _ in found for r in range(row, row + rows)] == [
        (i, r) for i, rows in enumerate(spans) for r in range(rows)
    ]
    assert all(rows <= block_rows(group) and parts == 0 for _, _, rows, _, parts in found)


@given(
    prefixes=st.lists(st.lists(st.integers(0, 1), min_size=0, max_size=3), min_size=1, max_size=30),
    own=st.integers(0, 700),
    group=st.integers(1, 40),
)
def test_shared_prefixes_are_read_once(prefixes: list[list[int]], own: int, group: int) -> None:
    """Every row gets each of its parts once, together with all its neighbours that share it or alone."""
    size, spans, fresh = PART * PAGE, [], 1000
    for prefix in sorted(prefixes):
        pages, key = [], 0
        for choice in prefix:
            key = key * 3 + choice + 1
            pages += [key * PART + i for i in range(PART)]
        pages += range(fresh, fresh + 3 * PART)
        fresh += 3 * PART
        spans.append(Span([1], len(prefix) * size + own, [np.array(pages)]))
    rows = [jobs.seen(i, span.position, 0) for i, span in enumerate(spans)]
    groups = list(jobs.shared_of(spans, list(range(len(spans)))))
    blocks = list(jobs.by_prefix(groups, group, 2, 3))
    done = Counter((span, part) for span, _, _, first, n in jobs.by_tokens(jobs.without(rows, groups), 2, 3)
                   for part in range(first, first + n))  # fmt: skip
    for first, _, n, part, parts in blocks:
        for p in range(part, part + parts):
            pages = {tuple(spans[i].tables[0][p * PART : (p + 1) * PART]) for i in range(first, first + n)}
            assert len(pages) == 1, "they share it"
            done.update((i, p) for i in range(first, first + n))
    assert done == Counter((row.span, p) for row in rows for p in range(row.first, row.first + row.parts))
    assert all(g.rows >= jobs.SHARERS for g in groups)


def test_decode_rows_and_prompts_in_one_step() -> None:
    step = Step(64, 2, 1, windows=(0, 100), places=40)
    table = np.arange(100)
    tables = [table, table]
    spans = [Span([1], 2000, tables), Span([1] * 20, 0, tables, prompt=True), Span([1], 0, tables)]
    step.fill(spans, [0, 21], group=3)
    assert PlanKind.of(spans) is PlanKind.PREFILL
    assert step.parts[0, :22].tolist() == [8] + [1] * 21
    assert step.parts[1, 0] == 1, "a window of 100 tokens lies in one part"
    assert step.sums_at[:3].tolist() == [0, 8, 9] and step.places[0] == 8 + 21
    assert {int(job["span"]) for job in step.blocks[0][: step.n_blocks[0, 0]]} == {1}
    assert {int(job["span"]) for job in step.jobs[0][: step.n_jobs[0, 0]]} == {0, 2}


def test_kinds_of_steps() -> None:
    tables = [np.arange(4)]
    one, prompt = Span([1], 7, tables), Span([1, 2], 0, tables, prompt=True)
    assert PlanKind.of([one]) is PlanKind.DECODE
    assert [PlanKind.of([one] * n).at_once for n in (1, 2, 3, 4, 5, 40)] == [1, 2, 4, 4, 8, 8]
    assert PlanKind.of([one, prompt]) is PlanKind.of([prompt]) is PlanKind.PREFILL
