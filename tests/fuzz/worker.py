"""The process that runs cases: python -m fuzz.worker FOLDER FIRST LAST SECONDS EVERY_CACHE.

It says in FOLDER/state which case it is at and since when, so that whoever watches it knows of what it died, and writes
a line of JSON to stdout for each finding and, now and then, for its counts.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import mmap
import resource
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from fuzz import corpus
from fuzz.cases import Cases, kind_of, quiet

STATE = struct.Struct("<qd")  # the case, and when it was begun, by the monotonic clock
SLOW = 10.0  # seconds
EVERY = 2.0  # seconds between two reports


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(folder: Path, first: int, last: int, seconds: float, every_cache: bool) -> None:
    faulthandler.enable()
    quiet(folder)
    cases = Cases(corpus.read(folder / "corpus"), folder, every_cache)
    with (folder / "state").open("r+b") as file:
        state = mmap.mmap(file.fileno(), STATE.size)
    counts: Counter[str] = Counter()
    slowest: dict[str, tuple[float, int]] = {}

    def report(number: int) -> None:
        print(json.dumps({"next": number, "counts": counts, "slowest": slowest, "peak": peak()}), flush=True)
        counts.clear()

    cases.warm()
    gc.freeze()  # what lasts is not looked at again after each case
    print(json.dumps({"ready": peak()}), flush=True)
    begun = reported = time.monotonic()
    number = first
    while number < last:
        start = time.monotonic()
        if start - begun > seconds:
            break
        if start - reported > EVERY:
            report(number)
            reported = start
        state[:] = STATE.pack(number, start)  # pack_into would first write zeros, which the watcher may see
        kind = kind_of(number)
        try:
            how = cases.run(number)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit and PanicException of Rust's too
            how = "finding"
            trace, at = "".join(traceback.format_exception(error)), traceback.extract_tb(error.__traceback__)[-1]
            said = {"number": number, "finding": f"{type(error).__name__}: {error}", "trace": trace}
            print(json.dumps({**said, "where": f"{at.filename}:{at.lineno}"}), flush=True)
        took = time.monotonic() - start
        counts[f"{kind} {how}"] += 1
        if took > slowest.get(kind, (0.0, 0))[0]:
            slowest[kind] = (took, number)
        number += 1
    state[:] = STATE.pack(-1, time.monotonic())
    report(number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "1")
