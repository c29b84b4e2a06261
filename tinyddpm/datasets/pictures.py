"""Reading folders of PNGs with Pillow, which nothing else of the readers needs."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from .untrusted import DEFLATE, LIMIT, check_size, file_errors_as_input, open_regular


def read_pngs(folder: Path, paths: list[Path], limit: int = LIMIT) -> NDArray[np.uint8]:
    """Read the PNGs of a folder: uint8 (N, H, W, 1) if all are grey, else (N, H, W, 3).

    Palettes become RGB and transparency is laid on white.

    Args:
        folder: the folder, which errors do not name.
        paths: files in it or in its own folders, in the order of the images.
        limit: the most bytes that the images may take.

    Raises:
        InputError: there is no PNG, two sizes differ, or one has 16 bits a channel.
    """
    if not paths:
        raise InputError("holds no .png file")
    names = [path.relative_to(folder) for path in paths]
    size, mode = (0, 0), "L"
    for path, name in zip(paths, names):
        with file_errors_as_input(name), _open_png(path, limit) as image:
            size = image.size if name == names[0] else size
            if image.size != size:
                raise InputError("is {} x {}, {} is {} x {}".format(*image.size, names[0], *size))
            mode = mode if image.mode in ("1", "L", "LA") else "RGB"
    shape = (len(paths), size[1], size[0], len(mode))
    check_size(shape, 1, limit)
    images = np.empty(shape, np.uint8)
    for i, (path, name) in enumerate(zip(paths, names)):
        with file_errors_as_input(name), _open_png(path, limit) as image:
            images[i] = np.asarray(_on_white(image).convert(mode)).reshape(shape[1:])
    return images


def _on_white(image):
    """The image with its transparency, where it has any, laid on white."""
    if image.mode not in ("LA", "RGBA") and "transparency" not in image.info:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


@contextlib.contextmanager
def _open_png(path: Path, limit: int) -> Iterator[Image.Image]:
    """Open a PNG, its pixels not yet read, after the checks that its header allows.

    Pillow's own errors become InputErrors, and so does its warning of an image too large to be
    true, in the block too.
    """
    try:
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=["PNG"]) as image:
                _check_png(image, path.stat().st_size, limit)
                yield image
    except UnidentifiedImageError as error:
        raise InputError("is not a PNG image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(str(error)) from error


def _check_png(image, packed, limit):
    """Raise InputError where a PNG of `packed` bytes cannot hold its pixels or has 16 bits."""
    width, height = image.size
    if packed > limit or width * height > 8 * DEFLATE * packed:  # a pixel has a bit at least
        raise InputError(
            f"its {packed:,} bytes are beyond the limit or cannot hold {width} x {height} pixels"
        )
    stored = image.tile[0][3] if image.tile else ""
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA") or "16" in stored:
        raise InputError(f"has mode {stored or image.mode}; save it with 8 bits a channel")
