"""The house, checked: imports point down between floors and rooms, only `kernels` needs Numba, the README is true.

Also: importing is quick, argparse and print are for commands, names of files are unique, and no room grows too large.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

from pyllm.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "models", "engine", "bench")
ROOMS: dict[str, tuple[str, ...]] = {
    "kernels": ("shapes", "lang", "plan", "formats", "pages", "page_copies", "ops", "attention", "roofs", "warm"),
    "models": (
        "errors",
        "progress",
        "file",
        "config",
        "hyper",
        "text",
        "cache",
        "forward",
        "arch",
        "opened",
        "describe",
    ),
    "engine": (
        "machine",
        "store",
        "advice",
        "page_table",
        "sampler",
        "results",
        "ending",
        "sequence",
        "parking",
        "stepper",
        "generate",
        "prefixes",
        "choices",
        "request",
        "budget",
        "scheduler",
        "many",
        "policy",
        "llm",
        "chat",
        "batch",
        "commands",
    ),
    "bench": ("report", "machine", "speed", "batched", "quality", "bus", "study", "concurrency", "commands"),
}
"""The rooms of each floor, from the lowest to the highest: a folder, or a module that stands on the floor itself."""

FOLDER_FILES, FILE_LINES = 16, 400


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


EVERY = [path for floor in FLOORS for path in sources(floor)]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def for_types_only(path: Path) -> set[ast.AST]:
    """Return the nodes under `if TYPE_CHECKING`."""
    blocks = (
        node for node in tree(path).body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(path: Path, without: Collection[ast.AST] = ()) -> Iterator[tuple[int, str]]:
    """Return (line, module) of each import in a file, even inside functions or under TYPE_CHECKING, and of each string
    that names one of our modules; relative imports with the root package's name."""
    package = ["pyllm", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree(path)):
        if node in without:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.lstrip(".")
            dots = len(node.value) - len(name)
            parts = [*(package[: len(package) - dots + 1] if dots else []), *name.split(".")]
            if parts[0] == "pyllm" and len(parts) > 2 and ROOT.joinpath(*parts[1:]).with_suffix(".py").is_file():
                yield node.lineno, ".".join(parts)


def place(module: str) -> tuple[str, str] | None:
    """Return (floor, room) of one of our modules by its full name; the room is "" for a floor as a whole."""
    first, *parts = module.split(".")
    if first != "pyllm" or not parts or parts[0] not in FLOORS:
        return None
    return parts[0], parts[1] if len(parts) > 1 and parts[1] in ROOMS[parts[0]] else ""


def own_place(path: Path) -> tuple[str, str]:
    floor, *rest = path.relative_to(ROOT).with_suffix("").parts
    return floor, "" if rest == ["__init__"] else rest[0]


@pytest.mark.parametrize("floor", FLOORS)
def test_every_module_stands_in_a_room(floor: str) -> None:
    there = {own_place(path)[1] for path in sources(floor)} - {""}
    assert there == set(ROOMS[floor])


@pytest.mark.parametrize("path", EVERY, ids=named)
def test_imports_point_down(path: Path) -> None:
    """Imports point down from floor to floor and from room to room, so no rooms import each other in a circle."""
    floor, room = own_place(path)
    for line, module in imports(path):
        if (found := place(module)) is None:
            continue
        where = f"{named(path)}:{line} imports {module}"
        assert FLOORS.index(found[0]) <= FLOORS.index(floor), where
        if found[0] == floor and found[1] and room:
            assert ROOMS[floor].index(found[1]) <= ROOMS[floor].index(room), where


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Modules may form a circle only inside of a room, and only under TYPE_CHECKING."""
    modules = {".".join(["pyllm", *path.relative_to(ROOT).with_suffix("").parts]): path for path in EVERY}

    def known(module: str) -> str | None:
        while module and module not in modules:
            module = module.rpartition(".")[0]
        return module or None

    below = {name: {found for _, m in imports(path, for_types_only(path)) if (found := known(m)) and found != name}
             for name, path in modules.items()}  # fmt: skip
    while free := [name for name, found in below.items() if not found & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"in a circle, or above one: {', '.join(sorted(below))}"


@pytest.mark.parametrize(
    ("where", "never"),
    [
        ("models/arch", r"pyllm\.engine"),
        ("models/forward", r"pyllm\.models\.arch"),
        ("engine/server", r"pyllm\.(kernels|models)\.(?!errors)"),
        ("", "|".join(re.escape(command.module) + r"\b" for command in COMMANDS.values())),
    ],
)
def test_never(where: str, never: str) -> None:
    """Rooms do not import what they must not know. Nothing imports a command: the table in __main__.py names it."""
    for path in EVERY:
        for line, module in imports(path) if named(path).startswith(where) else ():
            assert not re.match(never, module), f"{named(path)}:{line} imports {module}"


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_of_our_own_are_relative(floor: str) -> None:
    for path in sources(floor):
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                where = f"{named(path)}:{getattr(node, 'lineno', 0)}"
                assert name.partition(".")[0] not in {"pyllm", *FLOORS}, f"{where} imports {name}: one name per file"


@pytest.mark.parametrize("floor", [floor for floor in FLOORS if floor != "kernels"])
def test_only_kernels_imports_numba(floor: str) -> None:
    for path in sources(floor):
        for line, module in imports(path):
            assert module.partition(".")[0] not in {"numba", "llvmlite"}, f"{named(path)}:{line}"


def test_only_commands_know_argparse_and_print() -> None:
    for path in EVERY:
        if own_place(path)[1] == "commands":
            continue
        for line, module in imports(path):
            assert module.partition(".")[0] != "argparse", f"{named(path)}:{line} imports argparse"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{named(path)}:{node.lineno} prints"


def test_only_sizes_computes_the_bytes_of_a_cache() -> None:
    """Above the kernels, whose pages they are: so that all who name them say the same number."""
    for path in EVERY:
        if own_place(path)[0] == "kernels" or named(path) == "models/cache/sizes.py":
            continue
        names = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        assert not ("row_bytes" in names and {"head_dim_k", "head_dim_v"} & names), named(path)


def test_records_shared_with_kernels_have_named_offsets() -> None:
    """No number stands where a kernel adds to an address that it reads or writes an integer at."""
    for path in sources("kernels"):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not re.fullmatch(r"(peek|poke)_i(32|64)", ast.unparse(node.func)):
                continue
            address = node.args[0]
            while isinstance(address, ast.BinOp) and isinstance(address.op, ast.Add):
                where = f"{named(path)}:{node.lineno} {ast.unparse(node.args[0])}"
                assert not isinstance(address.right, ast.Constant), where
                address = address.left


PROGRAMS = ["import pyllm", "import pyllm.__main__", *(f"import pyllm.{floor}" for floor in FLOORS)]


@pytest.mark.parametrize("code", PROGRAMS)
def test_packages_are_light(code: str) -> None:
    """pytest imports the root package once more under the folder's name, and `pyllm --help` must not wait for Numba."""
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_modules_say_what_they_are() -> None:
    for path in EVERY:
        assert ast.get_docstring(tree(path)), f"{named(path)}: no docstring"


def test_file_names_are_unique() -> None:
    """A search for a file's name finds that file alone."""
    seen: dict[str, Path] = {}
    for path in EVERY:
        if path.name != "__init__.py":
            assert path.name not in seen, f"{named(path)} and {named(seen[path.name])} have one name"
            seen[path.name] = path


def test_rooms_are_small() -> None:
    for folder in {path.parent for path in [*EVERY, *(ROOT / "tests").rglob("*.py")]}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= FOLDER_FILES, f"{named(folder)} holds {len(files)} files"
        for path in files:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= FILE_LINES, f"{named(path)} has {lines} lines"


def readme_tree() -> list[str]:
    """Return the paths in the README's tree: two spaces of indent are a folder deeper."""
    _, _, text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The tree\n")
    found, above = [], list[str]()
    for line in text.partition("\n## ")[0].partition("```\n")[2].partition("```")[0].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name.rstrip("/")]
        found.append("/".join(above))
    return found


def test_the_readmes_tree_is_true() -> None:
    listed = readme_tree()
    missing = {named(path) for path in EVERY if path.name != "__init__.py"} - set(listed)
    assert not missing, f"README.md's tree lacks {', '.join(sorted(missing))}"
    for name in listed:
        assert (ROOT / name).exists(), f"README.md's tree has {name}"
