"""Folders of pictures, nested ones too: what is read, which class it is of, and what is left."""

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, counted
from .untrusted import LIMIT

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PICTURES = "pictures (PNG, JPEG, WebP, BMP, GIF, TIFF)"


class Found(NamedTuple):
    """What a reader found in a file or folder."""

    array: NDArray[Any]  # numbers of any dtype, as they are stored
    labels: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()  # the name of each label from 0 up, where they have names
    notes: tuple[str, ...] = ()  # what was taken, and what was left, a sentence each
    trouble: str = ""  # why there are no labels, where there should have been some


def read_pictures(
    folder: Path, limit: int = LIMIT, size: int | None = None, gray: bool = False
) -> Found:
    """Read every picture under a folder; the folders in it are the classes, where it has only them.

    Label k is the k-th folder in the order of their names, or of their values where all are
    numbers. Names that start with a dot are passed over.

    Args:
        folder: the folder.
        limit: the most bytes that the images may take.
        size: the side of the squares to make of them, or None.
        gray: make all of them grey.

    Raises:
        InputError: there is no picture, or none in the folder of a class, or one cannot be read.
    """
    from .pictures import read_pictures  # here, for the other readers need no Pillow

    files = files_under(folder)
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = [path for path in files if path.suffix.lower() not in SUFFIXES]
    if not paths:
        raise InputError(f"holds no {PICTURES}{_kinds(others, '; it holds ')}")
    notes = [f"{_left(others)} not read{_kinds(others, ': ')}"] if others else []
    of = [path.relative_to(folder).parts for path in paths]
    labels, classes = None, ()
    if min(map(len, of)) > 1:
        classes = _classes(folder, Counter(parts[0] for parts in of), others)
        order = {name: label for label, name in enumerate(classes)}
        paths.sort(key=lambda path: (order[path.relative_to(folder).parts[0]], path))
        labels = np.array([order[path.relative_to(folder).parts[0]] for path in paths])
    elif max(map(len, of)) > 1:
        notes.append("pictures lie in it and in folders of it: all are read, without classes")
    images, more = read_pictures(folder, paths, limit, size, gray)
    return Found(images, labels, classes, (*notes, *more))


def files_under(folder: Path) -> list[Path]:
    """Every file under a folder, in the order of their paths; no folder is entered twice."""

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for at, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(at, name) for name in names if name[0] != "."]
    return sorted(found)


def _classes(folder, counts, others):
    """The names of the folders in a folder. Raises InputError for one that holds no picture."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    names.sort()
    empty = [name for name in names if not counts[name]]
    if empty:
        held = [path for path in others if path.relative_to(folder).parts[0] == empty[0]]
        raise InputError(
            f"the folder{'s' if len(empty) > 1 else ''} {', '.join(empty[:9])} in it "
            f"hold{'' if len(empty) > 1 else 's'} no {PICTURES}{_kinds(held, '; it holds ')}"
        )
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)


def _left(others):
    return f"{counted(len(others), 'file')} {'is' if len(others) == 1 else 'are'}"


def _kinds(paths, start):
    """How many files there are of each kind: "; it holds 40 .heic, 2 .txt"; nothing for none."""
    kinds = Counter(path.suffix.lower() or path.name for path in paths)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"{start}{shown}{', ...' if len(kinds) > 5 else ''}" if paths else ""
