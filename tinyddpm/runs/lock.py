"""One process at a time on a run folder: a lock that the system takes back from whoever dies,
SIGKILL included.
"""

import contextlib
import os
from pathlib import Path

from ..errors import InputError, TinyDDPMError

try:
    import fcntl
except ImportError:             # Windows
    fcntl = None
    import msvcrt

NAME = ".lock"


@contextlib.contextmanager
def hold(folder):
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
        # Deleted while still held: whoever opened it meanwhile sees in `_locked` that it is no
        # longer the one.
        with contextlib.suppress(OSError):      # Windows deletes no open file
            path.unlink()
        file.close()


def _locked(path):
    """The open, locked file at `path`; BlockingIOError where it is locked already."""
    while True:
        file = open(path, "ab")     # noqa: SIM115  whoever asked closes it
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                _lock_windows(file)
        except BaseException:
            file.close()
            raise
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file, path):
    """Whether an open file is still the one of that name, and not one that its last holder deleted.
    """
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_windows(file):
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError from error
