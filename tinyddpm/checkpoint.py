"""Checkpoints: an .npz of plain arrays and a JSON text, written so that a crash leaves the old one or the new one."""

import io
import json
import os
import pathlib
import zipfile

import numpy as np

from .errors import InputError, TinyDDPMError

VERSION = 1
NAME = "checkpoint.npz"


def write_atomic(path, data):
    """Write bytes to `path` through a temporary file beside it: flushed to disk, renamed, the folder flushed.

    Raises TinyDDPMError where the disk refuses; the file that was there before stays, and no partial one does.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TinyDDPMError(f"cannot write {path}: {error.strerror or error}") from None


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


def save(path, arrays, meta):
    """Save a dict of arrays and a dict of settings, JSON's kinds only, to the .npz `path`, atomically."""
    text = json.dumps({"version": VERSION, **meta})
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(text), **arrays)
    write_atomic(path, buffer.getbuffer())


def load(path):
    """(arrays, meta) from a checkpoint, or from the one in a run folder; nothing in it is ever executed.

    Raises InputError for a missing, damaged or foreign file and for another version.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        version = meta["version"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable checkpoint: {error}") from None
    if version != VERSION:
        raise InputError(f"{path} is a checkpoint of version {version}; this program reads version {VERSION}")
    return arrays, meta
