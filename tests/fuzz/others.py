"""Inputs that are no models: command lines, and the JSON files that pyllm keeps."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from random import Random
from typing import Any

COMMANDS = ("run", "bench", "perplexity", "study", "advise", "inspect", "verify", "quantize", "show", "list")
VALUES = ["", "-", "--", "=", "0", "-1", "1", "1e9", "nan", "inf", "99999999999999999999", "x", "é", "\ud800", "\0",
          "q4_0", "q4_0,f16", "0-1:f16", "*:q4_0", "1:", ":", "-2:f16", "auto", "k", "both", "kv", "16k", "4g",
          "1.5GiB", "²", "a b", "hf:", "hf:x", "pypi:", "pypi:x==", "https://", "file:", "missing.gguf",
          "x" * 5000]  # fmt: skip
GOOD = ["0", "1", "2", "512", "0.5", "f16", "q8_0", "q4_0", "f16,q8_0", "kv", "1m", "8G", "prose", "other.gguf", "Q8_0"]
OTHER_FLAGS = ["-ngl", "-fa", "--no-mmap", "--mlock", "--color", "-cnv", "-st", "--no-warmup", "--x", "-", "--", "-h"]
ODD = [
    None,
    "",
    "x",
    -1,
    0,
    1.5,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    True,
    "1",
    "1e9",
    10**400,
    "é\x1b",
]


def argv(random: Random) -> list[str]:
    """Return a command with some of its flags, and values that mostly suit one of them."""
    from pyllm.__main__ import COMMANDS as KNOWN  # imported late, as in cases.py

    argv, parser = [random.choice(COMMANDS)], ArgumentParser(add_help=False)
    KNOWN[argv[0]].add_flags(parser)
    for action in random.choices(parser._actions, k=random.randrange(7)):
        choices = [str(choice) for choice in action.choices] if action.choices else GOOD
        value = random.choice(choices if random.random() < 0.75 else VALUES)
        flag = random.choice(list(action.option_strings) or [value])
        argv += [flag] if action.nargs == 0 else random.choice(([flag, value], [flag, value], [f"{flag}={value}"]))
    if random.random() < 0.2:
        argv.insert(random.randrange(len(argv) + 1), random.choice(OTHER_FLAGS + VALUES))
    if random.random() < 0.9:
        argv.insert(random.choice((1, len(argv))), "missing.gguf")
    knows = any("--offline" in action.option_strings for action in parser._actions)
    return [argv[0], *(["--offline"] if knows else []), *argv[1:]]


def study(heading: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the content of a study's file."""
    pairs = ("f16/f16", "q8_0/q4_0", "q4_0/q4_0")
    cells = [f"score {task} 512 {pair} auto" for pair in pairs for task in ("prose", "questions", "passkey")]
    return {"version": version, "heading": heading, "results": {c: {"samples": 9, "kld_mean": 0.01} for c in cells}}


def json_damaged(random: Random, value: Any) -> bytes:
    """Return JSON, as pyllm writes it, in which a key, a value or some bytes are wrong."""
    for _ in range(random.choice((1, 1, 2, 5))):
        _damage(random, value)
    raw = bytearray(json.dumps(value, indent=1).encode())
    if random.random() < 0.2:
        for _ in range(random.randrange(1, 4)):
            raw[random.randrange(len(raw))] = random.choice(b'{}[]",:0x\xff\n')
    return b'{\n "heading": {' + b"[" * 100_000 if random.random() < 0.01 else bytes(raw)


def _damage(random: Random, value: dict[str, Any]) -> None:
    """Change something somewhere in a dictionary of dictionaries."""
    if not value:
        return
    key, what = random.choice(list(value)), random.random()
    if isinstance(value[key], dict) and random.random() < 0.85:
        _damage(random, value[key])
    elif what < 0.5:
        value[key] = random.choice(ODD)
    elif what < 0.7:
        del value[key]
    else:
        words = str(key).split(" ")
        words[random.randrange(len(words))] = str(random.choice(ODD[:-2])) if what < 0.9 else ""
        value[" ".join(words).strip()] = value.pop(key)
