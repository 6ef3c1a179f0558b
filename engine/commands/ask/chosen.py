"""What the flags of `run` choose: the cache, the context, the sampling, the model in memory."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....models.cache.spec import CacheSpec
from ....models.errors import UsageError
from ...chat.interrupt import at_once, impatient
from ...machine.bars import Bars
from .. import screen
from ..flags import DEFAULT_CTX

if TYPE_CHECKING:
    from ....models.config import Config
    from ....models.file.gguf import GGUF
    from ...llm import LLM
    from ...sampler import SamplingParams


def cache_of(gguf: GGUF, config: Config, args: argparse.Namespace) -> CacheSpec:
    """Return the cache that the flags ask for; raises UsageError."""
    if args.cache_type == "auto":
        return _advised(gguf, config, args)
    return CacheSpec.of_flags(
        args.cache_type_k,
        args.cache_type_k_layers,
        args.cache_type_v,
        args.cache_type_v_layers,
        args.cache_rotate,
        args.cache_policy,
    )


def _advised(gguf: GGUF, config: Config, args: argparse.Namespace) -> CacheSpec:
    """Return the cache that the model's study advises for chat; without a study, SAFE."""
    from ...advice.choose import SAFE, advise
    from ...advice.study_file import results_of

    if any((args.cache_type_k, args.cache_type_v, args.cache_type_k_layers, args.cache_type_v_layers)):
        raise UsageError("--cache-type auto and other cache types: give the one or the others")
    found = advise(results_of(gguf), config, "chat")
    if found is None:
        screen.warn("no study of this model: K and V in q8_0 (pyllm study kv measures more)")
        return replace(SAFE, rotate=args.cache_rotate, policy=args.cache_policy)
    return replace(found.chosen.cache, policy=args.cache_policy)


def context_size(asked: int | None, config: Config) -> int:
    """Return the context's tokens: as asked, 0 for the model's own; without -c the model's, at most DEFAULT_CTX."""
    return min(DEFAULT_CTX, config.n_ctx_train) if asked is None else asked or config.n_ctx_train


def warn_of_context(n_ctx: int, config: Config) -> None:
    """Warn of a context that is longer than any that the model was trained on."""
    if n_ctx > config.n_ctx_train:
        warning = f"-c {n_ctx} is more than the {config.n_ctx_train} tokens that the model was trained on"
        screen.warn(f"{warning}: beyond them, answers get worse")


def sampling(args: argparse.Namespace) -> SamplingParams:
    """Return the sampling parameters that the flags give."""
    from ...sampler import SamplingParams

    return SamplingParams(
        temperature=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        ignore_eos=args.ignore_eos,
        seed=args.seed,
        max_tokens=args.predict,
    )


def loaded(gguf: GGUF, args: argparse.Namespace, progress: Bars, **settings: Any) -> LLM:
    """Return the model in memory; settings: those of LLM that no flag gives alone."""
    from ...llm import LLM

    with at_once(progress.close), impatient():
        llm = LLM(gguf, n_threads=args.threads, check=args.check, tune=args.tune, progress=progress, **settings)
        if args.cpu_strict:
            llm.pin()
    return llm
