"""Chat templates: those of many models, control tokens that stay out of messages, and hostile templates."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF
from pyllm.models.text import sandbox
from pyllm.models.text.template import ChatTemplate
from pyllm.models.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "How high is the sky?"}
CHATS = {
    "plain": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, {"role": "assistant", "content": "Very high."}, {"role": "user", "content": "And blue?"}],
}
# These want more than a chat of texts: a list of tools, or functions.
NOT_FOR_CHATS = {
    "CohereForAI-c4ai-command-r-plus-tool_use": ("for calling tools", list(CHATS)),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("for calling tools", list(CHATS)),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("for calling tools", list(CHATS)),
    "fireworks-ai-llama-3-firefunction-v2": ("'functions' is undefined", list(CHATS)),
}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>", "model.gguf")


def model(folder: Path, **changes: Any) -> GGUF:
    return GGUF.open(tiny.write(folder / "tiny.gguf", **changes))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChatTemplate, Tokenizer]:
    g = model(tmp_path_factory.mktemp("toy"))
    chat = ChatTemplate.from_gguf(g)
    assert chat is not None
    return chat, Tokenizer.from_gguf(g)


def test_templates_of_many_models(shared: Path) -> None:
    paths = sorted((shared / "golden" / "templates").glob("*.jinja"))
    if not paths:
        pytest.skip("no templates: golden/templates is missing")
    for path in paths:
        problem, cases = NOT_FOR_CHATS.get(path.stem, ("", []))
        for name, messages in CHATS.items():
            chat = ChatTemplate(path.read_text(encoding="utf-8"), "<s>", "</s>", path)
            if name in cases:
                with pytest.raises(ModelError, match=problem):
                    chat.render(messages)
            else:
                text = chat.render(messages)
                assert all(message["content"] in text for message in messages), (path.stem, name)
                assert len(chat.render(messages, add_generation_prompt=False)) <= len(text)


@pytest.mark.parametrize(
    "refusal", ["{{ raise_exception('no system') }}", "", "{{ raise_exception(m.content) if loop.index > 9 }}"]
)
def test_a_system_prompt_goes_in_front_where_the_template_has_no_place_for_it(refusal: str) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}REFUSAL{% else %}[{{ m.role }}:{{ m.content }}]{% endif %}"
        "{% endfor %}"
    )
    chat = template(source.replace("REFUSAL", refusal))
    assert chat.render(CHATS["system"]) == "[user:Be brief.\nHow high is the sky?]"
    assert chat.render(CHATS["turns"]).startswith("[user:How high is the sky?][assistant:")
    upper = template("{% for m in messages %}{{ m.content|upper }} {% endfor %}")
    assert upper.render(CHATS["system"]) == "BE BRIEF. HOW HIGH IS THE SKY? "


def test_a_template_that_takes_no_message_says_so_in_its_own_words() -> None:
    chat = template("{{ raise_exception('no ' ~ messages[0].role) }}")
    with pytest.raises(ModelError, match="refuses these messages: 'no system'"):
        chat.render(CHATS["system"])
    with pytest.raises(ModelError, match="refuses these messages: 'no user'"):
        chat.render(CHATS["plain"])


@pytest.mark.real
def test_the_default_model(smollm2: Path) -> None:
    g = GGUF.open(smollm2)
    chat, tokenizer = ChatTemplate.from_gguf(g), Tokenizer.from_gguf(g)
    assert chat is not None
    expected = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHow high is the sky?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.render([USER]) == expected
    assert chat.encode([USER], tokenizer) == tokenizer.encode(expected, special=True)


def test_a_file_without_a_template(tmp_path: Path) -> None:
    assert ChatTemplate.from_gguf(model(tmp_path, chat_template=None)) is None


def test_templates_know_the_tokens_of_the_file(tmp_path: Path) -> None:
    chat = ChatTemplate.from_gguf(model(tmp_path, chat_template="{{ bos_token }}-{{ eos_token }}"))
    assert chat is not None and chat.render([USER]) == "<|endoftext|>-<|im_end|>"


@pytest.mark.parametrize("written", [True, False])
def test_bos_comes_once(tmp_path: Path, written: bool) -> None:
    source = ("{{ bos_token }}" if written else "") + "{{ messages[0].content }}"
    g = model(tmp_path, chat_template=source, overrides={"tokenizer.ggml.add_bos_token": True})
    chat, tokenizer = ChatTemplate.from_gguf(g), Tokenizer.from_gguf(g)
    assert chat is not None
    assert chat.encode([USER], tokenizer) == [tokenizer.bos_id, *tokenizer.encode(USER["content"])]


@settings(deadline=None)
@given(
    content=st.lists(st.text(max_size=5) | st.sampled_from([*tiny.CONTROL, "<|im_", "end|>", "\U000f0000"])).map(
        "".join
    )
)
def test_control_tokens_in_a_message_are_text(toy: tuple[ChatTemplate, Tokenizer], content: str) -> None:
    chat, tokenizer = toy
    ids = chat.encode([{"role": "user", "content": content}], tokenizer)
    assert [tokenizer.decode([i], special=True) for i in ids if i in tokenizer.control] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert tokenizer.decode(ids) == f"user\n{content}\nassistant\n"


def test_what_transformers_gives_a_template() -> None:
    for source, expected in {
        "{% for m in messages %}\n  {% if loop.first %}\nx\n  {% endif %}\n{% endfor %}\n": "x\n",
        "{{ {'b': 'é<', 'a': [1]}|tojson }}": '{"b": "é<", "a": [1]}',
        "{{ {'a': 1}|tojson(indent=2) }}": '{\n  "a": 1\n}',
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}": "01",
        "{% generation %}{{ 'x' }}{% endgeneration %}": "x",
        "{{ strftime_now('%Y')|length }}": "4",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}": "1",
        "{{ ['a', 'b']|join(', ') ~ 1 ~ none }}": "a, b1None",
        "{{ ', '.join(messages|map(attribute='role')) }}": "user",
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}": "1",
        "{{ '%s is %03d' % ('x', 7) }}{{ '{} {{}} {:>3}'.format(1, 'ab') }}": "x is 0071 {}  ab",
        "{{ 'in 2024: {}'.format(1) }}": "in 2024: 1",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('a') + f('b') }}": "[a][b]",
        "{{ [1, 2, 3][1:] }}{{ 2 ** 10 }}{{ 'ab' * 2 }}{{ 7 % 4 }}": "[2, 3]1024abab3",
        "{{ tools is none }}{{ nothing }}{{ nothing is defined }}": "TrueFalse",
        "{{ 'x'|center(5) }}{{ lipsum() is string }}{{ '\\N{BULLET}' }}{{ [1]|pprint }}": "  x  True•[1]",
        "{% filter upper %}a{% endfilter %}{{ 'a\nb'|indent(2) }}": "Aa\n  b",
    }.items():
        assert template(source).render([USER]) == expected, source


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "refuses these messages: 'roles must\\nalternate'"),
        ("{% for %}", 'cannot be used: "TemplateSyntaxError'),
        ("{{ messages[0].content.foo.bar }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ (''|attr('__class__')).x }}", "SecurityError"),
        ("{{ raise_exception.__globals__.sys }}", "SecurityError"),
        ("{% include 'x' %}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("(" * 5000 + "{{" + "(" * 5000, "cannot be used"),
        ("{{" + "[" * 5000, "RecursionError"),
        ("x" * 200_000, "it has 200,000 characters, more than 131,072"),
    ],
)
def test_a_broken_template_is_an_error(source: str, problem: str) -> None:
    with pytest.raises(ModelError) as error:
        template(source).render([USER])
    message = str(error.value)
    assert message.startswith("model.gguf: tokenizer.chat_template: ")
    assert problem in message
    assert message.endswith("; use --raw to continue a text without a template")
    assert "\n" not in message and len(message) < 400


def test_a_template_that_makes_nothing_is_an_error(toy: tuple[ChatTemplate, Tokenizer]) -> None:
    with pytest.raises(ModelError, match="gives no text for these messages"):
        template("{# #}").encode([USER], toy[1])


UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss

GROW = (
    "{% set ns = namespace(x='ab', y=[1], f='') %}{% for i in range(64) %}{% set ns.x = GROW %}{% endfor %}{{ ns.x }}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in [[1] * 999] * 9 recursive %}{{ loop(i) if i is iterable }}{{ loop([[1] * 99] * 99) }}{% endfor %}",
        "{% set x %}{% for i in range(400000) %}" + "y" * 100_000 + "{% endfor %}{% endset %}",
        "{{ 'a' * 300000000 }}",
        "{{ [1] * 300000000 }}",
        "{{ 300000000 * ('a',) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 999999999) }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ 'x'.zfill(999999999) }}",
        "{{ (1).to_bytes(999999999, 'big') }}",
        "{{ 'x'|indent(999999999, true) }}",
        "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999).replace('', 'y' * 99999) }}",
        "{{ range(99999)|join('y' * 99999) }}",
        "{{ ('y' * 99999).join(['x'] * 99999) }}",
        "{{ ('y' * 99999).join((['x'] * 99999)|map('upper')) }}",
        "{{ ('{0}' * 99999).format('y' * 99999) }}",
        "{{ ('%s' * 999) % (['y' * 99999] * 999)|list }}",
        "{{ [1]|tojson(indent=999999999) }}",
        "{% set ns = namespace(x=[1] * 90000) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}"
        "{{ ns.x|tojson(indent=16) }}",
        "{% set a = -999999999999 %}{{ a|burn }}{% for i in range(99999999) %}{% endfor %}",
        *(
            GROW.replace("GROW", growth)
            for growth in (
                "ns.x + ns.x", "ns.x ~ ns.x", "ns.x * 2", "[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}", "(ns.x, ns.x)",
                "dict(a=ns.x, b=ns.x)", "namespace(a=ns.x, b=ns.x)", "'%s%s' % (ns.x, ns.x)", "'{0}{0}'.format(ns.x)",
                "ns.x|replace('a', ns.x)", "[ns.x, ns.x]|join(ns.x)", "[ns.x, ns.x]|tojson", "[ns.x, ns.x]|upper",
                "[ns.x, ns.x]|list + [ns.x]", "ns.x|length * 'ab' * 2", "(ns.x|length) ** 9 * 'a'",
            )
        ),
        "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    ],
)  # fmt: skip
def test_a_template_cannot_take_all_time_and_memory(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")  # Windows does not have it
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="cannot be used"):
        template(source).render([USER])
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (500 << 20) / UNIT


def test_a_long_chat_is_not_too_much() -> None:
    """Some templates look through all messages for each message, and add up the text."""
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.last = 0 %}{% for n in messages %}"
        "{% if n.role == 'user' and loop.index0 > 2 %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% set ns.text = ns.text ~ m.role ~ m['content']|trim %}{% endfor %}{{ ns.text }}"
    )
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 400} for i in range(200)]
    start = time.monotonic()
    text = template(source).render(messages)
    assert len(text) == sum(len(m["role"]) + len(m["content"].strip()) for m in messages)
    assert time.monotonic() - start < 5
