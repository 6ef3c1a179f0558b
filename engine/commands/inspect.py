"""`pyllm inspect`: prints what is in a model file."""

from __future__ import annotations

from argparse import Namespace

from ...models.describe import describe
from ...models.file.gguf import GGUF
from .facts import present


def run(args: Namespace) -> int:
    """Describe the file `args.model` on stdout; `args.output` and `args.tensors` say how. Raises ModelError."""
    return present(describe(GGUF.open(args.model)), args)
