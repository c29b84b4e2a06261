"""Convolutions of images on a CPU: which kernel computes which shape, and how it is called."""

import math
from typing import NamedTuple

import numpy as np

from . import direct, winograd
from .layout import offsets
from .tiles import DIRECT_WIDE, LANES, WINOGRAD_WIDE

# Winograd is taken where its products, 4 for each pixel of whole tiles, are fewer than so many for
# each real pixel: its transforms cost the rest of the direct convolution's 9. 0 is never.
WORTH = 7
# Sums of a 3 x 3 kernel's rows: what each parity of a doubled image sees of the small one
# (forward), and what each of four rows of the doubled image's gradient gives the small one
# (backward).
UP = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
DOWN = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


class Weights(NamedTuple):
    """A convolution's weights, laid out for `correlate`."""

    kind: str  # "direct", "narrow" or "winograd": which kernel they are for
    shape: tuple  # (k, l, C, O)
    data: np.ndarray  # flat, as that kernel reads them


def prepare(w, grid=None):
    """Lay w (k, l, C, O) out for `correlate`; grid: the output's, for 3 x 3 at stride 1."""
    O = w.shape[3]
    if grid and _transforms_pay(grid, w.shape, LANES):
        return Weights("winograd", w.shape, winograd.transform_weights(w))
    if O <= direct.NARROW:
        return Weights("narrow", w.shape, np.ascontiguousarray(w.reshape(-1, O).T))
    return Weights("direct", w.shape, direct.pack(w))


def correlate(x, weights, bias, y, shift=None, onto=None):
    """y = bias + (shift or onto) + patches w.

    Args:
        x: Pixels, at which the patches start.
        weights: as `prepare` lays them out.
        bias: (O,), or None for zeros.
        y: Pixels to be written, as many as x has.
        shift: (B or 1, O), added at every pixel, or None.
        onto: Pixels that are added to y's, or None; not together with shift.
    """
    k, l, C, O = weights.shape
    bias = np.zeros(O, np.float32) if bias is None else bias
    if onto is not None:
        base, boff = onto.flat, onto.offsets
    else:
        base = np.zeros((1, O), np.float32) if shift is None else np.ascontiguousarray(shift)
        boff = offsets(y.grid, (O if len(base) > 1 else 0, 0, 0))
        base = base.reshape(-1)
    args = weights.data, bias, base, boff, y.flat, y.offsets
    if weights.kind == "winograd":
        winograd.correlate(x.flat, x.offsets, x.row, winograd.corners(y.grid), C, *args)
    elif weights.kind == "narrow":
        direct.correlate_narrow(x.flat, x.offsets, x.row, k, l * C, *args)
    else:
        direct.correlate(x.flat, x.offsets, x.row, k, l * C, *args)


def outer(x, dy, dw, db, plain=False):
    """dw += patches^T dy, db += sum dy.

    Args:
        x: Pixels, at which the patches start.
        dy: Pixels, as many.
        dw: (k, l, C, O), float32.
        db: (O,).
        plain: whether dy lies in a frame of zeros, and the kernel is 3 x 3 at stride 1.
    """
    k, l, C, O = dw.shape
    source, slopes, n = (x.flat, x.offsets, x.row), (dy.flat, dy.offsets), math.prod(dy.grid)
    if plain and _transforms_pay(dy.grid, dw.shape, WINOGRAD_WIDE) and dw.flags.c_contiguous:
        winograd.outer(*source, winograd.corners(dy.grid), C, *slopes, dy.row, dw, db)
    elif O <= direct.NARROW:
        part = np.zeros((O, k * l * C), np.float32)
        direct.outer_narrow(*source, k, l * C, *slopes, n, part, db)
        dw += part.T.reshape(dw.shape)
    elif O % DIRECT_WIDE or not dw.flags.c_contiguous:
        width = -(-O // DIRECT_WIDE) * DIRECT_WIDE
        part = np.zeros((k, l, C, width), np.float32)
        direct.outer(*source, k, l * C, *slopes, n, part.reshape(-1), width, db)
        dw += part[..., :O]
    else:
        direct.outer(*source, k, l * C, *slopes, n, dw.reshape(-1), O, db)


def mix(rows, columns, w):
    """sum_{u, v} rows[a, u] columns[b, v] w[u, v]: (k, k, C, O) -> (a, b, C, O)."""
    w = (rows @ w.reshape(rows.shape[1], -1)).reshape(len(rows), *w.shape[1:])
    return np.stack([np.tensordot(columns, part, 1) for part in w])


def turned(w, before, stride, a, b):
    """The kernel with which dx's pixels of parity (a, b) are a convolution of dy.

    Row 2 i + a of x met row u of the kernel at output row (2 i + a + before - u) / stride, where
    that is whole.

    Args:
        w: (k, k, C, O).
        before: the zeros before each axis.
        stride: the step between patches.
        a, b: the rows' and the columns' parity.

    Returns:
        (kernel (k', l', O, C), the row and column of dy that dx's first such pixel sees).
    """
    k = len(w)
    rows, columns = (range((c + before) % stride, k, stride)[::-1] for c in (a, b))
    first = (a + before - rows[0]) // stride, (b + before - columns[0]) // stride
    return w[rows[0] :: -stride, columns[0] :: -stride].swapaxes(2, 3), first


def _transforms_pay(grid, shape, width):
    """Whether Winograd's four products a pixel, its tiles' edges and its transforms beat nine."""
    _, H, W = grid
    k, l, C, O = shape
    stretched = ((H + 1) // 2 * 2) * ((W + 1) // 2 * 2)
    wide_enough = C >= 16 and O >= 16 and C % LANES == 0 and O % width == 0
    return k == l == 3 and wide_enough and 4 * stretched < WORTH * H * W
