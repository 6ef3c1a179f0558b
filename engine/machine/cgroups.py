"""The control groups of this process, as folders; knows nothing of the limits in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """Yield the groups of a controller ("cpu", "memory") with their version, 1 or 2, from the innermost outwards.

    A group's limit binds the groups inside it. In a container a group's path may be the host's, which does not exist
    there; then the mount itself is the container's group.
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
