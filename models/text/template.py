"""Turns a conversation into token ids by the chat template in a model's file; knows no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ModelError, UsageError
from ..file.gguf import GGUF
from ..file.header import short
from ..file.strings import Texts
from . import sandbox
from .tokenizer import Tokenizer

KEY = "tokenizer.chat_template"
_TOOLS = re.compile(r"\b(tools|functions)\b")
CURE = "use --raw to continue a text without a template"

_Template = Callable[[Mapping[str, Any]], str]
Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant" | ..., "content": text}


class ChatTemplate:
    """A Jinja template, compiled when it is first used, so that a broken one does no harm until then.

    A process of its own renders it; `sandbox.start` starts that early.
    """

    def __init__(self, source: str, bos: str, eos: str, path: object = "") -> None:
        """bos, eos: the texts of these tokens, which a template may use; path: the file, for messages."""
        self.source, self.bos, self.eos, self.path = source, bos, eos, path

    @classmethod
    def from_gguf(cls, g: GGUF) -> ChatTemplate | None:
        """Return the template of a file, or None if it has none; raises ModelError."""
        if KEY not in g.metadata:
            return None
        tokens = g.texts("tokenizer.ggml.tokens", default=Texts.of([]))

        def text(name: str) -> str:
            key = f"tokenizer.ggml.{name}_token_id"
            return tokens[g.integer(key, 0, len(tokens) - 1)] if tokens and key in g.metadata else ""

        return cls(g.text(KEY), text("bos"), text("eos"), g.path)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Return the conversation as text and, with `add_generation_prompt`, the text that begins an answer.

        A system prompt that the template refuses or leaves out goes in front of the next message, as in llama.cpp.
        Raises ModelError if the template is broken, out of bounds, or refuses these messages.
        """
        with sandbox.rendering(self.source) as template:
            return self._render(template, messages, add_generation_prompt)

    def _render(self, template: _Template, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        system = messages[0]["content"] if len(messages) > 1 and messages[0]["role"] == "system" else ""
        if not system:
            return self._run(template, messages, add_generation_prompt)
        refused = None
        try:
            text = self._run(template, messages, add_generation_prompt)
            if system.strip() in text:
                return text
            other = {**messages[0], "content": system + "."}
            if text != self._run(template, [other, *messages[1:]], add_generation_prompt):  # the text depends on it
                return text
        except _RefusedError as error:
            refused = error
        second = {**messages[1], "content": f"{system}\n{messages[1]['content']}"}
        try:
            return self._run(template, [second, *messages[2:]], add_generation_prompt)
        except _RefusedError as error:
            raise refused or error from None

    def _run(self, template: _Template, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        values = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "tools": None,
            "documents": None,
        }
        try:
            return template(values)
        except sandbox.Refused as e:
            raise _RefusedError(self.path, KEY, f"refuses these messages: {short(str(e), 200)}", CURE) from None
        except sandbox.Broken as e:
            problem = str(e)
            if problem.startswith(("TypeError", "UndefinedError")) and _TOOLS.search(self.source):
                problem += " (it may be for calling tools, which pyllm does not do)"
            raise ModelError(self.path, KEY, f"cannot be used: {short(problem, 200)}", CURE) from None

    def encode(
        self, messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = True
    ) -> list[int]:
        """Return the token ids of the conversation. Only the template makes control tokens: in a message they are text.

        Raises ModelError as `render` does, and UsageError if a message is not Unicode.
        """
        # An unused character breaks control tokens in messages; it is taken out once the template's are found.
        mark = _unused_character([self.source, *(text for m in messages for text in m.values())])
        hidden = [{key: tokenizer.hide(text, mark) for key, text in m.items()} for m in messages]
        ids: list[int] = []
        for part in tokenizer.split(self.render(hidden, add_generation_prompt)):
            ids.extend([part] if isinstance(part, int) else tokenizer.encode(part.replace(mark, "")))
        if not ids:
            raise ModelError(self.path, KEY, "gives no text for these messages", CURE)
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[0] != tokenizer.bos_id:
            ids.insert(0, tokenizer.bos_id)  # most templates write it themselves
        return ids


class _RefusedError(ModelError):
    """The template refuses the messages, by raise_exception."""


def _unused_character(texts: Iterable[str]) -> str:
    """Return a private-use character (plane 15 or 16) that is in none of the texts; raises UsageError."""
    used = set().union(*texts)
    for code in range(0xF0000, 0x10FFFE):
        if chr(code) not in used:
            return chr(code)
    raise UsageError("the messages hold every private-use character of Unicode")
