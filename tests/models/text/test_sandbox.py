"""The process that renders templates: what it bounds, by construction, and that it comes and goes with ours."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pyllm.models.errors import ModelError, PyllmError
from pyllm.models.text import jinja_worker, sandbox
from pyllm.models.text.template import ChatTemplate

SRC = Path(__file__).parents[3] / "src"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TWICE = "{% set ns = namespace(x='ab', y='') %}{% for i in range(60) %}LOOP{% endfor %}{{ ns.x|length }}"
TUPLES = (
    "{% set ns = namespace(x=()) %}{% for j in range(9) %}{% for i in range(50000) %}{% set ns.x = (ns.x,) %}"
    "{% endfor %}{% endfor %}"
)
BIG = "{% set a = 'a' * 4000000 %}{% set b = 'a' * 5000 ~ 'b' %}"


def render(source: str, content: str = "Hi") -> str:
    return ChatTemplate(source, "", "", "model.gguf").render([{"role": "user", "content": content}])


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)


@pytest.fixture
def new_process() -> Iterator[None]:
    sandbox._close()
    yield
    sandbox._close()


@pytest.fixture
def bounded() -> Callable[[], None]:
    """A check that neither this process nor one that it started took more memory than is allowed."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss
    before = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]

    def check() -> None:
        sandbox._close()  # waited for, it counts
        own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        assert (own - before[0]) * unit < 64 << 20
        fork = own  # until its program is replaced, a new process counts as large as the one that it was made from
        assert children * unit <= max(before[1] * unit, fork * unit, sandbox.MEMORY + (4 << 20))

    return check


@pytest.mark.parametrize(
    "source",
    [
        TUPLES + "{% set d = {ns.x: 1} %}{{ d|length }}",
        TUPLES + "{{ ns.x == ns.x }}{{ ns.x }}",
        TUPLES + "{{ ns.x|tojson }}",
        BIG + "{% for i in range(99) %}{{ a.rfind(b) }}{{ a.find(b) }}{{ a.count(b) }}{% endfor %}",
        BIG + "{% set c = 'bcdefgh' * 80000 %}{{ (c ~ a).strip(a ~ c)|length }}{{ ('x' * 4000000).strip(c ~ 'x') }}"
        "{% for i in range(999) %}{{ a.strip(c ~ a) }}{% endfor %}",
        "{% for i in range(99) %}{{ 1 if (2**10000000 - 1) // (2**5000000 + 1) else 0 }}{% endfor %}",
        "{% for i in range(99) %}{{ 1 if (2**10000000 - 1) % (2**5000000 + 1) else 0 }}{% endfor %}",
        "{{ 7 ** (7 ** (7 ** 7)) }}",
        "{% set a = 'x'|indent(-10**15) %}{% set b = 'y' * 15000000 %}{% for i in range(150) %}{{ b }}{% endfor %}",
        "{% for i in range(100000) %}{{ '" + "a" * 20000 + "' }}{% endfor %}",
        "{% for i in range(100000) %}" + "a" * 20000 + "{% endfor %}",
        "{{ ('%(x)1900000000d' % {'x': 1})|length }}",
        "{{ '{0[}]:>1900000000}'.format({'}': 1})|length }}",
        "{{ '%.1900000000f' % 1 }}",
        "{{ (range(50000)|list)|tojson(separators=('x' * 100000, ':'))|length }}",
        "{{ '\\ud800' }}",
        "{{ messages[0].content[:0] ~ '\\udfff' }}",
        # More of the kind.
        "{% for i in range(450000) %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% for i in range(9) %}{{ f(n - 1) if n }}{% endfor %}{% endmacro %}{{ f(30) }}",
        "{{" + "(" * 60000 + "1" + ")" * 60000 + "}}",
        "{{ 1" + " + 1" * 30000 + " }}",
        "{{ x" + ".x" * 60000 + " }}",
        "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
        "{% for i in [1] %}" * 3000 + "{% endfor %}" * 3000,
        TWICE.replace("LOOP", "{% set ns.x = ns.x ~ ns.x %}"),
        TWICE.replace("LOOP", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        TWICE.replace("LOOP", "{% set ns.x = ns.x|replace('', ns.x) %}"),
        TWICE.replace("LOOP", "{% set ns.x = ns.x|batch(1)|list %}{% set ns.x = ns.x + ns.x %}"),
        TWICE.replace("LOOP", "{% set ns.x = ns.x.encode('utf-16') + ns.x.encode('utf-32') %}"),
        "{{ (range(99999)|list * 99)|join('x' * 999) }}",
        "{{ range(99999)|map('string')|map('center', 99999)|list|length }}",
        "{{ ('a ' * 9000000)|wordwrap(1)|length }}",
        "{{ ('http://a.b/ ' * 900000)|urlize|length }}",
        "{{ ('<' * 9000000)|striptags|length }}{{ ('<' * 9000000)|escape|length }}",
        "{{ lipsum(99999) }}",
        "{{ 'x' * 1000000 }}",
        "{{ range(99999)|batch(1)|sum(start=[])|length }}",
        "{{ [range(99999)|list] * 999 }}",
        "{{ 'x'|center(10**18) }}",
        "{{ (10**4000)|string * 99999 }}",
    ],
)  # fmt: skip
def test_any_template_ends(source: str, one_second: None, bounded: Callable[[], None]) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"^model.gguf: tokenizer.chat_template: cannot be used: ") as error:
        render(source)
    assert "\n" not in str(error.value) and error.value.exit_code == 3
    assert time.monotonic() - start < 4  # a second, the start of a process, and a machine with other work
    bounded()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ('a' * 200000)|length }}", "200000"),
        ("{{ 'ab' * 50000 }}", "ab" * 50000),
        ("{{ (2 ** 10000000) % 10 }}", "6"),
        ("{{ messages[0].content|tojson }}", '"\u0000é\\n\U0001f600\u2028"'),
        ("{{ messages[0].content }}", "\0é\n\U0001f600\u2028"),
        ("{{ strftime_now('%H')|int == NOW }}", "True"),
        ("{{ joiner()() }}{{ cycler(1, 2).next() }}", "1"),
    ],
)
def test_what_stays_within_the_limits_has_its_value(source: str, text: str) -> None:
    source = source.replace("NOW", f"{time.localtime().tm_hour}")
    assert render(source, "\0é\n\U0001f600\u2028").replace("\\u0000", "\0") == text


@pytest.mark.parametrize("source", ["{{ strftime_now('%999999999Y') }}", "{{ strftime_now('%c' * 60000) }}"])
def test_whatever_the_c_library_makes_of_it(source: str, one_second: None, bounded: Callable[[], None]) -> None:
    start = time.monotonic()
    try:
        render(source)
    except ModelError as error:
        assert error.exit_code == 3
    assert time.monotonic() - start < 4
    bounded()


def test_the_limits_that_we_promise(new_process: None) -> None:
    assert sandbox.MEMORY == 256 << 20
    render("{{ 1 }}")
    start = time.monotonic()
    with pytest.raises(ModelError, match="it takes more than 4 s"):
        render(ENDLESS)
    assert 3.9 < time.monotonic() - start < 5
    assert render("{{ 1 }}") == "1"


def test_all_renderings_of_a_conversation_have_one_limit(one_second: None, new_process: None) -> None:
    source = ENDLESS.replace("99999", "2500") + "{{ raise_exception('no') }}"  # about a quarter of a second
    render("{{ 1 }}")
    start = time.monotonic()
    with pytest.raises(sandbox.Broken, match="it takes more than 1 s"), sandbox.rendering(source) as template:
        for _ in range(99):
            with suppress(sandbox.Refused):
                template({})
    assert time.monotonic() - start < 2


def test_one_process_is_kept_and_a_dead_one_replaced(new_process: None) -> None:
    sandbox.start()
    assert sandbox._worker is not None
    first = sandbox._worker.process
    assert render("{{ 1 }}") == render("{{ 1 }}") == "1"
    with pytest.raises(ModelError, match="UndefinedError"):
        render("{{ a.b }}")
    assert sandbox._worker.process is first
    with pytest.raises(ModelError, match="it takes more than 256 MiB"):
        render("{{ 'a' * 300000000 }}")
    assert first.poll() is not None
    assert render("{{ 1 }}") == "1"
    sandbox._worker.process.kill()
    sandbox._worker.process.wait()
    assert render("{{ 1 }}") == "1"


def test_nothing_starts_before_it_is_needed(new_process: None) -> None:
    ChatTemplate("{{ 1 }}", "", "")
    assert sandbox._worker is None


def test_threads_wait_for_each_other() -> None:
    texts: dict[int, str] = {}

    def work(number: int) -> None:
        for _ in range(20):
            texts[number] = render("{{ messages[0].content * 3 }}", f"{number} ")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f"{number} " * 3 for number in range(8)}


def test_memory_is_watched_where_the_system_does_not_limit_it(
    new_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of the system is set far off, as on Windows and macOS; the process grows by steps."""
    monkeypatch.setattr(sandbox, "MEMORY", 1 << 40)
    sandbox.start()
    assert sandbox._worker is not None
    sandbox._worker.wait()
    monkeypatch.setattr(sandbox, "MEMORY", 256 << 20)
    sandbox._worker.polled = True
    with pytest.raises(ModelError, match="it takes more than 256 MiB"):
        render(
            "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x, 'a' * (99999 + i)] %}"
            "{% endfor %}"
        )


def program(code: str) -> subprocess.Popen[str]:
    """Start Python with some code that has rendered a template once, and prints the process that did."""
    head = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from pyllm.models.text import sandbox\n"
        "with sandbox.rendering('{{ 1 }}') as template: assert template({}) == '1'\n"
        "print(sandbox._worker.process.pid, flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True)


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "code", ["", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "1 / 0"]
)
def test_nothing_is_left_behind(code: str) -> None:
    with program(code) as process:
        assert process.stdout is not None
        assert gone(int(process.stdout.readline()), 5)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of CPU time")
def test_nothing_is_left_behind_in_the_middle_of_a_template() -> None:
    code = (
        f"sandbox.SECONDS = 1\nprint('go', flush=True)\nwith sandbox.rendering({ENDLESS!r}) as template: template({{}})"
    )
    with program(code) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "go\n"
        time.sleep(0.2)
        process.kill()
        assert gone(pid, 20)  # of CPU time it has some two seconds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_starts_a_process_of_its_own() -> None:
    code = (
        "import os\npid = os.fork()\n"
        "with sandbox.rendering('{{ x }}') as template: assert template({'x': str(pid)}) == str(pid)\n"
        "sandbox._close(); os._exit(0) if not pid else print(os.waitpid(pid, 0)[1])"
    )
    with program(code) as process:
        assert process.stdout is not None
        assert process.stdout.read().split()[1:] == ["0"]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_closed_streams(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from pyllm.models.text import sandbox\n"
        "with sandbox.rendering('{{ x }}') as template: text = template({'x': 'é'}) + template({'x': 'a'})\n"
        f"open({str(tmp_path / 'text')!r}, 'w', encoding='utf-8').write(text)"
    )
    subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True)
    assert (tmp_path / "text").read_text(encoding="utf-8") == "éa"


def test_a_process_that_does_not_start_is_one_line(new_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in (None, "", "/no/such/python"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(PyllmError, match="the process for chat templates does not start: ") as error:
            render("{{ 1 }}")
        assert error.value.exit_code == 1
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "PROGRAM", "1 / 0")
    with pytest.raises(PyllmError, match="the process for chat templates does not start: it ends the process"):
        render("{{ 1 }}")


def test_the_environment_is_that_of_transformers() -> None:
    environment = jinja_worker.environment()
    assert environment.trim_blocks and environment.lstrip_blocks and environment.sandboxed
    text = "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}"
    assert environment.from_string(text).render() == "1"  # the tag has a scope, as a call block has
