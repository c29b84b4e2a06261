"""Where pixels lie: images kept inside a frame of zeros, and tables of the offsets at which patches
start.
"""

from functools import lru_cache

import numpy as np

from .direct import PIXELS
from .jit import kernel


class Framed(np.ndarray):
    """Images (B, H, W, C) that are the inside of `frame`, (B, H + 2, W + 2, C), whose border is
    zero.

    A convolution reads the frame and pads nothing. Only `framed` sets `frame`: whatever is derived
    from such an array, a slice or a sum, has none and is an ordinary array.
    """

    frame = None


def framed(shape):
    """Uninitialised float32 images of the given shape, (B, H, W, C), inside a frame whose border is
    zero.
    """
    B, H, W, C = shape
    frame = np.empty((B, H + 2, W + 2, C), np.float32)
    _clear_border(frame)
    inside = frame[:, 1:-1, 1:-1].view(Framed)
    inside.frame = frame
    return inside


def storage(x):
    """(contiguous array, width of its border) that holds x: its frame, or x itself, copied if it
    has gaps.
    """
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


@lru_cache(maxsize=512)
def offsets(shape, strides, start=0):
    """int32 table of the offsets of the pixels (B, H, W) of an array with these strides, all in
    elements.

    Its length is filled up to a multiple of PIXELS by repeating the last pixel: that is then
    computed again.
    """
    b, i, j = np.ogrid[tuple(slice(n) for n in shape)]
    table = (start + b * strides[0] + i * strides[1] + j * strides[2]).reshape(-1)
    if table[-1] >= 2**31:
        raise ValueError("an array of 2**31 elements or more is too large for the offset tables")
    return np.append(table, np.full(-len(table) % PIXELS, table[-1])).astype(np.int32)


def inside(array, border, size, step=1, first=(0, 0)):
    """Table of `size` = (h, w) pixels of `array` (B, H, W, C), `step` apart, from `first` inside
    its border.
    """
    B, H, W, C = array.shape
    start = ((first[0] + border) * W + first[1] + border) * C
    return offsets((B, *size), (H * W * C, step * W * C, step * C), start)
