"""The cases: what each number stands for, and how it is run.

A case ends with an answer or with one of pyllm's own errors; all else is a finding.

Case n is of the kind that KINDS has at n, damages model n of the corpus, and depends on nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from fuzz import damage
from fuzz.corpus import Model

EXITS = (0, 1, 2, 3, 4, 130, 141, 143)
CACHES = [("f16", "f16"), ("q8_0", "q4_0"), ("f32", "f32")]
"""K and V of most models, which other tests compile too."""
_MANY = 200
KINDS = (["head"] * 10 + ["body"]) * _MANY + ["study"] * 12 + ["flags"] * 12 + ["template", "chat"]
"""In this proportion, over and over, in an order of its own."""
Random(0).shuffle(KINDS)

COMMANDS = ("run", "bench", "perplexity", "study", "advise", "inspect", "verify", "quantize", "show", "list")
VALUES = ["", "-", "--", "=", "0", "-1", "1", "1e9", "nan", "inf", "99999999999999999999", "x", "é", "\ud800", "\0",
          "q4_0", "q4_0,f16", "0-1:f16", "*:q4_0", "1:", ":", "-2:f16", "auto", "k", "both", "kv", "16k", "4g",
          "1.5GiB", "²", "a b", "hf:", "hf:x", "pypi:", "pypi:x==", "https://", "file:", "missing.gguf",
          "x" * 5000]  # fmt: skip
GOOD = ["0", "1", "2", "512", "0.5", "f16", "q8_0", "q4_0", "f16,q8_0", "kv", "1m", "8G", "prose", "other.gguf", "Q8_0"]
OTHER_FLAGS = ["-ngl", "-fa", "--no-mmap", "--mlock", "--color", "-cnv", "-st", "--no-warmup", "--x", "-", "--", "-h"]


class Finding(Exception):
    """What a case must not do."""


def kind_of(number: int) -> str:
    return KINDS[number % len(KINDS)]


def seeded(number: int) -> Random:
    return Random(f"pyllm {number}")


class Cases:
    """Runs cases, in a folder of its own."""

    def __init__(self, models: list[Model], folder: Path, every_cache: bool) -> None:
        """every_cache: K and V also in the other types, whose kernels must be compiled; else in CACHES."""
        from pyllm.kernels.formats.table import CACHE_TYPES

        self.models, self.folder, self.path = models, folder, folder / "case.gguf"
        self.types = list(CACHE_TYPES) if every_cache else []
        self.kinds: dict[str, Callable[[Random, int], str]] = {
            "head": self.head, "body": self.body, "template": self.template, "study": self.study, "flags": self.flags,
            "chat": self.chat,
        }  # fmt: skip

    def run(self, number: int) -> str:
        """Run a case and return how it ended: "answered" or "exit N". Raises Finding, and whatever should not come."""
        from pyllm.models.errors import PyllmError

        try:
            return self.kinds[kind_of(number)](seeded(number), number)
        except PyllmError as error:
            message = str(error)
            if "\n" in message or not message.isprintable() or len(message) > 2000 + len(str(self.folder)):
                raise Finding(f"not one printable line: {message[:3000]!a}") from error
            if error.exit_code not in EXITS:
                raise Finding(f"exit code {error.exit_code}") from error
            return f"exit {error.exit_code}"

    def written(self, number: int) -> Path | None:
        """Write the file of a case, as `run` does, and return its path; None if the case has no file."""
        kind, random, model = kind_of(number), seeded(number), self.models[number % len(self.models)]
        if kind not in ("head", "body"):
            return None
        return self.write(damage.head_damaged(random, model) if kind == "head" else damage.body_damaged(random, model))

    def write(self, raw: bytes | bytearray) -> Path:
        """Write a model's file over the one before, which is faster than to make a new one."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(raw)
            file.truncate()
        return self.path

    def head(self, random: Random, number: int) -> str:
        """Read and check all that is not a kernel's: what inspect, verify and the start of a run do."""
        from pyllm.engine.commands.facts import present
        from pyllm.engine.machine.fit import check_fit
        from pyllm.models.arch.registry import load_weights, read_config
        from pyllm.models.cache.spec import CacheSpec
        from pyllm.models.describe import describe
        from pyllm.models.errors import PyllmError
        from pyllm.models.file.gguf import GGUF
        from pyllm.models.file.numbers import scan
        from pyllm.models.text.template import ChatTemplate
        from pyllm.models.text.tokenizer import Tokenizer

        self.written(number)
        gguf, refused = GGUF.open(self.path), None
        facts = describe(gguf)
        json.dumps(facts)
        if number % 64 == 0:
            from argparse import Namespace

            with contextlib.redirect_stdout(io.StringIO()):
                present(facts, Namespace(json=number % 128 == 0, tensors=True))
            scan(gguf)
        try:
            tokenizer = Tokenizer.from_gguf(gguf)
            ids = tokenizer.encode(" hello wörld<|im_end|>\n\n<s>", special=number % 2 == 0, bos=True)
            if not all(0 <= i < tokenizer.n_vocab for i in ids):
                raise Finding(f"ids outside of the vocabulary: {ids}")
            tokenizer.decode([*ids, 0, tokenizer.n_vocab - 1], special=True)
            ChatTemplate.from_gguf(gguf)
        except PyllmError as error:
            refused = error
        config = read_config(gguf)
        check_fit(gguf, config, 512, CacheSpec())
        load_weights(gguf, config)
        if refused is not None:
            raise refused
        return "answered"

    def body(self, random: Random, number: int) -> str:
        """Open the model and generate some tokens."""
        from pyllm.engine.sampler import SamplingParams

        self.written(number)
        k, v = random.choice(CACHES)
        if self.types and random.random() < 0.3:
            k = v = random.choice(self.types)
        with self.llm(k, v, n_batch=random.choice((1, 16, 64)), check=random.random() < 0.2) as llm:
            params = SamplingParams(max_tokens=4, temperature=random.choice((0.0, 0.8)), seed=number % (1 << 32))
            prompt = random.choice(("hello", "the world in the world", "a<|im_end|>b", "é" * 30))
            done = llm.generate(prompt, params)
            if not isinstance(done.text, str) or len(done.tokens) > 4:
                raise Finding(f"an answer of {len(done.tokens)} tokens")
        return "answered"

    def llm(self, k: str, v: str, **options: Any) -> Any:
        from pyllm.engine.llm import LLM

        return LLM(self.path, n_ctx=64, cache_type_k=k, cache_type_v=v, n_threads=1, max_logits=1, **options)

    def chat(self, random: Random, number: int) -> str:
        """Answer a conversation by a damaged template of a model that is not damaged otherwise."""
        from pyllm.engine.sampler import SamplingParams

        model = self.models[number % len(self.models)]
        self.write(damage.template(random, model.parts, model).raw())
        roles = random.choices(("system", "user", "assistant", "\x1b"), k=random.randrange(1, 4))
        with self.llm("f16", "f16") as llm:
            llm.chat([{"role": role, "content": damage.text(random)[:9].decode(errors="replace")} for role in roles],
                     SamplingParams(max_tokens=2))  # fmt: skip
        return "answered"

    def template(self, random: Random, number: int) -> str:
        from pyllm.models.text.template import ChatTemplate

        source = damage.a_template(random).decode(errors="replace")
        text = ChatTemplate(source, "<s>", "</s>", "file").render([{"role": "user", "content": "hello"}])
        if not isinstance(text, str):
            raise Finding(f"a text of type {type(text)}")
        return "answered"

    def study(self, random: Random, number: int) -> str:
        """Advise by a study's file that is damaged."""
        from pyllm.engine.advice.choose import TASKS, advise
        from pyllm.engine.advice.study_file import VERSION, identity, results_of
        from pyllm.models.arch.registry import read_config
        from pyllm.models.file.gguf import GGUF

        self.write(self.models[number % len(self.models)].raw)
        gguf, path = GGUF.open(self.path), self.folder / "study.json"
        path.write_bytes(_study(random, VERSION, identity(gguf)))
        found = advise(results_of(gguf, path), read_config(gguf), random.choice(list(TASKS)))
        return "answered" if found else "no advice"

    def flags(self, random: Random, number: int) -> str:
        """Run a command with flags at random and no model that is there."""
        from pyllm.__main__ import main

        argv = _argv(random)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
        if code not in EXITS or "Traceback" in err.getvalue() or (code and not (err.getvalue() or out.getvalue())):
            raise Finding(f"{argv!a}: exit code {code}: {err.getvalue()[:2000]!a}")
        return f"exit {code}"


def _argv(random: Random) -> list[str]:
    """Return a command with some of its flags, and values that mostly suit one of them."""
    from argparse import ArgumentParser

    from pyllm.__main__ import COMMANDS as KNOWN

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


def _study(random: Random, version: int, heading: dict[str, Any]) -> bytes:
    """Return a study's file in which a key, a value or some bytes are wrong."""
    odd = [None, "", "x", -1, 0, 1e308, float("nan"), float("inf"), [], {}, True, "1", 10**400, "é\x1b"]
    results: dict[str, Any] = {}
    for k, v in (("f16", "f16"), ("q8_0", "q4_0"), ("q4_0", "q4_0")):
        for task in ("prose", "questions", "passkey"):
            words = ["score", task, "512", f"{k}/{v}", "auto"]
            if random.random() < 0.1:
                words[random.randrange(5)] = str(random.choice(odd))
            if random.random() < 0.05:
                words = words[: random.randrange(5)]
            results[" ".join(words)] = {"samples": 100, "kld_mean": 0.01}
    for _ in range(random.randrange(3)):
        one = results[random.choice(list(results))]
        one[random.choice(("samples", "kld_mean"))] = random.choice(odd)
        if random.random() < 0.3:
            one.pop(random.choice(list(one)))
    if random.random() < 0.1:
        results[random.choice(list(results))] = random.choice(odd)
    content: dict[str, Any] = {"version": version, "heading": dict(heading), "results": results}
    if random.random() < 0.2:
        content[random.choice(list(content))] = random.choice(odd)
    raw = bytearray(json.dumps(content, indent=1).encode())
    if random.random() < 0.3:
        for _ in range(random.randrange(1, 4)):
            raw[random.randrange(len(raw))] = random.choice(b'{}[]",:0x\xff\n')
    return b"[" * 100_000 if random.random() < 0.01 else bytes(raw)


def quiet(folder: Path) -> None:
    """Leave nothing that a case can reach: no network, no models of the user's, no input."""
    from pyllm.kernels.lang import kept  # compiled kernels stay where they are

    assert kept.FOLDER
    os.environ |= {"PYLLM_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub"), "NO_COLOR": "1",
                   "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "80"}  # fmt: skip
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    logging.disable(logging.CRITICAL)


def _refuse(self: socket.socket, address: object) -> NoReturn:
    raise OSError(f"a case must not reach the network, but asks for {address}")
