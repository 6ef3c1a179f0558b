"""Prints what is in a model file as text or as JSON; the facts come from `models/describe.py`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine.plain import plain
from ..machine.tables import Table, show
from ..machine.units import size
from .screen import console

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def present(facts: dict[str, Any], args: Namespace) -> int:
    """Print a description, with the file's origin if `facts` has one."""
    if args.output == "json":
        print(json.dumps(facts, indent=2))
        return 0
    out = console()
    if args.output == "md":
        show(Table("", ["", ""], _rows(facts), left=(0, 1)), sys.stdout, "md")
    else:
        out.print(_summary(facts))
    tables = [_weights(facts)] if facts["tensors"] else []
    tables += _caches(facts["cache"]) if facts["cache"] else []
    if "policy" in facts:
        policy, tokens = plain(facts["policy"]["policy"]), facts["policy"]["tokens"]
        tables += [_cache(f"KV cache, bytes of {tokens:,} tokens with {policy}", facts["policy"])]
    tables += [_tensors(facts)] if args.tensors else []
    for table in tables:
        sys.stdout.write("\n")
        show(table, sys.stdout, args.output)
    if facts["problem"]:
        out.print(f"\npyllm does not run this model: {plain(facts['problem'])}", soft_wrap=True)
    return 0


def _summary(facts: dict[str, Any]) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable.grid(padding=(0, 2))
    for name, value in _rows(facts):
        grid.add_row(Text(name, style="bold"), Text(plain(value), overflow="fold"))
    return grid


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the summary as rows of text: (name, value)."""
    file, config = facts["file"], facts["config"]
    parts = f" in {len(file['paths'])} parts" if len(file["paths"]) > 1 else ""
    rows = [
        ("file", f"{Path(file['paths'][0]).name}, {size(file['bytes'])}{parts}, GGUF version {file['gguf_version']}"),
        ("name", facts["name"] or "none"),
        ("architecture", facts["architecture"] or "none"),
    ]
    rows[1:1] = [(what, value or "not known") for what, value in facts.get("origin", {}).items()]
    if facts["bits_per_weight"]:
        active = f" ({facts['active_parameters']:,} for a token)" if config and config["expert_count"] else ""
        rows.append(("parameters", f"{facts['parameters']:,}{active}, {facts['bits_per_weight']:.2f} bits each"))
    if config:
        rows += [
            ("layers", f"{config['n_layer']}, {config['n_embd']} wide, {_feed_forward(config)}"),
            *(("attention", each) for each in _attention(config["layers"])),
            ("context", f"{config['n_ctx_train']:,} tokens"),
        ]
    return [*rows, ("tokenizer", _tokenizer(facts["tokenizer"])), ("chat template", _template(facts))]


def _feed_forward(config: dict[str, Any]) -> str:
    if not config["expert_count"]:
        return f"feed-forward {config['n_ff']}"
    experts = f"{config['expert_used_count']} of {config['expert_count']} experts"
    return f"{experts} with feed-forward {config['expert_feed_forward_length']}"


def _attention(layers: list[dict[str, Any]]) -> list[str]:
    """Return a line for each kind of layer."""
    kinds = list({json.dumps(layer): layer for layer in layers}.values())
    return [f"{layers.count(kind)} of {len(layers)} layers: {_heads(kind)}" for kind in kinds]


def _heads(layer: dict[str, Any]) -> str:
    k, v, rope = layer["head_dim_k"], layer["head_dim_v"], layer["rope"]
    values = f"{k} values" if k == v else f"{k} (K) and {v} (V) values"
    said = [f"{layer['n_head']} query heads, {layer['n_head_kv']} K/V heads, of {values}"]
    said += [f"window of {layer['window']:,} tokens"] if layer["window"] else []
    said += [f"RoPE of {rope['dim']} at base {rope['base']:g}"] if rope else ["no RoPE"]
    if rope and rope["scaling"] != "none":
        said += [f"{rope['scaling']} scaling by {rope['factor']:g}"]
    return ", ".join(said)


def _tokenizer(said: dict[str, Any]) -> str:
    if said["model"] is None:
        return "none"
    kind = said["model"] if said["pre"] in (None, "default") else f"{said['model']} ({said['pre']})"
    counts = [f"{said['tokens'] or 0:,} tokens", *([f"{said['merges']:,} merges"] if said["merges"] else [])]
    special = [f"{role} {said[role]['text']}" for role in ("bos", "eos", "eot") if said[role]]
    return ", ".join([kind, *counts, *special])


def _template(facts: dict[str, Any]) -> str:
    n = facts["chat_template"]["characters"]
    return f"{n:,} characters" if n else "none"


def _weights(facts: dict[str, Any]) -> Table:
    """Return a table of the weights' bytes by tensor type."""
    rows = [
        [row["type"], f"{row['tensors']:,}", f"{row['parameters']:,}", size(row["bytes"]),
         f"{row['bytes'] / facts['weights_bytes']:.1%}"]
        for row in facts["quantization"]
    ]  # fmt: skip
    return Table("weights", ["type", "tensors", "parameters", "size", "of all bytes"], rows)


def _caches(cache: dict[str, Any]) -> list[Table]:
    """Return a table for the layers that keep all tokens and, if a model has them, one for those that keep a window."""
    windows = cache["windows"]
    if not windows:
        return [_cache("KV cache, bytes per token", cache)]
    kept = f"KV cache, bytes per token in {windows['layers']} layers, which keep about {windows['window']:,} tokens"
    full = f"KV cache, bytes per token in {cache['layers']} layers, which keep all tokens"
    return [_cache(full, cache), _cache(kept, windows)]


def _cache(title: str, cache: dict[str, Any]) -> Table:
    """Return a table of a token's bytes for every pair of types, K down and V across."""
    pairs = {k: [cache["pairs"][f"{k}/{v}"] for v in cache["v"]] for k in cache["k"]}
    rows = [[k, *("-" if n is None else f"{n:,}" for n in found)] for k, found in pairs.items()]
    return Table(title, ["K \\ V", *cache["v"]], rows)


def _tensors(facts: dict[str, Any]) -> Table:
    rows = [
        [row["name"], " x ".join(map(str, row["shape"])), row["type"], f"{row['bytes']:,}"] for row in facts["tensors"]
    ]
    return Table("tensors", ["name", "shape", "type", "bytes"], rows)
