"""The most that the engine's threads can do here, in bytes and multiply-adds per second; kept in a file per machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ...engine.machine import host
from ...engine.machine.fit import free_memory
from ...engine.machine.units import size
from ...engine.store import ours
from ...kernels.lang.buffers import aligned
from ...kernels.plan import Plan, Team
from ...kernels.roofs import peak, read_loop
from ...models.progress import Progress, silent
from .bandwidth import CHUNK, buffer_bytes, touched

VERSION = 3  # of the files and the meaning of their figures
DRIFT = 0.1  # between a quick check and what was kept; if it is more, everything is measured again
NOISY = 0.1  # between the best of a few measurements and their median
ARRAYS = {"read": 1, "copy": 2, "triad": 3}
SMALLEST = 16 << 10  # bytes per thread
OWN = 2 << 20  # up to this many bytes, a thread reads a share of its own again and again
WORK = 256 << 20  # fewest bytes that a measurement moves
TRIES = 5
PEAK_SECONDS = 0.005
BEGINS = b'{\n "machine": "'  # a file of these; one that begins otherwise is not ours

Curve = dict[int, float]


@dataclass(frozen=True)
class Roofs:
    """The roofs of one machine, each the best of a few measurements."""

    machine: str  # its key, from `machine()`
    cpu: str
    measured: str  # when, in UTC
    last_level_cache: int
    streams: dict[str, dict[int, Curve]]  # kind of ARRAYS -> threads -> bytes of all arrays -> bytes per second
    peaks: dict[str, Curve]  # path of peak.PATHS -> threads -> multiply-adds per second
    spread: float  # how far the median of reading the largest array lies below the best, as a share

    def bandwidth(self, threads: int, nbytes: float = math.inf, kind: str = "read") -> float:
        """Return bytes per second of `threads` that go over `nbytes` again and again, by interpolation."""
        curves = self.streams[kind]
        at = {n: float(np.interp(math.log(max(1, nbytes)), [math.log(s) for s in c], [*c.values()]))
              for n, c in curves.items()}  # fmt: skip
        return _between(at, threads)

    def peak(self, path: str, threads: int) -> float:
        """Return multiply-adds per second of `threads` on one of peak.PATHS, by interpolation."""
        return _between(self.peaks[path], threads)

    @property
    def threads(self) -> list[int]:
        """The numbers of threads that were measured, rising."""
        return list(self.peaks["f32"])


def _between(values: Mapping[int, float], threads: int) -> float:
    """Interpolate values by rising number of threads; more threads count as no slower than fewer."""
    return float(np.interp(threads, [*values], np.maximum.accumulate([*values.values()])))


def machine() -> str:
    """Return a key of all that decides the roofs: CPU, caches, cores, quota, and the way of measuring."""
    caches = [asdict(cache) for cache in host.caches()]
    said = [VERSION, host.cpu_info(), host.cpu_features(), peak.PATHS, host.affinity(), host.cpu_quota(), caches]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def thread_counts(most: int) -> list[int]:
    """Return 1, 2, 4 ... and `most`."""
    return sorted({*(1 << i for i in range(most.bit_length()) if 1 << i <= most), most})


def measure(most: int, progress: Progress = silent, *, largest: int | None = None) -> Roofs:
    """Measure all roofs for 1 to `most` threads. largest: bytes of the largest arrays (None: `buffer_bytes()`)."""
    counts, largest = thread_counts(most), largest or buffer_bytes()
    data: np.ndarray | None = None
    streams: dict[str, dict[int, Curve]] = {kind: {} for kind in ARRAYS}
    peaks: dict[str, Curve] = {path: {} for path in peak.PATHS}
    spread, done, total = 0.0, 0, len(counts) * (len(ARRAYS) + 1)
    for threads in reversed(counts):  # the most threads come first: they write the pages
        team = Team(threads)
        try:
            data = touched(team, largest) if data is None else data
            for kind in ARRAYS:
                progress("measuring this machine", done, total, f"{kind} with {threads} threads")
                rates = {n: _rates(_stream(kind, data, n, threads), team) for n in _sizes(threads, largest)}
                streams[kind][threads] = {n: max(found) for n, found in rates.items()}
                if kind == "read" and threads == most:
                    found = rates[max(rates)]
                    spread = 1 - median(found) / max(found)
                done += 1
            progress("measuring this machine", done, total, f"multiply-adds with {threads} threads")
            for path in peak.PATHS:
                peaks[path][threads] = _peak(path, team)
            done += 1
        finally:
            team.close()
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    ordered = {kind: dict(sorted(curves.items())) for kind, curves in streams.items()}
    return Roofs(machine(), host.cpu_info(), now, host.last_level_cache(), ordered,
                 {path: dict(sorted(curve.items())) for path, curve in peaks.items()}, spread)  # fmt: skip


def _sizes(threads: int, largest: int) -> Iterator[int]:
    nbytes = SMALLEST * threads
    while nbytes < largest:
        yield nbytes
        nbytes *= 2
    yield largest


def _stream(kind: str, data: np.ndarray, nbytes: int, threads: int) -> tuple[Plan, int]:
    """Return a plan that goes over arrays of `nbytes` in total, and the bytes that it moves.

    Small arrays are divided among the threads, so that each share stays in its thread's own cache. Of large ones, the
    next free thread takes the next chunk.
    """
    array = nbytes // ARRAYS[kind]
    small = array <= OWN * threads
    chunk = array // threads // read_loop.STEP * read_loop.STEP if small else CHUNK
    items = threads if small else array // CHUNK
    moved = items * chunk * ARRAYS[kind]
    times = -(-WORK // moved)
    kernel = getattr(read_loop, kind)
    operands: dict[str, Any] = {"data": data, "chunk": chunk, "passes": times if small else 1}
    operands |= {"sums": aligned(64 * threads)} if kind == "read" else {"apart": array // 64 * 64}
    plan = Plan()
    for _ in range(1 if small else times):
        plan.add(kernel.name, kernel, items=items, **operands)
    return plan, moved * times


def _rates(stream: tuple[Plan, int], team: Team) -> list[float]:
    """Return bytes per second of a few runs after the first, which only warms the caches."""
    plan, moved = stream
    return [moved / seconds for seconds in _seconds(plan, team, TRIES)]


def _seconds(plan: Plan, team: Team, tries: int) -> list[float]:
    team.run(plan)
    found = []
    for _ in range(tries):
        begin = perf_counter()
        team.run(plan)
        found.append(perf_counter() - begin)
    return found


def _peak(path: str, team: Team) -> float:
    """Return multiply-adds per second, over enough items to fill a few milliseconds."""
    kernel, macs = peak.peak(path)
    data, sums = aligned(peak.ROOM), aligned(peak.SUMS * team.threads)

    def seconds(items: int, tries: int) -> float:
        plan = Plan()
        plan.add(kernel.name, kernel, items=items, data=data, sums=sums)
        return min(_seconds(plan, team, tries))

    items = 4 * team.threads
    items = max(items, int(items * PEAK_SECONDS / seconds(items, 2)))
    return items * macs / seconds(items, TRIES)


def check(roofs: Roofs, team: Team) -> float:
    """Return how far this machine now differs from `roofs`, as a share, in reading large arrays and in f32 peak."""
    threads, largest = team.threads, buffer_bytes()
    read = max(_rates(_stream("read", aligned(largest), largest, threads), team))
    pairs = ((read, roofs.bandwidth(threads)), (_peak("f32", team), roofs.peak("f32", threads)))
    return max(abs(now / before - 1) for now, before in pairs)


def path(folder: Path) -> Path:
    """Return the file in which the roofs of this machine are kept."""
    return folder / "machine" / f"{machine()}.json"


def keep(roofs: Roofs, folder: Path) -> str:
    """Write the roofs to their file; return "", or a line that says why that failed."""
    to = path(folder)
    try:
        ours.write(to, json.dumps(asdict(roofs), indent=1).encode(), BEGINS)
    except OSError as error:
        return f"{to}: cannot be written ({error.strerror or error}): the next run will measure this machine again"
    return ""


def kept(folder: Path) -> Roofs | None:
    """Return the roofs that were kept for this machine; None if there are none or the file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raw = json.loads(ours.read(path(folder), begins=BEGINS))
        raw["last_level_cache"], raw["spread"] = int(_figure(raw["last_level_cache"])), _figure(raw["spread"])
        raw["streams"] = {
            kind: {int(n): _curve(curve) for n, curve in curves.items()} for kind, curves in raw["streams"].items()
        }
        raw["peaks"] = {name: _curve(curve) for name, curve in raw["peaks"].items()}
        roofs = Roofs(**raw)
        whole = all(roofs.streams[kind] for kind in ARRAYS) and all(roofs.peaks[path] for path in peak.PATHS)
        if whole and roofs.machine == machine():
            return roofs
    return None


def _curve(raw: Mapping[str, float]) -> Curve:
    """Return a curve of the file; raises ValueError if it is empty or has figures that nobody measured."""
    curve = {int(n): _figure(value) for n, value in raw.items()}
    if min(curve) < 1:
        raise ValueError("an array of no bytes, or no threads")
    return curve


def _figure(value: float) -> float:
    """Return a figure of the file as a float; raises ValueError if it is negative, NaN or beyond any machine."""
    if not 0 <= float(value) < 1e18:
        raise ValueError("not a figure of this machine")
    return float(value)


def of_this_machine(
    most: int, folder: Path, progress: Progress, say: Callable[[str], None], *, again: bool = False
) -> Roofs:
    """Return the kept roofs if a quick check confirms them; otherwise, or if `again`, measure and keep them."""
    roofs = None if again else kept(folder)
    if roofs is not None and max(roofs.threads) >= most:
        team = Team(max(roofs.threads))
        try:
            drift = check(roofs, team)
        finally:
            team.close()
        if drift <= DRIFT:
            return roofs
        say(f"this machine differs by {drift:.0%} from the figures kept on {roofs.measured}: measuring it again")
    roofs = measure(most, progress)
    if problem := keep(roofs, folder):
        say(problem)
    return roofs


def warnings(roofs: Roofs) -> Iterator[str]:
    """Yield what a reader must know before trusting the roofs."""
    largest = max(next(iter(roofs.streams["read"].values())))
    if roofs.spread > NOISY:
        yield f"the read bandwidth is noisy: its median lies {roofs.spread:.0%} below its best; figures may not repeat"
    if largest < 2 * roofs.last_level_cache:
        yield (
            f"memory ({size(free_memory()[0])} free) has no room for arrays beyond the last-level cache "
            f"({size(roofs.last_level_cache)}): its bandwidth is not that of the bus"
        )


def table(roofs: Roofs, kind: str) -> tuple[list[str], Sequence[Sequence[str]]]:
    """Return columns and rows of GB/s by size, a column for each number of threads."""
    counts = [*roofs.streams[kind]]
    sizes = sorted({n for curve in roofs.streams[kind].values() for n in curve})
    rows = [
        [size(n), *(f"{c[n] / 1e9:.1f}" if n in (c := roofs.streams[kind][t]) else "" for t in counts)] for n in sizes
    ]
    return [f"{kind}: bytes", *(f"{t} threads" if t > 1 else "1 thread" for t in counts)], rows
