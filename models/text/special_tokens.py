"""Finds given texts, such as those of control tokens, in any text; knows nothing of what they stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import tokenizers
from tokenizers import AddedToken, models


class Finder:
    """The texts that `ids` names: of several the leftmost, of those the longest, by the automaton of `tokenizers`."""

    def __init__(self, ids: Mapping[str, int], eats_space: Collection[str] = ()) -> None:
        """`eats_space`: texts that the white space behind them belongs to."""
        other = "?" * (1 + max(map(len, ids), default=0))  # for what is none of them
        self._ids = [-1, *ids.values()]
        self._automaton = tokenizers.Tokenizer(models.WordLevel({other: 0}, unk_token=other))
        self._automaton.add_tokens([AddedToken(text, normalized=False, rstrip=text in eats_space) for text in ids])

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(start, end, id) of each; the text must be Unicode."""
        if len(self._ids) == 1:
            return
        found = self._automaton.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(found.ids, found.offsets, strict=True):
            if i:
                yield start, end, self._ids[i]

    def cut(self, text: str) -> Iterator[str | int]:
        """The text with each of them cut out and replaced by its id."""
        end = 0
        for start, stop, i in self.find(text):
            if start > end:
                yield text[end:start]
            yield i
            end = stop
        if end < len(text):
            yield text[end:]
