"""Scores a text through several caches side by side: each session gets the same tokens.

No logits are kept: they are compared with the reference's piece by piece, so memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...engine.generate import common_prefix
from ...engine.stepper import Session
from ...kernels.lang import cpu
from .divergence import Divergence, log_softmax, surprise

F32Array = npt.NDArray[np.float32]


def logprobs(session: Session, tokens: Sequence[int], *, decode: bool) -> Iterator[F32Array]:
    """Yield log-probabilities (rows, n_vocab) after each token: several rows at once, or single rows with decode."""
    if decode:
        for token in tokens:
            yield log_softmax(session.decode(token)[None])
    else:
        for _, logits in session.score(tokens):
            yield log_softmax(logits)


def surprises(session: Session, tokens: Sequence[int], begin: int, *, decode: bool = False) -> npt.NDArray[np.float64]:
    """Return -log p of each token after position `begin`, given all tokens before it."""
    _fill(session, tokens[:begin])
    found, at = [], begin + 1
    for rows in logprobs(session, tokens[begin:-1], decode=decode):
        found.append(surprise(rows, np.array(tokens[at : at + len(rows)])))
        at += len(rows)
    return np.concatenate(found)


def divergences(
    reference: Session, sessions: Sequence[Session], tokens: Sequence[int], begin: int, *, decode: bool = False
) -> list[Divergence]:
    """Return the divergence of each session from the reference at the tokens after position `begin`."""
    for session in (reference, *sessions):
        _fill(session, tokens[:begin])
    scored = tokens[begin:-1]
    parts: list[list[Divergence]] = [[] for _ in sessions]
    at = begin + 1
    each = [logprobs(session, scored, decode=decode) for session in (reference, *sessions)]
    for expected, *others in _pieces(each):
        targets = np.array(tokens[at : at + len(expected)])
        for found, other in zip(parts, others, strict=True):
            found.append(Divergence.of(expected, other, targets))
        at += len(expected)
    return [Divergence.joined(found) for found in parts]


def _pieces(each: Sequence[Iterator[F32Array]]) -> Iterator[list[F32Array]]:
    """Yield the same rows of all; a cache whose tokens are chosen takes fewer of them at once."""
    held = [np.empty((0, 0), np.float32)] * len(each)
    while True:
        try:
            held = [rows if len(rows) else next(more) for rows, more in zip(held, each, strict=True)]
        except StopIteration:  # all have as many rows
            return
        n = min(map(len, held))
        yield [rows[:n] for rows in held]
        held = [rows[n:] for rows in held]


def _fill(session: Session, tokens: Sequence[int]) -> None:
    known = restart(session, tokens)
    if tokens[known:]:
        session.prefill(tokens[known:])


def restart(session: Session, tokens: Sequence[int]) -> int:
    """Keep the beginning of the cache that these tokens share, drop the rest, and return how many tokens were kept.

    With AMX nothing is kept: generated tokens take other sums there than a prompt's, and a score must not depend on
    what was in the cache.
    """
    return session.rewind(0 if cpu.AMX else common_prefix(session.tokens, tokens))
