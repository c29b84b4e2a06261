"""Reading pictures with Pillow, which nothing else of the readers needs."""

import contextlib
import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError, counted
from .untrusted import DEFLATE, FAILURES, LIMIT, check_size, file_errors_as_input, open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
GREY = ("1", "L", "LA")
MODES = (*GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
PIXELS = 2**30 // 12  # of one picture; more is taken for a decompression bomb, as Pillow does
# The formats other than PNG may hold a plain area in next to nothing: this many pixels are believed
# whatever the size of the file.
SPARE = 2**22
BAND = 2**20  # pixels converted at a time
LARGE = 2**22  # pixels of a picture whose memory is worth giving back at once
# --size decodes a JPEG at a fraction of its size, this many times larger than what is asked for
DRAFT = 4
ONE_SIZE = "bring them to one size with --size N (size=N in Python)"


def read_pictures(
    folder: Path, paths: list[Path], limit: int = LIMIT, size: int | None = None, gray: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Read pictures: uint8 (N, H, W, 1) if all are grey, else (N, H, W, 3), and what was left out.

    Each is turned as its EXIF orientation says, palettes become RGB, transparency is laid on white.

    Args:
        folder: the folder, which errors do not name.
        paths: the files, in it or in folders of it, in the order of the images.
        limit: the most bytes that the images may take, and that one decoded picture may.
        size: the shorter side is resized to this, antialiased, and the centre square is kept; None:
            the pictures stay as they are, and must be of one size.
        gray: make all of them grey.

    Returns:
        The images, and a sentence for each thing that was not read.

    Raises:
        InputError: one cannot be read or has 16 bits a channel, or two sizes differ.
    """
    names = [path.relative_to(folder) for path in paths]
    width, height, mode = _survey(paths, names, limit, size)
    mode = "L" if gray else mode
    check_size((len(paths), height, width, len(mode)), 1, limit)
    images = np.empty((0, 0, 0, 0), np.uint8)
    several: Counter[str] = Counter()
    large = False
    for i, (path, name) in enumerate(zip(paths, names)):
        with file_errors_as_input(name), _opened(path, limit) as image:
            picture = _square(image, size) if size else _turned(image)
            shape = (picture.height, picture.width, len(mode))
            if i == 0:  # EXIF may turn it: its header's width is its height then
                images = np.empty((len(paths), *shape), np.uint8)
            if images.shape[1:] != shape:
                raise InputError(
                    f"is {shape[1]} x {shape[0]} as its EXIF turns it, {names[0]} is "
                    f"{images.shape[2]} x {images.shape[1]}: {ONE_SIZE}"
                )
            _fill(images[i], picture, mode)
            large = large or picture.width * picture.height > LARGE
            several[str(image.format)] += _holds_more(image)
    del image, picture
    if large:
        _give_back()
    more = [counted(n, f"{kind} file") for kind, n in several.items() if n]
    return images, tuple(f"{each} with more than one frame: the first was read" for each in more)


def _survey(paths, names, limit, size):
    """(width, height, mode) that the pictures will have, by their headers alone."""
    sizes, mode = {}, "L"
    for path, name in zip(paths, names):
        with file_errors_as_input(name), _opened(path, limit) as image:
            sizes.setdefault(image.size, []).append(name)
            mode = mode if image.mode in GREY else "RGB"
    if size:
        return size, size, mode
    if len({frozenset(each) for each in sizes}) > 1:  # EXIF may make 4 x 5 of 5 x 4
        raise InputError(_many_sizes(sizes))
    return *next(iter(sizes)), mode


def _many_sizes(sizes):
    """The message that refuses pictures of many sizes: the most frequent ones, by name."""
    common = sorted(sizes.items(), key=lambda item: -len(item[1]))
    shown = [f"{w} x {h} ({len(names)}, as {names[0]})" for (w, h), names in common[:4]]
    others = [f"{len(sizes) - 4} more"] if len(sizes) > 4 else []
    return f"holds pictures of {len(sizes)} sizes: {', '.join(shown + others)}; {ONE_SIZE}"


def _turned(image):
    """The picture, its pixels read, as its EXIF orientation says."""
    image.load()
    with contextlib.suppress(*FAILURES):  # damaged EXIF says nothing: the picture stays as it lies
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _square(image, size):
    """The centre square of a picture, size x size, antialiased."""
    image.draft(None, (DRAFT * size, DRAFT * size))  # does nothing but to a JPEG
    image = _turned(image)
    # Pillow does not smooth palettes and bits.
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return ImageOps.fit(image, (size, size))


def _fill(into, image, mode):
    """Write the pixels of a picture into an array, a band at a time: conversions take memory."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        part = into[top : top + rows]
        band = image.crop((0, top, image.width, top + len(part)))
        part[:] = np.asarray(_on_white(band).convert(mode)).reshape(part.shape)


def _on_white(image):
    """The image with its transparency, where it has any, laid on white."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _give_back():
    """Ask glibc to return what the decoded pictures took: in its heap it would be held for others.

    What follows are arrays, which take memory of their own. Another C library has no such thing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _holds_more(image):
    """Whether frames or pages follow the one that was read."""
    if image.format not in FORMATS:  # a camera's JPEG may carry previews of itself
        return False
    with contextlib.suppress(*FAILURES):  # what follows is damaged, and not needed
        return bool(getattr(image, "is_animated", False))
    return True


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[Image.Image]:
    """Open a picture, its pixels not yet read, after the checks that its header allows."""
    try:
        with open_regular(path) as file:
            packed = path.stat().st_size
            _check_webp(file, packed, limit)
            with Image.open(file, formats=FORMATS) as image:
                _check_pixels(*image.size, packed, limit, 0 if image.format == "PNG" else SPARE)
                _check_mode(image)
                yield image
    except UnidentifiedImageError as error:
        raise InputError(f"is none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(str(error)) from error


def _check_webp(file, packed, limit):
    """Hold a WebP's size against the limit: Pillow takes the memory for it when it opens one."""
    head = file.read(30).ljust(30, b"\0")
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return
    number = int.from_bytes
    if head[12:16] == b"VP8X":
        width, height = 1 + number(head[24:27], "little"), 1 + number(head[27:30], "little")
    elif head[12:16] == b"VP8L":
        bits = number(head[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = number(head[26:28], "little"), number(head[28:30], "little")
        width, height = width & 0x3FFF, height & 0x3FFF
    _check_pixels(width, height, packed, limit, SPARE)


def _check_pixels(width, height, packed, limit, spare):
    """Raise InputError where a file of `packed` bytes cannot hold so many pixels, or none may."""
    pixels = width * height
    if pixels > PIXELS:
        raise InputError(f"has {width} x {height} pixels, more than the {PIXELS:,} that one may")
    # a pixel has a bit at least
    if packed > limit or pixels > 8 * DEFLATE * packed + spare:
        raise InputError(
            f"its {packed:,} bytes are beyond the limit or cannot hold {width} x {height} pixels"
        )
    if 4 * pixels > limit:
        raise InputError(
            f"its {width} x {height} pixels would take {4 * pixels:,} bytes; the limit is "
            f"{limit:,} (--limit)"
        )


def _check_mode(image):
    """Raise InputError for a picture of 16 bits a channel, or of colours that are not read."""
    stored = image.tile[0][3] if image.tile else ""
    stored = stored[0] if isinstance(stored, tuple) and stored else stored
    deep = image.format in ("PNG", "TIFF") and "16" in str(stored)
    if image.mode not in MODES or deep:
        kind = stored if deep and isinstance(stored, str) else image.mode
        raise InputError(f"has mode {kind}; save it with 8 bits a channel")
