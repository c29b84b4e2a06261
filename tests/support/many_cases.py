"""Damaged files by the hundred thousand: one reader's cases in a process of its own, with limits.

`python -m support.many_cases READER --first I --n N` (in tests/) runs cases I to I + N - 1 of
reader_cases.py and prints what it saw as JSON; with --n 1 it runs one case again.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

from support import reader_cases

TESTS = pathlib.Path(__file__).parents[1]
# What the rule allows: bytes of resident memory in all, seconds for one input.
MEMORY, SECONDS = 200e6, 1.0
# The address space and the time at which a case is ended by force.
HARD_MEMORY, HARD_SECONDS = 2**32, 20


def measure(name, first, n):
    """Run n cases of a reader in a new process; returns what `work` saw.

    Raises Broken where the process died, with the number of the case.
    """
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder, "case")
        argv = [sys.executable, "-m", "support.many_cases", name]
        argv += ["--first", str(first), "--n", str(n), "--at", str(at)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(argv, cwd=TESTS, env=environment, capture_output=True, text=True)
        if done.returncode:
            case = at.read_text() if at.exists() else "none"
            raise reader_cases.Broken(
                f"{name} died at case {case} (exit code {done.returncode}): {done.stderr[-500:]}"
            )
    return json.loads(done.stdout)


def violations(found):
    """What breaks the rule in what `work` saw, as lines; none where it was kept."""
    lines = [
        f"{count:,} times, first in case {found['example'][what]}: {what}"
        for what, count in found["broken"].items()
    ]
    if found["peak"] >= MEMORY:
        lines.append(f"{found['peak'] / 1e6:.0f} MB of memory")
    if found["slowest"][0] > SECONDS:
        lines.append(f"case {found['slowest'][1]} took {found['slowest'][0]:.1f} seconds")
    return lines


def work(name, first, n, at):
    """Run the cases under the hard limits; returns a dict of what was seen.

    at: the file to keep the number of the current case in, or None.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = HARD_MEMORY if hard == resource.RLIM_INFINITY else min(HARD_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    read, broken, example, slowest = 0, collections.Counter(), {}, (0.0, first)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open(at or os.devnull, "wb", 0) as place:
        for i in range(first, first + n):
            place.seek(0)
            place.write(str(i).encode())
            content = reader_cases.case(name, i)
            signal.alarm(HARD_SECONDS)  # its default action ends the process
            began = time.perf_counter()
            try:
                read += reader_cases.attempt(name, pathlib.Path(folder), content)
            except reader_cases.Broken as error:
                what = str(error)[:100]
                broken[what] += 1
                example.setdefault(what, i)
            slowest = max(slowest, (time.perf_counter() - began, i))
            signal.alarm(0)
    return {
        "inputs": n,
        "read": read,
        "broken": dict(broken),
        "example": example,
        "slowest": slowest,
        "peak": peak_memory(),
        "seconds": time.perf_counter() - start,
    }


def peak_memory():
    """The most resident memory that this process has had, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # ru_maxrss is not asked here: on Linux it starts at what the parent had.
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", choices=list(reader_cases.READERS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--at", type=pathlib.Path)
    args = parser.parse_args()
    print(json.dumps(work(args.reader, args.first, args.n, args.at)))
