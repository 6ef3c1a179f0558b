"""A cache policy of the user's own: a function in Python that changes K and V, from a file or a caller."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

from ..models.cache.spec import CacheSpec
from ..models.errors import UsageError
from .what_if import WhatIf

FUNCTION = "policy"
"""The name of the function in the user's file."""


def load(path: str) -> WhatIf:
    """Return the function named `policy` of a Python file, which is run for that; raises UsageError."""
    if not Path(path).is_file():
        raise UsageError(f"--cache-policy {path}: there is no such file")
    try:
        found = runpy.run_path(path, run_name="pyllm_policy").get(FUNCTION)
    except Exception as error:  # whatever the user's code does
        raise UsageError(f"--cache-policy {path}: raised {type(error).__name__}: {error}") from error
    if not callable(found):
        wanted = f"def {FUNCTION}(k, v, layer, position): return k, v"
        raise UsageError(f"--cache-policy {path}: has no function named {FUNCTION}; write {wanted}")
    function: WhatIf = found
    return function


def chosen(spec: CacheSpec, given: WhatIf | None) -> tuple[CacheSpec, WhatIf | None]:
    """Return a cache with the function that changes its K and V: the one given, its policy's, or none."""
    segments = spec.segments
    if given is None:
        return spec, load(segments.file) if segments and segments.file else None
    if segments and segments.name:
        raise UsageError(f"what_if: changes what lies between sink and tail, as {spec.policy} does; leave one out")
    name = f"{getattr(given, '__name__', FUNCTION)}.py"
    return replace(spec, policy=f"{name},{spec.policy}" if spec.policy else name), given
