"""Finds given texts, such as those of control tokens, in any text; knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import tokenizers
from tokenizers import AddedToken, models


class Finder:
    """Finds the texts of `ids`, the leftmost first and of those the longest, with the automaton of `tokenizers`."""

    def __init__(self, ids: Mapping[str, int], eats_space: Collection[str] = ()) -> None:
        """eats_space: texts to which the white space after them belongs."""
        other = "?" * (1 + max(map(len, ids), default=0))  # stands for all other text
        self._ids = [-1, *ids.values()]
        self._automaton = tokenizers.Tokenizer(models.WordLevel({other: 0}, unk_token=other))
        self._automaton.add_tokens([AddedToken(text, normalized=False, rstrip=text in eats_space) for text in ids])

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield the start, end and id of each text found; `text` must be Unicode."""
        if len(self._ids) == 1:
            return
        found = self._automaton.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(found.ids, found.offsets, strict=True):
            if i:
                yield start, end, self._ids[i]

    def cut(self, text: str) -> Iterator[str | int]:
        """Yield `text` in pieces, with each text found replaced by its id."""
        end = 0
        for start, stop, i in self.find(text):
            if start > end:
                yield text[end:start]
            yield i
            end = stop
        if end < len(text):
            yield text[end:]
