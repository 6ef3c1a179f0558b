"""`pyllm inspect`: prints what is in a model file."""

from __future__ import annotations

from argparse import Namespace

from ...models.describe import describe, with_policy
from ...models.file.gguf import GGUF
from .facts import present


def run(args: Namespace) -> int:
    """Describe the file `args.model` on stdout; `args.output` and `args.tensors` say how. Raises ModelError."""
    g = GGUF.open(args.model)
    facts = describe(g)
    if args.cache_policy and facts["cache"]:
        facts["policy"] = with_policy(g, args.cache_policy, args.ctx_size)
    return present(facts, args)
