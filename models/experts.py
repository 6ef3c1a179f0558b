"""The tensors of a mixture of experts, under GGUF's names. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import Config

if TYPE_CHECKING:
    from .weights import Weights


class Stack:
    """A matrix for each expert, one behind the other in one, and so are their biases if there are any."""

    def __init__(self, w: Weights, name: str, experts: int, rows: int, columns: int) -> None:
        self.role, self.rows, self.columns = name.split(".")[-1], rows, columns
        self.matrix = w.stack(f"{name}.weight", experts, rows, columns)


class Experts:
    """The tensors of a layer."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        n, n_ff = c.expert_count, c.expert_feed_forward_length
        self.ffn_gate_inp = w.matrix(f"blk.{i}.ffn_gate_inp.weight", n, c.n_embd)
        self.ffn_gate_exps = Stack(w, f"blk.{i}.ffn_gate_exps", n, n_ff, c.n_embd)
        self.ffn_up_exps = Stack(w, f"blk.{i}.ffn_up_exps", n, n_ff, c.n_embd)
        self.ffn_down_exps = Stack(w, f"blk.{i}.ffn_down_exps", n, c.n_embd, n_ff)
