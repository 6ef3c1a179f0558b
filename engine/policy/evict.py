"""Chooses which tokens stay in the body of a cache whose body has a size, as pages leave the tail."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter

import numpy as np

from ...kernels.lang.buffers import aligned
from ...kernels.ops.move_tokens import TOKEN, move_tokens, scratch_bytes
from ...kernels.shapes import PAGE, columns
from ...models.cache.evictions import Eviction
from ...models.cache.seen import F32Array, I64Array, Seen
from ...models.cache.store import LayerCache
from ...models.config import Layer
from ...models.errors import UsageError
from ...models.forward.model import Model
from ...models.forward.probe import cached
from ...models.forward.span import Span

_DONE = -1.0
"""The mass of a page from which tokens were chosen: a step may be tried again, but the choice is made once."""


class Evictor:
    """Applies a policy before a step is run. Spans end with a page at most (see engine/sequence.py)."""

    def __init__(self, policy: Eviction, model: Model) -> None:
        borders = model.kv.borders
        assert borders is not None and borders.most is not None
        self._policy, self._kv, self._config = policy, model.kv, model.config
        self._borders, self._most = borders, borders.most
        self._movers = {
            i: _Mover(model.kv.tails[i], model.kv.layers[i], model.config.layers[i]) for i in model.kv.marks
        }
        self.seconds = 0.0  # spent here so far

    def apply(self, spans: Sequence[Span]) -> None:
        """Choose the tokens of the pages that leave the tail; raises UsageError if the policy does."""
        begin = perf_counter()
        for span in spans:
            if span.position % PAGE == 0:
                self._turn(span)
        self.seconds += perf_counter() - begin

    def _turn(self, span: Span) -> None:
        """Let a page leave the tail of a sequence, if it is long enough, and begin a new one."""
        b, body, tail = self._borders, span.tables[0], span.tables[-2]
        leaves = b.left(span.position + 1) - 1  # the index of the page
        full = leaves - b.sink >= self._most
        held = body[b.sink : b.sink + min(self._most, max(0, leaves + 1 - b.sink))]
        for i, (marks, last) in self._kv.marks.items():
            if full:
                self._choose(i, held, int(tail[leaves]), span.position)
            elif leaves >= b.sink:
                to, page = int(body[leaves]), int(tail[leaves])
                marks.mass[:, to] = last.mass[:, page]
                marks.positions[:, to] = PAGE * leaves + np.arange(PAGE)
            last.mass[:, tail[span.position // PAGE]] = 0
            if self._policy.rows == "page":
                marks.mass[:, held] = 0
                last.mass[:, tail[max(0, leaves + 1) : span.position // PAGE]] = 0

    def _choose(self, i: int, held: I64Array, page: int, now: int) -> None:
        """Put the tokens of a page that are worth more than those of the body into their places, for each KV head."""
        marks, last = self._kv.marks[i]
        if last.mass[0, page, 0] == _DONE:
            return
        heads, size = len(marks.mass), self._most * PAGE
        first = PAGE * (self._borders.left(now + 1) - 1)
        slots = (held[:, None] * PAGE + np.arange(PAGE)).ravel()
        mass = np.concatenate([marks.mass[:, held].reshape(heads, -1), last.mass[:, page]], axis=1)
        old = marks.positions[:, held].reshape(heads, -1).astype(np.int64)
        new = np.broadcast_to(first + np.arange(PAGE), (heads, PAGE))
        positions = np.concatenate([old, new], axis=1)
        positions.flags.writeable = mass.flags.writeable = False  # what the user's code may try
        seen = Seen(i, now, positions, mass, partial(self._read, i, slots, page))
        order = np.argsort(-self._scored(seen), axis=1, kind="stable")
        stays = np.zeros(mass.shape, bool)
        np.put_along_axis(stays, order[:, :size], True, axis=1)
        head, place = np.nonzero(~stays[:, :size])
        from_head, index = np.nonzero(stays[:, size:])  # as many of each head as there are places
        to = slots[place]
        self._movers[i].move(from_head, PAGE * page + index, to)
        marks.mass[head, to // PAGE, to % PAGE] = mass[from_head, size + index]
        marks.positions[head, to // PAGE, to % PAGE] = first + index
        last.mass[:, page] = _DONE

    def _scored(self, seen: Seen) -> F32Array:
        name = f"--cache-policy {self._kv.spec.policy}"
        try:
            scores = np.asarray(self._policy.score(seen), np.float32)
        except (Exception, SystemExit) as error:  # whatever the user's code does
            raise UsageError(f"{name}: raised {type(error).__name__} in layer {seen.layer}: {error}") from error
        if scores.shape != seen.mass.shape:
            raise UsageError(f"{name}: returned scores of shape {scores.shape}, not {seen.mass.shape}")
        if np.isnan(scores).any():
            raise UsageError(f"{name}: returned scores that are not numbers, in layer {seen.layer} at token {seen.now}")
        return scores

    def _read(self, i: int, slots: I64Array, page: int) -> tuple[F32Array, F32Array]:
        """Return K and V of the body and of a page in the tail, (KV heads, tokens, head_dim) each."""
        layer = self._config.layers[i]
        each = cached(self._kv.layers[i], layer, slots), cached(self._kv.tails[i], layer, PAGE * page + np.arange(PAGE))
        k, v = (np.concatenate(side).transpose(1, 0, 2) for side in zip(*each, strict=True))
        return k, v


class _Mover:
    """Moves tokens of a layer from the tail to the body."""

    def __init__(self, tail: LayerCache, body: LayerCache, layer: Layer) -> None:
        k, v = columns(layer.head_dim_k), columns(layer.head_dim_v)
        formats = [each.name for pool in (tail, body) for each in (pool.k_format, pool.v_format)]
        self._kernel = move_tokens(*formats)
        self._moves = np.zeros(layer.n_head_kv * PAGE, TOKEN)
        self._scratch = aligned(scratch_bytes(k, v))
        self._args = self._kernel.record(
            **{name: getattr(tail, name) for name in _POOLS}, **{f"{name}_to": getattr(body, name) for name in _POOLS},
            moves=self._moves, k_columns=k, v_columns=v, scratch=self._scratch,
        )  # fmt: skip

    def move(self, heads: I64Array, slots: I64Array, to: I64Array) -> None:
        n = len(heads)
        for name, values in zip(TOKEN.names or (), (heads, slots, to), strict=True):
            self._moves[name][:n] = values
        self._kernel.run(self._args, 0, n)


_POOLS = ("k_pool", "v_pool", "k_head", "v_head", "k_page", "v_page")
