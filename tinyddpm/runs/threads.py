"""What a CPU wants: batches shared among threads, one BLAS thread in each, and pages that are kept.

NumPy lets go of the interpreter's lock inside its operations, so a batch cut in parts runs on as
many cores as there are parts, element-wise work included. BLAS's own threads would only fight with
these.
"""

import ctypes
import os
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np


@cache
def openblas():
    """The OpenBLAS that NumPy's wheel brings, as (get, set) of its thread count, or None where
    there is none.
    """
    site = pathlib.Path(np.__file__).parent
    for folder in (site.parent / "numpy.libs", site / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for suffix in ("64_", ""):
                names = [f"scipy_openblas_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    return tuple(getattr(library, name) for name in names)
    return None


def blas_can_be_limited():
    """Whether BLAS can be told to keep to one thread, or has been."""
    return openblas() is not None or os.environ.get("OPENBLAS_NUM_THREADS") == "1"


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(parts):
    """A function map(f, items) that runs f on up to `parts` threads and returns the results in
    order.

    Inside, BLAS keeps to one thread. Where its thread count cannot be set, and it is not one
    already, the items run one after another on this thread and BLAS uses its own threads: the
    results are the same.
    """
    count = min(parts, cores())
    if count == 1 or not blas_can_be_limited():
        yield lambda f, items: [f(item) for item in items]
        return
    control = openblas()
    before = control[0]() if control else 1
    if control:
        control[1](1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield lambda f, items: list(pool.map(f, items))
    finally:
        if control:
            control[1](before)


@cache
def keep_pages():
    """Ask glibc to keep freed memory for the next array instead of handing it back; elsewhere do
    nothing.

    A fresh page costs more than the arithmetic on it: (x + 1) (x + 2) on 3 MB takes ten times as
    long.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):           # another C library
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3             # from malloc.h
    mallopt(M_MMAP_THRESHOLD, 32 << 20)         # the largest value that glibc takes
    mallopt(M_TRIM_THRESHOLD, 1 << 30)
