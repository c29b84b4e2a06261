"""How the CPU's kernels are compiled, and where what was compiled is kept.

Numba's cache watches only the file that a function stands in, but these kernels also hold numbers
and formulas of other files. So they are kept in a folder named after a digest of all sources: a
changed source starts a new one.
"""

import hashlib
import pathlib
import sys

from numba import config, njit
from numba.core import event

from tinyddpm import formulas

from .. import kept, polynomials
from .tiles import TILES

HERE = pathlib.Path(__file__).parent
NOTICE = "tinyddpm: compiling the Numba kernels, once (about 20 s)"


def digest():
    """A name for this state of the sources, and of the tiles, that compiled code is made of."""
    total = hashlib.sha256(str(TILES).encode())
    shared = pathlib.Path(polynomials.__file__), pathlib.Path(formulas.__file__)
    for path in (*sorted(HERE.glob("*.py")), *shared):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def cache_folder():
    """Where compiled kernels are kept: the folder of this digest, or None.

    None where none can be written: every process then compiles the kernels.
    """
    return kept.folder(f"tinyddpm-{digest()}", HERE)


FOLDER = cache_folder()
OPTIONS = {
    "nogil": True,
    "cache": FOLDER is not None,
    "error_model": "numpy",
    "fastmath": {"contract"},
}


def kernel(function=None, **options):
    """A decorator, with or without further options: numba.njit with these kernels' options.

    Contraction lets a multiplication and an addition become one instruction; nothing else of IEEE
    754 is given up.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    before = config.CACHE_DIR
    try:
        # read while the function is wrapped, and nowhere later
        config.CACHE_DIR = str(FOLDER or "")
        return njit(**OPTIONS | options)(function)
    finally:
        config.CACHE_DIR = before


def inline(function):
    """A kernel's part, put into the kernel where it is called."""
    return kernel(function, inline="always")


class _Notice(event.Listener):
    """Prints once that the kernels are being compiled."""

    def __init__(self, due):
        self.due = due

    def on_start(self, event):
        """Called by Numba before it compiles a function; not when it finds it in a cache."""
        if self.due and event.data["dispatcher"].py_func.__module__.startswith(__package__):
            self.due = False
            print(NOTICE, file=sys.stderr, flush=True)

    def on_end(self, event):
        """Called by Numba afterwards."""


event.register("numba:compile", _Notice(due=FOLDER is None or not any(FOLDER.rglob("*.nbi"))))
