"""Renders untrusted Jinja templates, bounded in access, time and memory; knows nothing of chats.

jinja2's immutable sandbox keeps a template from Python's internals, but not from taking all time and memory. Here each
rendering has fuel: a loop's round, a call and each character or element that is made burn some of it. Therefore

- an operation that can make a large value of small ones (`*`, `replace`, `join`, ...) is paid for before it is done,
- no operation gets a value that would be large when written out, as nested lists grow by doubling,
- filters and methods that chat templates do not use, and that cannot be bounded, are removed.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

__all__ = ["Refused", "render"]

SOURCE_LIMIT = 128 << 10  # the most characters of a template; the largest known one has 18,120
VALUE_LIMIT = 16 << 20  # the most that a value may cost when written out
FUEL, FUEL_PER_CHARACTER = 4 << 20, 256  # the fuel of a rendering: a fixed part, and more by the input's length
SECONDS = 10.0  # of CPU time
STEP = 32  # the cost of a loop's round, of a call, of an element; a character costs 1

FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby", "indent",
    "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace",
    "reverse", "safe", "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        ("capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isdecimal", "isdigit",
         "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
         "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
         "splitlines", "startswith", "strip", "title", "upper")
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index", "grouper", "list")),  # groupby's tuples have the last two
    int: frozenset(),
    float: frozenset(),
}  # fmt: skip


class Refused(TemplateError):
    """The template refuses its input, by raise_exception."""


class _Fuel:
    def __init__(self, amount: int) -> None:
        self.left, self.deadline = amount, time.thread_time() + SECONDS  # CPU time, as a computer may be suspended

    def burn(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise SecurityError("it computes too much")
        if time.thread_time() > self.deadline:
            raise SecurityError(f"it takes more than {SECONDS:g} s")


_fuel: ContextVar[_Fuel] = ContextVar("_fuel")


def render(source: str, values: Mapping[str, Any]) -> str:
    """Return a template's text. Raises Refused, or any Exception if the template is broken or out of bounds."""
    if len(source) > SOURCE_LIMIT:
        raise SecurityError(f"it has {len(source):,} characters, more than {SOURCE_LIMIT:,}")
    with _fueled(FUEL + FUEL_PER_CHARACTER * _size([source, *values.values()])):
        return "".join(_compiled(source).generate(**values))


@functools.lru_cache(maxsize=4)
def _compiled(source: str) -> Any:
    return _Environment().from_string(source)


@contextmanager
def _fueled(amount: int) -> Iterator[None]:
    token = _fuel.set(_Fuel(amount))
    try:
        yield
    finally:
        _fuel.reset(token)


def _size(value: Any) -> int:
    """Return what a value's characters and elements cost, written out; raises SecurityError beyond VALUE_LIMIT."""
    size, rest = 0, [value]
    while rest:
        v = rest.pop()
        if isinstance(v, Namespace):
            v = v._Namespace__attrs
        if isinstance(v, str):
            size += len(v)
        elif isinstance(v, int):
            size += v.bit_length() // 3
        elif isinstance(v, (list, tuple, dict, KeysView, ValuesView, ItemsView)):
            size += STEP * len(v)
            if size <= VALUE_LIMIT:
                rest.extend(v.items() if isinstance(v, dict) else v)
        if size > VALUE_LIMIT:
            raise SecurityError("it makes a value that is too large")
    return size


def _made(value: Any) -> Any:
    """Pay for a value that an operation has made, by its own characters or elements, and return it."""
    _fuel.get().burn(STEP + (len(value) if isinstance(value, (str, list, tuple, dict)) else 0))
    return value


def _checked(value: Any) -> Any:
    _size(value)
    return value


def _printed(value: Any) -> Any:
    _fuel.get().burn(_size(value))
    return value


@pass_context  # else the compiler would take the result for a constant, and burn once
def _burn(context: Context, amount: int) -> None:
    _fuel.get().burn(max(0, amount))  # a template can call this too, and must gain nothing


def _concat(values: tuple[Any, ...]) -> str:
    """Join values to one text, as Jinja's `~` does, and pay for it."""
    _fuel.get().burn(sum(map(_size, values)))
    return "".join(map(str, values))


def _pay_replace(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    text, old = str(text), str(old)
    _fuel.get().burn((text.count(old) + 1) * len(str(new)))


def _pay_join(values: Any, separator: Any = "", *_: Any, **__: Any) -> None:
    _fuel.get().burn(len(values) * (1 + len(str(separator))))


def _pay_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    _fuel.get().burn((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))


def _pay_format(pattern: str, mark: str, arguments: Any) -> None:
    """Pay for str.format or `%`: each field may take all arguments, and a width of up to three digits."""
    fields = pattern.replace("{{", "").replace("}}", "")
    if re.search(r"\{[^}]*(\{|\d{4})" if mark == "{" else r"%[^a-zA-Z%]*(\*|\d{4})", fields):
        raise SecurityError("it formats with a width that is too large or computed")
    _fuel.get().burn(pattern.count(mark) * (1000 + _size(arguments)))


_PAY: dict[str, Callable[..., None]] = {"replace": _pay_replace, "join": _pay_join, "indent": _pay_indent}


def _settled(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments with lazy ones (of `map`, `select` and so on) made lists, so that they have a length."""
    return tuple(_made(list(v)) if isinstance(v, Iterator) and not isinstance(v, LoopContext) else v for v in values)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter or test, so that it checks its arguments and pays for its result."""
    extra = 1 if hasattr(function, "jinja_pass_arg") else 0  # the first argument is the context or the environment

    @functools.wraps(function)  # keeps jinja_pass_arg
    def call(*args: Any, **kwargs: Any) -> Any:
        args = args[:extra] + _settled(args[extra:])
        _size([*args[extra:], *kwargs.values()])
        if name in _PAY:
            _PAY[name](*args[extra:], **kwargs)
        return _made(function(*args, **kwargs))

    return call


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as transformers writes it: characters as they are, no escapes for HTML."""
    if indent is not None:
        if not (isinstance(indent, int) and 0 <= indent <= 16):
            raise SecurityError("it indents JSON too far")
        _fuel.get().burn(_size(value) * indent)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*bounds: int) -> range:
    found = range(*bounds)
    _fuel.get().burn(len(found))
    return found


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or re.search(r"\d{3}", pattern):  # the C library takes widths
        raise SecurityError("it wants the time in too many characters")
    return datetime.now().strftime(pattern)


class _Generation(Extension):
    """The tag {% generation %}...{% endgeneration %}, which marks answers for training; renders its body as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _burning(amount: int, place: nodes.Node) -> nodes.Stmt:
    return nodes.ExprStmt(_filtered(nodes.Const(amount, lineno=place.lineno), "burn"), lineno=place.lineno)


class _Meter(NodeTransformer):
    """Adds metering to a template's syntax tree, where the environment has no hook."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _burning(STEP, node))
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        text = sum(len(n.data) for n in node.nodes if isinstance(n, nodes.TemplateData))
        return [_burning(text, node), node] if text else [node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "checked")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "checked")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "made") if isinstance(node.arg, nodes.Slice) else node


class _Environment(ImmutableSandboxedEnvironment):
    """The environment that transformers gives a chat template, with metering."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=_printed
        )
        known = {name: _metered(name, self.filters[name]) for name in FILTERS} | {"tojson": _metered("tojson", _tojson)}
        self.filters = known | {"concat": _concat, "made": _made, "checked": _checked, "burn": _burn}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _metered(name, test) for name, test in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"range": _range, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Meter().visit(source), *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatter = super().wrap_str_format(value)
        if formatter is None:
            return None

        def call(*args: Any, **kwargs: Any) -> str:
            _pay_format(value.__self__, "{", [*args, *kwargs.values()])
            return formatter(*args, **kwargs)

        return call

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        args = _settled(args)
        _size([*args, *kwargs.values()])
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            _pay_replace(owner, *args, **kwargs)
        elif isinstance(owner, str) and name == "join":
            _pay_join(*args, owner)
        return _made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        size = _size(left) + _size(right)
        if operator == "%" and isinstance(left, str):
            _pay_format(left, "%", right)
        elif operator == "*":
            times = [v for v in (left, right) if isinstance(v, int)]
            # The product of two numbers has the digits of both; a sequence times n is n times as long.
            _fuel.get().burn(size if len(times) == 2 else size * max(0, *times, 1))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _fuel.get().burn(left.bit_length() * max(0, right))
        return _made(super().call_binop(context, operator, left, right))
