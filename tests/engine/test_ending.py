"""Where answers end: by stop strings here; by the rest see test_generate.py and test_scheduler.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fake_pages import END, FakeLLM, FakeTokenizer

from pyllm.engine.ending import Ending
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.engine.scheduler import Scheduler
from pyllm.models.errors import UsageError

TOKENIZER: Any = FakeTokenizer()


def spoken(tokens: Sequence[int], *stop_strings: str, limit: int = -1) -> tuple[list[str], str | None]:
    """Return the pieces of these tokens, the last after the end, and why they end."""
    ending, pieces, stop = Ending(TOKENIZER, 1, 100, limit, stop_strings), list[str](), None
    for token in tokens:
        piece = ending.take(token)
        pieces.append(piece.text)
        if stop := piece.stop:
            break
    return [*pieces, ending.flush()], stop


def letters(text: str) -> list[int]:
    return [ord(letter) - 64 for letter in text]


@pytest.mark.parametrize(
    ("stop_strings", "pieces", "stop"),
    [
        (["X"], ["C", "D", "C", "D", "E", ""], None),
        (["E"], ["C", "D", "C", "D", "", ""], "stop"),
        (["CDE"], ["", "", "CD", "", "", ""], "stop"),
        (["DCDX", "CDE"], ["", "", "C", "", "D", ""], "stop"),
    ],
)
def test_a_stop_string_is_not_shown(stop_strings: list[str], pieces: list[str], stop: str | None) -> None:
    assert spoken(letters("CDCDE"), *stop_strings) == (pieces, stop)


def test_what_only_begins_a_stop_string_is_shown_in_the_end() -> None:
    assert spoken([*letters("XCD"), END], "CDE") == (["X", "", "", "", "CD"], "eog")
    assert spoken(letters("XCD"), "CDE", limit=3) == (["X", "", "", "CD"], "limit")


def test_halves_of_a_character() -> None:
    e = [28, 29]  # é
    assert spoken([*letters("C"), *e, *letters("D")], "éD") == (["C", "", "", "", ""], "stop")


def test_a_scheduler_stops_as_it_does_alone() -> None:
    llm = FakeLLM(ends=False)
    text = ""
    for stop in ((), ("",)):
        scheduler = Scheduler(llm)
        params = SamplingParams(temperature=0, max_tokens=40, stop=(text[20:23],) if stop else ())
        scheduler.add(Request([5, 6], params))
        pieces = []
        while not scheduler.idle:
            pieces += [update.piece for update in scheduler.step()]
        found = "".join(piece.text for piece in pieces)
        if stop:
            assert pieces[-1].stop == "stop" and found == text[: text.index(text[20:23])]
        text = text or found
        scheduler.close()


def test_params() -> None:
    assert SamplingParams(stop="x") == SamplingParams(stop=["x"])  # type: ignore[arg-type]
    for wrong in ("", [""], [7]):
        with pytest.raises(UsageError, match="stop: must be texts that are not empty"):
            SamplingParams(stop=wrong)  # type: ignore[arg-type]
