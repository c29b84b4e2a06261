"""Readers for the user's own files: .npy, .npz, IDX (also gzipped) and folders of PNGs; told by content.

A file is not trusted: nothing is unpickled, what a header claims is held against `limit` before anything is
read, and compressed data are read piece by piece, never beyond the claim. Every failure is one InputError.
"""

import contextlib
import gzip
import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import InputError

LIMIT = 2**31           # bytes that the samples may take, as float32 or as stored, whichever is more
PIECE = 2**20           # bytes read at a time
HEADER = 2**16          # more than any .npy header of plain numbers
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGE_NAMES, LABEL_NAMES = ("images", "x", "arr_0"), ("labels", "y")

# What the standard library, NumPy and Pillow raise on broken files.
FAILURES = (OSError, ValueError, EOFError, RuntimeError, MemoryError, ArithmeticError, LookupError,
            SyntaxError, TypeError, AttributeError, struct.error, zlib.error, zipfile.BadZipFile,
            tokenize.TokenError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def read(path, limit=LIMIT):
    """Read samples and, where the file has them, labels: (array, labels or None), values as stored.

    path: a .npy, .npz or IDX file, a gzipped IDX file, or a folder of PNGs. Raises InputError, naming the
    file, where it cannot be read or its samples would take more than `limit` bytes.
    """
    with naming(path):
        path = Path(path)
        if path.is_dir():
            return read_pngs(path, limit), None
        if not path.is_file():
            raise InputError("is not a regular file" if path.exists() else "no such file or folder")
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start == b"\x93NUMPY":
                return read_npy(file, limit), None
            if start[:2] == b"PK":
                return read_npz(file, limit)
            if start[:2] in (b"\x1f\x8b", b"\0\0"):
                return read_idx(file, limit), _labels_beside(path, limit)
        raise InputError("is none of .npy, .npz, IDX, IDX .gz and a folder of PNGs")


@contextlib.contextmanager
def naming(path):
    """Turn every failure inside the block into an InputError of one line that starts with the path."""
    try:
        yield
    except FAILURES as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            text = "is not a PNG image"
        raise InputError(f"{path}: {' '.join(text.split())}") from error


def read_npy(file, limit=LIMIT):
    """Read one array of numbers in NumPy's .npy format from an open file, at its stored shape and dtype."""
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


def read_npz(file, limit=LIMIT):
    """Read samples and labels from a .npz: its single array, or the one named images, x or arr_0."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()
                   if info.filename.endswith(".npy")}
        label_name = next((name for name in LABEL_NAMES if name in members), None)
        others = [name for name in members if name != label_name]
        named = [name for name in IMAGE_NAMES if name in members]
        if not named and len(others) != 1:
            raise InputError(f"holds {', '.join(members) or 'no array'}; name the samples images, x or arr_0")
        image_name = (named or others)[0]

        def member(name):
            # Other methods than these two unpack without a bound on what one call returns.
            if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{name}: compressed by a method that NumPy does not write")
            with archive.open(members[name]) as stream:
                return read_npy(stream, limit)

        return member(image_name), None if label_name is None else member(label_name)


def read_idx(file, limit=LIMIT):
    """Read an array in MNIST's IDX format, (N,) to (N, H, W, C), from an open file that may be gzipped."""
    if file.read(2) == b"\x1f\x8b":
        file.seek(0)
        with gzip.open(file) as unpacked:
            return read_idx(unpacked, limit)
    code, ndim = struct.unpack("BB", _read_exactly(file, 2))
    if code not in IDX_DTYPES or not 1 <= ndim <= 4:
        raise InputError(f"its IDX header has type {code:#04x} and {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", _read_exactly(file, 4 * ndim))
    return _read_numbers(file, shape, np.dtype(IDX_DTYPES[code]), limit)


def read_pngs(folder, limit=LIMIT):
    """Read a folder's PNGs in the order of their names: uint8 (N, H, W, 1) if all grey, else (N, H, W, 3).

    Palettes become RGB and transparency is laid on white. Raises InputError where there is no PNG, where two
    sizes differ, and on 16-bit greys.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name[0] != ".")
    if not paths:
        raise InputError("holds no .png file")
    size, mode = None, "L"
    for path in paths:
        with naming(path.name), _open_png(path) as image:
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise InputError(f"has mode {image.mode}; save it with 8 bits a channel")
            size = size or image.size
            if image.size != size:
                raise InputError("is {} x {}, {} is {} x {}".format(*image.size, paths[0].name, *size))
            mode = mode if image.mode in ("1", "L", "LA") else "RGB"
    shape = (len(paths), size[1], size[0], len(mode))
    _check_size(shape, 1, limit)
    images = np.empty(shape, np.uint8)
    for i, path in enumerate(paths):
        with naming(path.name), _open_png(path) as image:
            if image.mode in ("LA", "RGBA") or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", size, "white"), image.convert("RGBA"))
            images[i] = np.asarray(image.convert(mode)).reshape(shape[1:])
    return images


@contextlib.contextmanager
def _open_png(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=["PNG"]) as image:
            yield image


def _labels_beside(path, limit):
    """MNIST's labels lie in a file of their own: train-images-idx3-ubyte has train-labels-idx1-ubyte."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    beside = path.with_name(name)
    if "images" not in path.name or not beside.is_file():
        return None
    with naming(beside.name), open(beside, "rb") as file:
        return read_idx(file, limit)


def _check_size(shape, itemsize, limit):
    """Refuse a claimed shape that is empty or larger than the limit, before anything is allocated."""
    if min(shape, default=1) < 1:
        raise InputError(f"is empty: its shape is {tuple(shape)}")
    size = math.prod(shape) * max(itemsize, 4)
    if size > limit:
        raise InputError(f"its shape {tuple(shape)} would take {size:,} bytes; the limit is {limit:,}")


def _read_numbers(stream, shape, dtype, limit, order="C"):
    if dtype.kind not in "biuf":
        raise InputError(f"holds {dtype}, not real numbers")
    _check_size(shape, dtype.itemsize, limit)
    data = _read_exactly(stream, math.prod(shape) * dtype.itemsize)
    if stream.read(1):      # this read also makes a zip or gzip stream check its CRC
        raise InputError("is longer than its header says")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _read_exactly(stream, size):
    """Read `size` bytes; memory grows with what truly arrives, not with what a header claims."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(PIECE, size - len(data)))
        if not piece:
            raise InputError(f"ends early: {size:,} bytes claimed, {len(data):,} found")
        data += piece
    return data
