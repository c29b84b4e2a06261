"""Saving and loading checkpoints: arrays and a JSON text in an .npz, under a digest.

A crash leaves the old one or the new one, whole.

RUN/checkpoint.npz is the newest. Those before it, as many as the run keeps, are
RUN/checkpoint-<step>.npz: should the newest be damaged, the newest that is whole takes its place,
and the user is told.
"""

import errno
import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.readers import read_npy
from ..datasets.untrusted import FAILURES
from ..errors import InputError, TinyDDPMError
from . import files
from .files import Name, write_atomic

VERSION = 2
NAME = "checkpoint.npz"
DEEPEST = 40  # lists and dicts within each other among the settings
META, DIGEST = "meta.json", "sha256"  # the two members that are texts
OLDER = re.compile(r"checkpoint-(\d{1,18})\.npz")
MEMBER = re.compile(r"\w{1,80}\.npy", re.ASCII)
NO_LINKS = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
# An OSError that bad content can cause: a broken archive sends the reader beyond the file's ends.
CONTENT = {None, errno.EINVAL, errno.EOVERFLOW}

Arrays = Mapping[str, NDArray[Any]]
Meta = dict[str, Any]  # settings, JSON's kinds only


class Damaged(InputError):
    """What should be a checkpoint cannot be read, or is not what was saved."""


class Unreadable(TinyDDPMError):
    """The system does not let a checkpoint be read now: it may be whole."""


class DamageWarning(UserWarning):
    """The newest checkpoint of a run could not be used; an older one was."""


def save(path: Name, arrays: Arrays, meta: Meta, ready: Callable[[], None] = lambda: None) -> None:
    """Save arrays and settings to the .npz `path`, by `write_atomic`.

    Args:
        path: the file.
        arrays: arrays of any numbers, by name.
        meta: the settings, JSON's kinds only.
        ready: called when all is safe under a temporary name.

    Raises:
        TinyDDPMError: the disk refuses.
    """
    text = json.dumps({"version": VERSION, **meta})
    buffer = BytesIO()
    # open(name, "w") and not writestr, which would stamp the time of day on a member
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in ((META, text), (DIGEST, _digest(text, arrays))):
            with archive.open(name, "w") as member:
                member.write(content.encode())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    # released at once: a buffer that is still in an error's traceback cannot be closed
    with buffer.getbuffer() as content:
        write_atomic(path, content, ready)


def _digest(text, arrays):
    """SHA-256 over the settings' text and, by name, each array's name, dtype, shape, numbers."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_run(folder: Name, arrays: Arrays, meta: Meta, keep: int = 1) -> None:
    """Save FOLDER/checkpoint.npz; the one before becomes checkpoint-<step>.npz.

    At every moment one whole checkpoint is there: the new one is safe on disk before the old one is
    renamed, and what is too old goes last.

    Args:
        folder: the run's folder.
        arrays: the arrays to save, by name.
        meta: the settings; meta["step"] is the step that the arrays belong to.
        keep: how many checkpoints stay, the newest ones.

    Raises:
        TinyDDPMError: the disk refuses.
    """
    path, step = Path(folder) / NAME, meta["step"]
    save(path, arrays, meta, lambda: _set_aside(path))
    # One of this step or later is from before the run was set back: damaged, or another future than
    # this one's.
    dead = [older for of, older in _older(folder) if of >= step]
    spare = [older for of, older in _older(folder) if of < step][keep - 1 :]
    try:
        for older in dead + spare:
            older.unlink(missing_ok=True)
    except OSError as error:
        raise TinyDDPMError(f"cannot delete {error.filename}: {error.strerror}") from None


def _set_aside(path):
    """Give the checkpoint at `path` its name as an older one too; a damaged one stays as it is."""
    try:
        before = _read(path)[1].get("step")
    except InputError:
        return
    if type(before) is not int or before < 0:
        return
    older = path.with_name(f"checkpoint-{before}.npz")
    older.unlink(missing_ok=True)  # left by a crash between this and the rename
    try:
        os.link(path, older)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # a crash here leaves no checkpoint.npz: `load` finds the older one
        os.replace(path, older)


def _older(folder):
    """[(step, path)] of the older checkpoints in a folder, the newest first."""
    found = ((OLDER.fullmatch(path.name), path) for path in files.entries(folder))
    return sorted(
        ((int(name[1]), path) for name, path in found if name and path.is_file()), reverse=True
    )


def holds_run(folder: Name) -> bool:
    """Whether there is a checkpoint in a folder, the newest or an older one."""
    if files.kind(folder) != "folder":
        return False
    return files.kind(Path(folder) / NAME) != "" or bool(_older(folder))


def load(path: Name) -> tuple[dict[str, NDArray[Any]], Meta]:
    """Read (arrays, meta) from a checkpoint file, or from the newest whole one in a run folder.

    Nothing in it is executed. Warns with DamageWarning where an older one had to be taken. Raises
    InputError for a missing, damaged or foreign file and for another version, and Unreadable where
    the system refuses: what is newest is then not known.
    """
    path = files.named(path)
    if files.kind(path) != "folder":
        return _read(path)
    try:
        return _read(path / NAME)
    except Damaged as error:
        for step, older in _older(path):
            try:
                found = _read(older)
            except Damaged:
                continue
            warnings.warn(
                f"{error}; {older.name}, of step {step}, is used instead",
                DamageWarning,
                stacklevel=1,
            )
            return found
        raise


def _read(path):
    """(arrays, meta) from one file.

    Raises Damaged, InputError for another version, and Unreadable.
    """
    what = files.kind(path)
    if what != "file":
        raise Damaged(f"{path} is not a regular file" if what else f"no checkpoint at {path}")
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            members = _members(archive, size)
            if {"meta.npy", "theta.npy"} <= members:
                raise _OtherVersion("1")
            text = archive.read(META).decode()
            meta = json.loads(text)
            if meta["version"] != VERSION:
                raise _OtherVersion(f"{meta['version']!r:.40}")
            arrays = {}
            for name in members - {META, DIGEST}:
                with archive.open(name) as member:
                    # No stored array is larger than the file; read_npy counts 4 bytes a number.
                    arrays[name.removesuffix(".npy")] = read_npy(member, 4 * size)
            if archive.read(DIGEST).decode() != _digest(text, arrays):
                raise InputError("its content is not what was saved: the SHA-256 digest differs")
    except _OtherVersion as version:
        raise InputError(
            f"{path} is a checkpoint of version {version}; this program reads version {VERSION}"
        ) from None
    except FAILURES as error:
        if getattr(error, "errno", None) not in CONTENT:
            raise Unreadable(f"cannot read {path}: {error.strerror}") from None
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise Damaged(f"{path} is not a readable checkpoint: {text:.200}") from None
    return arrays, meta


class _OtherVersion(Exception):
    """The file was written for another version of this program."""


def _members(archive, size):
    """The names in the archive, after checks: to read them takes no more than the file's size."""
    names = [info.filename for info in archive.infolist()]
    for info in archive.infolist():
        expected = info.filename in (META, DIGEST) or MEMBER.fullmatch(info.filename)
        if not expected or info.filename != info.orig_filename:
            raise InputError(f"holds a member named {info.orig_filename!a:.80}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{info.filename} is compressed, which no checkpoint is")
    if len(set(names)) < len(names):
        raise InputError("holds two members of one name")
    if sum(info.file_size for info in archive.infolist()) > size:
        raise InputError("its members claim more than the file holds")
    return set(names)


def plain(value: Any, name: str = "") -> Any:
    """A value as a checkpoint gives it back: NumPy's numbers are Python's, tuples are lists.

    Args:
        value: settings, of JSON's kinds.
        name: what errors call it.

    Raises:
        InputError: what cannot be kept, by its name.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name.count(".") > DEEPEST:
        raise InputError(f"{name:.80}... is too deep to be kept in a checkpoint")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{name or 'the settings'}: the key {key!r:.40} must be a string")
        return {key: plain(each, f"{name}.{key}".lstrip(".")) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, f"{name}.{i}".lstrip(".")) for i, each in enumerate(value)]
    raise InputError(
        f"{name} cannot be kept in a checkpoint: {value!r:.40} is a {type(value).__name__}, and "
        "there are numbers, strings, lists, dicts, True, False and None"
    )


def differences(saved: Meta, given: Meta) -> list[str]:
    """List where `given` differs from `saved`: ["base: 8 saved, 16 given", ...]."""
    return [
        f"{name}: {saved.get(name)!r} saved, {value!r} given"
        for name, value in plain(given).items()
        if saved.get(name) != value
    ]


@contextmanager
def content_errors_as_input(path: Name) -> Iterator[None]:
    """Turn a failure inside the block into an InputError: the checkpoint holds the wrong things."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        lacks, unfit = f"lacks {error}", f"does not fit this program: {error}"
        text = lacks if isinstance(error, KeyError) else unfit
        raise InputError(f"the checkpoint of {path} {text}") from None
