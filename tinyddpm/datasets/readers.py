"""Readers for the user's own data: .npy, .npz, IDX (.gz too), CIFAR's files, folders.

A file's kind is found from its content (CIFAR's, which has no mark, from its name and size) and the
file is not trusted: nothing is unpickled, what a header claims is held against `limit` before
anything is read, and compressed data are read piece by piece, never beyond the claim. Every failure
is one InputError.
"""

import gzip
import io
import math
import os
import re
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .folders import PICTURES, Found, read_pictures
from .pickled import NAMES, read_archive, read_batches
from .untrusted import (
    LIMIT,
    Stream,
    check_size,
    file_errors_as_input,
    open_regular,
    quiet,
    read_exactly,
)

HEADER = 2**16  # bytes; more than any .npy header of plain numbers
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# what the samples and their labels are called in an .npz: here, in Keras, in MedMNIST, by np.savez
IMAGE_NAMES = ("images", "x", "x_train", "train_images", "arr_0")
LABEL_NAMES = ("labels", "y", "y_train", "train_labels")
PICKLE = b"\x80"  # how a pickle of protocol 2 or later starts
PICKLE_REFUSED = (
    "is a Python pickle, which could run any code: give a .npy, or the binary version of CIFAR "
    "(from where this one was, unpacked); of pickles only CIFAR-10's are read, which are not run"
)
# How files start that are not read, and what to do with them.
OTHERS = {
    **dict.fromkeys(
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM"),
        "is one picture: give a folder of many",
    ),
    b"\x89HDF": "is an HDF5 file: read it with h5py and save the array with numpy.save",
}
# bytes a record: its labels, then 32 x 32 x 3 pixels
CIFAR = {3073: ("CIFAR-10", 10), 3074: ("CIFAR-100", 100)}

Array = NDArray[Any]  # numbers of any dtype, as a file stores them


def read(
    path: str | os.PathLike[str], limit: int = LIMIT, size: int | None = None, gray: bool = False
) -> Found:
    """Read samples and, where they are there, their labels and the classes' names, as stored.

    Args:
        path: a .npy or .npz file, an IDX file (.gz too; its labels' file is looked for beside it),
            CIFAR's .bin or the folder of them, cifar-10-python.tar.gz or what it unpacks to, or a
            folder of pictures, nested or not.
        limit: the most bytes that the samples may take.
        size: for pictures: resize the shorter side to this and keep the centre square.
        gray: for pictures: make them grey.

    Raises:
        InputError: the file, which is named, cannot be read.
    """
    if limit < 1:
        raise InputError(f"the limit must be at least 1 byte, got {limit}")
    if size is not None and size < 1:
        raise InputError(f"size must be at least 1 pixel, got {size}")
    with file_errors_as_input(path), quiet:  # NumPy and Pillow warn of oddities that they mend
        path = Path(path)
        if path.is_dir():
            return _read_folder(path, limit, size, gray)
        _no_resizing(size, gray)
        return _read_file(path, limit)


def _no_resizing(size, gray):
    if size is not None or gray:
        raise InputError("size and gray are for folders of pictures, which this is not")


def _read_file(path, limit):
    with open_regular(path) as file:
        start = file.read(512)
        file.seek(0)
        if start[:6] == b"\x93NUMPY":
            return Found(read_npy(file, limit))
        if start[:2] == b"PK":
            return read_npz(file, limit)
        if start[:1] == PICKLE and path.name in NAMES:
            return read_batches([path], limit)
        if start[:1] == PICKLE:
            raise InputError(PICKLE_REFUSED)
        if path.suffix == ".bin" and any(path.stat().st_size % record == 0 for record in CIFAR):
            return read_cifar([path], limit)
        if start[:2] == b"\x1f\x8b" and path.name.endswith((".tar.gz", ".tgz")):
            return read_archive(file, limit)
        if start[:2] in (b"\x1f\x8b", b"\0\0"):
            return _with_labels(path, read_idx(file, limit), limit)
    words = next((words for mark, words in OTHERS.items() if start.startswith(mark)), None)
    if words is None and _is_table(start):
        words = (
            "is a table of text (CSV): read it with numpy.loadtxt or pandas, and save the numbers "
            "with numpy.save"
        )
    raise InputError(
        words
        or "is none of .npy, .npz, IDX, IDX .gz, CIFAR's .bin (records of 3073 or 3074 bytes), "
        f"cifar-10-python.tar.gz and a folder of {PICTURES}"
    )


def _is_table(start):
    """Whether a file's start is lines of text with commas, semicolons or tabs in the first one."""
    try:
        first = start.decode().splitlines()[0].replace("\t", ",")
    except (UnicodeDecodeError, IndexError):
        return False
    return first.isprintable() and ("," in first or ";" in first)


def _is_pickle(path):
    with open(path, "rb") as file:
        return file.read(1) == PICKLE


def _read_folder(folder, limit, size, gray):
    names = {path.name for path in folder.iterdir() if path.is_file()}
    binaries = sorted(name for name in names if re.fullmatch(r"data_batch_.*\.bin", name))
    if binaries or "train.bin" in names:
        _no_resizing(size, gray)
        return read_cifar([folder / name for name in binaries or ["train.bin"]], limit)
    # as CIFAR's Python version names its pickles
    batches = [folder / name for name in NAMES if name in names and _is_pickle(folder / name)]
    if batches:
        _no_resizing(size, gray)
        return read_batches(batches, limit)
    if "train" in names and _is_pickle(folder / "train"):
        raise InputError(f"train {PICKLE_REFUSED}")
    return read_pictures(folder, limit, size, gray)


def read_npy(file: Stream, limit: int = LIMIT) -> Array:
    """Read one array of numbers in NumPy's .npy format from an open file, as it is stored."""
    head = io.BytesIO(file.read(HEADER))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
    else:
        raise InputError(f"its .npy version {version} is for arrays that hold no plain numbers")
    file.seek(head.tell())
    return _read_numbers(file, shape, dtype, limit, order="F" if fortran else "C")


def read_npz(file: IO[bytes], limit: int = LIMIT) -> Found:
    """Read samples and labels from a .npz, by their names, or its single array.

    Raises InputError for a member whose name is not a plain NAME.npy, and where two have the same.
    """
    with zipfile.ZipFile(file) as archive:
        members = _npz_members(archive)
        image_name, label_name = _npz_names(list(members))
        left = [name for name in members if name not in (image_name, label_name)]
        taken = " and ".join(filter(None, (image_name, label_name)))
        notes = (f"took {taken}, left {', '.join(left[:9])}",) if left else ()

        def member(name):
            # Other methods than these two unpack without a bound on what one call returns.
            if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{name}: compressed by a method that NumPy does not write")
            with archive.open(members[name]) as stream:
                return read_npy(stream, limit)

        images = member(image_name)
        if label_name is None:
            return Found(images, notes=notes)
        labels, trouble = _or_trouble(label_name, lambda: member(label_name))
        # np.savez's second array need not be labels
        fits = labels is not None and labels.dtype.kind in "iu" and len(labels) == labels.size
        if label_name == "arr_1" and not (fits and len(labels) == len(images)):
            return Found(images, notes=(f"took {image_name}, left {label_name}",))
        return Found(images, labels, notes=notes, trouble=trouble)


def _npz_names(names):
    """The names of the samples and of the labels, or None for these, among those of an archive."""
    images = next((name for name in IMAGE_NAMES if name in names), None)
    if images == "arr_0":  # by np.savez, in the order in which they were given
        return images, "arr_1" if "arr_1" in names else None
    labels = next((name for name in LABEL_NAMES if name in names), None)
    others = [name for name in names if name != labels]
    if images is None and len(others) != 1:
        found = ", ".join(f"{name!a:.80}" for name in names[:9])
        raise InputError(f"holds {found or 'no array'}; name the samples images, x or arr_0")
    return images or others[0], labels


def _or_trouble(name, read):
    """(labels, "") as they are read, or (None, why they cannot be): samples can do without them."""
    try:
        with file_errors_as_input(name):
            return read(), ""
    except InputError as error:
        return None, str(error)


def _npz_members(archive):
    """The members of an archive, as a dict by the names of their arrays."""
    members = {}
    kinds = Counter(Path(info.filename).suffix for info in archive.infolist() if not info.is_dir())
    if kinds and ".npy" not in kinds:
        if ".pkl" in kinds:
            raise InputError("is PyTorch's: load it there and save the array with numpy.save")
        shown = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in kinds.items())
        raise InputError(f"is a .zip of {shown:.80}: unpack it and give the folder")
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        # orig_filename is the name before zipfile cuts it at a NUL and turns backslashes round.
        plain = info.filename == info.orig_filename and not set(name) & set("/\\:")
        if not plain or not info.filename.endswith(".npy"):
            raise InputError(
                f"holds a member named {info.orig_filename!a:.80}; an .npz holds NAME.npy only"
            )
        if name in members:
            raise InputError(f"holds two members named {info.filename!a:.80}")
        members[name] = info
    return members


def read_idx(file: Stream, limit: int = LIMIT) -> Array:
    """Read an array in MNIST's IDX format, (N,) to (N, H, W, C), from an open file, .gz too."""
    # one layer: some files hold themselves
    if not isinstance(file, gzip.GzipFile) and file.read(2) == b"\x1f\x8b":
        file.seek(0)
        with gzip.open(file) as unpacked:
            return read_idx(unpacked, limit)
    file.seek(0)
    if read_exactly(file, 2) != b"\0\0":
        raise InputError("is gzipped, but what it holds is no IDX file")
    code, ndim = struct.unpack("BB", read_exactly(file, 2))
    if code not in IDX_DTYPES or not 1 <= ndim <= 4:
        raise InputError(f"its IDX header has type {code:#04x} and {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", read_exactly(file, 4 * ndim))
    return _read_numbers(file, shape, np.dtype(IDX_DTYPES[code]), limit)


def read_cifar(paths: list[Path], limit: int = LIMIT) -> Found:
    """Read CIFAR's binary files: uint8 images (N, 32, 32, 3) and labels (N,).

    A record is 1 label byte (CIFAR-10), or a coarse and a fine one (CIFAR-100, whose fine ones are
    the labels), then 1024 bytes each of red, green and blue. Raises InputError where a size is no
    whole number of records or a label is out of bounds.
    """
    sizes = [path.stat().st_size for path in paths]
    record = next((record for record in CIFAR if not any(size % record for size in sizes)), None)
    if record is None:
        raise InputError("its size is no whole number of CIFAR's records, 3073 or 3074 bytes each")
    n = sum(sizes) // record
    check_size((n, 32, 32, 3), 1, limit)
    data = bytearray()
    for path, size in zip(paths, sizes):
        with file_errors_as_input(path.name), open_regular(path) as file:
            data += read_exactly(file, size)
    records = np.frombuffer(data, np.uint8).reshape(n, record)
    images, labels = records[:, -3072:].reshape(n, 3, 32, 32), records[:, -3073].copy()
    name, classes = CIFAR[record]
    if labels.max() >= classes:
        raise InputError(f"has label {labels.max()}; those of {name} go from 0 to {classes - 1}")
    return Found(images.transpose(0, 2, 3, 1), labels)


def _with_labels(path, images, limit):
    """An IDX file's images with the labels of the file beside it, where there is one.

    MNIST's are in a file of their own: train-images-idx3-ubyte has train-labels-idx1-ubyte, or its
    .gz.
    """
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    places = [path.with_name(each) for each in (name, name.removesuffix(".gz"), f"{name}.gz")]
    beside = next((place for place in places if place.is_file()), None)
    if "images" not in path.name or beside is None:
        return Found(images)
    with open(beside, "rb") as file:
        labels, trouble = _or_trouble(beside.name, lambda: read_idx(file, limit))
    return Found(images, labels, trouble=trouble)


def _read_numbers(stream, shape, dtype, limit, order="C"):
    if dtype.kind not in "biuf":
        raise InputError(f"holds {dtype}, not real numbers")
    check_size(shape, dtype.itemsize, limit)
    data = read_exactly(stream, math.prod(shape) * dtype.itemsize)
    if stream.read(1):  # this read also makes a zip or gzip stream check its CRC
        raise InputError("is longer than its header says")
    return np.frombuffer(data, dtype).reshape(shape, order=order)
