"""python -m benchmarks.mutations [--n 100000] [--reader NAME ...]: damaged files by the hundred
thousand.

The inputs are those of tests/reader_cases.py, more of them; each reader has a process of its own.
The rule: an error of the package's own in one line or a valid result, less than 200 MB of resident
memory in all, no input over a second. Exit code 1 where it is broken, with the number of the first
case of each kind; `--first I --n 1 --reader NAME` runs that case alone.
"""

import argparse
import collections
import multiprocessing
import pathlib
import resource
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import reader_cases  # noqa: E402 - found beside the tests, which share it

MEMORY, SECONDS = 200e6, 1.0
# the address space and the time at which a case is ended by force
HARD_MEMORY, HARD_SECONDS = 2**32, 20


def main(argv=None):
    """Run the readers one after the other; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutations", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--n", type=int, default=100_000, help="inputs a reader (default: 100000)")
    parser.add_argument(
        "--first", type=int, default=0, metavar="I", help="the first case (default: 0)"
    )
    parser.add_argument(
        "--reader",
        nargs="+",
        choices=list(reader_cases.READERS),
        metavar="NAME",
        default=list(reader_cases.READERS),
        help=f"of {', '.join(reader_cases.READERS)} (default: all)",
    )
    args = parser.parse_args(argv)
    if args.n < 1 or args.first < 0:
        parser.error("--n must be at least 1 and --first at least 0")
    print(
        f"{'reader':12}{'inputs':>9}{'read':>8}{'broken':>8}{'peak MB':>9}{'slowest ms':>12}{'seconds':>9}"
    )
    kept = [measure(name, args.first, args.n) for name in args.reader]
    return 0 if all(kept) else 1


def measure(name, first, n):
    """Run n cases of a reader in a new process and print its line; True where the rule was kept."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    at = context.Value("q", -1)
    child = context.Process(target=work, args=(name, first, n, there, at))
    child.start()
    there.close()
    try:
        done = here.recv()
    except EOFError:
        done = None
    child.join()
    if done is None:
        print(f"{name:12} died at case {at.value} (exit code {child.exitcode})", flush=True)
        return False
    print(
        f"{name:12}{n:9,}{done['read'] / n:8.1%}{sum(done['broken'].values()):8,}{done['peak'] / 1e6:9.0f}"
        f"{1e3 * done['slowest'][0]:12.1f}{done['seconds']:9.1f}",
        flush=True,
    )
    for what, count in done["broken"].most_common(20):
        print(f"    {count:,} times, first in case {done['example'][what]}: {what}")
    if done["slowest"][0] > SECONDS:
        print(f"    the slowest is case {done['slowest'][1]}")
    return not done["broken"] and done["peak"] < MEMORY and done["slowest"][0] <= SECONDS


def work(name, first, n, pipe, at):
    """The process of one reader: every case under the hard limits, then what was seen, through the
    pipe.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = HARD_MEMORY if hard == resource.RLIM_INFINITY else min(HARD_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    read, broken, example, slowest = 0, collections.Counter(), {}, (0.0, first)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(first, first + n):
            at.value = i
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
    unit = 1 if sys.platform == "darwin" else 1024
    pipe.send(
        {
            "read": read,
            "broken": broken,
            "example": example,
            "slowest": slowest,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "seconds": time.perf_counter() - start,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
