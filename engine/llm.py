"""A model with all that a conversation needs: tokenizer, template, KV cache, sessions."""

from __future__ import annotations

from pathlib import Path

from ..kernels.plan import Cost
from ..models.arch.registry import load_weights, read_config
from ..models.cache import layer_map
from ..models.errors import NumberError, UsageError
from ..models.file.gguf import GGUF
from ..models.file.header import DOWNLOAD
from ..models.forward.loaded import Loaded
from ..models.forward.model import Model
from ..models.text.template import ChatTemplate
from ..models.text.tokenizer import Tokenizer
from .machine import host
from .machine.progress import Progress, silent
from .page_table import PagePool
from .session import Session


class LLM:
    """Made by `load`; `session()` gives a sequence to run."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        n_ctx: int,
        path: object = "the model",
        loaded: Loaded | None = None,
    ) -> None:
        """path: the file, for messages. loaded: its weights, for `beside`."""
        self.model, self.tokenizer, self.template, self.n_ctx, self.path = model, tokenizer, template, n_ctx, path
        self.config = model.config
        self.n_threads = model.team.threads
        self._loaded = loaded
        self.checked = False  # whether sessions look at what each step leaves, and say where it is no number
        self._pool = PagePool(model.kv.n_pages, PagePool(model.kv.n_window_pages) if model.kv.n_window_pages else None)

    @classmethod
    def load(
        cls,
        path: Path | str | GGUF,
        *,
        n_ctx: int,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        cache_rotate: str = "auto",
        n_threads: int | None = None,
        n_batch: int = 512,
        max_outs: int = 8,
        sequences: int = 1,
        tokenizer: Tokenizer | None = None,
        progress: Progress = silent,
    ) -> LLM:
        """Read, pack and compile.

        n_threads: None is the physical cores that this process may use. sequences: sessions that can be there at once,
        each with sliding windows of its own. tokenizer: of this file, if it is read already.
        """
        g = path if isinstance(path, GGUF) else GGUF.open(path)
        loaded = load_weights(g, read_config(g))
        types = layer_map.pairs(cache_type_k, cache_type_v, loaded.config.n_layer)
        threads = n_threads or host.usable_cores()
        tokenizer, template = tokenizer or Tokenizer.from_gguf(g), ChatTemplate.from_gguf(g)
        model = Model(
            loaded,
            n_ctx=n_ctx,
            types=types,
            threads=threads,
            n_batch=n_batch,
            max_outs=max_outs,
            rotate=cache_rotate,
            sequences=sequences,
            progress=progress,
        )
        return cls(model, tokenizer, template, n_ctx, g.path, loaded)

    def beside(
        self,
        *,
        n_ctx: int | None = None,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        cache_rotate: str = "auto",
        n_threads: int | None = None,
        n_batch: int | None = None,
        max_outs: int | None = None,
        sequences: int = 1,
        progress: Progress = silent,
    ) -> LLM:
        """The same weights, not taken twice, over another cache; None: as here."""
        assert self._loaded is not None
        model = Model(
            self._loaded,
            n_ctx=n_ctx or self.n_ctx,
            types=layer_map.pairs(cache_type_k, cache_type_v, self.config.n_layer),
            threads=n_threads or self.n_threads,
            n_batch=n_batch or self.model.n_batch,
            max_outs=max_outs or self.model.max_outs,
            rotate=cache_rotate,
            sequences=sequences,
            progress=progress,
        )
        return LLM(model, self.tokenizer, self.template, n_ctx or self.n_ctx, self.path, self._loaded)

    def pin(self) -> None:
        """Keep each thread on a CPU of its own; raises UsageError where there are too few, or the system forbids it."""
        cpus = host.cpus()
        if len(cpus) < self.n_threads:
            problem = f"{self.n_threads} threads, but this process may use {len(cpus)} CPUs; lower -t"
            raise UsageError(f"--cpu-strict: {problem if cpus else 'this system does not pin threads'}")
        try:
            self.model.team.pin(cpus[: self.n_threads])
        except OSError as error:
            raise UsageError(f"--cpu-strict: the system refuses to pin threads ({error.strerror})") from None

    def session(self) -> Session:
        """A new, empty sequence."""
        return Session(self.model, self._pool, self.n_ctx, self._check)

    def _check(self) -> None:
        if self.checked and (where := self.model.broken()):
            cure = f"{DOWNLOAD}, or K and V are too large for their type: use -ctk f32 -ctv f32"
            raise NumberError(self.path, where, "is the first to give values that are not numbers", cure)

    def read_at(self, depth: int) -> Cost:
        """What a decode step reads and multiplies when the cache holds so many tokens."""
        return self.model.decode_plan.cost(1, depth)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole KV cache."""
        return self.model.kv.nbytes

    def close(self) -> None:
        """End the threads."""
        self.model.close()
