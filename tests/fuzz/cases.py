"""The cases: what each number stands for, and how it is run.

A case ends with an answer or with one of pyllm's own errors; all else is a finding.

Case n is of the kind that KINDS has at n, damages model n of the corpus, and depends on nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from fuzz import corpus, damage, others
from fuzz.corpus import Model

EXITS = (0, 1, 2, 3, 4, 130, 141, 143)
CACHES = [("f16", "f16"), ("q8_0", "q4_0"), ("f32", "f32")]
"""K and V of most models, which other tests compile too."""
_MANY = 200
KINDS = (["head"] * 10 + ["body"]) * _MANY + ["json"] * 12 + ["flags"] * 12 + ["template", "chat"]
"""In this proportion, over and over, in an order of its own."""
Random(0).shuffle(KINDS)


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
        self.types, self.every_cache = list(CACHE_TYPES), every_cache
        self.kinds: dict[str, Callable[[Random, int], str]] = {
            "head": self.head, "body": self.body, "template": self.template, "json": self.json, "flags": self.flags,
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
            if kind_of(number) in ("head", "body") and not message.startswith((str(self.folder), "--cache-")):
                raise Finding(f"names neither the file nor a flag: {message!a}") from error
            return f"exit {error.exit_code}"

    def written(self, number: int) -> Path | None:
        """Write the file of a case, as `run` does, and return its path; None if the case has no file."""
        kind, random, model = kind_of(number), seeded(number), self.models[number % len(self.models)]
        if kind not in ("head", "body"):
            return None
        damaged = damage.head_damaged if kind == "head" else damage.body_damaged
        return self.write(damaged(random, model), model)

    def write(self, raw: bytes | bytearray, model: Model) -> Path:
        """Write a file over the one before, which is faster than to make a new one; of a split model, its other parts
        too. `model` is that which the file was made of."""
        self.path = self.folder / "case.gguf"
        if model.name.startswith(corpus.SPLIT):
            for part in self.models:
                if part.name.startswith(corpus.SPLIT):
                    (self.folder / f"{part.name}.gguf").write_bytes(part.raw)
            self.path = self.folder / f"{model.name}.gguf"
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(raw)
            file.truncate()
        return self.path

    def head(self, random: Random, number: int) -> str:
        """Read and check all that is not a kernel's: what inspect, verify and the start of a run do."""
        from pyllm.__main__ import main
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
        json.dumps(describe(gguf))
        if number % 64 == 0:
            flags = ["--tensors", *(["--json"] if number % 128 else [])]
            with contextlib.redirect_stdout(io.StringIO()) as out:
                if main(["inspect", str(self.path), *flags]):
                    raise Finding("inspect fails where describe does not")
            if not out.getvalue().replace("\n", "").isprintable():
                raise Finding(f"inspect prints {out.getvalue()!a}")
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
        (k, v), other, seldom = random.choice(CACHES), random.choice(self.types), random.random() < 0.3
        if seldom and self.every_cache:
            k = v = other
        with self.llm(k, v, n_batch=random.choice((1, 16, 64)), check=random.random() < 0.2) as llm:
            params = SamplingParams(max_tokens=4, temperature=random.choice((0.0, 0.8)), seed=number % (1 << 32))
            prompt = random.choice(("hello", "the world in the world", "a<|im_end|>b", "é" * 30))
            done = llm.generate(prompt, params)
            if not isinstance(done.text, str) or len(done.tokens) > 4:
                raise Finding(f"an answer of {len(done.tokens)} tokens")
        return "answered"

    def warm(self) -> None:
        """Answer with each undamaged model and each of CACHES, which compiles the kernels that most cases need."""
        from pyllm.engine.sampler import SamplingParams

        for model in self.models:
            self.write(model.raw, model)
            for k, v in CACHES:
                with self.llm(k, v) as llm:
                    llm.generate("the world in the world", SamplingParams(max_tokens=2, temperature=0.0))

    def llm(self, k: str, v: str, **options: Any) -> Any:
        from pyllm.engine.llm import LLM

        return LLM(self.path, n_ctx=64, cache_type_k=k, cache_type_v=v, n_threads=1, max_logits=1, **options)

    def chat(self, random: Random, number: int) -> str:
        """Answer a conversation by a damaged template of a model that is not damaged otherwise."""
        from pyllm.engine.sampler import SamplingParams

        model = self.models[number % len(self.models)]
        self.write(damage.template(random, model.parts, model).raw(), model)
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

    def json(self, random: Random, number: int) -> str:
        """Read a damaged file of those that pyllm keeps, and use what it says."""
        if number % 3:
            return self.study(random, number)
        from given_roofs import GIVEN

        from pyllm.bench.machine import roofs
        from pyllm.engine.store import folder

        cache = folder.cache_folder()
        path, model = roofs.path(cache), cache / "models" / "m.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(others.json_damaged(random, asdict(GIVEN) | {"machine": roofs.machine()}))
        if (found := roofs.kept(cache)) is not None:
            speed = found.bandwidth(2, 1e6), found.peak("f32", 2)
            list(roofs.warnings(found))
            roofs.table(found, "read")
            if not all(map(math.isfinite, speed)):
                raise Finding(f"roofs of {speed}")
        folder.remember(model, folder.Origin("pypi:x", "0" * 64))
        record = folder._record(model)
        record.write_bytes(others.json_damaged(random, json.loads(record.read_bytes())))
        folder.recall(model)
        folder.forget(model)
        record.unlink(missing_ok=True)
        return "answered"

    def study(self, random: Random, number: int) -> str:
        """Advise by a study's file that is damaged."""
        from pyllm.engine.advice.choose import TASKS, advise
        from pyllm.engine.advice.study_file import VERSION, identity, results_of
        from pyllm.models.arch.registry import read_config
        from pyllm.models.file.gguf import GGUF

        model = self.models[number % len(self.models)]
        self.write(model.raw, model)
        gguf, path = GGUF.open(self.path), self.folder / "study.json"
        path.write_bytes(others.json_damaged(random, others.study(identity(gguf), VERSION)))
        found = advise(results_of(gguf, path), read_config(gguf), random.choice(list(TASKS)))
        return "answered" if found else "no advice"

    def flags(self, random: Random, number: int) -> str:
        """Run a command with flags at random and no model that is there."""
        from pyllm.__main__ import main

        argv = others.argv(random)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
        if code not in EXITS or "Traceback" in err.getvalue() or (code and not (err.getvalue() or out.getvalue())):
            raise Finding(f"{argv!a}: exit code {code}: {err.getvalue()[:2000]!a}")
        return f"exit {code}"


def quiet(folder: Path) -> None:
    """Leave nothing that a case can reach: no network, no models of the user's, no input."""
    from pyllm.kernels.lang import kept  # compiled kernels stay where they are

    assert kept.FOLDER
    os.chdir(folder)
    os.environ |= {"PYLLM_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub"), "NO_COLOR": "1",
                   "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "80"}  # fmt: skip
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    logging.disable(logging.CRITICAL)


def _refuse(self: socket.socket, address: object) -> NoReturn:
    raise OSError(f"a case must not reach the network, but asks for {address}")
