"""Locking a run folder, so that one process at a time trains there.

The system releases the lock of a process that ends, by SIGKILL too.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, TinyDDPMError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold FOLDER/.lock inside the block; its file is gone afterwards.

    Raises InputError where another process, or another thread of this one, holds it, and
    TinyDDPMError where the folder cannot be written to.
    """
    path = Path(folder) / NAME
    try:
        file = _locked(path)
    except BlockingIOError:
        raise InputError(f"{folder} is in use: another process trains there") from None
    except OSError as error:
        raise TinyDDPMError(f"cannot lock {path}: {error.strerror or error}") from None
    try:
        yield
    finally:
        # Deleted while still held: a process that opened it meanwhile finds in `_locked` that the
        # name is no longer this file's.
        with contextlib.suppress(OSError):  # Windows deletes no open file
            path.unlink()
        file.close()


def _locked(path):
    """The open, locked file at `path`; BlockingIOError where it is locked already."""
    while True:
        file = open(path, "ab")  # noqa: SIM115  the caller closes it
        try:
            _lock(file)
        except BaseException:
            file.close()
            raise
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file, path):
    """Whether an open file is still the one of that name, and not deleted by its last holder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file):
    """Lock an open file. Raises BlockingIOError where it is locked already."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError from error
