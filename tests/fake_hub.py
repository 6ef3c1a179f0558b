"""A small Hugging Face hub on loopback, with a second host for the bytes; it can break off, lie, refuse and be busy."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    host: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


@dataclass
class Hub:
    """What the servers hold, and which faults they must show."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    licence: str = "apache-2.0"
    token: str = ""  # the token that the repositories require
    gated: bool = False  # everyone gets names, nobody gets bytes
    etag: bool = True  # plain files have an ETag
    length: bool = True  # and a length
    cuts: list[int] = field(default_factory=list)  # answers with bytes: end the connection after this many
    pause: float = 0.0  # seconds before each MiB / 16
    statuses: list[int] = field(default_factory=list)  # answers with bytes: these instead
    api_statuses: list[int] = field(default_factory=list)  # answers about repositories: these instead
    headers: dict[str, str] = field(default_factory=dict)  # more headers of answers with bytes, or other values
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    cdn: str = ""  # URL of the other host

    def paths(self, method: str = "GET") -> list[str]:
        return [seen.path for seen in self.seen if seen.method == method]

    def ranges(self) -> list[str]:
        """Return the range ("" for all) of each request that was answered with bytes."""
        return [seen.range for seen in self.seen if seen.method == "GET" and not seen.path.startswith("/api/")]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run two servers during the block: the hub, and the host that it redirects requests for bytes to."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    servers = [_Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: in some tests the client goes away."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.seen.append(Seen(self.command, self.path, self.headers["Host"], dict(self.headers)))
        folders = path.strip("/").split("/")
        if path.startswith("/api/models/"):
            self._api("/".join(folders[2:4]))
        elif len(folders) > 4 and folders[2] == "resolve":
            self._resolve("/".join(folders[:2]), "/".join(folders[4:]))
        elif path.startswith("/to/"):  # a redirect to anywhere
            self._answer(302, Location=self.path.removeprefix("/to/"))
        else:
            files = {f"/{name}": raw for repo in hub.repos.values() for name, raw in repo.items()}
            files |= {f"/{hashlib.sha256(raw).hexdigest()}": raw for raw in files.values()}
            raw = files.get(path)
            self._answer(404) if raw is None else self._bytes(raw)

    def _api(self, repo: str) -> None:
        hub = self.hub
        if hub.api_statuses:
            self._answer(hub.api_statuses.pop(0), **{"Retry-After": "0"})
        elif self._allowed(repo, gated=False):
            siblings = []
            for name, raw in hub.repos[repo].items():
                sha256 = hashlib.sha256(raw).hexdigest()
                lfs = {"sha256": sha256, "size": len(raw), "pointerSize": 134}
                siblings.append({"rfilename": name, "size": len(raw), "blobId": sha256[:40], "lfs": lfs})
            said = {"id": repo, "modelId": repo, "sha": hub.commit, "private": False, "siblings": siblings, "tags": [],
                    "downloads": 0, "likes": 0, "cardData": {"license": hub.licence}}  # fmt: skip
            raw = json.dumps(said).encode()
            self._answer(200, raw, **{"Content-Type": "application/json"})

    def _resolve(self, repo: str, name: str) -> None:
        hub = self.hub
        if not self._allowed(repo, gated=hub.gated):
            return
        raw = hub.repos[repo].get(name)
        if raw is None:
            self._answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
            return
        sha256 = hashlib.sha256(raw).hexdigest()
        self._answer(302, Location=f"{hub.cdn}/{sha256}?signed=1", **{
            "X-Repo-Commit": hub.commit, "X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(raw)),
        })  # fmt: skip

    def _allowed(self, repo: str, gated: bool) -> bool:
        login = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if gated:
            self._answer(403 if login else 401, **{"X-Error-Code": "GatedRepo"})
        elif self.hub.token and login and login != self.hub.token:
            self._answer(401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo not in self.hub.repos or (self.hub.token and not login):
            self._answer(404 if login else 401, **{"X-Error-Code": "RepoNotFound"})
        else:
            return True
        return False

    def _bytes(self, raw: bytes) -> None:
        hub = self.hub
        if hub.statuses:
            self._answer(hub.statuses.pop(0), **{"Retry-After": "0"})
            return
        etag = f'"{hashlib.md5(raw).hexdigest()}"'
        start = 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(raw):
                self._answer(416)
                return
        more = {"ETag": etag} if hub.etag else {}
        if start:
            more["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
        self._answer(
            206 if start else 200, raw[start:], cut=hub.cuts.pop(0) if hub.cuts else None, **more | hub.headers
        )

    def _answer(self, status: int, raw: bytes = b"", cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        length = {"Content-Length": str(len(raw))} if self.hub.length or not raw else {}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        if cut is not None or not length:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        raw = raw if cut is None else raw[:cut]
        for at in range(0, len(raw), 1 << 16):
            time.sleep(self.hub.pause)
            self.wfile.write(raw[at : at + (1 << 16)])
