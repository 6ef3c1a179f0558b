"""The tensors of each architecture, as differences from those of `llama`."""

from __future__ import annotations

from collections.abc import Callable

Layout = dict[str, tuple[int, ...]]
"""Shapes by name, rows (outputs) first."""


def biases(layer: Layout, n_embd: int, head: int) -> Layout:
    return {f"{name}.bias": layer[f"{name}.weight"][:1] for name in ("attn_q", "attn_k", "attn_v")}


def all_biases(layer: Layout, n_embd: int, head: int) -> Layout:
    return {name.replace(".weight", ".bias"): shape[:-1] for name, shape in layer.items() if len(shape) > 1}


def sinks(layer: Layout, n_embd: int, head: int) -> Layout:
    return {"attn_sinks.weight": (layer["attn_q.weight"][0] // head,), "post_attention_norm.weight": (n_embd,)}


def head_norms(layer: Layout, n_embd: int, head: int) -> Layout:
    return {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}


def row_norms(layer: Layout, n_embd: int, head: int) -> Layout:
    return {f"{name}_norm.weight": layer[f"{name}.weight"][:1] for name in ("attn_q", "attn_k")}


def post_norms(layer: Layout, n_embd: int, head: int) -> Layout:
    return {"post_attention_norm.weight": (n_embd,), "post_ffw_norm.weight": (n_embd,)}


def fused(layer: Layout, n_embd: int, head: int) -> Layout:
    rows = sum(layer[f"attn_{name}.weight"][0] for name in "qkv")
    return {"attn_qkv.weight": (rows, n_embd), "ffn_up.weight": (2 * layer["ffn_up.weight"][0], n_embd)}


# In each layer; what lies outside of them is an argument of the tiny model: `tensors`.
MORE: dict[str, list[Callable[[Layout, int, int], Layout]]] = {
    "qwen2": [biases],
    "qwen3": [head_norms],
    "gemma2": [post_norms],
    "gemma3": [head_norms, post_norms],
    "phi3": [fused],
    "olmo2": [row_norms, post_norms],
    "qwen3moe": [head_norms],
    "gpt-oss": [all_biases, sinks],
}
LESS: dict[str, tuple[str, ...]] = {
    "phi3": ("attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight"),
    "olmo2": ("attn_norm.weight", "ffn_norm.weight"),
    "gpt-oss": ("ffn_norm.weight",),
}


def adapted(layout: Layout, arch: str, head: int) -> Layout:
    """Return the layout of a `llama` as that of another architecture; head: values of a head."""
    n_embd, out = layout["output_norm.weight"][0], dict(layout)
    for name in layout:
        if name.endswith("attn_norm.weight"):
            prefix = name.removesuffix("attn_norm.weight")
            layer = {n.removeprefix(prefix): s for n, s in layout.items() if n.startswith(prefix)}
            for more in MORE.get(arch, []):
                out |= {prefix + n: shape for n, shape in more(layer, n_embd, head).items()}
            for less in LESS.get(arch, ()):
                del out[prefix + less]
                out.pop(prefix + less.replace(".weight", ".bias"), None)
    return out
