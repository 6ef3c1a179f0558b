"""pyllm from Python: LLM over tiny models, and what the package shows of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import tiny

import pyllm
from pyllm import LLM, CacheSpec, Piece, PyllmError, SamplingParams
from pyllm.bench.quality.attention_errors import rotated
from pyllm.engine.request import Request

ROOT = Path(__file__).parents[2]
TOKENS: list[int] = np.random.default_rng(1).integers(3, 259, 70).tolist()
CHAT = [{"role": "user", "content": "hello world"}]
SHORT = SamplingParams(seed=3, max_tokens=8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf")


@pytest.fixture(scope="module")
def llm(file: Path) -> Iterator[LLM]:
    with LLM(file, n_ctx=128, cache_type_k="f32", cache_type_v="f32", n_threads=1, n_batch=32) as one:
        yield one


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """Layers 0 to 4 and 6 see 24 tokens, layer 5 sees all."""
    made = {key: value for key, value in architectures.MODELS["gemma3"].items() if key != "mixed"}
    path = tiny.write(tmp_path_factory.mktemp("windowed") / "m.gguf", **made)
    with LLM(path, n_ctx=1024, cache_type_k="f32", cache_type_v="f32", n_threads=1, n_batch=32) as one:
        yield one


def test_one_text_and_several(llm: LLM) -> None:
    one = llm.generate("hello", SHORT)
    assert one.text and one.prompt_tokens == len(llm.tokenize("hello", bos=True))
    assert one.text == llm.detokenize(one.tokens)
    assert one.timings.load == llm.load_time > 0 and one.bytes.kv_cache == llm.kv_bytes
    first, second = llm.generate(["hello", "the world"], SHORT)
    assert first.text == one.text and second.prompt_tokens == len(llm.tokenize("the world", bos=True))
    assert llm.generate([]) == []


def test_one_scheduler_at_a_time(llm: LLM) -> None:
    first = llm.scheduler()
    first.add(Request([5, 6], SHORT))
    for second in (llm.scheduler, lambda: llm.generate(["hello"])):
        with pytest.raises(pyllm.UsageError, match="another one has requests under way; use that, or close it first"):
            second()
    while not first.idle:
        first.step()
    assert llm.generate(["hello"], SHORT)[0].stop == "limit"
    with pytest.raises(pyllm.UsageError, match="this scheduler is closed"):
        first.add(Request([5, 6], SHORT))
    assert all(pool.free == pool.size for pool in llm.pools)


def test_rope_follows_the_context_of_a_sequence(tmp_path: Path) -> None:
    """Phi 3 has other factors for long contexts: many sequences of a short one are no long one."""
    with LLM(architectures.write(tmp_path, "phi3", "f32"), n_ctx=64, n_threads=1) as alone:
        expected = alone.logits(TOKENS[:20])
        with alone.beside(alone.cache, n_ctx=256, sequences=4, sequence_ctx=64) as several:
            assert several.sequence_ctx == 64
            np.testing.assert_array_equal(several.logits(TOKENS[:20]), expected)
        with alone.beside(alone.cache, n_ctx=256) as longer:
            assert longer.sequence_ctx == 256 and (longer.logits(TOKENS[:20]) != expected).any()


def test_a_stop_string_ends_an_answer(llm: LLM) -> None:
    whole = llm.generate("hello", SHORT)
    stop = whole.text[len(whole.text) // 2 :][:2]
    params = replace(SHORT, stop=(stop,))
    for answer in (llm.generate("hello", params), *llm.generate(["hello"], params)):
        assert answer.stop == "stop" and answer.text == whole.text[: whole.text.index(stop)]
        assert answer.tokens == whole.tokens[: len(answer.tokens)]


def test_the_same_seed_gives_the_same_text(llm: LLM) -> None:
    a = llm.generate("hello", SamplingParams(max_tokens=20))
    b = llm.generate("hello", SamplingParams(max_tokens=20, seed=a.seed))
    c = llm.generate("hello", SamplingParams(max_tokens=20, seed=a.seed + 1))
    assert a.tokens == b.tokens != c.tokens and a.seed == b.seed


def test_a_streams_pieces_are_the_text(llm: LLM) -> None:
    pieces = list(llm.stream("hello", SHORT))
    whole = llm.generate("hello", SHORT)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(piece.token for piece in pieces[:-1]) == whole.tokens
    assert [piece.stop for piece in pieces] == [None] * len(whole.tokens) + [whole.stop]


def test_a_chat_is_the_stream_of_its_messages(llm: LLM) -> None:
    answer = llm.chat(CHAT, SHORT)
    assert "".join(piece.text for piece in llm.stream(CHAT, SHORT)) == answer.text
    assert llm.template is not None and answer.prompt_tokens == len(llm.template.encode(CHAT, llm.tokenizer))


def test_another_answer_ends_a_stream(llm: LLM) -> None:
    stream = llm.stream("hello", SHORT)
    assert next(stream).stop is None
    other = llm.generate("the world", SHORT)
    assert list(stream) == [Piece("", "interrupt")]
    assert llm.generate("the world", SHORT).tokens == other.tokens


def test_why_an_answer_stops(llm: LLM) -> None:
    assert llm.generate("hello", SHORT).stop == "limit"
    assert llm.generate("hello", SamplingParams(max_tokens=0)).tokens == ()
    ended = llm.tokenizer.eog
    llm.tokenizer.eog = frozenset()
    try:
        full = llm.generate("hello", SamplingParams(seed=1))
        assert full.stop == "context" and full.prompt_tokens + len(full.tokens) == llm.n_ctx + 1
        llm.tokenizer.eog = frozenset({full.tokens[5]})
        early = llm.generate("hello", SamplingParams(seed=1))
    finally:
        llm.tokenizer.eog = ended
    assert early.stop == "eog" and early.tokens == full.tokens[: full.tokens.index(full.tokens[5])]


def test_logits(llm: LLM) -> None:
    got = llm.logits(TOKENS)
    assert (got.shape, got.dtype) == ((len(TOKENS), llm.config.n_vocab), np.float32)
    llm._session().rewind(0)  # the cache has room for one sequence of this length
    session = llm.session()
    for start, rows in session.score(TOKENS):
        np.testing.assert_array_equal(rows, got[start : start + len(rows)])
    session.close()


@pytest.mark.parametrize("types", [("f32", "f32"), ("q8_0", "q4_0")])
def test_kv_is_what_the_cache_holds(llm: LLM, types: tuple[str, str]) -> None:
    with llm.beside(CacheSpec(*types)) as other:
        other.logits(TOKENS)
        last = TOKENS[len(TOKENS) // other.model.max_logits * other.model.max_logits :]
        for layer, probe in enumerate(other.attended()):
            k, v = other.kv(layer)
            assert k.shape == v.shape == (len(TOKENS), other.config.n_head_kv, other.config.head_dim_k)
            assert k.dtype == v.dtype == np.float32
            np.testing.assert_array_equal(k[-len(last) :], probe.k)
            np.testing.assert_array_equal(v[-len(last) :], probe.v)


def test_rotated_k_is_the_hadamard_transform_of_k(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", head_dim=64)
    with LLM(path, n_ctx=128, cache_type_k="f32", n_threads=1) as exact:
        exact.logits(TOKENS)
        k = exact.kv(0)[0]
        with exact.beside(CacheSpec("q8_0", rotate="k")) as other:
            other.logits(TOKENS)
            assert np.abs(rotated(other.kv(0)[0], 64) - k).max() < np.abs(k).max() / 50


def test_kv_of_a_window_is_the_last_tokens(windowed: LLM) -> None:
    tokens = TOKENS * 13
    windowed.logits(tokens)
    whole, window = windowed.kv(5)[0], windowed.kv(0)[0]
    assert len(whole) == len(tokens) > len(window) >= 24
    windowed.logits(tokens[:30])
    assert len(windowed.kv(0)[0]) == 30


@pytest.mark.parametrize("layer", [0, 5])
def test_attention_sums_to_1_and_sees_what_the_layer_sees(windowed: LLM, layer: int) -> None:
    windowed.logits(TOKENS)
    weights, n = windowed.attention(layer), len(TOKENS)
    assert (weights.shape, weights.dtype) == ((n, windowed.config.n_head, n), np.float32)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    back = np.arange(n)[:, None] - np.arange(n)
    window = windowed.config.layers[layer].window
    seen = (back >= 0) & ((back < window) if window else True)
    assert (weights.transpose(0, 2, 1)[~seen] == 0).all() and (weights.transpose(0, 2, 1)[seen] > 0).all()
    assert windowed._session().tokens == TOKENS


def test_attention_is_the_models_own(llm: LLM) -> None:
    """A·V by attention() and kv() is, in each layer, what the kernels gave out."""
    for layer in range(llm.config.n_layer):
        llm.logits(TOKENS)
        v = np.repeat(llm.kv(layer)[1], llm.config.n_head // llm.config.n_head_kv, axis=1)
        want = np.einsum("rht,thd->rhd", llm.attention(layer), v)
        last = len(TOKENS) % llm.model.n_batch  # rows of attention()'s last step
        np.testing.assert_allclose(attention_output(llm, layer, last), want[-last:].reshape(last, -1), atol=2e-5)


def attention_output(llm: LLM, layer: int, rows: int) -> Any:
    """Repeat the last step and return what a layer's attention gives out, (rows, heads * head_dim)."""
    layers = iter(range(llm.config.n_layer))
    for op in llm.model.last.ops:
        op.kernel.run(op.args, 0, op.items * int(op.times[0]))
        if op.name == "combine" and next(layers) == layer:
            assert op.output is not None
            return op.output[0][:rows].copy()
    raise AssertionError(f"no attention of layer {layer}")


def test_with_closes(file: Path) -> None:
    with LLM(file, n_ctx=64) as one:
        stream = one.stream("hello")
        next(stream)
    assert list(stream)[-1].stop == "interrupt"
    one.close()
    for use in (lambda: one.generate("hello"), lambda: one.logits([5]), one.session):
        with pytest.raises(PyllmError, match="closed"):
            use()


def _loads(**settings: Any) -> Callable[[LLM, Path], object]:
    return lambda llm, file: LLM(file, **settings)


WRONG: dict[str, tuple[Callable[[LLM, Path], object], str]] = {
    "unknown type": (_loads(cache_type_k="q9"), "--cache-type-k.*q9.*q8_0"),
    "map of too many layers": (_loads(cache_type_v="0-5:f16,*:q8_0"), "layers 0-5|0-5.*2 layers"),
    "unknown rotation": (_loads(cache_rotate="x"), "auto"),
    "types twice": (_loads(cache_type_k="q8_0", cache=CacheSpec()), "leave out"),
    "no context": (_loads(n_ctx=0), "n_ctx: is 0"),
    "no threads": (_loads(n_threads=-1), "n_threads: is -1"),
    "no batch": (_loads(n_batch=0), "n_batch: is 0"),
    "too large": (_loads(n_ctx=10**10), "would fit"),
    "no cache beside": (lambda llm, file: llm.beside(CacheSpec(), n_ctx=-1), "n_ctx: is -1"),
    "no file": (lambda llm, file: LLM("nothing-here.gguf"), "nothing-here.gguf: file: no such file"),
    "no model": (lambda llm, file: LLM(Path(__file__)), "GGUF"),
    "layer": (lambda llm, file: (llm.logits([5]), llm.kv(2)), "layer 2.*0 to 1"),
    "negative layer": (lambda llm, file: llm.attention(-1), "layer -1"),
    "no prompt": (lambda llm, file: llm.generate(""), "empty"),
    "long prompt": (lambda llm, file: llm.generate("hello" * 200), "do not fit in the context of 128"),
    "long stream": (lambda llm, file: list(llm.stream("hello" * 200)), "do not fit"),
    "no tokens": (lambda llm, file: llm.logits([]), "empty"),
    "token": (lambda llm, file: llm.logits([5, 10**6]), "token 1000000: .* 0 to"),
    "token of no text": (lambda llm, file: llm.detokenize([-1]), "token -1"),
    "message": (lambda llm, file: llm.chat([{"role": "user"}]), "content"),
    "text as messages": (lambda llm, file: llm.chat("hello"), "messages"),  # type: ignore[arg-type]
    "parameter": (lambda llm, file: SamplingParams(top_p=2), "--top-p: is 2"),
    "policy": (lambda llm, file: CacheSpec(policy="x"), "policy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_one_line(llm: LLM, file: Path, name: str) -> None:
    does, message = WRONG[name]
    with pytest.raises(PyllmError, match=message) as caught:
        does(llm, file)
    assert "\n" not in str(caught.value)
    assert llm.generate("hello", SHORT).stop == "limit", "it still answers"


def test_no_template(tmp_path: Path) -> None:
    with LLM(tiny.write(tmp_path / "m.gguf", chat_template=None), n_ctx=64, n_threads=1) as one:
        with pytest.raises(pyllm.UsageError, match="no chat template"):
            one.chat(CHAT)
        with pytest.raises(pyllm.UsageError, match="no tokens"):
            one.kv(0)


def test_importing_is_light() -> None:
    program = "import sys, pyllm; dir(pyllm); print(sorted({'numpy', 'numba'} & {*sys.modules}))"
    assert run("-c", program) == "[]\n"


def test_dir() -> None:
    assert {*pyllm.__all__} <= {*dir(pyllm)}
    assert all(getattr(pyllm, name) is not None for name in pyllm.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        pyllm.nothing  # noqa: B018


PROGRAM = """
import pyllm

def answer(text: str) -> str:
    with pyllm.LLM(cache=pyllm.CacheSpec("q8_0", "q4_0")) as llm:
        done: pyllm.Completion = llm.generate(text, pyllm.SamplingParams(seed=1))
        both: list[pyllm.Completion] = llm.generate([text, text])
        k, v = llm.kv(0)
        rate: float = done.timings.decode_rate
        return "".join(piece.text for piece in llm.stream(text)) + both[0].text + str(k.shape) + str(rate)
"""


def test_a_program_is_typed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\nfollow_imports = silent\n")
    run("-m", "mypy", "--config-file", str(tmp_path / "mypy.ini"), str(tmp_path / "program.py"))


def run(*words: str) -> str:
    """Return what Python prints, given these words, with this repository's package first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
