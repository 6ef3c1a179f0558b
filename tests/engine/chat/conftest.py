"""A chat with a fake model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import tiny
from fake_llm import FakeLLM

from pyllm.engine.chat.chat import Chat
from pyllm.engine.commands import screen
from pyllm.engine.sampler import SamplingParams
from pyllm.models.file.gguf import GGUF


@pytest.fixture
def llm(tmp_path: Path) -> FakeLLM:
    return FakeLLM(GGUF.open(tiny.write(tmp_path / "tiny.gguf")))


@pytest.fixture
def chat(llm: FakeLLM) -> Chat:
    return Chat(llm, SamplingParams(), screen, load=0.5, out=io.StringIO())  # type: ignore[arg-type]
