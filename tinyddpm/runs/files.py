"""Writing files whole or not at all, and opening none that could hang: no pipe, no device.

Every file that the package writes goes through `write_atomic`. Where the system refuses, the error
is one line that names the file.
"""

import contextlib
import errno
import io
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, TinyDDPMError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
# What some file systems answer where they have no fsync for folders.
NO_FSYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_numbers = itertools.count()  # so that two threads' temporary files have two names

Name = str | os.PathLike[str]


def refuse(verb: str, path: Name, error: OSError) -> NoReturn:
    """Raise a TinyDDPMError of one line: which file could not be read or written, and why."""
    raise TinyDDPMError(f"cannot {verb} {path}: {error.strerror or error}") from None


def named(path: Name) -> Path:
    """The path of a name. Raises InputError for what is none: a number would be an open file's."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a path is a string or a Path, got {path!r:.80}")
    return Path(path)


def kind(path: Name) -> str:
    """What is at `path`: "file", "folder", "device", "other" such as a pipe, or "" for nothing.

    Raises TinyDDPMError where the system does not tell, as in a folder that may not be entered.
    """
    try:
        mode = os.stat(named(path)).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        refuse("read", path, error)
    tests = {"file": stat.S_ISREG, "folder": stat.S_ISDIR, "device": stat.S_ISCHR}
    return next((name for name, test in tests.items() if test(mode)), "other")


def entries(folder: Name) -> list[Path]:
    """The paths in a folder. Raises TinyDDPMError where it may not be listed."""
    try:
        return list(Path(folder).iterdir())
    except OSError as error:
        refuse("read", folder, error)


def write_atomic(
    path: Name, data: bytes | memoryview | Iterable[bytes], ready: Callable[[], None] = lambda: None
) -> None:
    """Write bytes to `path` so that it is never partial: into a temporary file, then renamed.

    The file is flushed to disk before it is renamed, and its folder afterwards. What a symbolic
    link names is replaced, and the link stays. A character device, such as /dev/null, is written
    to, for nothing can take its place.

    Args:
        path: the file.
        data: its bytes, whole or in pieces.
        ready: called when the bytes are safe under the temporary name.

    Raises:
        InputError: there is a folder or a pipe at `path`.
        TinyDDPMError: the disk refuses. The file that was there before stays.
    """
    pieces = [data] if isinstance(data, bytes | memoryview) else data
    what = kind(path)
    try:
        if what == "device":
            with open(path, "wb") as device:
                device.writelines(pieces)
            return
        with _temporary(path, what) as (file, name, target):
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # where no open file can be renamed
                file.close()
            ready()
            os.replace(name, target)
        _sync_folder(target.parent)
    except OSError as error:
        refuse("write", path, error)


def save_array(path: Name, array: ArrayLike) -> None:
    """Write an array as .npy, by `write_atomic`."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(path, buffer.getvalue())


def check_writable(path: Name) -> None:
    """Raise TinyDDPMError unless `write_atomic` can begin to write `path`; it leaves no trace."""
    what = kind(path)
    try:
        if what == "device":
            open(path, "wb").close()
            return
        with _temporary(path, what):
            pass
    except OSError as error:
        refuse("write", path, error)


@contextlib.contextmanager
def _temporary(path: Name, what: str) -> Iterator[tuple[IO[bytes], Path, Path]]:
    """(open file, its temporary name, the path to rename it to); a name that stays is deleted.

    The file is locked: `clear` of another process tells by it that its writer lives.
    """
    _check_regular(path, what)
    target = Path(os.path.realpath(path))
    name = target.with_name(f".{target.name}.{os.getpid()}.{next(_numbers)}.tmp")
    file = open_locked(name, needed=False)
    try:
        file.truncate(0)  # a dead process of our number may have left it
        yield file, name, target
    finally:
        with contextlib.suppress(OSError):  # or it would hide why the block failed
            file.close()
        with contextlib.suppress(OSError):
            name.unlink()


def _check_regular(path, what):
    """Raises InputError where there is something else than a file, of `kind` what."""
    if what not in ("", "file"):
        words = "a folder" if what == "folder" else "not a regular file"
        raise InputError(f"cannot write {path}: it is {words}")


def _sync_folder(folder):
    """Make the rename itself last; a system that cannot flush folders needs no such thing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
    finally:
        os.close(handle)


def clear(folder: Name) -> None:
    """Delete the temporary files that killed processes left in a folder, none of a living one."""
    for path in entries(folder):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):  # held by its writer, or gone
                open_locked(path).close()
                path.unlink()


def open_locked(path: Path, needed: bool = True) -> IO[bytes]:
    """Open a file to append to, made where it is missing, and lock it until it is closed.

    Raises BlockingIOError where another holds it, InputError where it is no regular file, which
    might never open, and OSError where the file system has no locks, if the lock is needed.
    """
    while True:
        _check_regular(path, kind(path))
        file = open(path, "ab", opener=_no_waiting)  # noqa: SIM115  the caller closes it
        try:
            with contextlib.suppress(*(() if needed else (OSError,))):
                _lock(file)
        except BaseException:
            file.close()
            raise
        if _is_at(file, path):
            return file
        file.close()


def _no_waiting(name, flags):
    """Open without waiting for a pipe's other end."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


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
