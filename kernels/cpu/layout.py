"""Where pixels lie: images in a frame of zeros, and tables of where patches start."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .jit import kernel
from .tiles import DIRECT


class Framed(np.ndarray):
    """Images (B, H, W, C), the inside of `frame` (B, H + 2, W + 2, C), whose border is zero.

    A convolution reads the frame and pads nothing. Only `framed` sets `frame`: whatever is derived
    from such an array, a slice or a sum, has none and is an ordinary array.
    """

    frame = None


def framed(shape):
    """Uninitialised float32 images of the given shape, (B, H, W, C), inside a frame."""
    B, H, W, C = shape
    frame = np.empty((B, H + 2, W + 2, C), np.float32)
    _clear_border(frame)
    inside = frame[:, 1:-1, 1:-1].view(Framed)
    inside.frame = frame
    return inside


def storage(x):
    """(contiguous array, width of its border) that holds x: its frame, or x or a copy of it."""
    if isinstance(x, Framed) and x.frame is not None:
        return x.frame, 1
    return np.ascontiguousarray(x), 0


def frame_of(x):
    """A frame that holds x: its own, or a new one."""
    if isinstance(x, Framed) and x.frame is not None:
        return x.frame
    inside = framed(x.shape)
    inside[:] = x
    return inside.frame


@kernel
def _clear_border(frame):
    B, H, W, _ = frame.shape
    for n in range(B):
        frame[n, 0] = 0
        frame[n, H - 1] = 0
        for i in range(1, H - 1):
            frame[n, i, 0] = 0
            frame[n, i, W - 1] = 0


class Pixels(NamedTuple):
    """Some of the pixels of an array (B, H, W, C), for a kernel that reads or writes them."""

    array: np.ndarray  # contiguous float32
    offsets: np.ndarray  # int32, where each pixel starts in the flat array
    grid: tuple  # (B, h, w): how many pixels there are

    @property
    def flat(self):
        """The whole array, flat."""
        return self.array.reshape(-1)

    @property
    def row(self):
        """How many numbers a row of the whole array holds."""
        return self.array.shape[2] * self.array.shape[3]


def pixels(array, border, size, step=1, first=(0, 0)):
    """Pixels of an array with a border.

    Args:
        array: (B, H, W, C), contiguous float32.
        border: the width of its border.
        size: (h, w), how many rows and columns of pixels.
        step: how far apart they are, along both axes.
        first: the first one's row and column, counted from inside the border.
    """
    B, H, W, C = array.shape
    start = ((first[0] + border) * W + first[1] + border) * C
    grid = (B, *size)
    return Pixels(array, offsets(grid, (H * W * C, step * W * C, step * C), start), grid)


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
