"""Renders Jinja templates as transformers does, in a process that does nothing else (sandbox.py starts it).

The process reads requests from stdin and answers on stdout, a line of JSON each, until stdin ends. Before the first, it
gives up its rights: the system then limits its memory and CPU time, and it can open no file and start no process.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

WARM = (
    "{% macro f(x) %}{{ x }}{% endmacro %}{{ f('\\n\\N{BULLET}') }}{{ strftime_now('%c %Z')|tojson }}{{ [1]|pprint }}"
)


class _RefusedError(TemplateError):
    """The template refuses its input, by raise_exception."""


class _Generation(Extension):
    """The tag {% generation %}...{% endgeneration %}, which marks answers for training; renders its body as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as transformers writes it: characters as they are, no escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise _RefusedError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that transformers gives a chat template."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return made


@functools.lru_cache(maxsize=4)
def _compiled(source: str) -> Any:
    return environment().from_string(source)


def _answer(source: str, values: dict[str, Any], limit: int) -> dict[str, str]:
    """Return the text that the template makes, or what is wrong with it."""
    try:
        text: str = _compiled(source).render(**values)
        if len(text) > limit:
            return {"broken": f"it makes {len(text):,} characters, more than {limit:,}"}
        text.encode()  # fails where it is not Unicode
        return {"text": text}
    except _RefusedError as e:
        return {"refused": str(e)[:1000]}
    except MemoryError:
        return {"memory": ""}
    except Exception as e:  # a template can raise anything, RecursionError too
        return {"broken": f"{type(e).__name__}: {str(e)[:1000]}".removesuffix(": ")}


def _bound(memory: int) -> bool:
    """Give up the process's rights; return whether the system now limits its memory, to about this many bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return False

    def lower(limit: int, most: int) -> None:
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))

    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped, resident = (int(pages) * resource.getpagesize() for pages in file.read().split()[:2])
        lower(resource.RLIMIT_AS, mapped - resident + memory)
    except (OSError, ValueError):  # not Linux
        pass
    for limit, most in {"CORE": 0, "FSIZE": 0, "NPROC": 0, "NOFILE": 3}.items():
        lower(getattr(resource, f"RLIMIT_{limit}"), most)
    try:
        return not bytearray(2 * memory)  # untouched, so it takes no memory where it is not refused
    except MemoryError:
        return True


def _bound_time(seconds: float) -> None:
    """Have the system end this process after some more seconds of CPU time, even if nobody waits for it anymore."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, hard))


def serve(memory: int) -> None:
    """Answer requests until stdin ends, or until one took all memory (bytes, the interpreter's own included)."""
    # jinja2 and Python import these late, when the process can open no file.
    import pprint  # noqa: F401
    import unicodedata  # noqa: F401

    import jinja2.constants
    import jinja2.debug  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits

    def say(answer: dict[str, Any]) -> None:
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()

    _answer(WARM, {}, 0)
    answer: dict[str, Any] = {"bound": _bound(memory)}
    say(answer)
    while "memory" not in answer and (line := sys.stdin.buffer.readline()):
        request = json.loads(line)
        del line
        _bound_time(request.pop("seconds"))
        say(answer := _answer(**request))
