"""A file of prompts, a JSON value in each line: read one after the other and checked; knows no model."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

from ...models.errors import UsageError, did_you_mean
from ..sampler import SamplingParams

Id = str | int | float
Messages = tuple[dict[str, str], ...]

LINE = 64 << 20  # bytes of a line at most
PIPED = 1 << 30  # bytes at most of what is no regular file, which is copied before it is read
FORM = '{"prompt": "..."} or {"messages": [...]} or "..."'

PARAMS = {
    **{name: name for name in asdict(SamplingParams()) if name != "stop"},
    "temp": "temperature",
    **dict.fromkeys(("predict", "n_predict", "max_completion_tokens"), "max_tokens"),
}
"""The sampling parameters by their names in a line: those of Python, of the flags, of llama-server and of OpenAI."""
ONE = {"id": "id", "custom_id": "id", "system": "system", "system_prompt": "system", **PARAMS}
"""What a field means; no two fields of a line may mean the same."""
IGNORED: dict[str, tuple[Any, ...]] = {"model": (), "user": (), "stream": (False,), "n": (1,)}
"""What other programs write, and the values that change nothing here; none: any."""
TEXTS = ("prompt", "messages", "raw", "stop", "metadata")
KNOWN = (*TEXTS, *ONE, *IGNORED)


@dataclass(frozen=True)
class Line:
    """A prompt and how to answer it: a text, or the messages of a conversation."""

    number: int
    id: Id
    prompt: str | None
    messages: Messages
    system: str | None
    raw: bool  # the prompt is continued as it stands
    params: SamplingParams
    metadata: Any = None  # goes into the answer as it is

    @property
    def digest(self) -> str:
        """Return a short hash of all that the answer depends on, besides the model."""
        params = {name: value for name, value in vars(self.params).items() if name != "stop" or value}
        asked = [self.prompt, self.messages, self.system, self.raw, params]
        return _hash(json.dumps(asked, sort_keys=True).encode())


class BadLine(UsageError):
    """A line that cannot be used; `str` names the file, the line and the field."""

    def __init__(self, file: str, number: int, problem: str, content: bytes = b"", id: Id | None = None) -> None:
        super().__init__(f"{file} line {number}: {problem}")
        self.number, self.id, self.problem, self.digest = number, id, problem, _hash(content)


class Lines:
    """The lines of a file, as often as they are asked for; the file is read as it goes. Empty lines are left out."""

    def __init__(
        self,
        file: IO[bytes],
        name: str,
        params: SamplingParams | None = None,
        *,
        system: str | None = None,
        raw: bool = False,
    ) -> None:
        """file: can be read again from its beginning. name: for messages. The others: what lines do not say."""
        self._file, self.name = file, name
        self._params, self.system, self._raw = params or SamplingParams(), system, raw

    def __iter__(self) -> Iterator[Line | BadLine]:
        seen: dict[Id, int] = {}
        self._file.seek(0)
        number = 0
        while content := self._file.readline(LINE + 1):
            number += 1
            if len(content) > LINE:
                raise BadLine(self.name, number, f"longer than {LINE >> 20} MiB, which no context holds")
            if number == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            if not content.strip():
                continue
            line = self._read(content, number)
            if line.id is not None and (first := seen.setdefault(line.id, number)) != number:
                problem = f"id: {json.dumps(line.id)[:80]} is the id of line {first} too; give each line its own"
                line = BadLine(self.name, number, problem, content)
            yield line

    def _read(self, content: bytes, number: int) -> Line | BadLine:
        id = None
        try:
            fields = _fields(content)
            id = _id(fields, number)
            return self._line(fields, id, number)
        except _FieldError as error:
            return BadLine(self.name, number, str(error), content, id)

    def _line(self, fields: Mapping[str, Any], id: Id, number: int) -> Line:
        prompt, messages = fields.get("prompt"), _messages(fields.get("messages"))
        system = _text(fields, "system", "system_prompt")
        raw = _bool("raw", fields.get("raw", self._raw and prompt is not None))
        if (prompt is None) == (not messages):
            raise _FieldError(f"prompt, messages: give {'one' if messages else 'one of them'}, as in {FORM}")
        if prompt is not None and (not isinstance(prompt, str) or not prompt):
            raise _FieldError(f"prompt: must be a text that is not empty{_said(prompt)}")
        _unicode("prompt", prompt)
        if raw and (messages or system is not None):
            raise _FieldError(
                f"raw: {'messages' if messages else 'a system prompt'} needs the chat template; leave one"
            )
        if messages and messages[0]["role"] == "system":
            if system is not None:
                raise _FieldError("system: the messages begin with a system prompt; give one")
        elif not raw:
            system = self.system if system is None else system
        return Line(number, id, prompt, messages, system, raw, self._chosen(fields), fields.get("metadata"))

    def _chosen(self, fields: Mapping[str, Any]) -> SamplingParams:
        """Return the sampling parameters of a line."""
        params = self._params
        if (stop := fields.get("stop")) is not None:
            params = replace(params, stop=_stop_strings(stop))
        for name in fields.keys() & PARAMS.keys():
            field = PARAMS[name]
            value = _number(name, fields[name], getattr(params, field))
            try:
                params = replace(params, **{field: value})  # type: ignore[arg-type]
            except UsageError as error:
                raise _FieldError(f"{name}: {str(error).partition(': ')[2]}") from None
        return params


def opened(name: str) -> IO[bytes]:
    """Open a file of lines (-: stdin); a pipe is copied to a temporary file first. Raises UsageError."""
    said = "stdin" if name == "-" else f"-f {name}"
    try:
        file = sys.stdin.buffer if name == "-" else open(name, "rb", opener=_opener)  # noqa: SIM115
        if name != "-" and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        while part := file.read(1 << 20):
            copy.write(part)
            if copy.tell() > PIPED:
                raise UsageError(f"{said}: longer than {PIPED >> 30} GiB: write it to a file, and name that")
        return copy
    except (OSError, ValueError) as error:
        raise UsageError(f"{said}: {getattr(error, 'strerror', None) or error}: name a file of lines") from None


def _opener(name: str, flags: int) -> int:
    mode = os.stat(name).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ValueError("is a device")
    return os.open(name, flags)


class _FieldError(Exception):
    """What is wrong with a line, beginning with the field."""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _fields(content: bytes) -> dict[str, Any]:
    """Return the fields of a line that are not null, those of an OpenAI batch's body among them."""
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _FieldError(f"not UTF-8 at byte {error.start}: save or convert the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _FieldError(f"not JSON at character {error.pos + 1} ({error.msg}): each line is {FORM}") from None
    except (ValueError, RecursionError):
        raise _FieldError(f"not JSON that can be read (too deep, or too long a number): each line is {FORM}") from None
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise _FieldError(f"is {_kind(value)}: each line is {FORM}")
    if "body" in value:
        value = _openai(value)
    for name in value:
        if name not in KNOWN:
            raise _FieldError(
                f"{name[:80]}: no such field{did_you_mean(name, KNOWN) or ' (metadata may hold anything)'}"
            )
    fields = {name: field for name, field in value.items() if field is not None}
    for name, same in IGNORED.items():
        if same and name in fields and fields[name] not in same:
            raise _FieldError(f"{name}: is {json.dumps(fields[name])[:80]}, must be {json.dumps(same[0])} here")
    meant: dict[str, str] = {}
    for name in fields:
        if name in ONE and (other := meant.setdefault(ONE[name], name)) != name:
            raise _FieldError(f"{other}, {name}: mean the same; give one")
    return fields


def _openai(value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a request in OpenAI's batch format."""
    outer = {name: field for name, field in value.items() if name not in ("body", "url", "method")}
    url, body = value.get("url", ""), value["body"]
    if not isinstance(body, dict):
        raise _FieldError(f"body: is {_kind(body)}, must be an object")
    if url == "/v1/completions":
        body = {"raw": True, **body}
    elif url not in ("", "/v1/chat/completions"):
        raise _FieldError(f"url: is {json.dumps(url)[:80]}, must be /v1/chat/completions or /v1/completions")
    if twice := outer.keys() & body.keys():
        raise _FieldError(f"{min(twice)}: stands in body too; give one")
    return {**outer, **body}


def _id(fields: Mapping[str, Any], number: int) -> Id:
    id = fields.get("id", fields.get("custom_id", number))
    if isinstance(id, bool) or not isinstance(id, str | int | float) or id != id:
        raise _FieldError(f"id: is {_kind(id)}, must be a text or a number")
    if isinstance(id, str):
        _unicode("id", id)
    return id


def _messages(value: Any) -> Messages:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise _FieldError('messages: must be a list of {"role": "user", "content": "..."} that is not empty')
    found = []
    for i, message in enumerate(value):
        at = f"messages[{i}]"
        if not isinstance(message, dict) or not message.keys() >= {"role", "content"}:
            raise _FieldError(f'{at}: must be {{"role": "user", "content": "..."}}')
        role, content = message["role"], message["content"]
        if isinstance(content, list):  # OpenAI's parts
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "\n".join(parts) if all(isinstance(text, str) for text in parts) else content  # type: ignore[arg-type]
        for name, text in (("role", role), ("content", content)):
            if not isinstance(text, str):
                raise _FieldError(f"{at}.{name}: is {_kind(text)}, must be a text")
            _unicode(f"{at}.{name}", text)
        found.append({"role": role, "content": content})
    return tuple(found)


def _stop_strings(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _FieldError("stop: must be a text, or a list of texts, that are not empty")
    for text in texts:
        _unicode("stop", text)
    return tuple(texts)


def _text(fields: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        if name in fields:
            if not isinstance(fields[name], str):
                raise _FieldError(f"{name}: is {_kind(fields[name])}, must be a text")
            _unicode(name, fields[name])
            return str(fields[name])
    return None


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _FieldError(f"{name}: is {_kind(value)}, must be true or false")
    return value


def _number(name: str, value: Any, like: float) -> float:
    """Return a value that is of the type of `like`; a float without a fraction is a whole number."""
    if isinstance(like, bool):
        return _bool(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _FieldError(f"{name}: is {_kind(value)}, must be a number")
    if isinstance(like, float):
        try:
            return float(value)
        except OverflowError:
            raise _FieldError(f"{name}: is too large") from None
    if value != value or value in (float("inf"), float("-inf")) or int(value) != value:
        raise _FieldError(f"{name}: is {value}, must be a whole number")
    return int(value)


def _unicode(name: str, text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise _FieldError(f"{name}: holds half of a surrogate pair at character {error.start + 1}") from None


def _kind(value: Any) -> str:
    """Return what a JSON value is, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _said(value: Any) -> str:
    return "" if isinstance(value, str) else f", and is {_kind(value)}"
