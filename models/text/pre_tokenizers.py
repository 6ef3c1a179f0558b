"""How text is cut into words before pairs are merged, for each `tokenizer.ggml.pre`; knows no vocabulary.

The expressions are those of the models' own tokenizers; llama.cpp's are the same, as far as its regular expressions
allow. The names and aliases are llama.cpp's.
"""

from __future__ import annotations

from dataclasses import dataclass

# English contractions, in lower case and in any case.
_SHORT = r"'s|'t|'re|'ve|'m|'ll|'d"
_SHORT_ANY = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_HAN = "[一-龥ࠀ-一가-\ud7ff]+"

_GPT2 = rf"{_SHORT}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)"


def _words(digits: str, marks: str = "") -> str:
    """Return the pattern of Llama 3 and Qwen: a word may begin with one other character; newlines end punctuation."""
    return (
        rf"(?:{_SHORT_ANY})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}{marks}]+|{digits}"
        rf"| ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*|{_SPACES}"
    )


def _cased(digits: str, short: str) -> str:
    """Return the pattern of GPT-4o and Mistral's Tekken: a capital begins a word; marks belong to their letters."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{short}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{short}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_LLAMA3 = _words(r"\p{N}{1,3}")

# Letters of the scripts that have capitals, as the tokenizer of DeepSeek LLM lists them.
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdb"
    "ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut into words, and the settings that llama.cpp ties to the same name."""

    patterns: tuple[str, ...]  # applied in order; both matches and the text between them are words
    ignore_merges: bool = False  # a word that is a token becomes that token, whatever the merges say
    add_bos: bool = False  # the default, if the file does not say
    byte_level: bool = True  # bytes are written as GPT-2's characters; else spaces as U+2581, other bytes as <0x..>


_BASE = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "starcoder": PreTokenizer((_DIGIT, _GPT2)),
    "llama-bpe": PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
    "dbrx": PreTokenizer((_LLAMA3,)),
    "glm4": PreTokenizer((_LLAMA3,), ignore_merges=True),
    "qwen2": PreTokenizer((_words(_DIGIT),)),
    "qwen35": PreTokenizer((_words(_DIGIT, r"\p{M}"),)),
    "tekken": PreTokenizer((_cased(_DIGIT, ""),), ignore_merges=True, add_bos=True),
    "gpt-4o": PreTokenizer((_cased(r"\p{N}{1,3}", f"(?:{_SHORT_ANY})?"),)),
    "deepseek-llm": PreTokenizer(  # "(?<!" keeps the search from starting at every character of white space
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
            r"(?<!\s)\s+$",
            _HAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, _DIGIT)),
    "deepseek-v3": PreTokenizer(
        (
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
        )
    ),
    "gemma4": PreTokenizer((), add_bos=True, byte_level=False),
}
_ALIASES = {
    "gpt-2": "phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling",
    "starcoder": "refact command-r smollm codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "dbrx": "smaug-bpe chatglm-bpe",
    "glm4": "glm5",
    "qwen2": "deepseek-r1-qwen kormo stablelm2 hunyuan solar-open megrez grok-2",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
}

PRE_TOKENIZERS: dict[str, PreTokenizer] = _BASE | {
    alias: _BASE[name] for name, aliases in _ALIASES.items() for alias in aliases.split()
}
