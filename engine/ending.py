"""The text of an answer, token by token, and where it ends: the one place that knows; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .results import Piece, Stop

if TYPE_CHECKING:
    from ..models.text.tokenizer import Tokenizer


class Ending:
    """The text of an answer so far. It ends with an end token, a stop string, a number of tokens, or a full context."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: int, n_ctx: int, limit: int = -1, stop_strings: Sequence[str] = ()
    ) -> None:
        """prompt: its tokens. n_ctx: tokens that the sequence can have. limit: tokens of the answer at most; -1: any.

        stop_strings: texts that end the answer and are not part of it.
        """
        from ..models.text.tokenizer import StreamDecoder

        self._decoder, self._ends = StreamDecoder(tokenizer), tokenizer.eog
        self._limit, self._room, self._stop_strings = limit, n_ctx - prompt, stop_strings
        self._held = ""  # text that may begin a stop string
        self._cut = False  # whether a stop string was found
        self.generated = 0

    @property
    def empty(self) -> bool:
        """Return whether no token is asked for."""
        return self._limit == 0

    def take(self, token: int) -> Piece:
        """Return the piece that the next token gives; its `stop` says why the answer ends here, if it does.

        An end token gives no text and does not count. `flush` returns the rest of the text.
        """
        if token in self._ends:
            return Piece("", "eog")
        self.generated += 1
        text = self._shown(self._decoder.feed(token))
        return Piece(text, self._stop(), token)

    def _stop(self) -> Stop | None:
        if self._cut:
            return "stop"
        if self.generated == self._limit:
            return "limit"
        return "context" if self.generated > self._room else None

    def flush(self) -> str:
        """Return the text that was still held back."""
        text = self._shown(self._decoder.flush())
        held, self._held = self._held, ""
        return text + held

    def _shown(self, text: str) -> str:
        """Return the text that can be shown: what comes before a stop string, and before what may become one."""
        if self._cut or not self._stop_strings:
            return "" if self._cut else text
        text = self._held + text
        if found := [at for stop in self._stop_strings if (at := text.find(stop)) >= 0]:
            self._held, self._cut = "", True
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop_strings)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a stop string."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))
