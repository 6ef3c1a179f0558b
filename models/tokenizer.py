"""Text to token ids and back, by the vocabulary in a GGUF file; knows nothing of chats, models or arithmetic.

Byte-level BPE, as GPT-2 introduced it: text is cut into words by regular expressions (the "pre-tokenizer", which the
file only names), each byte of a word is written as a printable character, and the pairs of the file's merges are joined
in their order. The joining is done by Hugging Face's `tokenizers`, from the file's own vocabulary and merges.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from .errors import ModelError, UsageError
from .gguf import CONVERT, GGUF

# Token types of `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut into words, and what goes by the same name in llama.cpp."""

    patterns: tuple[str, ...]  # applied one after the other; what matches, and what lies between, are words
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    add_bos: bool = False  # where the file does not say


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),
    "refact": PreTokenizer((r"\p{N}", _GPT2)),
    "starcoder": PreTokenizer((r"\p{N}", _GPT2)),
    "llama-bpe": PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
}

# Files name one or two end tokens; models end answers with others too. llama.cpp knows these by their text, and takes
# them for control tokens whatever type the file gives them.
END_TEXTS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "</s>",
     "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
     "<eos>", "<turn|>", "<|tool_response>", "<|fim_pad|>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<reponame>",
     "<|file_sep|>")
)  # fmt: skip
_END_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_BYTE_OF = {
    **{c: ord(c) for c in _ALPHABET if ord(c) < 256},
    # GPT-2 gives the bytes that are no printable Latin-1 character the characters from U+0100 on, in order.
    **dict(
        zip((c for c in _ALPHABET if ord(c) > 255), (b for b in range(256) if chr(b) not in _ALPHABET), strict=True)
    ),
}


class Tokenizer:
    """A vocabulary and its rules. Ids are from 0 to n_vocab - 1. Threads may share one."""

    def __init__(
        self,
        bpe: tokenizers.Tokenizer,
        tokens: list[str],
        control: frozenset[int],
        verbatim: frozenset[int],
        *,
        bos_id: int | None,
        eos_id: int | None,
        eog: frozenset[int],
        add_bos: bool,
    ) -> None:
        """`control` tokens steer the model and are no text; `verbatim` ones are stored as text, not as bytes."""
        self.n_vocab = len(tokens)
        self.bos_id, self.eos_id = bos_id, eos_id
        self.eog = eog  # each of these ends an answer
        self.add_bos = add_bos  # the model expects its input to begin with bos_id
        self.control = control
        self._bpe, self._tokens, self._verbatim = bpe, tokens, verbatim | control
        # A text of one character could not be hidden (see `hide`), so it is never taken for a control token.
        self.control_texts = {tokens[i]: i for i in sorted(control) if len(tokens[i]) > 1}
        longest_first = sorted(self.control_texts, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @classmethod
    def from_gguf(cls, g: GGUF) -> Tokenizer:
        """Reads and checks the vocabulary of a file; raises ModelError."""
        return _read(g)

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """The ids of a text. `special`: the text of a control token is that token, else it is text like any other.

        `bos`: begin with bos_id if the model expects it. Raises UsageError for half a surrogate pair, which is no text.
        """
        ids = [self.bos_id] if bos and self.add_bos and self.bos_id is not None else []
        for part in self.split(text) if special else (text,):
            ids.extend([part] if isinstance(part, int) else self._words(part))
        return ids

    def split(self, text: str) -> Iterable[str | int]:
        """The text with every control token in it cut out and replaced by its id."""
        end = 0
        for match in self._special.finditer(text):
            yield text[end : match.start()]
            yield self.control_texts[match[0]]
            end = match.end()
        yield text[end:]

    def hide(self, text: str, mark: str) -> str:
        """The text with `mark`, a character that it lacks, put into control tokens: `split` finds none until it is out.

        It stands behind each character of a token, to break those too that overlap with it.
        """
        return self._special.sub(lambda match: "".join(c + mark for c in match[0]), text)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD; control tokens nothing, or with `special` text."""
        return b"".join(self.token_bytes(i) for i in ids if special or i not in self.control).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, not always whole characters; IndexError outside of the vocabulary."""
        if not 0 <= token < self.n_vocab:
            raise IndexError(f"token {token} of {self.n_vocab}")
        text = self._tokens[token]
        if token not in self._verbatim:
            try:
                return bytes([_BYTE_OF[c] for c in text])
            except KeyError:  # never made from bytes: an unused or a foreign token
                pass
        return text.encode()

    def _words(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise UsageError(f"the text is not Unicode: half a surrogate pair at character {e.start}") from None
        ids = self._bpe.encode(text, add_special_tokens=False).ids
        # Bytes that the vocabulary lacks have ids behind it (see _build); llama.cpp leaves them out too.
        return ids if not ids or max(ids) < self.n_vocab else [i for i in ids if i < self.n_vocab]


class StreamDecoder:
    """Text from ids as they come, in whole characters: a character's bytes may be spread over tokens."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        """`special`: control tokens show as their text, else not at all."""
        self._tokenizer, self._special = tokenizer, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes."""
        hidden = token in self._tokenizer.control and not self._special
        return "" if hidden else self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is left at the end: nothing, or U+FFFD for a character cut short. Ready for another stream then."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _known(g: GGUF, key: str, known: Iterable[str]) -> str:
    """The text at a key, which must be one of `known`."""
    value = g.text(key)
    if value not in known:
        problem = f"is {value[:60]!a}, which pyllm does not know"
        raise ModelError(g.path, key, problem, f"it knows {', '.join(sorted(known))}")
    return value


def _read(g: GGUF) -> Tokenizer:
    _known(g, "tokenizer.ggml.model", ["gpt2"])
    pre = PRE_TOKENIZERS[_known(g, "tokenizer.ggml.pre", PRE_TOKENIZERS)]
    tokens = g.texts("tokenizer.ggml.tokens")
    types = g.ints("tokenizer.ggml.token_type", 0, 6).tolist()
    if not tokens:
        raise ModelError(g.path, "tokenizer.ggml.tokens", "is empty", CONVERT)
    if len(types) != len(tokens):
        problem = f"has {len(types)} entries for {len(tokens)} tokens"
        raise ModelError(g.path, "tokenizer.ggml.token_type", problem, CONVERT)

    def token_id(key: str) -> int | None:
        return g.integer(key, 0, len(tokens) - 1) if key in g.metadata else None

    vocab = {text: i for i, text in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(i for i, text in enumerate(tokens) if vocab[text] != i)
        problem = f"tokens {twice} and {vocab[tokens[twice]]} are the same text"
        raise ModelError(g.path, "tokenizer.ggml.tokens", problem, CONVERT)
    ends = {vocab[text] for text in END_TEXTS & vocab.keys()}
    control = frozenset(ends.union(i for i, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL)))
    if {"<|return|>", "<|call|>"} <= vocab.keys():  # there <|end|> ends a part of an answer
        ends.discard(vocab.get("<|end|>", -1))
    verbatim = frozenset(i for i, kind in enumerate(types) if kind == _USER_DEFINED) - control

    bos_id = token_id("tokenizer.ggml.bos_token_id")
    add_bos = g.flag("tokenizer.ggml.add_bos_token", default=pre.add_bos)
    if add_bos and bos_id is None:
        raise ModelError(g.path, "tokenizer.ggml.bos_token_id", "is missing", CONVERT)
    ends.update(i for key in _END_KEYS if (i := token_id(key)) is not None)
    return Tokenizer(
        _build(g, pre, vocab, [tokens[i] for i in sorted(verbatim)]),
        tokens,
        control,
        verbatim,
        bos_id=bos_id,
        eos_id=token_id("tokenizer.ggml.eos_token_id"),
        eog=frozenset(ends),
        add_bos=add_bos,
    )


def _build(g: GGUF, pre: PreTokenizer, vocab: dict[str, int], verbatim: list[str]) -> tokenizers.Tokenizer:
    """`verbatim` texts are tokens wherever they stand, before any word is cut. Control tokens are the caller's."""
    key = "tokenizer.ggml.merges"
    merges: list[tuple[str, str]] = []
    for i, merge in enumerate(g.texts(key)):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelError(g.path, key, f"merge {i} is {merge[:60]!a}, must be two texts and a space", CONVERT)
        merges.append((left, right))
    # A byte without a token gets an id behind the vocabulary and is dropped when the words are joined: if it were
    # unknown to the library, its neighbours would merge.
    missing = [c for c in _ALPHABET if c not in vocab]
    spare = {c: i for i, c in enumerate(missing, start=len(vocab))}
    try:
        model = models.BPE(vocab | spare, merges, ignore_merges=pre.ignore_merges)
    except Exception as e:  # the library has no type of its own for a merge of what is no token
        raise ModelError(g.path, key, f"does not fit the tokens: {str(e)[:200]}", CONVERT) from None
    bpe = tokenizers.Tokenizer(model)
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*words, to_bytes])
    bpe.add_tokens([AddedToken(text, normalized=False) for text in verbatim])
    return bpe
