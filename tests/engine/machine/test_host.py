"""What the system says about CPUs, caches and limits, read from made-up trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyllm.engine.machine import host


def cache(root: Path, index: int, **files: str) -> None:
    for name, text in files.items():
        (root / f"cache/index{index}").mkdir(parents=True, exist_ok=True)
        (root / f"cache/index{index}/{name}").write_text(text + "\n")


def test_caches(tmp_path: Path) -> None:
    cache(tmp_path, 0, level="3", type="Unified", size="2048K", shared_cpu_list="0-3,8-11")
    cache(tmp_path, 1, level="1", type="Data", size="48K")
    cache(tmp_path, 2, level="x", type="Data", size="nonsense")
    assert host.caches(tmp_path) == [host.Cache(1, "Data", 48 << 10, 1), host.Cache(3, "Unified", 2 << 20, 8)]
    assert host.last_level_cache(tmp_path) == 2 << 20
    assert host.caches(tmp_path / "nowhere") == [] and host.last_level_cache(tmp_path / "nowhere") == 0


def test_cpu_quota_of_version_2(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/a/b"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    assert host.cpu_quota(tmp_path) is None
    (group / "cpu.max").write_text("max 100000\n")
    assert host.cpu_quota(tmp_path) is None
    (group.parent / "cpu.max").write_text("50000 100000\n")
    assert host.cpu_quota(tmp_path) == 0.5, "a limit binds the groups below it"


def test_cpu_quota_of_version_1(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/cpu,cpuacct/a"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,cpuacct:/a\n3:memory:/a\n")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert host.cpu_quota(tmp_path) is None
    (group / "cpu.cfs_quota_us").write_text("150000\n")
    assert host.cpu_quota(tmp_path) == 1.5


def test_cpus_of_their_own_cores_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5}, raising=False)
    assert host.cpus(tmp_path) == [0, 1, 2, 3, 5]
    for cpu, twins in ((0, "0-1"), (2, "2,3"), (5, "4-5")):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(twins + "\n")
    assert host.cpus(tmp_path) == [0, 2, 5, 1, 3]


def test_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= host.usable_cores() <= host.affinity()
    monkeypatch.setattr(host, "cpu_quota", lambda: 0.3)
    assert host.usable_cores() == 1


def test_nothing_is_told(tmp_path: Path) -> None:
    assert host.cpu_quota(tmp_path) is None and host.affinity() >= 1
    assert host.cpu_info() and host.cpu_features().startswith("dot=")
