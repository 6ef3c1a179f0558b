"""Fixtures that the tests share: the default model, and the reference outputs beside the repository."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pyllm.engine.store import sources
from pyllm.models.errors import PyllmError

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    fuzz = parser.getgroup("fuzz", "of `pytest -m fuzz` and `pytest -m soak`")
    fuzz.addoption("--seconds", type=float, default=30.0, help="how long it runs (default: 30)")
    fuzz.addoption("--seed", type=int, default=0, help="the number of the first case or schedule (default: 0)")
    fuzz.addoption("--cases", type=int, default=0, help="how many cases it runs at most (default: any number)")
    fuzz.addoption("--findings", metavar="FOLDER", help="where inputs and figures are kept")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Restore Ctrl-C: the workers of pytest-xdist ignore it, and so would the programs that tests start from them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the default model's file, fetched as in a user's first run."""
    try:
        return sources.resolve(None, offline=bool(os.environ.get("PYLLM_TEST_OFFLINE")))
    except PyllmError as error:
        if os.environ.get("PYLLM_TEST_OFFLINE"):
            pytest.skip(f"PYLLM_TEST_OFFLINE is set and the default model is not here: {error}")
        raise


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Return Gemma 3 270M if it was pulled before: it is large, and its licence must be accepted."""
    try:
        return sources.resolve("gemma3-270m", offline=True)
    except PyllmError as error:
        pytest.skip(f"`pyllm pull gemma3-270m` was not run: {error}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference outputs (llama.cpp's logits, token ids); PYLLM_SHARED overrides its path."""
    folder = Path(os.environ.get("PYLLM_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference outputs: {folder / 'golden'} is missing (PYLLM_SHARED names another folder)")
    return folder
