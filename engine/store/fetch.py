"""One file over HTTP: resumed where it broke off, checked, renamed once it is whole; knows no models and no hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from ... import __version__
from ...models.errors import PyllmError
from ...models.progress import Progress, silent
from . import ours
from .disk import check_space, disk_errors
from .redirects import Redirects

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds that a server may be silent
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds before each new attempt; after progress, from the first again
LONGEST_PAUSE = 60.0  # seconds; the most that a server's Retry-After may ask for
NOTES = b'{"validator": "'  # how the notes on an unfinished download begin
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses after which a later attempt may work


@dataclass(frozen=True)
class Remote:
    """A file on a server, and what is known of it before it is fetched."""

    url: str
    title: str  # its name in messages
    size: int = 0  # bytes; 0: the server says
    sha256: str = ""  # "": the server may say
    token: str = ""  # a bearer token, sent to this host only
    magic: bytes = b""  # the file's first bytes, so that a login page is not taken for it

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def shown(self) -> str:
        """Return the URL without its login and query, which may be secret."""
        return f"{urlsplit(self.url).scheme}://{self.host}{urlsplit(self.url).path}"


class Refused(PyllmError):
    """The server refuses the request; `status` is HTTP's."""

    def __init__(self, remote: Remote, status: int, reason: str) -> None:
        cure = {401: "it wants a login", 403: "it wants a login", 404: "check the address"}
        super().__init__(f"{remote.shown}: {status} {reason}; {cure.get(status, 'try again later')}")
        self.status = status


class _Again(Exception):
    """A failure that a new attempt may cure, after `wait` seconds (None: PAUSES decides)."""

    def __init__(self, problem: object, wait: float | None = None) -> None:
        super().__init__(str(problem))
        self.wait = wait


def fetch(
    remote: Remote, target: Path, progress: Progress = silent, check: Callable[[Path], object] = lambda path: None
) -> str:
    """Fetch the file to `target` and return its sha256; `check` sees it first and may raise.

    If the connection or the user ends the download, `incomplete(target)` keeps what has come, for the next time.
    """
    download = _Download(remote, incomplete(target), progress)
    with disk_errors(target.parent, remote.title):
        download.resume()
        failures = 0
        while not download.whole:
            before = download.done
            try:
                download.attempt()
            except _Again as problem:
                failures = 1 if download.done > before else failures + 1
                if failures > len(PAUSES):
                    raise PyllmError(
                        f"{remote.title} could not be fetched from {remote.host}: {problem}; "
                        "run the command again to go on where it broke off"
                    ) from None
                download.wait(PAUSES[failures - 1] if problem.wait is None else min(problem.wait, LONGEST_PAUSE))
        return download.finish(target, check)


def incomplete(target: Path) -> Path:
    """Return the path of an unfinished download, named as huggingface_hub used to name it."""
    return target.with_name(f"{target.name}.incomplete")


class _Download:
    """A download in progress: the bytes that have come so far, and their digest."""

    def __init__(self, remote: Remote, part: Path, progress: Progress) -> None:
        self.remote, self.part, self.progress = remote, part, progress
        self.notes = part.with_name(f"{part.name}.json")  # the validator and size that belong to `part`
        self.digest, self.done, self.total = hashlib.sha256(), 0, remote.size
        self.validator = ""  # an ETag or a date; with it the server can tell whether its file is still the same
        self.sha256 = remote.sha256
        self.whole = False
        self.stage = f"fetching {remote.title} from {remote.host}"

    def resume(self) -> None:
        """Take up what an earlier run left, if it is known to belong to the same file."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        ours.check(self.notes, NOTES)
        # Without notes of ours beside it, a part that is not empty must begin as the file that is fetched.
        known = self.notes.exists() or not self.part.exists() or not self.part.stat().st_size
        ours.check(self.part, b"" if known else self.remote.magic)
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
            said = json.loads(ours.read(self.notes))
            self.validator, self.total = str(said["validator"]), self.total or int(said["total"])
        if not self.part.exists():
            return
        size = self.part.stat().st_size
        if not (self.remote.sha256 or self.validator) or (self.total and size > self.total):
            return self.restart()
        with self.part.open("rb") as file:
            while chunk := file.read(CHUNK):
                self.digest.update(chunk)
                self.done += len(chunk)
                self.progress(f"checking the part of {self.remote.title} that is here", self.done, size)
        self.whole = 0 < self.total == self.done

    def restart(self) -> None:
        """Delete what has come so far."""
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.digest, self.done = hashlib.sha256(), 0

    def wait(self, seconds: float) -> None:
        self.progress(self.stage, self.done, self.total, f"again in {seconds:.0f} s")
        time.sleep(seconds)

    def attempt(self) -> None:
        """Fetch what is missing; raises _Again if another attempt may help, PyllmError if not."""
        headers = {"User-Agent": f"pyllm/{__version__}", "Accept-Encoding": "identity"}
        if self.done and (self.remote.sha256 or self.validator):  # else start over
            headers["Range"] = f"bytes={self.done}-"
            if not self.remote.sha256:
                headers["If-Range"] = self.validator
        request = Request(self.remote.url, headers=headers)
        if self.remote.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.remote.token}")
        redirects = Redirects()
        try:
            response = build_opener(redirects).open(request, timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            raise self._refusal(error) from None
        except URLError as error:
            raise self._unreachable(error.reason) from None
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a malformed host or redirect
            raise self._unreachable(error) from None
        with response:
            self.sha256 = self.sha256 or redirects.sha256
            self._begin(response)
            try:
                with self.part.open("ab") as file:
                    self._take(response, file)
            except PyllmError:
                self.restart()  # not worth keeping
                raise

    def _refusal(self, error: HTTPError) -> Exception:
        if error.code == 416 and self.done:  # range not satisfiable: we have more than the server
            self.restart()
            return _Again("the file on the server has changed", 0)
        if error.code in AGAIN:
            return _Again(f"{error.code} {error.reason}", _seconds(error.headers))
        if 300 <= error.code < 400:
            return PyllmError(f"{self.remote.shown}: too many redirects, or one that leads nowhere; check the address")
        return Refused(self.remote, error.code, error.reason)

    def _unreachable(self, reason: object) -> Exception:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return PyllmError(
                f"{self.remote.host}: its certificate is not trusted: {reason.verify_message}; "
                "set SSL_CERT_FILE to a file with the authorities to trust"
            )
        said = getattr(reason, "strerror", None) or reason or type(reason).__name__
        if self.done:  # the server was there a moment ago
            return _Again(said)
        return PyllmError(f"{self.remote.host} cannot be reached: {said}; check the network and the address")

    def _begin(self, response: HTTPResponse) -> None:
        """Read an answer's headers: where in the file it begins, and whether it is the file that we want."""
        headers, total = response.headers, 0
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self.done:
                self.restart()
                raise _Again("the server did not send the range that was asked for")
            total = 0 if found[2] == "*" else int(found[2])
        else:
            self.restart()  # a new file, one that has changed, or a server that does not resume
            total = response.length or 0
        if headers.get("Content-Encoding", "identity") != "identity":
            raise PyllmError(
                f"{self.remote.shown}: the server compresses the file; name the address of the file itself"
            )
        if self.remote.size and total and total != self.remote.size:
            self.restart()
            raise self._wrong_size(total)
        self.total = self.remote.size or total
        self.sha256 = self.sha256 or _repr_digest(headers)
        etag = headers.get("ETag", "")
        self.validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        ours.write(self.notes, json.dumps({"validator": self.validator, "total": total}).encode(), NOTES)
        check_space(self.part.parent, self.total - self.done, self.remote.title)

    def _take(self, response: HTTPResponse, file: IO[bytes]) -> None:
        begin, before = time.monotonic(), self.done
        for chunk in _chunks(response):
            if not self.done and not chunk.startswith(self.remote.magic):
                kind = response.headers.get_content_type()
                raise PyllmError(f"{self.remote.shown}: not a GGUF file ({kind}); give the address of the file itself")
            file.write(chunk)
            self.digest.update(chunk)
            self.done += len(chunk)
            rate = (self.done - before) / (time.monotonic() - begin + 1e-9)
            left = f", {timedelta(seconds=round((self.total - self.done) / rate))} left" if self.total else ""
            self.progress(self.stage, self.done, self.total, f"{rate / 1e6:.1f} MB/s{left}")
            if self.total and self.done > self.total:
                raise self._wrong_size(self.done)
        if self.total and self.done < self.total:
            raise _Again(f"the connection broke off after {self.done:,} of {self.total:,} bytes")
        self.whole = True

    def _wrong_size(self, found: int) -> PyllmError:
        problem = f"the server has {found:,} bytes instead of {self.remote.size or self.total:,}"
        return PyllmError(f"{self.remote.title}: {problem}; try again later (a mirror or proxy may hold a bad copy)")

    def finish(self, target: Path, check: Callable[[Path], object]) -> str:
        """Check the file, move it to `target` and return its sha256; raises PyllmError."""
        digest = self.digest.hexdigest()
        self.notes.unlink(missing_ok=True)
        if self.sha256 and digest != self.sha256:
            self.restart()
            raise PyllmError(
                f"{self.remote.title}: the download is damaged: sha256 {digest} instead of {self.sha256}; "
                "run the command again (a mirror or proxy may hold a bad copy)"
            )
        try:
            check(self.part)
        except PyllmError:
            self.restart()
            raise
        ours.check(target, self.remote.magic)
        os.replace(self.part, target)
        return digest


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield what the server sends; errors of the connection, and no others, become _Again."""
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _Again(getattr(error, "strerror", None) or error or type(error).__name__) from None
        if not chunk:
            return
        yield chunk


def _seconds(headers: Message) -> float | None:
    """Return the seconds that Retry-After asks for, given as a number or a date; None if it asks for none."""
    said = headers.get("Retry-After", "")
    if said.isdecimal():
        return float(said)
    with suppress(TypeError, ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    return None


def _repr_digest(headers: Message) -> str:
    """Return the sha256 in the headers by RFC 9530, or ""."""
    found = re.search(r"sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", ""))
    return "" if found is None else base64.b64decode(found[1]).hex()
