"""The architecture, checked: imports point down, only `kernels` needs Numba, importing is quick, the map is true."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW: dict[str, set[str]] = {
    "kernels": set(),
    "models": {"kernels"},
    "engine": {"kernels", "models"},
    "bench": {"kernels", "models", "engine"},
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each import in a file, wherever it stands; relative ones with the root package's name."""
    package = ["pyllm", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import jit` names a module only in what it imports.
            yield from ((node.lineno, module if node.module else f"{module}.{alias.name}") for alias in node.names)


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


@pytest.mark.parametrize("floor", BELOW)
def test_imports_point_down(floor: str) -> None:
    for path in sources(floor):
        for line, module in imports(path):
            first, _, rest = module.partition(".")
            target = rest.partition(".")[0]
            if first == "pyllm" and target in BELOW:
                assert target in BELOW[floor] | {floor}, f"{path.relative_to(ROOT)}:{line} imports {module}"


@pytest.mark.parametrize("floor", BELOW)
def test_imports_of_our_own_are_relative(floor: str) -> None:
    for path in sources(floor):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                assert name.partition(".")[0] not in {"pyllm", *BELOW}, f"{where} imports {name}: one name per file"


@pytest.mark.parametrize("floor", [floor for floor in BELOW if floor != "kernels"])
def test_only_kernels_imports_numba(floor: str) -> None:
    for path in sources(floor):
        for line, module in imports(path):
            assert module.partition(".")[0] not in {"numba", "llvmlite"}, f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("code", ["import pyllm", "import pyllm.kernels, pyllm.models, pyllm.engine, pyllm.bench"])
def test_packages_are_light(code: str) -> None:
    """pytest imports the root package once more under the folder's name, and `pyllm --help` must not wait for Numba."""
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("floor", BELOW)
def test_modules_say_what_they_are(floor: str) -> None:
    for path in sources(floor):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.relative_to(ROOT)}: no docstring"


@pytest.mark.parametrize("floor", BELOW)
def test_the_readmes_tree_is_true(floor: str) -> None:
    _, _, tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The tree\n")
    listed = {line.split()[0] for line in tree.partition("\n## ")[0].splitlines() if line.startswith("  ")}
    there = {path.relative_to(ROOT / floor).as_posix() for path in sources(floor)} - {"__init__.py"}
    assert there <= listed, f"README.md's tree lacks {floor}/: {', '.join(sorted(there - listed))}"


def test_the_readmes_tree_names_nothing_else() -> None:
    _, _, tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The tree\n")
    folder = ""
    for line in tree.partition("\n## ")[0].splitlines():
        if line.startswith("  "):
            assert (ROOT / folder / line.split()[0]).exists(), f"README.md's tree has {folder}{line.split()[0]}"
        elif "/ " in line:
            folder = line.split()[0]
