"""Reading files that are not trusted: sizes are checked first, each failure is an InputError."""

import contextlib
import math
import os
import struct
import threading
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import InputError

# bytes that the samples may take, as float32 or as stored, whichever is more
LIMIT = 2**30
PIECE = 2**20  # bytes read at a time
# no deflated byte unpacks to more: 258 bytes from two bits is the best it can do
DEFLATE = 1032

# What the standard library, NumPy and Pillow raise on broken files.
FAILURES = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    LookupError,
    SyntaxError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


class Stream(Protocol):
    """What the readers need of an open file: a plain one, a member of a .zip, an unpacked .gz."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all that is left for -1."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset, as of io."""
        ...


@contextlib.contextmanager
def file_errors_as_input(path: str | os.PathLike[str], *more: type[Exception]) -> Iterator[None]:
    """Turn every failure inside the block into an InputError of one line, which names the path.

    Args:
        path: the file that is read.
        more: what the package that reads it raises, beside FAILURES.
    """
    try:
        yield
    except FAILURES + more as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: {' '.join(text.split()):.500}") from error


class DataWarning(UserWarning):
    """What a reader left out, or what looks unlike what it was taken for."""


class _Silent(type):
    """Of a class of warnings that has, for a filter, every warning of a thread inside `quiet`."""

    def __subclasscheck__(cls, other: type) -> bool:
        return quiet.here.depth > 0


class _Silenced(Warning, metaclass=_Silent):
    """What `quiet` ignores. Filters are the whole process's: only so does it stay one thread's."""


class _Depth(threading.local):
    depth = 0


class _Quiet:
    """A block without warnings of its own thread; those of other threads are heard.

    Any number of threads may be in it: the last one out takes the filter away.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.here = threading.Lock(), 0, _Depth()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            warnings.simplefilter("ignore", _Silenced)  # there once, and first
        self.here.depth += 1

    def __exit__(self, *_: object) -> None:
        self.here.depth -= 1
        with self.lock:
            self.inside -= 1
            if not self.inside:
                filters: Any = warnings.filters
                for ours in [each for each in filters if each[2] is _Silenced]:
                    filters.remove(ours)


quiet = _Quiet()


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; a pipe or a device, which may never end, raises InputError."""
    if not path.is_file():
        raise InputError("is not a regular file" if path.exists() else "no such file or folder")
    with open(path, "rb") as file:
        yield file


def check_size(shape: tuple[int, ...], itemsize: int, limit: int) -> None:
    """Raise InputError where a claimed shape is empty or takes more than `limit` bytes.

    To be called before anything is allocated; itemsize is in bytes.
    """
    if min(shape, default=1) < 1:
        raise InputError(f"is empty: its shape is {tuple(shape)}")
    size = math.prod(shape) * max(itemsize, 4)
    if size > limit:
        raise InputError(
            f"its shape {tuple(shape)} would take {size:,} bytes; the limit is {limit:,} (--limit)"
        )


def read_exactly(stream: Stream, size: int) -> bytearray:
    """Read `size` bytes; memory grows with what truly arrives, not with what a header claims."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(PIECE, size - len(data)))
        if not piece:
            raise InputError(f"ends early: {size:,} bytes claimed, {len(data):,} found")
        data += piece
    return data
