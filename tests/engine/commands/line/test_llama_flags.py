"""llama.cpp's flags: without a meaning here, lacking, or another name; and no flag is taken for another."""

from __future__ import annotations

import re

import pytest
from fake_llm import FakeLLM

from pyllm.__main__ import COMMANDS, main
from pyllm.engine.commands.line import llama_flags
from pyllm.engine.commands.line.parser import LACKING, MODELS, VALUES, Parser
from pyllm.models.errors import UsageError

IGNORED = [name for name in VALUES if name not in LACKING and name not in MODELS and name not in llama_flags.RAW]
SAMPLE = {"N": ["7"], "N N": ["7", "8"], "": []}


def values(name: str) -> list[list[str]]:
    """Return the values that a flag may have, each as words."""
    form = VALUES[name]
    return [[], *([word] for word in form[1:-1].split("|"))] if form.startswith("[") else [SAMPLE[form]]


def test_the_table_has_each_flag_once() -> None:
    rows = [row[0] for row in (*llama_flags.IGNORED, *llama_flags.MODEL, *llama_flags.LACKING)]
    names = [name for row in rows for name in row.split()] + list(llama_flags.RAW)
    assert len(names) == len(set(names))
    assert not set(parser_of("run")._option_string_actions) & set(names), "what pyllm has is not in it"
    assert all(re.fullmatch(r"--?[a-z][a-z0-9-]*", name, re.IGNORECASE) for name in names)


@pytest.mark.parametrize("name", IGNORED)
def test_ignored(name: str, llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in values(name):
        for argv in ([name, *words, model, "hello"], [model, name, *words, "hello"], [model, "hello", name, *words]):
            assert main(["run", "-n", "1", *argv]) == 0
            out, err = capsys.readouterr()
            assert out == "hello\n"
            said = err.splitlines()[0]
            assert name == "--log-disable" or (said.startswith(f"pyllm: {name}") and "llama.cpp" in said)


@pytest.mark.parametrize("name", LACKING)
def test_lacking(name: str, llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    nothing, cure = LACKING[name]
    words = ["other"] * len(values(name)[0] or VALUES[name].split()) if VALUES[name][:1] != "[" else []
    assert main(["run", model, "hello", name, *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"llama.cpp's {name} is not there" in err and cure in err
    if nothing is not None:
        assert main(["run", model, "hello", "-n", "1", name, nothing]) == 0


def test_one_line_for_all_of_them(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-ngl", "0", "-fa", "on", "--no-mmap", "-st", "-cnv", "--color", "--mirostat", "0"]
    assert main(["run", model, "-p", "hello", *given]) == 0
    err = capsys.readouterr().err
    assert err.count("llama.cpp") == 1 and "-ngl 0, -fa on, --no-mmap, -st, -cnv, --color, --mirostat 0" in err
    assert main(["run", model, "-p", "hello", "--json", "--log-disable", *given]) == 0
    assert capsys.readouterr().err == ""


def test_other_names_of_model_and_raw(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["-m", model, "-p", "hello"],
        ["-m", model, "hello"],
        ["hello", "--model", model],
        [f"-m={model}", "hello"],
    ):
        assert main(["run", "-n", "1", *argv]) == 0
        assert capsys.readouterr().out == "hello\n"
    assert main(["run", model, "-p", "hello", "-no-cnv", "--json"]) == 0
    assert '"raw": true' in capsys.readouterr().out
    assert main(["run", "-m", model, model, "x", "y"]) == 2
    assert main(["run", "-m", model, "-m", model, "x"]) == 2


@pytest.mark.parametrize("flag", ["-nx", "-ngl", "-fx", "-sx", "-cx", "-px", "-tx", "--pred", "--temp-x", "--js"])
def test_no_flag_is_taken_for_another(
    flag: str, llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a letter with a value glued to it, nor the beginning of a name."""
    code = main(["run", model, "hello", flag, "1"])
    err = capsys.readouterr().err
    assert (code, "no such flag" in err) == ((0, False) if flag == "-ngl" else (2, True)), err


@pytest.mark.parametrize(("words", "strict"), [([], False), (["--cpu-strict"], True), (["--cpu-strict", "1"], True),
                                               (["--cpu-strict", "0"], False)])  # fmt: skip
def test_switches_that_llama_cpp_gives_a_value(words: list[str], strict: bool) -> None:
    args, ignored = parser_of("run").read([*words, "model", "prompt"])
    assert (args.cpu_strict, args.model, args.text, ignored) == (strict, "model", "prompt", [])


def parser_of(command: str) -> Parser:
    parser = Parser(command)
    COMMANDS[command].add_flags(parser)
    return parser


COUNTS = [
    (command, action.option_strings[-1])
    for command in COMMANDS
    for action in parser_of(command)._actions
    if action.metavar in ("N", "SIZE", "TIME", "X") and action.option_strings
]


@pytest.mark.parametrize(("command", "flag"), COUNTS)
def test_counts(command: str, flag: str) -> None:
    """Whatever stands for a number is one, or an error of the flag: never another error, never another meaning."""
    for given in ("0", "-1", "-2", "", "x", "nan", "1e9", "9" * 30, "0x1", "١"):
        needed = {"perplexity": ["-f", "x"], "study": ["kv"], "quantize": ["a", "b", "Q8_0"]}.get(command, [])
        try:
            parser_of(command).read([*needed, *([f"{flag}={given}"] if flag[1] == "-" else [flag, given])])
        except UsageError as error:
            assert flag in str(error)
        else:
            assert (command, flag, given) != ("perplexity", "--chunks", "0")


def test_numbers_may_be_glued(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "hello", "-n1", "-c64", "-t2"]) == 0
    assert llm.loaded["n_ctx"] == 64 and llm.loaded["n_threads"] == 2


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["inspct"], "inspect"), (["qantize"], "quantize"), (["perplexty"], "perplexity"),
        (["run", "--sed", "1"], "--seed"), (["run", "--cache-typ-k", "q8_0"], "--cache-type-k"),
        (["run", "smolm2", "-p", "x"], "smollm2"), (["inspect", "gemma3-270"], "gemma3-270m"),
        (["run", "x", "-ctk", "q8-0"], "q8_0"), (["run", "x", "-ctv", "Q4_0"], "q4_0"),
        (["run", "x", "--cache-type-k-layers", "0:q80"], "q8_0"), (["run", "x", "--cache-rotate", "non"], "none"),
        (["quantize", "a", "b", "Q4_KM"], "Q4_K_M"), (["perplexity", "-f", "{text}", "-ctk", "q8", "{model}"], "q8_0"),
        (["bench", "--synthetic-type", "q4-0"], "q4_0"), (["bench", "-o", "jsonn"], "json"),
        (["advise", "--task", "chatt"], "chat"), (["study", "kvv"], "kv"),
    ],
)  # fmt: skip
def test_did_you_mean(argv: list[str], meant: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(model=model, text=__file__) for word in argv]) in (2, 3)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"did you mean {meant}?" in err


@pytest.mark.parametrize("flag", ["-d", "--n-depth", "--against", "-r"])
def test_a_value_that_only_ends_flags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse makes an empty list of it."""
    assert main(["bench", "missing.gguf", f"{flag}=--"]) == 2
    assert flag in capsys.readouterr().err


def test_a_path_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "missing.gguf", "--against", "\ud800"]) == 2
    assert "--against" in capsys.readouterr().err
