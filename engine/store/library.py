"""The models on this machine, in pyllm's own folder and in the hub's cache; fetches and prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import PyllmError
from . import hubcache, ours
from .catalogue import by_source
from .folder import Origin, forget, models_folder, recall
from .pick import choose, models_of, quant_of


@dataclass(frozen=True)
class Kept:
    """A model that was fetched, with all its parts."""

    name: str  # as MODEL names it
    paths: tuple[Path, ...]
    place: str  # "pyllm" or "hub": whose folder it is in
    origin: Origin

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def quant(self) -> str:
        return quant_of(self.paths[0].name)

    @property
    def time(self) -> float:
        """Return when it was fetched, in seconds since 1970."""
        return max(path.stat().st_mtime for path in self.paths)

    def remove(self) -> int:
        """Delete the model and its record; return the bytes freed."""
        for path in self.paths if self.place == "pyllm" else ():
            if said := ours.problem(path):
                raise PyllmError(f"{path}: {said}, pyllm did not fetch it; delete it yourself")
        for path in self.paths:
            forget(path)
        if self.place == "hub":
            repo, _ = hubcache.name_of(self.paths[0]) or ("", "")
            root = self.paths[0]
            while root.parent.name != "snapshots":
                root = root.parent
            return hubcache.remove(repo, {path.relative_to(root).as_posix() for path in self.paths})
        freed = self.nbytes
        for path in self.paths:
            path.unlink()
        folder = self.paths[0].parent
        with suppress(OSError):  # something else is in the folder
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()
        return freed


def kept() -> list[Kept]:
    """Return all models that were fetched, sorted by place and name."""
    return sorted([*_own(), *_hub()], key=lambda model: (model.place, model.name.lower()))


def unfinished() -> list[Path]:
    """Return the files that unfinished downloads left."""
    own, hub = models_folder(), hubcache.folder()
    found = [*own.glob("*/*.incomplete*"), *own.glob(".fetch-*/**/*"), *hub.glob("models--*/blobs/*.incomplete*")]
    return sorted(path for path in found if path.is_file() and not ours.problem(path))


def of_path(path: Path) -> Kept | None:
    """Return the model that a file belongs to; None for a file of the user's own."""
    return next((model for model in kept() if path.absolute() in model.paths), None)


def origin_of(path: Path) -> Origin | None:
    """Return where a file came from; None for a file of the user's own."""
    if (named := hubcache.name_of(path)) is not None:
        said = recall(path)
        sha256 = hubcache.sha256(path) or (said.sha256 if said else "")
        return Origin(f"hf:{'/'.join(named)}", sha256, said.licence if said else "")
    if models_folder() not in path.absolute().parents:
        return None
    # pyllm 0.1 kept no records; the folder's name is the package's.
    said = recall(path) or Origin(f"pypi:{'=='.join(path.parent.name.rsplit('-', 1))}")
    entry = by_source(said.source)
    return said if said.sha256 or entry is None else Origin(said.source, entry.sha256, entry.licence)


def _own() -> Iterator[Kept]:
    root = models_folder()
    names = (path.relative_to(root).as_posix() for path in sorted(root.glob("*/*.gguf")))
    for parts in models_of(name for name in names if not name.startswith(".")):
        paths = tuple(root / part for part in parts)
        origin = origin_of(paths[0])
        assert origin is not None, paths
        entry = by_source(origin.source)
        yield Kept(entry.name if entry else origin.source, paths, "pyllm", origin)


def _hub() -> Iterator[Kept]:
    for repo in hubcache.repos():
        seen: set[str] = set()
        for files in hubcache.snapshots(repo):
            for parts in models_of(name for name in files if name not in seen):
                seen.update(parts)
                origin = origin_of(files[parts[0]])
                assert origin is not None, parts
                name = origin.source
                if (quant := quant_of(parts[0])) and choose(files, quant) == parts:
                    name = f"hf:{repo}:{quant}"
                entry = by_source(name)
                yield Kept(entry.name if entry else name, tuple(files[part] for part in parts), "hub", origin)
