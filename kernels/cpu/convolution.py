"""Which convolution kernel takes which shape, and the calls: the seam between images and the
kernels' flat arrays.
"""

import math
from typing import NamedTuple

import numpy as np

from . import direct as conv
from . import winograd
from .layout import inside, offsets, storage

# Sums of a 3 x 3 kernel's rows: what each parity of a doubled image sees of the small one
# (forward), and what each of four rows of the doubled image's gradient gives the small one
# (backward).
UP = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
DOWN = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


class Weights(NamedTuple):
    """A kernel (k, l, C, O) laid out for `correlate`: how, its shape, and the numbers."""

    kind: str
    shape: tuple
    data: np.ndarray


def prepare(w, grid=None):
    """Lay w (k, l, C, O) out for `correlate`; grid = (B, H, W) of the output of a 3 x 3 kernel at
    stride 1.
    """
    O = w.shape[3]
    if grid and _transforms_pay(grid, w.shape, conv.LANES):
        return Weights("winograd", w.shape, winograd.transform_weights(w))
    if O <= conv.NARROW:
        return Weights("narrow", w.shape, np.ascontiguousarray(w.reshape(-1, O).T))
    return Weights("direct", w.shape, conv.pack(w))


def correlate(x, xoff, weights, bias, y, yoff, grid, shift=None, onto=None):
    """y = bias + (shift or onto) + patches w: patches of x start at xoff, the pixels of y, (B, h,
    w) = grid, at yoff.

    x, y: contiguous (B, H, W, C); bias (O,) or None; shift (B or 1, O); onto like y.
    """
    k, l, C, O = weights.shape
    bias = np.zeros(O, np.float32) if bias is None else bias
    if onto is not None:
        base, border = storage(onto)
        boff = inside(base, border, grid[1:])
    else:
        base = np.zeros((1, O), np.float32) if shift is None else np.ascontiguousarray(shift)
        boff = offsets(grid, (O if len(base) > 1 else 0, 0, 0))
    args = bias, base.reshape(-1), boff, y.reshape(-1), yoff
    x, xrow = x.reshape(-1), x.shape[2] * x.shape[3]
    if weights.kind == "winograd":
        winograd.correlate(x, xoff, xrow, winograd.corners(grid), C, weights.data, *args)
    else:
        kernel = conv.correlate_narrow if weights.kind == "narrow" else conv.correlate
        kernel(x, xoff, xrow, k, l * C, weights.data, *args)


def outer(x, xoff, dy, yoff, dw, db, grid, plain=False):
    """dw += patches^T dy, db += sum dy; plain: dy lies in a frame of zeros and the kernel is 3 x 3
    at stride 1.
    """
    k, l, C, O = dw.shape
    x, xrow, flat, n = x.reshape(-1), x.shape[2] * x.shape[3], dy.reshape(-1), math.prod(grid)
    if plain and _transforms_pay(grid, dw.shape, conv.WIDE) and dw.flags.c_contiguous:
        winograd.outer(
            x, xoff, xrow, winograd.corners(grid), C, flat, yoff, dy.shape[2] * O, dw, db
        )
    elif O <= conv.NARROW:
        part = np.zeros((O, k * l * C), np.float32)
        conv.outer_narrow(x, xoff, xrow, k, l * C, flat, yoff, n, part, db)
        dw += part.T.reshape(dw.shape)
    elif O % conv.WIDE or not dw.flags.c_contiguous:
        width = -(-O // conv.WIDE) * conv.WIDE
        part = np.zeros((k, l, C, width), np.float32)
        conv.outer(x, xoff, xrow, k, l * C, flat, yoff, n, part.reshape(-1), width, db)
        dw += part[..., :O]
    else:
        conv.outer(x, xoff, xrow, k, l * C, flat, yoff, n, dw.reshape(-1), O, db)


def mix(rows, columns, w):
    """sum_{u, v} rows[a, u] columns[b, v] w[u, v]: (k, k, C, O) -> (a, b, C, O)."""
    w = (rows @ w.reshape(rows.shape[1], -1)).reshape(len(rows), *w.shape[1:])
    return np.stack([np.tensordot(columns, part, 1) for part in w])


def turned(w, before, stride, a, b):
    """What dx's pixels of parity (a, b) see of dy: (kernel (k', l', O, C), the first pixel of dy
    each way).

    Row 2 i + a of x met row u of the kernel at output row (2 i + a + before - u) / stride, where
    that is whole.
    """
    k = len(w)
    rows, columns = (range((c + before) % stride, k, stride)[::-1] for c in (a, b))
    first = (a + before - rows[0]) // stride, (b + before - columns[0]) // stride
    return w[rows[0] :: -stride, columns[0] :: -stride].swapaxes(2, 3), first


def _transforms_pay(grid, shape, width):
    """Whether Winograd's four products a pixel, of tiles that may stick out, and its transforms
    beat nine.
    """
    _, H, W = grid
    k, l, C, O = shape
    stretched = ((H + 1) // 2 * 2) * ((W + 1) // 2 * 2)
    return (
        k == l == 3
        and C >= 16
        and O >= 16
        and C % conv.LANES == 0
        and O % width == 0
        and 4 * stretched < 7 * H * W
    )
