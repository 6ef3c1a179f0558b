"""CacheSpec: how a KV cache is kept, as one value: types of K and V by layer, rotation, policy. Knows no memory."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..errors import UsageError, did_you_mean
from . import layer_map, rotation
from .segments import Borders, Segments, normal, parse


@dataclass(frozen=True)
class CacheSpec:
    """A type for K and one for V, or a map of types by layer (see layer_map.py), and which sides are rotated.

    Specs whose maps differ only in order are equal. Raises UsageError for what no model could run with; `sizes.check`
    says whether a given model has the layers and heads for a spec.
    """

    k: str = layer_map.DEFAULT
    v: str = layer_map.DEFAULT
    rotate: str = "auto"  # one of rotation.MODES
    policy: str = ""  # which tokens are kept and in which types (see segments.py); "": all in these types

    def __post_init__(self) -> None:
        for side in "kv":
            object.__setattr__(self, side, layer_map.normal(side, getattr(self, side)))
        if self.rotate not in rotation.MODES:
            known = ", ".join(rotation.MODES) + did_you_mean(self.rotate, rotation.MODES)
            raise UsageError(f"--cache-rotate {self.rotate[:40]}: unknown; use one of {known}")
        if self.policy:
            object.__setattr__(self, "policy", normal(self.policy, self.k, self.v))

    @classmethod
    def of_flags(
        cls,
        k: str | None,
        k_layers: str | None,
        v: str | None,
        v_layers: str | None,
        rotate: str = "auto",
        policy: str = "",
    ) -> CacheSpec:
        """Return the spec for the values of -ctk, --cache-type-k-layers and the same flags for V; None: not given."""
        return cls(layer_map.merged(k, k_layers), layer_map.merged(v, v_layers), rotate, policy)

    @classmethod
    def parse(cls, text: str) -> CacheSpec:
        """Return the spec that flags such as "-ctk q8_0 -ctv q4_0 --cache-rotate none" stand for; raises UsageError."""
        given: dict[str, str] = {}
        try:
            words = iter(shlex.split(text))
        except ValueError as error:  # a quotation mark without its other
            raise UsageError(f"{text[:60]!r}: {error}; a cache's flags need no quotation marks") from None
        for flag in words:
            name, _, value = flag.partition("=")
            name = _SHORT.get(name, name)
            if name not in _FLAGS or name in given:
                raise UsageError(f"{flag[:60]!r}: not a flag of a cache; use {', '.join(_FLAGS)}, each once")
            value = value or next(words, "")
            if not value:
                raise UsageError(f"{name}: has no value")
            given[name] = value
        k, k_layers, v, v_layers, rotate, policy = (given.get(flag) for flag in _FLAGS)
        return cls.of_flags(k, k_layers, v, v_layers, rotate or "auto", policy or "")

    def __str__(self) -> str:
        """Return the flags that give this cache: parse(str(spec)) == spec."""
        flags = []
        for side, types in (("k", self.k), ("v", self.v)):
            flags += [f"--cache-type-{side}-layers={types}" if ":" in types else f"-ct{side} {types}"]
        flags += [f"--cache-rotate {self.rotate}"] if self.rotate != "auto" else []
        return " ".join(flags + ([f"--cache-policy {shlex.quote(self.policy)}"] if self.policy else []))

    @property
    def pair(self) -> str:
        """Return the types alone, as tables show them: "q8_0/q4_0"."""
        return f"{self.k}/{self.v}"

    @property
    def words(self) -> str:
        """Return all but the rotation, as people read it: "K q8_0, V q4_0, sink=64:f16,tail=128:f16"."""
        return ", ".join([f"K {self.k}", f"V {self.v}", *([self.policy] if self.policy else [])])

    @property
    def key(self) -> str:
        """Return a stable name for files and tables of results: "q8_0/q4_0 auto"."""
        return " ".join([self.pair, self.rotate, *([self.policy] if self.policy else [])])

    @property
    def segments(self) -> Segments | None:
        """Return the segments that the policy asks for; None: one for all tokens."""
        return parse(self.policy) if self.policy else None

    @property
    def borders(self) -> Borders | None:
        """Return where these segments lie, in pages; None: one for all tokens."""
        return self.segments.borders if self.segments else None

    def side(self, side: str, n_layer: int) -> tuple[str, ...]:
        """Return the type of K ("k") or V ("v") in each layer; raises UsageError if a map does not fit n_layer."""
        return layer_map.types(side, self.k if side == "k" else self.v, n_layer)

    def layers(self, n_layer: int) -> list[tuple[str, str]]:
        """Return the types of K and of V in each layer; raises UsageError."""
        return list(zip(self.side("k", n_layer), self.side("v", n_layer), strict=True))


_FLAGS = ("--cache-type-k", "--cache-type-k-layers", "--cache-type-v", "--cache-type-v-layers", "--cache-rotate",
          "--cache-policy")  # fmt: skip
_SHORT = {"-ctk": "--cache-type-k", "-ctv": "--cache-type-v"}
