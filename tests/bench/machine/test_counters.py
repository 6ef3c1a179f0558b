"""Counters of memory controllers, found in fake trees of /sys; and conditions that spoil figures."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyllm.bench.machine import counters, noise
from pyllm.bench.machine.counters import Counters, Event, Unavailable, events


def unit(root: Path, name: str, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_text(text + "\n")


SERVER = {
    "type": "14", "cpumask": "0,28", "events/cas_count_read": "event=0x04,umask=0x03", "format/event": "config:0-7",
    "format/umask": "config:8-15", "events/cas_count_read.scale": "6.103515625e-5",
    "events/cas_count_read.unit": "MiB",
}  # fmt: skip


def test_a_servers_controllers(tmp_path: Path) -> None:
    unit(tmp_path, "software", {"type": "1"})
    unit(tmp_path, "uncore_imc_0", SERVER)
    unit(tmp_path, "uncore_imc_1", {**SERVER, "type": "15", "events/cas_count_read.unit": "furlongs"})
    assert events(tmp_path) == [Event("uncore_imc_0", 14, 0x304, (0, 28), 64.0)], (
        "what is not understood is not counted"
    )


def test_a_clients_controller(tmp_path: Path) -> None:
    files = {"type": "9", "cpumask": "0", "events/data_reads": "event=0x01", "format/event": "config:0-7"}
    unit(tmp_path, "uncore_imc", files)
    assert events(tmp_path) == [Event("uncore_imc", 9, 1, (0,), 64.0)]


def test_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="has no"):
        events(tmp_path / "nowhere")
    unit(tmp_path, "software", {"type": "1"})
    with pytest.raises(Unavailable, match=r"names no memory controller .*only software"):
        events(tmp_path)
    unit(tmp_path, "uncore_imc_0", {**SERVER, "format/event": "config1:0-7"})
    with pytest.raises(Unavailable, match="has none of the events"):
        events(tmp_path)
    none = Counters(tmp_path)
    assert none.read() is None and "none of the events" in none.why and "\n" not in none.why


@pytest.mark.parametrize(("error", "words"), [(13, "CAP_PERFMON"), (19, "does not lend")])
def test_they_are_not_lent(tmp_path: Path, error: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(event: Event, cpu: int) -> int:
        raise OSError(error, os.strerror(error))

    (tmp_path / "paranoid").write_text("2\n")
    monkeypatch.setattr(counters, "PARANOID", tmp_path / "paranoid")
    monkeypatch.setattr(counters, "_open", refuse)
    unit(tmp_path, "uncore_imc_0", SERVER)
    found = Counters(tmp_path)
    assert found.read() is None and words in found.why


def test_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files stand in for the counters of two CPUs, which count 64 bytes each time."""
    (tmp_path / "counts").write_bytes((1000).to_bytes(8, "little") * 2)
    unit(tmp_path / "devices", "uncore_imc_0", SERVER)
    monkeypatch.setattr(counters, "_open", lambda event, cpu: os.open(tmp_path / "counts", os.O_RDONLY))
    found = Counters(tmp_path / "devices")
    assert found.why == "" and found.read() == 2 * 64 * 1000
    found.close()
    assert found.read() is None


def test_the_system_call_is_right(tmp_path: Path) -> None:
    """Open a counter that every Linux has, time on a CPU; where even that is not allowed, there is a reason."""
    files = {"type": "1", "cpumask": "0", "events/data_reads": "event=0x00", "format/event": "config:0-7"}
    unit(tmp_path, "uncore_imc", files)
    found = Counters(tmp_path)
    first = found.read()
    if first is None:
        assert found.why
    else:
        sum(range(10**5))
        second = found.read()
        assert second is not None and second > first
    found.close()


def test_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "cpu0/thermal_throttle/core_throttle_count"
    count.parent.mkdir(parents=True)
    count.write_text("3\n")
    assert noise.throttled(tmp_path) == 3 and noise.throttled(tmp_path / "nowhere") == 0
    clock = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr(noise, "monotonic", lambda: next(clock, 110.0))
    monkeypatch.setattr(noise.psutil, "cpu_count", lambda: 2)
    spoiled = [(0.0, 0.0, 3), (12.0, 1.0, 5)]
    for taken, steal, throttled in spoiled:
        monkeypatch.setattr(noise.Others, "_others", staticmethod(lambda taken=taken: taken))
        monkeypatch.setattr(noise.psutil, "cpu_times", lambda steal=steal: SimpleNamespace(steal=steal))
        monkeypatch.setattr(noise, "throttled", lambda throttled=throttled: throttled)
        if taken == 0:
            conditions = noise.Conditions()
    monkeypatch.setattr(noise.host, "cpu_quota", lambda: 0.5)
    half, busy, stolen, hot = conditions.warnings()
    assert "0.5 cores' worth" in half
    assert "took 60%" in busy and "5.0%" in stolen and "throttled 2 times" in hot
