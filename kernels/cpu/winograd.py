"""3 x 3 convolution at stride 1 with 4 products an output pixel instead of 9 (Winograd80; Lavin16).

F(2 x 2, 3 x 3) of Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section
4.1: an output tile of 2 x 2 pixels is Y = A^T [(G w G^T) * (B^T d B)] A of the 4 x 4 input pixels d
it sees, * element by element: sixteen small matrix products over the channels, one for each
element. All entries of A and B are 0, 1 or -1 and those of G 0, 1 or 1/2, so the result is as exact
as the plain sum (the larger F(4 x 4, 3 x 3) loses a digit).

A group of tiles goes through transform, products and transform back while its numbers stay in
cache. Where a side is odd, the last tile's outer pixels are read from the border's zeros and
written before the pixel beside them. All numbers are float32; C and O are multiples of LANES.
"""

from functools import lru_cache

import numpy as np

from .jit import kernel
from .tiles import LANES, WINOGRAD, outer_tile, product_tile
from .tiles import WINOGRAD_WIDE as WIDE
from .winograd_transforms import (
    fold_weights,
    transform_input,
    transform_output,
    transform_slope,
    transform_weights,
)

__all__ = ["corners", "correlate", "outer", "transform_weights"]

SKEW = 16  # floats that keep the sixteen parts off the same cache sets
SPACE = 4608  # tiles of a group times their channels, in and out: 288 KB in all
LEAST = 64  # tiles of a group, whatever they take: for each group all weights are read again

VECTORS, PIXELS = WINOGRAD
_wide_tile, _slim_tile = product_tile(PIXELS, VECTORS), product_tile(PIXELS, 1)
_outer_full, _outer_four, _outer_one = (outer_tile(m, VECTORS) for m in (PIXELS, 4, 1))


@lru_cache(maxsize=64)
def corners(shape):
    """The tiles of B images of H x W, shape = (B, H, W): int32 (tiles, 3).

    A tile's first pixel, counted through all images, and the steps from it to the pixels right of
    and below it: 0 where there is none.
    """
    B, H, W = shape
    b, i, j = (a.reshape(-1) for a in np.mgrid[:B, :H:2, :W:2])
    return np.stack([(b * H + i) * W + j, j + 1 < W, (i + 1 < H) * W], axis=1).astype(np.int32)


@kernel
def _group(tiles, channels):
    """How many tiles go together, a multiple of PIXELS."""
    return -(-min(tiles, max(LEAST, SPACE // channels)) // PIXELS) * PIXELS


@kernel
def correlate(x, xoff, xrow, corner, inputs, w, bias, base, boff, y, yoff):
    """y = bias + base + 3 x 3 patches w, as `direct.correlate`, by tiles.

    Args:
        x, xoff, xrow, bias, base, boff, y, yoff: as `direct.correlate`'s.
        corner: the tiles, as `corners` gives them.
        inputs: the channels C.
        w: the weights, as `transform_weights` lays them out.
    """
    outputs = len(bias)
    group = _group(len(corner), inputs + outputs)
    vstep, mstep = group * inputs + SKEW, group * outputs + SKEW
    v, m = np.empty(16 * vstep, np.float32), np.empty(16 * mstep, np.float32)
    if len(corner) % PIXELS:  # the last products read a few tiles that there are not
        v[:] = 0
    for first in range(0, len(corner), group):
        count = min(group, len(corner) - first)
        _transform_inputs(x, xoff, xrow, inputs, corner, first, count, v, vstep)
        _multiply(v, vstep, inputs, w, m, mstep, outputs, count)
        for t in range(count):
            q, right, down = corner[first + t]
            transform_output(
                m, t * outputs, mstep, bias, base, boff, y, yoff, q, right, down, outputs
            )


@kernel
def _transform_inputs(x, xoff, xrow, inputs, corner, first, count, v, vstep):
    """v (16, vstep) = B^T d B of `count` tiles from `first` on; beyond an image lie zeros."""
    for t in range(count):
        q, right, down = corner[first + t]
        r3, c3 = xrow * (3 if down else 2), inputs * (3 if right else 2)
        transform_input(x, np.int64(xoff[q]), xrow, r3, c3, inputs, v, t * inputs, vstep)


@kernel
def _multiply(v, vstep, inputs, w, m, mstep, outputs, count):
    """m = v w for each of the sixteen elements of `count` tiles."""
    for k in range(16):
        v0 = k * vstep
        o = 0
        while o + WIDE <= outputs:
            w0, m0 = (16 * o + k * WIDE) * inputs, k * mstep + o
            for q in range(0, count, PIXELS):
                _wide_tile(v, v0, inputs, w, w0, m, m0, outputs, q)
            o += WIDE
        while o < outputs:
            w0, m0 = (16 * o + k * LANES) * inputs, k * mstep + o
            for q in range(0, count, PIXELS):
                _slim_tile(v, v0, inputs, w, w0, m, m0, outputs, q)
            o += LANES


@kernel
def outer(x, xoff, xrow, corner, inputs, dy, doff, drow, dw, db):
    """dw += G^T [sum over tiles of (B^T d B)^T (A dy A^T)] G (Lavin16), db += sum dy.

    Args:
        x, xoff, xrow, corner, inputs: as `correlate`'s.
        dy, doff, drow: flat float32 in a frame of zeros, where its pixels start, and how far apart
            its rows are.
        dw: (3, 3, C, O); O is a multiple of WIDE.
        db: (O,).
    """
    outputs = len(db)
    part = np.zeros(16 * inputs * outputs, np.float32)
    group = _group(len(corner), inputs + outputs)
    vstep, zstep = group * inputs + SKEW, group * outputs + SKEW
    v, z = np.empty(16 * vstep, np.float32), np.empty(16 * zstep, np.float32)
    voff = (np.arange(group) * inputs).astype(np.int32)
    for first in range(0, len(corner), group):
        count = min(group, len(corner) - first)
        _transform_inputs(x, xoff, xrow, inputs, corner, first, count, v, vstep)
        for t in range(count):
            d0 = np.int64(doff[corner[first + t, 0]])
            transform_slope(dy, d0, drow, outputs, z, t * WIDE, group * WIDE, zstep)
        _sum_slopes(z, zstep, group, count, db)
        _multiply_slopes(v, voff, vstep, inputs, z, zstep, group, count, part, outputs)
    fold_weights(part.reshape(4, 4, inputs * outputs), dw.reshape(3, 3, inputs * outputs))


@kernel
def _sum_slopes(z, zstep, group, count, db):
    """db += sum dy: element (1, 1) of A dy A^T is the sum of a tile's dy."""
    total = np.empty(WIDE, np.float32)
    for o in range(0, len(db), WIDE):
        total[:] = 0
        for t in range(count):
            for lane in range(WIDE):
                total[lane] += z[5 * zstep + o * group + t * WIDE + lane]
        for lane in range(WIDE):
            db[o + lane] += total[lane]


@kernel
def _multiply_slopes(v, voff, vstep, inputs, z, zstep, group, count, part, outputs):
    """part += v^T z for each of the sixteen elements of `count` tiles."""
    for k in range(16):
        for o in range(0, outputs, WIDE):
            z0 = k * zstep + o * group
            c = 0
            while c < inputs:
                v0, d0 = k * vstep + c, (k * inputs + c) * outputs + o
                if inputs - c >= PIXELS:
                    _outer_full(v, voff, v0, 0, count, z, z0, part, d0, outputs)
                    c += PIXELS
                elif inputs - c >= 4:
                    _outer_four(v, voff, v0, 0, count, z, z0, part, d0, outputs)
                    c += 4
                else:
                    _outer_one(v, voff, v0, 0, count, z, z0, part, d0, outputs)
                    c += 1
