"""Checkpoints: plain arrays and a JSON text in an .npz, under a digest; a crash leaves the old one
or the new one.

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
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from ..errors import InputError, TinyDDPMError
from ..datasets.readers import FAILURES, read_npy

VERSION = 2
NAME = "checkpoint.npz"
META, DIGEST = "meta.json", "sha256"        # the two members that are texts
OLDER = re.compile(r"checkpoint-(\d{1,18})\.npz")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
MEMBER = re.compile(r"\w{1,80}\.npy", re.ASCII)
NO_LINKS = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


class Damaged(InputError):
    """What should be a checkpoint cannot be read, or is not what was saved."""


class DamageWarning(UserWarning):
    """The newest checkpoint of a run could not be used; an older one was."""


def write_atomic(path, data, ready=lambda: None):
    """Write bytes to `path` through a temporary file beside it: flushed to disk, renamed, the
    folder flushed.

    data: bytes or an iterable of them; ready: called when they are safe under the temporary name.
    Raises TinyDDPMError where the disk refuses; the file that was there before stays, and no
    partial one does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines([data] if isinstance(data, bytes | memoryview) else data)
            file.flush()
            os.fsync(file.fileno())
        ready()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise TinyDDPMError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder):
    """Make the rename itself last; a system that cannot open folders needs no such thing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(path, arrays, meta, ready=lambda: None):
    """Save a dict of arrays and a dict of settings, JSON's kinds only, to the .npz `path`,
    atomically.
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
    write_atomic(path, buffer.getbuffer(), ready)


def _digest(text, arrays):
    """SHA-256 over the settings' text and each array's name, dtype, shape and numbers, in the order
    of the names.
    """
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_run(folder, arrays, meta, keep=1):
    """Save FOLDER/checkpoint.npz; the one before becomes checkpoint-<step>.npz, and of all the
    newest `keep` stay.

    At every moment one whole checkpoint is there: the new one is safe on disk before the old one is
    renamed, and what is too old goes last. Raises TinyDDPMError where the disk refuses.
    """
    path, step = Path(folder) / NAME, meta["step"]
    save(path, arrays, meta, lambda: _set_aside(path))
    # One of this step or later is from before the run was set back: damaged, or another future than
    # this one's.
    dead = [older for of, older in _older(folder) if of >= step]
    spare = [older for of, older in _older(folder) if of < step][keep - 1:]
    try:
        for older in dead + spare:
            older.unlink(missing_ok=True)
    except OSError as error:
        raise TinyDDPMError(f"cannot delete {error.filename}: {error.strerror}") from None


def _set_aside(path):
    """Give the checkpoint at `path` its name as an older one as well; a damaged one is not worth
    it.
    """
    try:
        before = _read(path)[1].get("step")
    except InputError:
        return
    if type(before) is not int or before < 0:
        return
    older = path.with_name(f"checkpoint-{before}.npz")
    older.unlink(missing_ok=True)       # left by a crash between this and the rename
    try:
        os.link(path, older)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # a crash here leaves no checkpoint.npz: `load` finds the older one
        os.replace(path, older)


def _older(folder):
    """[(step, path)] of the older checkpoints in a folder, the newest first."""
    found = ((OLDER.fullmatch(path.name), path) for path in Path(folder).iterdir())
    return sorted(((int(name[1]), path) for name, path in found if name and path.is_file()), reverse=True)


def holds_run(folder):
    """Whether there is a checkpoint in a folder, the newest or an older one."""
    return Path(folder).is_dir() and ((Path(folder) / NAME).exists() or bool(_older(folder)))


def clear(folder):
    """Delete the temporary files that a killed process left in a run folder."""
    for path in Path(folder).iterdir():
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def load(path):
    """(arrays, meta) from a checkpoint file, or from the newest whole one in a run folder; nothing
    in it is executed.

    Warns with DamageWarning where an older one had to serve. Raises InputError for a missing,
    damaged or foreign file and for another version.
    """
    path = Path(path)
    if not path.is_dir():
        return _read(path)
    try:
        return _read(path / NAME)
    except Damaged as error:
        for step, older in _older(path):
            try:
                found = _read(older)
            except Damaged:
                continue
            warnings.warn(f"{error}; {older.name}, of step {step}, is used instead", DamageWarning,
                          stacklevel=1)
            return found
        raise


def _read(path):
    """(arrays, meta) from one file. Raises Damaged, or InputError for another version."""
    if not path.is_file():
        raise Damaged(f"no checkpoint at {path}")
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
                    # the claim of a stored array cannot exceed the file; the factor is read_npy's
                    # way of counting
                    arrays[name.removesuffix(".npy")] = read_npy(member, 4 * size)
            if archive.read(DIGEST).decode() != _digest(text, arrays):
                raise InputError("its content is not what was saved: the SHA-256 digest differs")
    except _OtherVersion as version:
        raise InputError(f"{path} is a checkpoint of version {version}; this program reads version {VERSION}") from None
    except FAILURES as error:
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise Damaged(f"{path} is not a readable checkpoint: {text:.200}") from None
    return arrays, meta


class _OtherVersion(Exception):
    """The file says that it was written for another version of this program."""


def _members(archive, size):
    """The names in the archive, after the checks that bound what reading them takes by the file's
    own size.
    """
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


def differences(saved, given):
    """["base: 8 saved, 16 given", ...]: where `given` differs from `saved`, two dicts of JSON's
    kinds.
    """
    # tuples become lists, as they did in the checkpoint
    plain = json.loads(json.dumps(given))
    return [f"{name}: {saved.get(name)!r} saved, {value!r} given" for name, value in plain.items()
            if saved.get(name) != value]


@contextmanager
def fitting(path):
    """Turn what a checkpoint that holds other things than the reader needs would raise inside into
    one InputError.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        text = f"lacks {error}" if isinstance(error, KeyError) else f"does not fit this program: {error}"
        raise InputError(f"the checkpoint of {path} {text}") from None
