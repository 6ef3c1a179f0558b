"""Shared by the tests of the benchmark: cases to vary, and fakes of both of llama.cpp's that record their calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyllm.bench.batched.grid import BatchedCase
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
def value(flag):
    return sys.argv[sys.argv.index(flag) + 1]
if value("-ctk") == "f32":
    print("loading ...\\nerror: {complaint}\\nusage: ...", file=sys.stderr)
    sys.exit(1)
{answer}"""

ANSWER = """
prompts = [int(n) for n in value("-p").split(",") if n != "0"]
print(json.dumps([{"samples_ns": [1000 * n]} for n in prompts or [7]]))
"""

# The same of llama-batched-bench: llama.cpp's, ik_llama.cpp's, and one that prints tables only.
BATCHED = "-kvu, --kv-unified\n-fa, --flash-attn [on|off|auto]\n-npl n0,n1,...\n--output-format {md,jsonl}\n"
BATCHED_IK = "-fa, --flash-attn (0|1)\n-npl n0,n1,...\n"
BATCHED_OLD = "-fa, --flash-attn     enable Flash Attention\n-npl n0,n1,...\n"

BATCHED_ANSWER = """
pp, tg, pl = int(value("-npp")), int(value("-ntg")), int(value("-npl"))
prompts = 1 if "-pps" in sys.argv else pl
t_pp, t_tg = prompts * pp / 1000, tg / 1000
if "--output-format" in sys.argv:
    speed = "-nan" if not tg else pl * tg / t_tg
    print('{"n_kv_max": 4096, "pp": %d, "tg": %d, "pl": %d, "t_pp": %f, "speed_pp": 1.0, "t_tg": %f, "speed_tg": %s}'
          % (pp, tg, pl, t_pp, t_tg, speed))
else:
    print("\\nmain: n_kv_max = 4096\\n\\n|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | ...")
    print("|-------|--------|------|--------|----------|----------|----------|----------|")
    print("|%6d | %6d | %4d | %6d | %8.3f | %8.2f | %8.3f | %8.2f |" % (pp, tg, pl, pl * (pp + tg), t_pp, 1, t_tg, 1))
"""


def case(**values: Any) -> Case:
    return Case(**_fields({"n_prompt": 0, "n_gen": 0, "n_depth": 0, **values}))


def batched_case(**values: Any) -> BatchedCase:
    return BatchedCase(**_fields({"n_prompt": 8, "n_gen": 4, "n_sequences": 2, "shared": False, **values}))


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a case, the usual ones where nothing is said."""
    usual: dict[str, Any] = {
        "model": Path("a.gguf"), "n_batch": 2048, "n_ubatch": 512, "type_k": "f16", "type_v": "f16",
        "cache_rotate": "auto", "n_threads": 1,
    }  # fmt: skip
    every = {**usual, **values}
    cache = CacheSpec(*(every.pop(name) for name in ("type_k", "type_v", "cache_rotate")))
    return {**every, "cache": cache}


class Fake:
    """A fake program that records how it was called."""

    def __init__(self, folder: Path, name: str, help: str, answer: str, complaint: str) -> None:
        """answer: what it runs to print a result. complaint: what it says of f32, which it does not know."""
        self.path, self._log = folder / name, folder / "log"
        given = {"help": help, "log": str(self._log), "answer": answer, "complaint": complaint}
        self.path.write_text(PROGRAM.format(python=sys.executable, **given))
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[tuple[list[str], str | None]]:
        """Return (arguments, LLAMA_ATTN_ROT_DISABLE) of each call."""
        return [tuple(json.loads(line)) for line in self._log.read_text().splitlines()]


class FakeLlamaBench(Fake):
    """A fake llama-bench: a token of a prompt takes it a microsecond, any other seven. It does not know f32."""

    def __init__(self, folder: Path, help: str) -> None:
        super().__init__(folder, "llama-bench", help, ANSWER, "invalid parameter for argument: -ctk")

    @property
    def asked(self) -> list[tuple[dict[str, str], str | None]]:
        """Return (flags, LLAMA_ATTN_ROT_DISABLE) of each call."""
        return [(dict(zip(argv[::2], argv[1::2], strict=True)), rotation) for argv, rotation in self.calls]


class FakeBatchedBench(Fake):
    """A fake llama-batched-bench: prompts take it a millisecond a token, steps one for each. It does not know f32."""

    def __init__(self, folder: Path, help: str) -> None:
        super().__init__(folder, "llama-batched-bench", help, BATCHED_ANSWER, "Unsupported cache type: f32")
