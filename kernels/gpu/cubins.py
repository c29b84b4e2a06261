"""The compiled kernels as files that a driver loads, kept on disk between processes.

Numba compiles a kernel to PTX without a device, and ptxas makes a cubin of it. Where there is no
ptxas, or one that does not know the card, the file holds the PTX, which the driver assembles (and
keeps) when it loads it.
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import sys
import tempfile

from tinyddpm import formulas

from .. import kept, polynomials
from . import toolkit

HERE = pathlib.Path(__file__).parent
NOTICE = "tinyddpm: compiling the CUDA kernels, once for this card"


def entry(name):
    """What a kernel is called in the code made here, instead of Numba's name of 500 letters."""
    return f"tinyddpm_{name}"


def digest():
    """A name for all that the compiled code is made of: the sources, and what compiles them."""
    total = hashlib.sha256()
    shared = pathlib.Path(polynomials.__file__), pathlib.Path(formulas.__file__)
    for path in (*sorted(HERE.glob("*.py")), *shared):
        total.update(path.read_bytes())
    for package in ("numba", "numba-cuda"):
        try:
            total.update(f"{package} {importlib.metadata.version(package)}".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return total.hexdigest()[:16]


@functools.cache
def folder():
    """Where the files are kept; a folder for this process alone where none can be written."""
    found = kept.folder(f"tinyddpm-cuda-{digest()}", HERE)
    return found or pathlib.Path(_temporary().name)


@functools.cache
def _temporary():
    """A folder that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="tinyddpm-")


def path(name, wide, cc):
    """The file of a kernel's code, which is made where it is missing.

    Args:
        name: a key of signatures.SIGNATURES.
        wide: as `signatures.kernel`'s.
        cc: the card's compute capability, (major, minor).
    """
    found = folder() / f"{name}-{'wide' if wide else 'narrow'}-sm_{cc[0]}{cc[1]}.cubin"
    if not found.exists():
        _notice()
        # whole or not at all, also where two processes make it at once
        with tempfile.NamedTemporaryFile(dir=found.parent, delete=False) as file:
            file.write(build(name, wide, cc))
        os.replace(file.name, found)
    return found


@functools.cache
def _notice():
    print(NOTICE, file=sys.stderr, flush=True)


def build(name, wide, cc):
    """A kernel's code for a card, bytes: a cubin, or PTX."""
    from . import ptx  # needs a compiler, which the files kept do not

    text = ptx.compile_ptx(name, wide, min(cc, ptx.newest()))
    return toolkit.cubin(text, cc) or text.encode()
