"""Reads a text to score, checks it and cuts it into llama-perplexity's windows; runs no model."""

from __future__ import annotations

from ...engine.chat.prompt import read_file
from ...models.config import Config
from ...models.errors import UsageError
from ...models.text.tokenizer import Tokenizer


def read(name: str) -> str:
    """Return the text of a UTF-8 file ("-": stdin). Raises UsageError for one that is empty or binary."""
    text = read_file(name)
    said = "stdin" if name == "-" else f"-f {name}"
    if not text.strip():
        raise UsageError(f"{said}: empty: name a file with text to score")
    if "\0" in text:
        raise UsageError(f"{said}: binary: a zero byte at character {text.index(chr(0))}: name a text file")
    return text


def check_context(n_ctx: int, config: Config) -> None:
    """Raise UsageError for windows longer than the model was trained for: there the model fails, not the cache."""
    if n_ctx > config.n_ctx_train:
        raise UsageError(f"-c {n_ctx}: the model's own context has {config.n_ctx_train} tokens; use that or less")


def windows(text: str, tokenizer: Tokenizer, n_ctx: int, limit: int | None = None) -> list[list[int]]:
    """Return the text's tokens in windows of n_ctx, at most `limit` of them; what is left at the end is dropped.

    Where the model expects a text to begin with BOS, it replaces each window's first token.
    """
    tokens = tokenizer.encode(text, bos=True)
    if len(tokens) < n_ctx:
        cure = f"use -c {len(tokens)} or less, or a longer text" if len(tokens) >= SHORTEST else "use a longer text"
        raise UsageError(f"-f: the text has {len(tokens)} tokens, fewer than a window of {n_ctx}; {cure}")
    count = len(tokens) // n_ctx
    found = [tokens[i * n_ctx : (i + 1) * n_ctx] for i in range(min(count, limit or count))]
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        for window in found:
            window[0] = tokenizer.bos_id
    return found


SHORTEST = 8
"""Fewest tokens of a window."""
