"""3 x 3 convolution at stride 1 with 4 products for an output pixel instead of 9, float32
(Winograd80; Lavin16).

F(2 x 2, 3 x 3) of Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section
4.1: an output tile of 2 x 2 pixels is Y = A^T [(G w G^T) * (B^T d B)] A of the 4 x 4 input pixels d
it sees, * element by element: sixteen small matrix products over the channels, one for each
element. All entries of A and B are 0, 1 or -1 and those of G 0, 1 or 1/2, so the result is as exact
as the plain sum (the larger F(4 x 4, 3 x 3) loses a digit).

A group of tiles goes through transform, products and transform back while its numbers stay in
cache. Where a side is odd, the last tile's outer pixels are read from the border's zeros and
written before the pixel beside them.
"""

from functools import lru_cache
from itertools import chain

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .direct import INT64, LANES, PIXELS, VECTOR, VECTORS, WIDE, Emitter, outer_tile
from .jit import kernel

HALF = np.float32(0.5)
# floats that keep the sixteen parts off the same cache sets
SKEW = 16
# tiles of a group times their channels, in and out: 288 KB in all
SPACE = 4608


def _product_tile(pixels, columns):
    """y[q, :] = sum_k x[q, k] w[k, :] for `pixels` rows q from `first` on and `columns` vectors
    from o0 on.

    x (n, depth) and y (n, width) are whole; w is a packed panel, from w0 on.
    """

    @intrinsic
    def tile(typing, x, x0, depth, w, w0, y, y0, width, first):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, x0, depth, w, w0, y, y0, width, first = e.args
            sums = e.sums(pixels, columns)
            for sum_ in chain.from_iterable(sums):
                builder.store(ir.Constant(VECTOR, None), sum_)
            rows = [builder.add(first, ir.Constant(INT64, p)) for p in range(pixels)]
            inputs, panel = [e.at(x, x0, builder.mul(row, depth)) for row in rows], e.at(w, w0)
            with cgutils.for_range(builder, depth, intp=INT64) as k:
                step = e.at(panel, builder.mul(k.index, ir.Constant(INT64, columns * LANES)))
                weights = [e.load(e.at(step, v * LANES)) for v in range(columns)]
                for p in range(pixels):
                    value = e.spread(e.at(inputs[p], k.index))
                    for v in range(columns):
                        e.accumulate(sums[p][v], value, weights[v])
            for p, row in enumerate(rows):
                for v in range(columns):
                    e.store(
                        builder.load(sums[p][v]), e.at(y, y0, builder.mul(row, width), v * LANES)
                    )
            return context.get_dummy_value()

        return types.void(x, x0, depth, w, w0, y, y0, width, first), generate

    return tile


_wide_tile, _slim_tile = _product_tile(PIXELS, VECTORS), _product_tile(PIXELS, 1)
_outer_full, _outer_four, _outer_one = (outer_tile(m, VECTORS) for m in (PIXELS, 4, 1))


def _over_channels(builder, channels):
    """A loop over whole vectors of channels."""
    return cgutils.for_range_slice(
        builder, ir.Constant(INT64, 0), channels, ir.Constant(INT64, LANES), intp=INT64
    )


@intrinsic
def _transform_input(typing, x, start, r1, r2, r3, c1, c2, c3, inputs, out, o0, step):
    """out[o0 + (4 u + v) step + :] = (B^T d B)[u, v]; d's rows start at 0, r1, r2, r3 and its
    columns at 0, c1.. .
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        x, start, r1, r2, r3, c1, c2, c3, inputs, out, o0, step = e.args
        zero = ir.Constant(INT64, 0)

        def mix(a, b, c, d):
            return builder.fsub(a, c), builder.fadd(b, c), builder.fsub(c, b), builder.fsub(b, d)

        with _over_channels(builder, inputs) as (channel, _):
            pixel = e.at(x, start, channel)
            d = [
                [e.load(e.at(pixel, r, c)) for c in (zero, c1, c2, c3)] for r in (zero, r1, r2, r3)
            ]
            columns = [mix(*column) for column in zip(*d)]  # by column, then by row: B^T d
            for u, row in enumerate(zip(*columns)):
                for v, value in enumerate(mix(*row)):
                    e.store(
                        value,
                        e.at(out, o0, channel, builder.mul(step, ir.Constant(INT64, 4 * u + v))),
                    )
        return context.get_dummy_value()

    return types.void(x, start, r1, r2, r3, c1, c2, c3, inputs, out, o0, step), generate


@intrinsic
def _transform_output(typing, m, m0, step, bias, base, b0, b1, b2, b3, outputs, y, y0, y1, y2, y3):
    """The four pixels of y = bias + base + A^T m A; the first is written last."""

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        m, m0, step, bias, base, b0, b1, b2, b3, outputs, y, y0, y1, y2, y3 = e.args

        def mix(a, b, c, d):
            return builder.fadd(builder.fadd(a, b), c), builder.fsub(builder.fsub(b, c), d)

        with _over_channels(builder, outputs) as (channel, _):
            rows = [
                [
                    e.load(e.at(m, m0, channel, builder.mul(step, ir.Constant(INT64, 4 * u + v))))
                    for u in range(4)
                ]
                for v in range(4)
            ]
            pixels = sum((mix(*row) for row in zip(*(mix(*column) for column in rows))), ())
            under = e.load(e.at(bias, channel))
            for value, b, place in reversed(list(zip(pixels, (b0, b1, b2, b3), (y0, y1, y2, y3)))):
                value = builder.fadd(value, builder.fadd(under, e.load(e.at(base, b, channel))))
                e.store(value, e.at(y, place, channel))
        return context.get_dummy_value()

    return types.void(m, m0, step, bias, base, b0, b1, b2, b3, outputs, y, y0, y1, y2, y3), generate


@intrinsic
def _transform_slope(typing, dy, d0, d1, d2, d3, outputs, out, o0, panel, step):
    """out[...] = A dy A^T of four pixels, in panels of WIDE channels `panel` apart; element (u, v)
    is step apart.
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        dy, d0, d1, d2, d3, outputs, out, o0, panel, step = e.args

        def mix(a, b):
            return a, builder.fadd(a, b), builder.fsub(a, b), builder.fneg(b)

        with _over_channels(builder, outputs) as (channel, _):
            d = [e.load(e.at(dy, place, channel)) for place in (d0, d1, d2, d3)]
            width = ir.Constant(INT64, WIDE)
            place = builder.add(
                builder.mul(builder.udiv(channel, width), panel), builder.urem(channel, width)
            )
            columns = mix(d[0], d[2]), mix(d[1], d[3])
            for u, row in enumerate(zip(*columns)):
                for v, value in enumerate(mix(*row)):
                    e.store(
                        value,
                        e.at(out, o0, place, builder.mul(step, ir.Constant(INT64, 4 * u + v))),
                    )
        return context.get_dummy_value()

    return types.void(dy, d0, d1, d2, d3, outputs, out, o0, panel, step), generate


@kernel
def transform_weights(w):
    """w (3, 3, C, O) -> G w G^T, packed as `conv.pack` packs (4, 4, C, O)."""
    inputs, outputs = w.shape[2], w.shape[3]
    packed = np.zeros(16 * inputs * ((outputs + LANES - 1) // LANES * LANES), np.float32)
    d, half, full = (
        np.zeros((9, WIDE), np.float32),
        np.zeros((12, WIDE), np.float32),
        np.zeros((16, WIDE), np.float32),
    )
    o = 0
    while o < outputs:
        width = WIDE if o + WIDE <= outputs else LANES
        for c in range(inputs):
            for k in range(9):
                for lane in range(min(width, outputs - o)):
                    d[k, lane] = w[k // 3, k % 3, c, o + lane]
            for v in range(3):
                _widen(d, v, 3, half, v, 3)
            for u in range(4):
                _widen(half, 3 * u, 1, full, 4 * u, 1)
            for k in range(16):
                place = (16 * o + k * width) * inputs + c * width
                for lane in range(width):
                    packed[place + lane] = full[k, lane]
        o += width
    return packed


@kernel
def _widen(d, first, step, out, place, stride):
    """G times a column of three: rows first.. of d, step apart, to four rows of out."""
    for lane in range(WIDE):
        a, b, c = d[first, lane], d[first + step, lane], d[first + 2 * step, lane]
        out[place, lane] = a
        out[place + stride, lane] = HALF * (a + b + c)
        out[place + 2 * stride, lane] = HALF * (a - b + c)
        out[place + 3 * stride, lane] = c


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
def _input_group(x, xoff, xrow, inputs, corner, first, count, out, step):
    """The transformed input of tiles first.. first + count, out (16, step); a missing row or column
    is zeros.
    """
    for t in range(count):
        q, right, down = corner[first + t]
        _transform_input(
            x,
            np.int64(xoff[q]),
            xrow,
            xrow * 2,
            xrow * (3 if down else 2),
            inputs,
            inputs * 2,
            inputs * (3 if right else 2),
            inputs,
            out,
            t * inputs,
            step,
        )


@kernel
def _products(v, vstep, inputs, w, m, mstep, outputs, count):
    """m = v w for each of the sixteen elements; v, m in cache."""
    for k in range(16):
        o = 0
        while o < outputs:
            if o + WIDE <= outputs:
                for q in range(0, count, PIXELS):
                    _wide_tile(
                        v,
                        k * vstep,
                        inputs,
                        w,
                        (16 * o + k * WIDE) * inputs,
                        m,
                        k * mstep + o,
                        outputs,
                        q,
                    )
                o += WIDE
            else:
                for q in range(0, count, PIXELS):
                    _slim_tile(
                        v,
                        k * vstep,
                        inputs,
                        w,
                        (16 * o + k * LANES) * inputs,
                        m,
                        k * mstep + o,
                        outputs,
                        q,
                    )
                o += LANES


@kernel
def correlate(x, xoff, xrow, corner, inputs, w, bias, base, boff, y, yoff):
    """y = bias + base + 3 x 3 patches w, as `conv.correlate`, by tiles, of which `corners` gives
    the places.

    w: (3, 3, C, O) `transform_weights`ed. C and O are multiples of LANES.
    """
    outputs = len(bias)
    group = max(1, SPACE // (inputs + outputs) // PIXELS) * PIXELS
    vstep, mstep = group * inputs + SKEW, group * outputs + SKEW
    v, m = np.zeros(16 * vstep, np.float32), np.empty(16 * mstep, np.float32)
    for first in range(0, len(corner), group):
        count = min(group, len(corner) - first)
        _input_group(x, xoff, xrow, inputs, corner, first, count, v, vstep)
        _products(v, vstep, inputs, w, m, mstep, outputs, count)
        for t in range(count):
            q, right, down = corner[first + t]
            _transform_output(
                m,
                t * outputs,
                mstep,
                bias,
                base,
                np.int64(boff[q]),
                np.int64(boff[q + right]),
                np.int64(boff[q + down]),
                np.int64(boff[q + down + right]),
                outputs,
                y,
                np.int64(yoff[q]),
                np.int64(yoff[q + right]),
                np.int64(yoff[q + down]),
                np.int64(yoff[q + down + right]),
            )


@kernel
def outer(x, xoff, xrow, corner, inputs, dy, doff, drow, dw, db):
    """dw (3, 3, C, O) += G^T [sum over tiles of (B^T d B)^T (A dy A^T)] G (Lavin16), db (O,) += sum
    dy.

    doff: where the pixels of dy lie in a frame of zeros whose rows are drow long. O is a multiple
    of WIDE.
    """
    outputs = len(db)
    part, total = np.zeros(16 * inputs * outputs, np.float32), np.empty(WIDE, np.float32)
    group = max(1, SPACE // (inputs + outputs) // PIXELS) * PIXELS
    vstep, zstep = group * inputs + SKEW, group * outputs + SKEW
    v, z = np.empty(16 * vstep, np.float32), np.empty(16 * zstep, np.float32)
    voff = np.empty(group, np.int32)
    for t in range(group):
        voff[t] = t * inputs
    for first in range(0, len(corner), group):
        count = min(group, len(corner) - first)
        _input_group(x, xoff, xrow, inputs, corner, first, count, v, vstep)
        for t in range(count):
            d = np.int64(doff[corner[first + t, 0]])
            _transform_slope(
                dy,
                d,
                d + outputs,
                d + drow,
                d + drow + outputs,
                outputs,
                z,
                t * WIDE,
                group * WIDE,
                zstep,
            )
        for o in range(0, outputs, WIDE):
            total[:] = 0
            # element (1, 1) of A dy A^T is the sum of the tile's dy
            for t in range(count):
                for lane in range(WIDE):
                    total[lane] += z[5 * zstep + o * group + t * WIDE + lane]
            for lane in range(WIDE):
                db[o + lane] += total[lane]
        for k in range(16):
            for o in range(0, outputs, WIDE):
                c = 0
                while c < inputs:
                    d0, z0 = (k * inputs + c) * outputs + o, k * zstep + o * group
                    if inputs - c >= PIXELS:
                        _outer_full(v, voff, k * vstep + c, 0, count, z, z0, part, d0, outputs)
                        c += PIXELS
                    elif inputs - c >= 4:
                        _outer_four(v, voff, k * vstep + c, 0, count, z, z0, part, d0, outputs)
                        c += 4
                    else:
                        _outer_one(v, voff, k * vstep + c, 0, count, z, z0, part, d0, outputs)
                        c += 1
    _fold(part.reshape(4, 4, inputs * outputs), dw.reshape(3, 3, inputs * outputs))


@kernel
def _fold(part, dw):
    """dw += G^T part G over the two first axes: (4, 4, n) -> (3, 3, n)."""
    half = np.empty((3, 4, part.shape[2]), np.float32)
    for k in range(4):
        for n in range(part.shape[2]):
            plus, minus = (
                HALF * (part[1, k, n] + part[2, k, n]),
                HALF * (part[1, k, n] - part[2, k, n]),
            )
            half[0, k, n], half[1, k, n], half[2, k, n] = (
                part[0, k, n] + plus,
                minus,
                plus + part[3, k, n],
            )
    for u in range(3):
        for n in range(part.shape[2]):
            plus, minus = (
                HALF * (half[u, 1, n] + half[u, 2, n]),
                HALF * (half[u, 1, n] - half[u, 2, n]),
            )
            dw[u, 0, n] += half[u, 0, n] + plus
            dw[u, 1, n] += minus
            dw[u, 2, n] += plus + half[u, 3, n]
