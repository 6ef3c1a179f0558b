"""Bytes that memory controllers count, where the system allows reading them; otherwise one line that says why.

Linux only: perf_event_open on the uncore units that /sys names. They count for all programs, not for ours alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/sys/bus/event_source/devices")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
UNITS = ("uncore_imc*", "amd_umc*", "amd_df", "arm_cmn*")  # memory controllers and the fabrics in front of them
EVENTS = ("cas_count_read", "cas_count.read", "data_reads", "data_read")  # reads, by their makers' names
_CALL = {"x86_64": 298, "aarch64": 241}  # perf_event_open, Linux
_SCALES = {"MiB": 1 << 20, "KiB": 1 << 10, "Bytes": 1, "": 1}


@dataclass(frozen=True)
class Event:
    """A counter of bytes that one unit offers."""

    unit: str
    kind: int  # `type` of perf_event_attr
    config: int
    cpus: tuple[int, ...]  # through which it is opened
    scale: float  # bytes per count


class Unavailable(Exception):
    """Raised where there are no counters; the message says why."""


def events(devices: Path = DEVICES) -> list[Event]:
    """Return the read counter of each memory controller. Raises Unavailable."""
    if not devices.is_dir():
        raise Unavailable(f"this system has no {devices}")
    units = [unit for pattern in UNITS for unit in sorted(devices.glob(pattern))]
    if not units:
        there = ", ".join(sorted(unit.name for unit in devices.iterdir()))
        raise Unavailable(
            f"the system names no memory controller in {devices} (only {there}): a virtual machine, perhaps"
        )
    found = [event for unit in units for event in _events(unit)]
    if not found:
        raise Unavailable(f"{units[0]} has none of the events {', '.join(EVENTS)}")
    return found


def _events(unit: Path) -> Iterator[Event]:
    for name in EVENTS:
        with suppress(OSError, ValueError, KeyError):
            config = _config(unit, (unit / "events" / name).read_text())
            scale, unit_of = 64.0, "Bytes"  # without a scale a count is a cache line
            with suppress(OSError):
                scale = float((unit / "events" / f"{name}.scale").read_text())
                unit_of = (unit / "events" / f"{name}.unit").read_text().strip()
            cpus = tuple(int(n) for n in re.findall(r"\d+", (unit / "cpumask").read_text()))
            yield Event(unit.name, int((unit / "type").read_text()), config, cpus, scale * _SCALES[unit_of])
            return


def _config(unit: Path, terms: str) -> int:
    """Return the config of terms such as `event=0x04,umask=0x03`, each at the bits that the unit's `format` names."""
    config = 0
    for term in terms.strip().split(","):
        name, _, value = term.partition("=")
        bits = re.fullmatch(r"config:(\d+)(?:-\d+)?", (unit / "format" / name).read_text().strip())
        if bits is None:
            raise ValueError(name)
        config |= int(value or "1", 0) << int(bits[1])
    return config


def _open(event: Event, cpu: int) -> int:
    attributes = struct.pack("=IIQ", event.kind, 112, event.config).ljust(112, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(_CALL[platform.machine()], attributes, -1, cpu, -1, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)


class Counters:
    """The hardware's counters of bytes read from memory. `why` says why there are none, if so."""

    def __init__(self, devices: Path = DEVICES) -> None:
        self.why = ""
        self._files: list[tuple[int, float]] = []
        try:
            for event in events(devices):
                self._files += [(_open(event, cpu), event.scale) for cpu in event.cpus]
        except Unavailable as reason:
            self.why = str(reason)
        except KeyError:
            self.why = f"unknown on {platform.machine()}"
        except OSError as error:
            self.why = f"they exist, but the system does not lend them ({error.strerror}){_cure(error)}"
            self.close()

    def read(self) -> float | None:
        """Return the bytes read until now, or None where there are no counters."""
        if not self._files:
            return None
        return float(sum(scale * int.from_bytes(os.read(file, 8), sys.byteorder) for file, scale in self._files))

    def close(self) -> None:
        for file, _ in self._files:
            os.close(file)
        self._files.clear()


def _cure(error: OSError) -> str:
    if error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    with suppress(OSError):
        return f": perf_event_paranoid is {PARANOID.read_text().strip()}; 0, or CAP_PERFMON, would lend them"
    return ""
