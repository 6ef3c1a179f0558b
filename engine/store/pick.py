"""Chooses a model among many files, as llama.cpp does for `-hf`; knows names only.

If no quantization is asked for, that is Q4_K_M, else Q8_0, else the first model. A split model counts with all its
parts; projectors, importance matrices and draft models do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...models.file.gguf import part_names

PREFERRED = ("Q4_K_M", "Q8_0")
_NO_MODEL = re.compile(r"mmproj|imatrix|(mtp|eagle3|dflash|dspark)-", re.IGNORECASE)
_TYPE = re.compile(r"(?<![a-z0-9])((I?Q|TQ)\d\w*|MXFP4\w*|NVFP4|B?F16|F32)(?=[.-])", re.IGNORECASE)


def choose(names: Iterable[str], quant: str = "") -> list[str]:
    """Return the names of the model's parts in order; [] if there is no model, or none in this quantization."""
    models = models_of(names)
    first = {parts[0]: parts for parts in models}
    for wanted in (quant,) if quant else PREFERRED:
        pattern = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?=[.-])", re.IGNORECASE)
        for name, parts in first.items():
            if pattern.search(name):
                return parts
    return models[0] if models and not quant else []


def models_of(names: Iterable[str]) -> list[list[str]]:
    """Return the models among the files, each as its parts; split ones only if all parts are there."""
    there = dict.fromkeys(names)
    found = []
    for name in there:
        parts = parts_of(name)
        is_model = name.lower().endswith(".gguf") and not _NO_MODEL.search(name.rpartition("/")[2])
        if is_model and name == parts[0] and there.keys() >= set(parts):
            found.append(parts)
    return found


def parts_of(name: str) -> list[str]:
    """Return the names of all parts of a file's model; only the file's own name if the model is not split."""
    folder, slash, file = name.rpartition("/")
    return [f"{folder}{slash}{part}" for part in part_names(file)]


def quant_of(name: str) -> str:
    """Return the quantization in a file's name, such as "Q4_K_M"; "" if there is none."""
    found = _TYPE.findall(name.rpartition("/")[2])
    return str(found[-1][0]).upper() if found else ""
