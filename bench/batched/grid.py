"""What to measure of many sequences: llama-batched-bench's lists, and the grid that they span; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ...kernels.shapes import PAGE, pages
from ...models.errors import UsageError
from ..speed.cases import Run, Runs, cached


@dataclass(frozen=True, kw_only=True)
class BatchedCase(Run):
    """One line of the result: sequences with a prompt of n_prompt tokens each, then n_gen steps of one row each."""

    n_prompt: int
    n_gen: int
    n_sequences: int
    shared: bool  # all have the same prompt: it is taken in once, and its pages are shared

    @property
    def prompts(self) -> int:
        """Return how many prompts are taken in."""
        return 1 if self.shared else self.n_sequences

    @property
    def n_kv(self) -> int:
        """Return the tokens in the cache at the end, a shared prompt counted once."""
        return self.prompts * self.n_prompt + self.n_sequences * self.n_gen

    @property
    def n_pages(self) -> int:
        """Return the pages of layers that keep all tokens. Sequences share the full pages of a shared prompt."""
        each = pages(self.n_prompt + self.n_gen)
        common = self.n_prompt // PAGE if self.shared else 0
        return common + self.n_sequences * (each - common)

    def __str__(self) -> str:
        tests = f"pp{self.n_prompt} tg{self.n_gen} B{self.n_sequences}"
        return f"{tests}{' shared' * self.shared} {cached(self.cache)} -t {self.n_threads}"


@dataclass(frozen=True, kw_only=True)
class BatchedGrid(Runs):
    """Lists of values; each combination is a case, in llama-batched-bench's order."""

    n_prompt: Sequence[int]
    n_gen: Sequence[int]
    n_sequences: Sequence[int]
    shared: bool

    def cases(self) -> list[BatchedCase]:
        """Return the full grid, each case once; raises UsageError for what no step can do."""
        grid = [
            BatchedCase(model=model, n_prompt=prompt, n_gen=gen, n_sequences=rows, shared=self.shared, **run)
            for model, run in product(self.models, list(self.runs()))
            for prompt, gen, rows in product(self.n_prompt, self.n_gen, self.n_sequences)
            if prompt + gen
        ]
        if not grid:
            raise UsageError("-npp 0 -ntg 0: there is nothing to measure; give -npp or -ntg a number of tokens")
        for case in grid:
            if case.shared and case.cache.policy:
                problem = "-pps: what a page holds depends on how far its sequence has come, so none are shared"
                raise UsageError(f"--cache-policy {case.cache.policy}: does not go with {problem}")
            if case.n_sequences > case.setup.n_rows:
                most = f"a step has at most {case.setup.n_rows} rows (the smaller of -b and -ub)"
                raise UsageError(f"-npl {case.n_sequences}: {most}; raise -ub, or take fewer sequences")
        return list(dict.fromkeys(grid))
