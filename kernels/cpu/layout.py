"""Where pixels lie: images in a frame of zeros, and tables of where patches start."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .jit import kernel
from .tiles import DIRECT


class Place(NamedTuple):
    """Where images (B, H, W, C) lie whose channels stand side by side, for a kernel."""

    flat: np.ndarray  # the array that holds them, flat
    steps: (
        tuple  # where the first pixel begins in it; from image to image, row to row, pixel to pixel
    )


class Framed(np.ndarray):
    """Images (B, H, W, C), the inside of a frame (B, H + 2, W + 2, C), whose border is zero.

    A convolution reads the frame and pads nothing. Only `framed` sets `place`: whatever is derived
    from such an array, a slice or a sum, has none and is an ordinary array.
    """

    place = None


def framed(shape):
    """Uninitialised float32 images of the given shape, (B, H, W, C), inside a frame."""
    B, H, W, C = shape
    H, W = H + 2, W + 2
    frame = np.empty((B, H, W, C), np.float32)
    flat = frame.reshape(-1)
    _clear_border(flat, B, H, W, C)
    inside = frame[:, 1:-1, 1:-1].view(Framed)
    inside.place = Place(flat, ((W + 1) * C, H * W * C, W * C, C))
    return inside


def in_frame(x):
    """x itself if it lies in a frame, or a copy that does."""
    if type(x) is Framed and x.place is not None:
        return x
    inside = framed(x.shape)
    inside[:] = x
    return inside


def storage(x):
    """(contiguous array, width of its border) that holds x: its frame, or x or a copy of it."""
    if type(x) is Framed and x.place is not None:
        B, H, W, C = x.shape
        return x.place.flat.reshape(B, H + 2, W + 2, C), 1
    return np.ascontiguousarray(x), 0


def place(x):
    """The Place of float32 images: where they are, if they can be read there, or of a copy."""
    if type(x) is Framed and x.place is not None:
        return x.place
    _, H, W, C = x.shape
    if not x.flags.c_contiguous:
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        whole = owner.dtype == np.float32 and owner.flags.c_contiguous
        if whole and (x.strides[3] == 4 or C == 1):
            first, here = (a.__array_interface__["data"][0] for a in (owner, x))
            steps = (step // 4 for step in x.strides[:3])
            return Place(owner.reshape(-1), ((here - first) // 4, *steps))
        x = np.ascontiguousarray(x)
    return Place(x.reshape(-1), (0, H * W * C, W * C, C))


def places(*images):
    """The flat arrays of some images, and a table of their Places' steps, int64 and flat."""
    found = [place(x) for x in images]
    return *(each.flat for each in found), _table(tuple(each.steps for each in found))


@lru_cache(maxsize=512)
def _table(steps):
    """An array: a call of a kernel takes its time over tuples."""
    return np.array(steps, np.int64).reshape(-1)


@kernel
def _clear_border(frame, images, H, W, C):
    """The border of H x W pixels: the end of a row and the start of the next lie side by side."""
    row, place = W * C, 0
    for _ in range(images):
        frame[place : place + row + C] = 0
        place += 2 * row - C
        for _ in range(H - 3):
            frame[place : place + 2 * C] = 0
            place += row
        frame[place : place + row + C] = 0
        place += row + C


class Pixels(NamedTuple):
    """Some of the pixels of images (B, H, W, C), for a kernel that reads or writes them."""

    flat: np.ndarray  # float32: all that they lie in
    offsets: np.ndarray  # int32, where each pixel starts in it
    row: int  # how far apart the images' rows are
    grid: tuple  # (B, h, w): how many pixels there are


def pixels(x, size, step=1, first=(0, 0)):
    """Pixels of images, which may be the inside of a frame and then of its border too.

    Args:
        x: (B, H, W, C), float32.
        size: (h, w), how many rows and columns of pixels.
        step: how far apart they are, along both axes.
        first: the first one's row and column.
    """
    flat, (start, image, row, pixel) = place(x)
    start, grid = start + first[0] * row + first[1] * pixel, (len(x), *size)
    return Pixels(flat, offsets(grid, (image, step * row, step * pixel), start), row, grid)


@lru_cache(maxsize=512)
def offsets(shape, strides, start=0):
    """int32 table of where the pixels (B, H, W) of an array with these strides start, in elements.

    Its length is filled up to a multiple of DIRECT.pixels by repeating the last pixel: that is then
    computed again.
    """
    b, i, j = np.ogrid[tuple(slice(n) for n in shape)]
    table = (start + b * strides[0] + i * strides[1] + j * strides[2]).reshape(-1)
    if table[-1] >= 2**31:
        raise ValueError("an array of 2**31 elements or more is too large for the offset tables")
    return np.append(table, np.full(-len(table) % DIRECT.pixels, table[-1])).astype(np.int32)
