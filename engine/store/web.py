"""Fetches models from an http or https address into pyllm's own folder, once; knows no hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ...models.errors import ModelError, UsageError
from ...models.progress import Progress
from .disk import alone, disk_errors
from .fetch import Remote, fetch
from .folder import Origin, models_folder, remember, safe_name
from .pick import parts_of

SIGNS = "%/:?@!$&'()*+,;=~"  # characters that are not quoted in an address


def resolve(url: str, *, offline: bool, progress: Progress) -> Path:
    """Return the model's file, or the first of its parts, which lie side by side; fetch missing ones."""
    urls = _parts(url)
    paths = [_place(urls[0]) / safe_name(unquote(urlsplit(part).path)) for part in urls]
    for part, path in zip(urls, paths, strict=True):
        if not path.exists():
            if offline:
                raise ModelError(url, "file", "is not here", "pyllm pull fetches it")
            _fetch(part, path, progress)
    return paths[0]


def _parts(url: str) -> list[str]:
    """Return the addresses of all parts of the model; raises UsageError."""
    # The hub's page about a file; the file itself is at /resolve/.
    url = re.sub(r"^(https://(?:huggingface\.co|hf\.co)/[^/]+/[^/]+)/blob/", r"\1/resolve/", url)
    try:
        split = urlsplit(url)
        if not split.hostname or split.username or (split.port or 0) < 0:
            raise ValueError
    except ValueError:
        raise UsageError(f"MODEL {url[:100]}: is not an address; write https://HOST/PATH/FILE.gguf") from None
    if not split.path.lower().endswith(".gguf"):
        cure = "name the address of the file itself, or hf:USER/REPO for a repository of the hub"
        raise UsageError(f"MODEL {url[:100]}: does not end in .gguf; {cure}")
    query = quote(split.query, safe=SIGNS)
    if len(parts := parts_of(unquote(split.path))) == 1:
        return [split._replace(path=quote(split.path, safe=SIGNS), query=query, fragment="").geturl()]
    return [split._replace(path=quote(part), query=query, fragment="").geturl() for part in parts]


def _place(url: str) -> Path:
    """Return the folder for a model from this address; no two addresses share one."""
    host = safe_name(urlsplit(url).hostname or "")
    return models_folder() / f"{host}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _fetch(url: str, path: Path, progress: Progress) -> None:
    from ...models.file.header import read

    with disk_errors(path.parent, path.name), alone(path.parent / ".lock", path.name, progress):
        if not path.exists():
            remote = Remote(url, path.name, magic=b"GGUF")
            remember(path, Origin(url, fetch(remote, path, progress, check=read)))
