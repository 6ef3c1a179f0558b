"""Chooses the next token from the logits by llama.cpp's flags; knows token ids, neither texts nor models."""

from __future__ import annotations

import math
import random
import secrets
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..kernels.lang.buffers import address
from ..kernels.ops.next_tokens import CHOICE
from ..kernels.ops.sample import Scratch, draw, limits_of, narrow
from ..models.errors import NumberError, UsageError

FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("repeat_penalty", "repeat_last_n", "top_k", "top_p", "min_p")}
FLAGS |= {"temperature": "--temp", "seed": "--seed", "max_tokens": "--predict"}
"""The parameters as the command line calls them."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen, by llama.cpp's chain and defaults, and how many; raises UsageError for a wrong value."""

    repeat_penalty: float = 1.0  # divides the logits of recent tokens (multiplies negative ones); 1: off
    repeat_last_n: int = 64  # how many tokens are recent; 0: none, -1: all
    top_k: int = 40  # keep the k likeliest tokens; 0: all
    top_p: float = 0.95  # keep the fewest likeliest tokens whose probabilities add up to p; 1: all
    min_p: float = 0.05  # keep tokens with at least min_p times the largest probability; 0: all
    temperature: float = 0.8  # divides the logits; 0 or less: always the likeliest token
    seed: int = -1  # the same seed gives the same tokens; -1: a random one
    max_tokens: int = -1  # tokens to generate at most; -1: until an end token, or until the context is full
    ignore_eos: bool = False  # never choose an end token
    stop: tuple[str, ...] = ()  # texts that end the answer, which does not hold them

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise UsageError("stop: must be texts that are not empty")
        object.__setattr__(self, "stop", stop)  # a list or a text will do too
        for name, low, high, wanted in (
            ("repeat_penalty", 1e-6, 1e6, "from 1e-6 to 1e6 (1: off)"),
            ("repeat_last_n", -1, math.inf, "-1 (all), 0 (none) or more"),
            ("top_k", 0, math.inf, "0 (all) or more"),
            ("top_p", 0, 1, "from 0 to 1 (all)"),
            ("min_p", 0, 1, "from 0 (all) to 1"),
            ("temperature", -math.inf, math.inf, "a finite number (0: always the likeliest token)"),
            ("seed", -1, math.inf, "-1 (a random one) or more"),
            ("max_tokens", -1, math.inf, "-1 (no limit) or more"),
        ):
            value = getattr(self, name)
            if not low <= value <= high or (isinstance(value, float) and math.isinf(value)):  # NaN too
                raise UsageError(f"{FLAGS[name]}: is {value}, must be {wanted}")

    def seeded(self) -> SamplingParams:
        """Return the same with a seed that was drawn, where it says -1."""
        return replace(self, seed=secrets.randbits(32)) if self.seed == -1 else self


class Sampler:
    """The sampling state of one sequence: its recent tokens and random numbers. The same seed gives the same tokens."""

    def __init__(
        self, params: SamplingParams, n_vocab: int, path: object = "the model", *, ends: Collection[int] = ()
    ) -> None:
        """path: the model's file, for messages. ends: what ignore_eos bans. `self.seed` is the seed in use."""
        self.params, self._path = params, path
        self.seed = params.seeded().seed
        self._random = random.Random(self.seed)
        last_n = params.repeat_last_n if params.repeat_penalty != 1 else 0
        self._recent: deque[int] = deque(maxlen=None if last_n < 0 else last_n)
        self._banned = np.array(sorted(ends) if params.ignore_eos else [], np.int64)
        self._penalized = np.empty(n_vocab, np.float32)
        self._scratch = Scratch(n_vocab)
        self._choice: npt.NDArray[np.void] | None = None
        self._choice_at = 0  # its address
        self._held = np.empty(0, np.int64)  # recent tokens, of which the record has only the address

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """Return the next token for logits (n_vocab,), which are not changed. Raises NumberError if they are broken."""
        if self.params.temperature <= 0:
            return int(self._penalize(logits).argmax())
        n = self._candidates(logits)
        return int(draw(self._scratch.ids, self._scratch.weight, n, self._random.random()))

    def prepare(self, logits: int) -> int:
        """Return the address of a CHOICE record for the float32 logits at an address, good until `chosen`."""
        if self._choice is None:
            self._choice = self._new_choice()
            self._choice_at = self._choice.ctypes.data
        self._held = self._distinct()
        record = self._choice[0]
        record["logits"], record["recent"], record["n_recent"] = logits, address(self._held), len(self._held)
        if self.params.temperature > 0:
            record["chance"] = self._random.random()
        return self._choice_at

    def _new_choice(self) -> npt.NDArray[np.void]:
        p, s, choice = self.params, self._scratch, np.zeros(1, CHOICE)
        limits = limits_of(p.min_p, p.temperature) if p.temperature > 0 else (0.0, 0.0)
        fields = {
            "n": len(self._penalized), "changed": address(self._penalized), "banned": address(self._banned),
            "n_banned": len(self._banned), "ids": address(s.ids), "distance": address(s.distance),
            "weight": address(s.weight), "counts": address(s.counts), "bins": address(s.bins),
            "top_k": p.top_k if 0 < p.top_k < len(self._penalized) else 0, "top_p": p.top_p,
            "penalty": p.repeat_penalty, "farthest": limits[0], "scale": limits[1],
        }  # fmt: skip
        for name, value in fields.items():
            choice[0][name] = value
        return choice

    def chosen(self) -> int | NumberError:
        """Return the token that was chosen for the record, or what is wrong with its logits."""
        assert self._choice is not None
        token = int(self._choice[0]["token"])
        return token if token >= 0 else self._broken()

    def _distinct(self) -> npt.NDArray[np.int64]:
        """Return the recent tokens, each once."""
        return np.fromiter(set(self._recent), np.int64)

    def _broken(self) -> NumberError:
        return NumberError(self._path, "weights", "they give logits that are not numbers", "--check says where")

    def accept(self, token: int) -> None:
        """Count a token of the prompt or of the answer as a recent one."""
        self._recent.append(token)

    def candidates(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
        """Return the tokens that may come next, by rising id, and their probabilities, both (n,). Needs temp > 0."""
        n = self._candidates(logits)
        weight = self._scratch.weight[:n].astype(np.float64)
        return self._scratch.ids[:n].copy(), weight / weight.sum()

    def _candidates(self, logits: npt.NDArray[np.float32]) -> int:
        p, x = self.params, self._penalize(logits)
        peak = float(x[x.argmax()])
        return narrow(x, peak, self._scratch, top_k=p.top_k, top_p=p.top_p, min_p=p.min_p, temp=p.temperature)

    def _penalize(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits with the repeat penalty, those of banned tokens -inf.

        Raises NumberError if the largest is not finite or one is NaN.
        """
        x = logits
        if self._recent or self._banned.size:
            x = self._penalized
            np.copyto(x, logits)
        if self._recent:
            recent = self._distinct()
            held, penalty = x[recent], np.float32(self.params.repeat_penalty)
            x[recent] = np.where(held > 0, held / penalty, held * penalty)
        if self._banned.size:
            x[self._banned] = -np.inf
        # argmax takes NaN for the largest. Some logits may be -inf, but not all.
        if not math.isfinite(x[x.argmax()]):
            raise self._broken()
        return x
