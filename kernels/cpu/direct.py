"""Direct convolution on a CPU: the loops around the register tiles, float32.

A k x k patch of a channels-last image is k runs of k C numbers that lie side by side, so a
convolution is a matrix product whose left rows are read in place, at offsets held in a table:
nothing is unrolled. Images, and nothing else, are what a caller may share among threads: every
function here runs on the calling thread, without the interpreter's lock.
"""

import math

import numpy as np

from .jit import kernel
from .tiles import (
    DIRECT,
    LANES,
    correlate_tile,
    narrow_outer_tile,
    narrow_tile,
    outer_tile,
    transpose_block,
)
from .tiles import DIRECT_WIDE as WIDE

CACHE = 1 << 15  # floats of input that stay in a core's second cache: 128 KB
GROUP = 96  # pixels whose dy is summed at a time
NARROW = 4  # up to so many output channels, lanes are laid along the input instead

VECTORS, PIXELS = DIRECT
NARROW_PIXELS = math.gcd(PIXELS, 6)  # of the tables, whose length is a multiple of PIXELS
_narrow_tile = narrow_tile(NARROW_PIXELS)
_narrow_outer_six, _narrow_outer_one = narrow_outer_tile(6), narrow_outer_tile(1)
_wide_tile, _slim_tile = correlate_tile(PIXELS, VECTORS), correlate_tile(PIXELS, 1)
_outer_full, _outer_four, _outer_one = (outer_tile(m, VECTORS) for m in (PIXELS, 4, 1))


@kernel
def pack(w):
    """w (k, l, C, O) -> panels (k l C, WIDE), then (k l C, LANES), the last filled with zeros."""
    k, l, inputs, outputs = w.shape
    row, column, channel, lane = [stride // 4 for stride in w.strides]
    squares = inputs % LANES == 0 and channel == 1 and lane != 1
    depth = k * l * inputs
    packed = np.zeros(depth * (outputs + LANES - 1) // LANES * LANES, np.float32)
    o = 0
    while o < outputs:
        width = WIDE if o + WIDE <= outputs else LANES
        lanes = min(width, outputs - o)
        for u in range(k):
            for v in range(l):
                place = depth * o + (u * l + v) * inputs * width
                if squares and lanes == width:
                    start = u * row + v * column + o * lane
                    for first in range(0, width, LANES):
                        for c in range(0, inputs, LANES):
                            here = start + first * lane + c
                            transpose_block(w, here, lane, packed, place + c * width + first, width)
                else:
                    for c in range(inputs):
                        for n in range(lanes):
                            packed[place + c * width + n] = w[u, v, c, o + n]
        o += width
    return packed


@kernel
def correlate(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff):
    """y = bias + base + patches w, at every pixel.

    Args:
        x, base, y: flat float32.
        xoff, boff, yoff: (n,) int32, where each pixel's patch, base and output start in them; n is
            a multiple of PIXELS.
        xrow, rows, run: a patch is `rows` runs of `run` numbers, xrow apart.
        w: the weights, as `pack` lays them out.
        bias: (O,).
    """
    outputs, depth = len(bias), rows * run
    whole = outputs // LANES * LANES
    group = max(1, CACHE // (PIXELS * max(1, run // rows))) * PIXELS
    for start in range(0, len(xoff), group):
        stop = min(start + group, len(xoff))
        o = 0
        while o + WIDE <= outputs:
            for q in range(start, stop, PIXELS):
                _wide_tile(x, xoff, xrow, rows, run, w, o * depth, bias, base, boff, y, yoff, q, o)
            o += WIDE
        while o < whole:
            for q in range(start, stop, PIXELS):
                _slim_tile(x, xoff, xrow, rows, run, w, o * depth, bias, base, boff, y, yoff, q, o)
            o += LANES
    if whole < outputs:
        _correlate_rest(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff, whole)


@kernel
def _correlate_rest(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff, o):
    """The output channels from o on, fewer than a vector: a tile beside y, copied in part."""
    tile, zeros = np.zeros(PIXELS * LANES, np.float32), np.zeros(LANES, np.float32)
    none, places = np.zeros(PIXELS, np.int32), (np.arange(PIXELS) * LANES).astype(np.int32)
    w0 = o * rows * run
    for q in range(0, len(xoff), PIXELS):
        part = xoff[q:]
        _slim_tile(x, part, xrow, rows, run, w, w0, zeros, zeros, none, tile, places, 0, 0)
        for p in range(PIXELS):
            place, under = yoff[q + p] + o, boff[q + p] + o
            for k in range(len(bias) - o):
                y[place + k] = tile[p * LANES + k] + bias[o + k] + base[under + k]


@kernel
def correlate_narrow(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff):
    """correlate for few output channels: w (O, rows run), lanes along the run of inputs."""
    if run % LANES:
        _correlate_narrow_rest(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff)
        return
    total, flat = np.empty(NARROW_PIXELS, np.float32), w.reshape(-1)
    for q in range(0, len(xoff), NARROW_PIXELS):
        for o in range(len(bias)):
            _narrow_tile(x, xoff, xrow, rows, run, flat, o * rows * run, q, total)
            for p in range(NARROW_PIXELS):
                y[yoff[q + p] + o] = total[p] + bias[o] + base[boff[q + p] + o]


@kernel(fastmath={"contract", "reassoc"})
def _correlate_narrow_rest(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff):
    """correlate_narrow where the run of inputs is no whole number of vectors."""
    for q in range(len(xoff)):
        for o in range(len(bias)):
            total = np.float32(0)
            for r in range(rows):
                start = xoff[q] + r * xrow
                for k in range(run):
                    total += x[start + k] * w[o, r * run + k]
            y[yoff[q] + o] = total + bias[o] + base[boff[q] + o]


@kernel
def outer(x, xoff, xrow, rows, run, dy, yoff, n, dw, width, db):
    """dw += patches^T dy and db += sum dy.

    Sums run over GROUP pixels at a time, whose dy is copied side by side, and are then added: a
    short sum loses less than a long one.

    Args:
        x, xoff, xrow, rows, run: as `correlate`'s.
        dy, yoff: flat float32, and where each pixel starts in it.
        n: how many pixels count; the tables may be longer.
        dw, width: flat (rows run, width); width is O filled up to a multiple of WIDE.
        db: (O,).
    """
    panel, total = np.zeros(GROUP * WIDE, np.float32), np.zeros(WIDE, np.float32)
    for start in range(0, n, GROUP):
        count = min(GROUP, n - start)
        for o in range(0, width, WIDE):
            lanes = min(WIDE, len(db) - o)
            total[:] = 0
            for q in range(count):
                place = yoff[start + q] + o
                for lane in range(lanes):
                    panel[q * WIDE + lane] = dy[place + lane]
                    total[lane] += dy[place + lane]
            for lane in range(lanes):
                db[o + lane] += total[lane]
            for r in range(rows):
                k = 0
                while k < run:
                    x0, d0, left = r * xrow + k, (r * run + k) * width + o, run - k
                    if left >= PIXELS:
                        _outer_full(x, xoff, x0, start, count, panel, 0, dw, d0, width)
                        k += PIXELS
                    elif left >= 4:
                        _outer_four(x, xoff, x0, start, count, panel, 0, dw, d0, width)
                        k += 4
                    else:
                        _outer_one(x, xoff, x0, start, count, panel, 0, dw, d0, width)
                        k += 1


@kernel
def outer_narrow(x, xoff, xrow, rows, run, dy, yoff, n, dw, db):
    """outer for few output channels: dw (O, rows run), lanes along the run of inputs."""
    if run % LANES:
        _outer_narrow_rest(x, xoff, xrow, rows, run, dy, yoff, n, dw, db)
        return
    depth, flat = rows * run, dw.reshape(-1)
    for start in range(0, n, GROUP):
        count = min(GROUP, n - start)
        for o in range(len(db)):
            total = np.float32(0)
            for q in range(start, start + count):
                total += dy[yoff[q] + o]
            db[o] += total
            for r in range(rows):
                k = 0
                while k < run:
                    x0, d0 = r * xrow + k, o * depth + r * run + k
                    if run - k >= 6 * LANES:
                        _narrow_outer_six(x, xoff, x0, dy, yoff, o, start, count, flat, d0)
                        k += 6 * LANES
                    else:
                        _narrow_outer_one(x, xoff, x0, dy, yoff, o, start, count, flat, d0)
                        k += LANES


@kernel
def _outer_narrow_rest(x, xoff, xrow, rows, run, dy, yoff, n, dw, db):
    """outer_narrow where the run of inputs is no whole number of vectors."""
    outputs, depth = dw.shape
    part = np.zeros(depth, np.float32)
    for o in range(outputs):
        for start in range(0, n, GROUP):
            part[:] = 0
            total = np.float32(0)
            for q in range(start, min(start + GROUP, n)):
                slope = dy[yoff[q] + o]
                total += slope
                for r in range(rows):
                    here = xoff[q] + r * xrow
                    for k in range(run):
                        part[r * run + k] += x[here + k] * slope
            dw[o] += part
            db[o] += total
