"""A forward pass as a list of operations, recorded once and replayed by a team of threads without Python.

An operation is a kernel, its arguments, its number of items and its cost. The threads take items from a shared counter,
so a slow core does not hold up the others. Between operations that depend on each other is a barrier, which waits for
items and not for threads: a thread that lost its core after its last item holds up nobody. A single-threaded (solo)
operation needs no barrier of its own: the thread that finishes the last item before it runs it and then releases the
others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .lang.buffers import LINE, aligned, offsets
from .lang.jit import Kernel, inline, jit
from .lang.memory import peek_i32, peek_i64, poke_i64
from .lang.sync import call_kernel, clock, fetch_add, give_way, load_acquire, pause

Array = npt.NDArray[Any]

OP = np.dtype(
    [
        ("kernel", "<i8"),  # its address
        ("args", "<i8"),  # address of its record
        ("items", "<i8"),  # items of the operation, times ...
        ("times", "<i8"),  # ... the int64 at this address, which the step sets
        ("grain", "<i4"),  # items taken at once
        ("kind", "<i4"),  # what follows it: _FREE, _BARRIER; _SOLO: it is itself single-threaded
        ("count", "<i8"),  # items of this run: a late thread must not see what the next step sets
        ("next", "<i8"),  # the next item to take
        ("done", "<i8"),  # of a barrier: items done since the one before it, and 1 for the solo operations after it
    ]
)
_KERNEL, _ARGS, _ITEMS, _TIMES, _GRAIN, _KIND, _COUNT, _NEXT, _DONE = offsets(OP)
_OP_BYTES = OP.itemsize
_FREE, _BARRIER, _SOLO = range(3)
_ONE = np.ones(1, np.int64)


@dataclass(frozen=True)
class Cost:
    """The cost of an operation: bytes by kind, multiply-adds by kind."""

    weights: int = 0
    k: int = 0
    v: int = 0
    activations: int = 0
    macs_i8: int = 0
    macs_bf16: int = 0
    macs_f32: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        return self.weights, self.k, self.v, self.activations, self.macs_i8, self.macs_bf16, self.macs_f32


Output = tuple[Array, Array] | Callable[[], tuple[Array, ...]]
"""What an operation writes: float32 rows and how many there are (int64), or a function that returns its numbers."""

CostOf = Callable[[int, int], Cost]
"""Returns the cost of a step of n rows, given n and the tokens in the cache after it."""


def free(rows: int, context: int) -> Cost:
    """Return a cost of nothing, for operations too small to count."""
    return Cost()


@dataclass
class Op:
    name: str
    kernel: Kernel
    args: Array
    items: int
    times: Array
    grain: int
    kind: int
    cost: CostOf
    part: str = ""  # the part of the model, by GGUF's names: "blk.3"
    output: Output | None = field(repr=False, default=None)
    operands: tuple[Array, ...] = field(repr=False, default=())

    @property
    def solo(self) -> bool:
        """True for a single-threaded operation."""
        return self.kind == _SOLO


class Plan:
    """The operations of a step, in order. `add` records; `table` makes them ready to replay."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.part = ""  # of the operations that are added next
        self._table: Array | None = None
        self.address = 0  # of the table, once it was asked for

    def add(
        self,
        name: str,
        kernel: Kernel,
        *,
        items: int,
        times: Array = _ONE,
        grain: int = 1,
        barrier: bool = True,
        solo: bool = False,
        cost: CostOf = free,
        output: Output | None = None,
        **operands: Array | int | float,
    ) -> None:
        """Record an operation of items * times[0] items.

        operands: the fields of the kernel's record by name; an array stands for its address. With barrier=False the
        next operation may start before this one is done. solo: a single-threaded operation, run by the thread that
        finished the operation before it. output: see Op.
        """
        assert not solo or (self.ops and self.ops[-1].kind != _FREE), name
        kind = _SOLO if solo else _BARRIER if barrier else _FREE
        args = kernel.record(**operands)
        held = tuple(v for v in operands.values() if isinstance(v, np.ndarray))
        self.ops.append(Op(name, kernel, args, items, times, grain, kind, cost, self.part, output, held))
        self._table = None

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels of the plan, each once."""
        return list(dict.fromkeys(op.kernel for op in self.ops))

    @property
    def table(self) -> Array:
        """The operations as `replay` reads them, shape (ops,) of OP; compiles kernels that are not compiled yet."""
        if self._table is None:
            table = aligned(len(self.ops) * OP.itemsize).view(OP)
            for row, op in zip(table, self.ops, strict=True):
                row["kernel"], row["args"] = op.kernel.address, op.args.ctypes.data
                row["items"], row["times"] = op.items, op.times.ctypes.data
                row["grain"], row["kind"] = op.grain, op.kind
            table[-1]["kind"] = max(table[-1]["kind"], _BARRIER)
            self._table, self.address = table, table.ctypes.data
        return self._table

    def cost(self, rows: int, context: int) -> Cost:
        """Return the cost of a step of `rows` tokens, after which the cache holds `context` tokens."""
        return sum((op.cost(rows, context) for op in self.ops), Cost())


def compile_kernels(kernels: list[Kernel], progress: Callable[[int, int, str], None] | None = None) -> None:
    """Compile each kernel or load it from the disk; progress(done, total, name of the next)."""
    for done, kernel in enumerate(kernels):
        if progress is not None:
            progress(done, len(kernels), kernel.name)
        _ = kernel.address
    if progress is not None:
        progress(len(kernels), len(kernels), "")


# The mailbox of a team, one int64 per cache line.
_EPOCH, _TABLE, _OPS, _STAMPS, _LEFT, _STOP = (i * LINE for i in range(6))
_SPINS = 2_000  # pauses (some ten microseconds) before a waiting thread offers its core to others
_IDLE_SPINS = 40_000  # and before a worker with nothing to do goes to sleep


@inline
def _wait_for(address, value):
    """Wait until the int64 at an address is at least `value`."""
    spins = 0
    while load_acquire(address) < value:
        spins += 1
        if spins < _SPINS:
            pause()
        else:
            give_way()


@inline
def _stamp(stamps, at):
    """Write the clock to a stamp, if stamps are taken."""
    if stamps != 0:
        poke_i64(stamps + at, clock())


@inline
def _take_items(op, items, thread, stamps, at):
    """Do items of an operation until none is left, and return the number done. The thread with the last item stamps."""
    grain, done = peek_i32(op + _GRAIN), 0
    while True:
        begin = fetch_add(op + _NEXT, grain)
        if begin >= items:
            return done
        end = min(begin + grain, items)
        call_kernel(peek_i64(op + _KERNEL), peek_i64(op + _ARGS), begin, end, thread)
        done += end - begin
        if end == items:
            _stamp(stamps, at)


@jit
def replay(mailbox, thread):
    """Walk the plan in the mailbox as one of the team's threads; return when every item is done."""
    op = peek_i64(mailbox + _TABLE)
    end = op + _OP_BYTES * peek_i64(mailbox + _OPS)
    stamps, at = peek_i64(mailbox + _STAMPS), 0
    own = 8 * (1 + peek_i64(mailbox + _OPS)) * (1 + thread)  # from a stamp to this thread's row of waits
    done = total = 0  # items since the last barrier: done by this thread, and in all
    while op < end:
        at += 8
        items = peek_i64(op + _COUNT)
        done += _take_items(op, items, thread, stamps, at)
        total += items
        barrier = op
        op += _OP_BYTES
        if peek_i32(barrier + _KIND) == _FREE:
            continue
        last = (total == 0 and thread == 0) or (done > 0 and fetch_add(barrier + _DONE, done) + done == total)
        if last:
            _stamp(stamps, at)
        while op < end and peek_i32(op + _KIND) == _SOLO:
            at += 8
            if last:
                call_kernel(peek_i64(op + _KERNEL), peek_i64(op + _ARGS), 0, peek_i64(op + _COUNT), thread)
                _stamp(stamps, at)
            op += _OP_BYTES
        if last:
            fetch_add(barrier + _DONE, 1)
        since = clock() if stamps != 0 else 0
        _wait_for(barrier + _DONE, total + 1)
        if stamps != 0:
            poke_i64(stamps + own + at, clock() - since)
        done = total = 0


@jit
def _serve(mailbox, thread, seen):
    """Replay what is posted, until nothing came for a while; return the last epoch that was seen."""
    spins = 0
    while spins < _IDLE_SPINS:
        epoch = load_acquire(mailbox + _EPOCH)
        if epoch == seen:
            spins += 1
            pause()
        elif peek_i64(mailbox + _STOP) != 0:
            return epoch
        else:
            seen, spins = epoch, 0
            replay(mailbox, thread)
            fetch_add(mailbox + _LEFT, 1)
    return seen


@jit
def _prepare(op, ops):
    """Set the counters of all operations for a run: their number of items, none taken, none done."""
    for _ in range(ops):
        poke_i64(op + _COUNT, peek_i64(op + _ITEMS) * peek_i64(peek_i64(op + _TIMES)))
        poke_i64(op + _NEXT, 0)
        poke_i64(op + _DONE, 0)
        op += _OP_BYTES


@jit
def _post(mailbox):
    """Post the plan in the mailbox to the workers."""
    fetch_add(mailbox + _EPOCH, 1)


@jit
def _all_left(mailbox, count):
    """Wait until the workers have left `count` replays in all."""
    _wait_for(mailbox + _LEFT, count)


class Team:
    """Threads that replay plans together. The caller is thread 0; the others wait, first spinning and then asleep."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._mail = aligned(8 * LINE).view(np.int64)
        self._address = self._mail.ctypes.data
        self._wake = threading.Condition()
        self._runs = 0
        self._plan: Plan | None = None
        self._stamps: Array | None = None
        self._workers = [
            threading.Thread(target=self._work, args=(i,), name=f"pyllm-{i}", daemon=True) for i in range(1, threads)
        ]
        self._started = False

    def pin(self, cpus: Sequence[int]) -> None:
        """Pin each thread to a CPU of its own, the caller to the first; raise OSError where the system forbids it."""
        self._start()
        threads = [threading.get_native_id(), *(worker.native_id or 0 for worker in self._workers)]
        for thread, cpu in zip(threads, cpus, strict=True):
            os.sched_setaffinity(thread, {cpu})

    def _start(self) -> None:
        """Start the workers, if they are not running yet."""
        if not self._started:
            self._started = True
            for worker in self._workers:
                worker.start()

    def _work(self, thread: int) -> None:
        """Serve as a worker until the team is closed: sleep when `_serve` gives up, wake at the next post."""
        seen = 0
        while True:
            seen = _serve(self._address, thread, seen)
            with self._wake:
                while self._mail[_EPOCH // 8] == seen and not self._mail[_STOP // 8]:
                    self._wake.wait()
                if self._mail[_STOP // 8]:
                    return

    def _go(self) -> None:
        """Post the plan, and wake the workers that sleep."""
        with self._wake:
            _post(self._address)
            self._wake.notify_all()

    def run(self, plan: Plan, stamps: Array | None = None) -> None:
        """Replay a plan once.

        stamps: int64 (1 + threads, 1 + ops), in ticks of the clock. The first row gets the time at the start and after
        each operation; each thread's row gets the time that it waited at the barrier after each operation that has
        one. They are complete after `rest`. Raises RuntimeError after `close`: nobody would do the work.
        """
        if self._mail[_STOP // 8]:
            raise RuntimeError("the model was closed: its threads have ended")
        table, address = plan.table, plan.address
        self._start()
        # A worker may still be in the run before, with nothing left to do: its memory and counters must not change.
        _all_left(self._address, self._runs * len(self._workers))
        self._plan, self._stamps = plan, stamps
        _prepare(address, len(table))
        self._mail[_TABLE // 8], self._mail[_OPS // 8] = address, len(table)
        self._mail[_STAMPS // 8] = 0 if stamps is None else stamps.ctypes.data
        self._runs += 1
        if stamps is not None:
            stamps[0] = now()
        if self._workers:
            self._go()
        replay(self._address, 0)

    def rest(self) -> None:
        """Wait until all threads have left the last run: only then all stamps are written."""
        _all_left(self._address, self._runs * len(self._workers))

    def close(self) -> None:
        """End the threads; the team cannot run again."""
        self._mail[_STOP // 8] = 1
        if self._started:
            self._go()
            for worker in self._workers:
                worker.join()


@jit
def now():
    """Return the counter that stamps are taken from."""
    return clock()
