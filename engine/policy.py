"""A cache policy of the user's own: a function in Python that changes K and V, from a file or a caller."""

from __future__ import annotations

import runpy
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


def text(policy: str, function: WhatIf | None) -> str:
    """Return the text of a policy whose body a function changes, if one is given; raises UsageError."""
    if function is None or policy.partition(",")[0].endswith(".py"):
        return policy
    if policy and "=" not in policy.partition(",")[0]:
        raise UsageError(f"what_if: changes what lies between sink and tail, as {policy} does; leave one out")
    name = f"{getattr(function, '__name__', FUNCTION)}.py"
    return f"{name},{policy}" if policy else name


def function_of(spec: CacheSpec) -> WhatIf | None:
    """Return the function of a cache's policy, if that is a file; raises UsageError."""
    return load(spec.segments.file) if spec.segments and spec.segments.file else None
