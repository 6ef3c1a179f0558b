"""Which files of many are the model: llama.cpp's choice for `-hf`; knows names only.

Q4_K_M where no quantization is asked for, else Q8_0, else the first; of a split model all parts; no projectors,
importance matrices or draft models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...models.file.gguf import part_names

PREFERRED = ("Q4_K_M", "Q8_0")
_NO_MODEL = re.compile(r"mmproj|imatrix|(mtp|eagle3|dflash|dspark)-", re.IGNORECASE)
_TYPE = re.compile(r"(?<![a-z0-9])((I?Q|TQ)\d\w*|MXFP4\w*|NVFP4|B?F16|F32)(?=[.-])", re.IGNORECASE)


def choose(names: Iterable[str], quant: str = "") -> list[str]:
    """The names of the model's parts in their order; [] where there is none, or none in this quantization."""
    models = models_of(names)
    first = {parts[0]: parts for parts in models}
    for wanted in (quant,) if quant else PREFERRED:
        pattern = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?=[.-])", re.IGNORECASE)
        for name, parts in first.items():
            if pattern.search(name):
                return parts
    return models[0] if models and not quant else []


def models_of(names: Iterable[str]) -> list[list[str]]:
    """The models among the files, each as its parts; split ones only where all parts are there."""
    there = dict.fromkeys(names)
    found = []
    for name in there:
        parts = parts_of(name)
        is_model = name.lower().endswith(".gguf") and not _NO_MODEL.search(name.rpartition("/")[2])
        if is_model and name == parts[0] and there.keys() >= set(parts):
            found.append(parts)
    return found


def parts_of(name: str) -> list[str]:
    """The names of all parts of the model that the file is part of; its own where it is the whole."""
    folder, slash, file = name.rpartition("/")
    return [f"{folder}{slash}{part}" for part in part_names(file)]


def quant_of(name: str) -> str:
    """The quantization that a file's name tells, "Q4_K_M"; "" where it tells none."""
    found = _TYPE.findall(name.rpartition("/")[2])
    return str(found[-1][0]).upper() if found else ""
