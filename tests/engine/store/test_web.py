"""Models at an address, from our own server: resumed, checked, redirected, or refused in one line."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request

import fake_hub
import pytest
import tiny

from pyllm.engine.store import fetch, sources
from pyllm.engine.store.folder import recall
from pyllm.engine.store.redirects import Redirects
from pyllm.models.errors import ModelError, PyllmError, UsageError
from pyllm.models.file.gguf import GGUF


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny.write(tmp_path_factory.mktemp("web") / "tiny.gguf").read_bytes()


@pytest.fixture
def served(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0, 0.0))
    with fake_hub.serve() as served:
        served.repos["files"] = {"tiny.gguf": content, "my model.gguf": content, "page.gguf": b"<html>log in</html>"}
        yield served


def get(url: str, *, offline: bool = False) -> Path:
    return sources.resolve(url, offline=offline)


def refused(url: str, kind: type[PyllmError] = PyllmError, *, offline: bool = False) -> str:
    with pytest.raises(kind) as error:
        get(url, offline=offline)
    assert "\n" not in str(error.value) and ";" in str(error.value), error.value
    return str(error.value)


def test_an_address(served: fake_hub.Hub, content: bytes) -> None:
    path = get(f"{served.url}/tiny.gguf#part")
    assert path.name == "tiny.gguf" and path.read_bytes() == content
    origin = recall(path)
    assert origin is not None
    assert (origin.source, origin.sha256) == (f"{served.url}/tiny.gguf", hashlib.sha256(content).hexdigest())
    asked = len(served.seen)
    assert get(f"{served.url}/tiny.gguf") == path == get(f"{served.url}/tiny.gguf", offline=True)
    assert len(served.seen) == asked
    assert get(f"{served.url}/tiny.gguf?version=2") != path, "another address may be another model"
    assert get(f"{served.url}/my%20model.gguf").name == "my_model.gguf"


@pytest.mark.parametrize("told", ["ETag", "Last-Modified", "nothing"])
def test_a_broken_connection(told: str, served: fake_hub.Hub, content: bytes) -> None:
    """A download is resumed if the server identifies its file, and started over if not."""
    served.etag, served.cuts = told == "ETag", [200_000, 100_000]
    if told == "Last-Modified":
        served.headers = {told: "Sun, 22 Nov 2026 06:00:00 GMT"}  # which this server does not compare
    assert get(f"{served.url}/tiny.gguf").read_bytes() == content
    if told == "ETag":
        assert served.ranges() == ["", "bytes=200000-", "bytes=300000-"]
    if told == "nothing":
        assert served.ranges() == ["", "", ""]


def test_a_file_that_changed_meanwhile(served: fake_hub.Hub, content: bytes) -> None:
    served.cuts = [200_000, 0, 0, 0]
    assert "go on where it broke off" in refused(f"{served.url}/tiny.gguf")
    other = content[:-4] + b"more"
    served.repos["files"]["tiny.gguf"] = other
    assert get(f"{served.url}/tiny.gguf").read_bytes() == other, "not half of each"


def test_a_part_longer_than_the_file(served: fake_hub.Hub, content: bytes, tmp_path: Path) -> None:
    served.cuts, served.length = [200_000], False
    with pytest.raises(ModelError, match="download it again"):  # nobody said how long it is
        get(f"{served.url}/tiny.gguf")
    assert not [*tmp_path.rglob("*.incomplete")]
    served.length, served.cuts = True, [200_000, 0, 0, 0]
    refused(f"{served.url}/tiny.gguf")
    [part] = tmp_path.rglob("*.incomplete")
    part.write_bytes(content + b"more")
    assert get(f"{served.url}/tiny.gguf").read_bytes() == content


def test_a_server_that_tells_no_length(served: fake_hub.Hub, content: bytes) -> None:
    served.length = False
    assert get(f"{served.url}/tiny.gguf").read_bytes() == content


def test_a_server_that_tells_a_checksum(served: fake_hub.Hub, content: bytes, tmp_path: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    served.headers = {"Repr-Digest": f"sha-256=:{digest}:"}
    get(f"{served.url}/tiny.gguf")
    served.repos["files"]["bad.gguf"] = content[:-1] + b"!"
    assert "damaged: sha256" in refused(f"{served.url}/bad.gguf")
    assert not [*tmp_path.rglob("bad*")]


def test_a_page_instead_of_a_file(served: fake_hub.Hub, tmp_path: Path) -> None:
    assert "not a GGUF file" in refused(f"{served.url}/page.gguf")
    assert not [path for path in tmp_path.rglob("page*") if path.name != ".lock"]


def test_answers_that_are_no_file(served: fake_hub.Hub) -> None:
    assert "404 Not Found; check the address" in refused(f"{served.url}/none.gguf")
    served.statuses = [401]
    assert "401 Unauthorized; it wants a login" in refused(f"{served.url}/tiny.gguf?secret=1")
    served.statuses = [410]
    assert "secret" not in refused(f"{served.url}/tiny.gguf?secret=1")
    served.statuses = [503] * 9
    assert "503" in refused(f"{served.url}/tiny.gguf")
    served.statuses = [429, 500]
    get(f"{served.url}/tiny.gguf")
    served.headers = {"Content-Encoding": "gzip"}
    assert "compresses the file" in refused(f"{served.url}/tiny.gguf?again")
    assert "127.0.0.1:9 cannot be reached" in refused("http://127.0.0.1:9/tiny.gguf")
    assert "is not here" in refused(f"{served.url}/tiny.gguf?other", ModelError, offline=True)


def test_answers_that_make_no_sense(served: fake_hub.Hub, content: bytes) -> None:
    served.headers = {"Content-Length": "many"}
    assert get(f"{served.url}/tiny.gguf").read_bytes() == content
    served.headers = {"Content-Length": "-1"}
    assert get(f"{served.url}/tiny.gguf?2").read_bytes() == content
    for bad in ("http://[/x", "http://a:b/x", "//", "?", "http://" + "a" * 99 + ".b/x", "http://\xfc"):
        refused(f"{served.url}/to/{bad}.gguf")
    served.repos["files"]["\xfc.gguf"] = content
    assert get(f"{served.url}/\xfc.gguf") == get(f"{served.url}/%C3%BC.gguf")


def test_redirects(served: fake_hub.Hub, content: bytes) -> None:
    assert get(f"{served.url}/to/{served.cdn}/tiny.gguf").read_bytes() == content
    loop = f"{served.url}/to/" * 9 + f"{served.url}/tiny.gguf"
    assert "too many redirects" in refused(loop)
    assert "not safe to follow" in refused(f"{served.url}/to/ftp://127.0.0.1/tiny.gguf")
    assert "check the address" in refused(f"{served.url}/to/file:///etc/tiny.gguf")


@pytest.mark.parametrize(
    ("old", "new", "followed", "login"),
    [
        ("https://a.example/x", "https://a.example/y", True, True),
        ("https://a.example/x", "https://b.example/y", True, False),
        ("https://a.example/x", "http://a.example/y", False, False),
        ("https://a.example/x", "http://127.0.0.1/y", True, False),
        ("https://a.example/x", "http://localhost:80/y", True, False),
        ("http://a.example/x", "https://a.example/y", True, False),
        ("http://a.example/x", "http://a.example:81/y", True, False),
    ],
)
def test_where_a_redirect_may_lead(old: str, new: str, followed: bool, login: bool) -> None:
    request = Request(old, headers={"Range": "bytes=5-"})
    request.add_unredirected_header("Authorization", "Bearer secret")
    if not followed:
        with pytest.raises(PyllmError, match="not safe to follow"):
            Redirects().redirect_request(request, BytesIO(), 302, "", HTTPMessage(), new)
        return
    to = Redirects().redirect_request(request, BytesIO(), 302, "", HTTPMessage(), new)
    assert to.full_url == new and to.get_header("Range") == "bytes=5-"
    assert to.has_header("Authorization") == login and "Authorization" not in to.headers


def test_a_certificate_that_is_not_trusted(served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message = "self-signed certificate"

    def build_opener(handler: object) -> Any:
        class Opener:
            def open(self, request: Request, timeout: float) -> None:
                raise fetch.URLError(error)

        return Opener()

    monkeypatch.setattr(fetch, "build_opener", build_opener)
    assert "not trusted: self-signed certificate; set SSL_CERT_FILE" in refused("https://127.0.0.1/tiny.gguf")


def test_how_long_to_wait() -> None:
    def asked(text: str) -> float | None:
        headers = Message()
        headers["Retry-After"] = text
        return fetch._seconds(headers)

    assert asked("7") == 7 and asked("Sun, 22 Nov 2020 06:00:00 GMT") == 0
    assert asked("") is None and asked("soon") is None


def test_a_split_model(served: fake_hub.Hub, tmp_path: Path) -> None:
    tiny.write(tmp_path / "m v.gguf", n_layer=1, split_max_tensors=5)
    served.repos["files"] = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("m*.gguf"))}
    for name in sorted(served.repos["files"], reverse=True):
        path = get(f"{served.url}/{quote(name)}?x=1")
        assert path.name == "m_v-00001-of-00003.gguf" and len(GGUF.open(path).paths) == 3
    assert len(served.paths()) == 3


@pytest.mark.parametrize(
    "url", ["https://", "http:///x.gguf", "http://a:b@c/x.gguf", "http://[x/y.gguf", "http://a:x/y.gguf"]
)
def test_no_addresses(url: str) -> None:
    assert "write https://HOST/PATH/FILE.gguf" in refused(url, UsageError)


def test_an_address_of_something_else() -> None:
    assert "hf:USER/REPO for a repository" in refused("https://huggingface.co/someone/model", UsageError)
