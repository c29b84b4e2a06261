"""Readers for the user's own files: .npy, .npz, IDX (also gzipped), CIFAR's binary version, PNGs.

A file's kind is found from its content (CIFAR's, which has no mark, from its name and size) and the
file is not trusted: nothing is unpickled, what a header claims is held against `limit` before
anything is read, and compressed data are read piece by piece, never beyond the claim. Every failure
is one InputError.
"""

import gzip
import io
import math
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .untrusted import LIMIT, Stream, check_size, file_errors_as_input, open_regular, read_exactly

HEADER = 2**16  # bytes; more than any .npy header of plain numbers
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGE_NAMES, LABEL_NAMES = ("images", "x", "arr_0"), ("labels", "y")
PICKLE = b"\x80"  # how a pickle of protocol 2 or later starts
PICKLE_REFUSED = (
    "is a Python pickle, which could run any code: give a .npy, or the binary version of CIFAR"
)
# bytes a record: its labels, then 32 x 32 x 3 pixels
CIFAR = {3073: ("CIFAR-10", 10), 3074: ("CIFAR-100", 100)}

Array = NDArray[Any]  # numbers of any dtype, as a file stores them


def read(path: str | os.PathLike[str], limit: int = LIMIT) -> tuple[Array, Array | None]:
    """Read samples and, where the file has them, labels: (array, labels or None), as stored.

    path: a .npy or .npz file, an IDX file (.gz too; its labels' file is looked for beside it),
    CIFAR's .bin or the folder of them, a folder of PNGs, or one of such folders, a class each.
    Raises InputError, which names the file, where it cannot be read or its samples would take more
    than `limit` bytes.
    """
    if limit < 1:
        raise InputError(f"the limit must be at least 1 byte, got {limit}")
    with file_errors_as_input(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy and Pillow warn of oddities that they mend
        path = Path(path)
        return _read_folder(path, limit) if path.is_dir() else _read_file(path, limit)


def _read_file(path, limit):
    with open_regular(path) as file:
        start = file.read(6)
        file.seek(0)
        if start == b"\x93NUMPY":
            return read_npy(file, limit), None
        if start[:2] == b"PK":
            return read_npz(file, limit)
        if start[:1] == PICKLE:
            raise InputError(PICKLE_REFUSED)
        if path.suffix == ".bin" and any(path.stat().st_size % record == 0 for record in CIFAR):
            return read_cifar([path], limit)
        if start[:2] in (b"\x1f\x8b", b"\0\0"):
            return read_idx(file, limit), _labels_beside(path, limit)
    raise InputError(
        "is none of .npy, .npz, IDX, IDX .gz, CIFAR's .bin (records of 3073 or 3074 bytes) "
        "and a folder of PNGs"
    )


def _read_folder(folder, limit):
    pngs = _pngs_in(folder)
    if pngs:
        return _read_pngs(folder, pngs, limit), None
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    binaries = [name for name in names if name.startswith("data_batch_") and name.endswith(".bin")]
    if binaries or "train.bin" in names:
        return read_cifar([folder / name for name in binaries or ["train.bin"]], limit)
    # as CIFAR's Python version names its pickles
    for name in {"data_batch_1", "train"} & set(names):
        with open(folder / name, "rb") as file:
            if file.read(1) == PICKLE:
                raise InputError(f"{name} {PICKLE_REFUSED}")
    return read_classes(folder, limit)


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


def read_npz(file: IO[bytes], limit: int = LIMIT) -> tuple[Array, Array | None]:
    """Read samples and labels from a .npz: its single array, or the one named images, x or arr_0.

    Raises InputError for a member whose name is not a plain NAME.npy, and where two have the same.
    """
    with zipfile.ZipFile(file) as archive:
        members = _npz_members(archive)
        label_name = next((name for name in LABEL_NAMES if name in members), None)
        others = [name for name in members if name != label_name]
        named = [name for name in IMAGE_NAMES if name in members]
        if not named and len(others) != 1:
            found = ", ".join(f"{name!a:.80}" for name in list(members)[:9])
            raise InputError(f"holds {found or 'no array'}; name the samples images, x or arr_0")
        image_name = (named or others)[0]

        def member(name):
            # Other methods than these two unpack without a bound on what one call returns.
            if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{name}: compressed by a method that NumPy does not write")
            with archive.open(members[name]) as stream:
                return read_npy(stream, limit)

        return member(image_name), None if label_name is None else member(label_name)


def _npz_members(archive):
    """The members of an archive, as a dict by the names of their arrays."""
    members = {}
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


def read_cifar(
    paths: list[Path], limit: int = LIMIT
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
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
    return images.transpose(0, 2, 3, 1), labels


def read_classes(folder: Path, limit: int = LIMIT) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read a folder of folders of PNGs, a class each: images uint8, labels int64 (N,).

    Label k is the k-th folder that holds PNGs, in the order of their names, or of their values
    where all are numbers.
    """
    found = {
        path.name: _pngs_in(path)
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "."
    }
    names = [name for name in found if found[name]]
    names.sort(key=int if all(name.isdecimal() for name in names) else str)
    labels = np.repeat(np.arange(len(names)), [len(found[name]) for name in names])
    return _read_pngs(folder, [path for name in names for path in found[name]], limit), labels


def _pngs_in(folder):
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name[0] != "."
    )


def _read_pngs(folder, paths, limit):
    from .pictures import read_pngs  # here, for the other readers need no Pillow

    return read_pngs(folder, paths, limit)


def _labels_beside(path, limit):
    """The labels in the file beside, or None.

    MNIST's are in a file of their own: train-images-idx3-ubyte has train-labels-idx1-ubyte, or its
    .gz.
    """
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    for beside in (
        path.with_name(name),
        path.with_name(name.removesuffix(".gz")),
        path.with_name(f"{name}.gz"),
    ):
        if "images" in path.name and beside.is_file():
            with file_errors_as_input(beside.name), open(beside, "rb") as file:
                return read_idx(file, limit)
    return None


def _read_numbers(stream, shape, dtype, limit, order="C"):
    if dtype.kind not in "biuf":
        raise InputError(f"holds {dtype}, not real numbers")
    check_size(shape, dtype.itemsize, limit)
    data = read_exactly(stream, math.prod(shape) * dtype.itemsize)
    if stream.read(1):  # this read also makes a zip or gzip stream check its CRC
        raise InputError("is longer than its header says")
    return np.frombuffer(data, dtype).reshape(shape, order=order)
