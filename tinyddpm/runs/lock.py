"""Locking a run folder, so that one process at a time trains there.

The system releases the lock of a process that ends, by SIGKILL too.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from . import files

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold FOLDER/.lock inside the block; its file is gone afterwards.

    Raises InputError where another process, or another thread of this one, holds it, and
    TinyDDPMError where the folder cannot be written to.
    """
    path = Path(folder) / NAME
    try:
        file = files.open_locked(path)
    except BlockingIOError:
        raise InputError(f"{folder} is in use: another process trains there") from None
    except OSError as error:
        files.refuse("lock", path, error)
    try:
        yield
    finally:
        # Deleted while still held: a process that opened it meanwhile finds in `open_locked` that
        # the name is no longer this file's.
        with contextlib.suppress(OSError):  # Windows deletes no open file
            path.unlink()
        file.close()
