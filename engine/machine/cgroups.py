"""The control groups that this process is in, as folders; knows no limit's meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """The groups of a controller ("cpu", "memory") with their version, 1 or 2; a group's limit binds those below it.

    In a container a group's path may be the host's: then where groups are mounted is its own.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                mounts, version = [root / "sys/fs/cgroup"], 2
            elif controller in controllers.split(","):
                names = dict.fromkeys((controller, controllers))  # "cpu", and "cpu,cpuacct"
                mounts, version = [root / "sys/fs/cgroup" / name for name in names], 1
            else:
                continue
            for mount in mounts:
                group = mount / path.strip("/")
                for folder in (group, *group.parents):
                    yield folder, version
                    if folder == mount:
                        break
