"""The redirects that a download follows, and what it tells the next host; fetches nothing itself."""

from __future__ import annotations

import ipaddress
from http.client import HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request

from ...models.errors import PyllmError
from .folder import SHA256


class Redirects(HTTPRedirectHandler):
    """Follows up to 5 redirects; never from https to http over a network; sends a login to the same host only."""

    max_redirections = 5
    sha256 = ""  # of the file at the end, if the hub that redirects states it

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        open_to_all = old.scheme == "https" and new.scheme == "http" and not _is_loopback(new.hostname)
        if new.scheme not in ("http", "https") or open_to_all:
            problem = f"redirects to {new.scheme}://{new.netloc}, which is not safe to follow"
            raise PyllmError(f"{old.netloc}: {problem}; check the address")
        linked = headers.get("X-Linked-ETag", "").strip('"')
        self.sha256 = self.sha256 or (linked if SHA256.fullmatch(linked) else "")
        request = Request(newurl, headers=dict(req.headers))
        if (login := req.unredirected_hdrs.get("Authorization")) and old[:2] == new[:2]:
            request.add_unredirected_header("Authorization", login)
        return request

    def http_error_308(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        return self.http_error_302(req, fp, code, msg, headers)  # Python 3.10 does not handle 308


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
