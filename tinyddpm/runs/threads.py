"""Using a CPU's cores: a batch in parts, a thread for each, one BLAS thread in each, kept memory.

NumPy releases the interpreter's lock inside its operations, so a batch cut in parts runs on as many
cores as there are parts, element-wise work included. BLAS's own threads would only take cores from
these.
"""

import ctypes
import os
import pathlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

Share = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]  # share(f, items)


@cache
def openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Find the OpenBLAS of NumPy's wheel: (get, set) of its thread count, or None."""
    site = pathlib.Path(np.__file__).parent
    for folder in (site.parent / "numpy.libs", site / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for suffix in ("64_", ""):
                names = [f"scipy_openblas_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    return getattr(library, names[0]), getattr(library, names[1])
    return None


def blas_can_be_limited() -> bool:
    """Whether BLAS can be limited to one thread, or has been."""
    return openblas() is not None or os.environ.get("OPENBLAS_NUM_THREADS") == "1"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """How many cores each of several processes on this machine has for itself, at least one."""
    return max(1, cores() // processes)


class _OneThread:
    """BLAS with one thread for as long as anyone is inside, whoever came first or leaves last.

    The count of BLAS's threads belongs to the whole process, so the blocks of several threads are
    counted: the first one in notes what it was, the last one out sets it back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        control = openblas()
        with self.lock:
            if self.inside == 0 and control:
                self.before = control[0]()
                control[1](1)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        control = openblas()
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and control:
                control[1](self.before)


_one_thread = _OneThread()


@contextmanager
def workers(parts: int, processes: int = 1) -> Iterator[Share]:
    """Give a function share(f, items): f runs on up to `parts` threads, results are in order.

    Inside, BLAS keeps to one thread. Where its thread count cannot be set, and it is not one
    already, the items run one after another on this thread and BLAS uses its own threads: the
    results are the same.

    Args:
        parts: how many items there are, or more.
        processes: among how many this machine's cores are divided; with several BLAS has one thread
            for one item too.
    """
    count = min(parts, share_of_cores(processes))
    if (count == 1 and processes == 1) or not blas_can_be_limited():
        yield lambda f, items: [f(item) for item in items]
        return
    with _one_thread, ThreadPoolExecutor(count) as pool:
        yield lambda f, items: _in_order(pool, 2 * count, f, items)


def _in_order(pool, ahead, f, items):
    """[f(item) for item in items] on a pool that is never more than `ahead` items ahead."""
    results = []
    waiting = deque()
    try:
        for item in items:
            if len(waiting) == ahead:
                results.append(waiting.popleft().result())
            waiting.append(pool.submit(f, item))
        while waiting:
            results.append(waiting.popleft().result())
    finally:
        for each in waiting:  # left over by an error
            each.cancel()
    return results


@cache
def keep_pages() -> None:
    """Ask glibc to keep freed memory for the next array; do nothing with another C library.

    A fresh page costs more than the arithmetic on it: (x + 1) (x + 2) on 3 MB takes ten times as
    long. All threads share one arena: what a thread's own would keep, glibc gives back anyway.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc takes
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)  # likewise
    mallopt(M_ARENA_MAX, 1)
