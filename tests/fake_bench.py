"""Shared by the tests of the benchmark: a case to vary, and a fake llama-bench that records how it was called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyllm.bench.speed.cases import Case
from pyllm.models.cache.spec import CacheSpec

# The part of --help that matters, in llama.cpp, in ik_llama.cpp and in neither.
LLAMA = "  -d, --n-depth <n>  (default: 0)\n  -fa, --flash-attn <on|off|auto>  (default: auto)\n"
IK = "  -gp <pp,tg>  (default: )\n  -fa, --flash-attn <0|1>  (default: 0)\n"
OLD = "  -fa, --flash-attn <0|1>  (default: 0)\n"

PROGRAM = """#!{python}
import json, os, sys
if "--help" in sys.argv:
    print({help!r})
    sys.exit(0)
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], os.environ.get("LLAMA_ATTN_ROT_DISABLE")]) + "\\n")
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if flags["-ctk"] == "f32":
    print("loading ...\\nerror: invalid parameter for argument: -ctk\\nusage: ...", file=sys.stderr)
    sys.exit(1)
prompts = [int(n) for n in flags["-p"].split(",") if n != "0"]
print(json.dumps([{{"samples_ns": [1000 * n]}} for n in prompts or [7]]))
"""


def case(**values: Any) -> Case:
    usual: dict[str, Any] = {
             "model": Path("a.gguf"), "n_prompt": 0, "n_gen": 0, "n_depth": 0, "n_batch": 2048, "n_ubatch": 512,
             "type_k": "f16", "type_v": "f16", "cache_rotate": "auto",
             "n_threads": 1}  # fmt: skip
    every = {**usual, **values}
    cache = CacheSpec(*(every.pop(name) for name in ("type_k", "type_v", "cache_rotate")))
    return Case(cache=cache, **every)


class FakeLlamaBench:
    """A fake llama-bench: a token of a prompt takes it a microsecond, any other seven. It does not know f32."""

    def __init__(self, folder: Path, help: str) -> None:
        self.path, self._log = folder / "llama-bench", folder / "log"
        self.path.write_text(PROGRAM.format(python=sys.executable, help=help, log=str(self._log)))
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[tuple[dict[str, str], str | None]]:
        """Return (flags, LLAMA_ATTN_ROT_DISABLE) of each call."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [(dict(zip(argv[::2], argv[1::2], strict=True)), rotation) for argv, rotation in lines]
