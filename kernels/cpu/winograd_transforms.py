"""The transforms of Winograd's 3 x 3 convolution on a CPU, float32: of tiles, slopes and weights.

A, B and G are those of `winograd`. The first three are written in LLVM's instructions, a vector of
channels at a time; each transforms a tile by columns and then by rows.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel
from .tiles import INT64, LANES, Emitter
from .tiles import WINOGRAD_WIDE as WIDE

HALF = np.float32(0.5)


def _over_channels(builder, channels):
    """A loop over whole vectors of channels."""
    return cgutils.for_range_slice(
        builder, ir.Constant(INT64, 0), channels, ir.Constant(INT64, LANES), intp=INT64
    )


@intrinsic
def transform_input(typing, x, start, xrow, r3, c3, inputs, out, o0, step):
    """out[o0 + (4 u + v) step + :] = (B^T d B)[u, v] of the 4 x 4 pixels d from `start` on.

    d's rows start at 0, xrow, 2 xrow, r3 and its columns at 0, inputs, 2 inputs, c3.
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        x, start, xrow, r3, c3, inputs, out, o0, step = e.args
        rows, columns = (0, xrow, e.mul(xrow, 2), r3), (0, inputs, e.mul(inputs, 2), c3)

        def mix(a, b, c, d):
            return builder.fsub(a, c), builder.fadd(b, c), builder.fsub(c, b), builder.fsub(b, d)

        with _over_channels(builder, inputs) as (channel, _):
            pixel = e.at(x, start, channel)
            d = [[e.load(e.at(pixel, r, c)) for c in columns] for r in rows]
            mixed = [mix(*column) for column in zip(*d)]  # by column, then by row: B^T d
            for u, row in enumerate(zip(*mixed)):
                for v, value in enumerate(mix(*row)):
                    e.store(value, e.at(out, o0, channel, e.mul(step, 4 * u + v)))
        return context.get_dummy_value()

    return types.void(x, start, xrow, r3, c3, inputs, out, o0, step), generate


@intrinsic
def transform_output(typing, m, m0, step, bias, base, boff, y, yoff, q, right, down, outputs):
    """The four pixels of y = bias + base + A^T m A: q, q + right, q + down, q + down + right.

    The first is written last, since the others are the same pixel where right or down is 0.
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        m, m0, step, bias, base, boff, y, yoff, q, right, down, outputs = e.args
        places = [q, e.add(q, right), e.add(q, down), e.add(e.add(q, down), right)]
        places = [(e.entry(boff, place), e.entry(yoff, place)) for place in places]

        def mix(a, b, c, d):
            return builder.fadd(builder.fadd(a, b), c), builder.fsub(builder.fsub(b, c), d)

        with _over_channels(builder, outputs) as (channel, _):
            part = e.at(m, m0, channel)
            columns = [
                [e.load(e.at(part, e.mul(step, 4 * u + v))) for u in range(4)] for v in range(4)
            ]
            rows = zip(*(mix(*column) for column in columns))
            pixels = [pixel for row in rows for pixel in mix(*row)]
            under = e.load(e.at(bias, channel))
            for value, (b0, y0) in reversed(list(zip(pixels, places))):
                value = builder.fadd(value, builder.fadd(under, e.load(e.at(base, b0, channel))))
                e.store(value, e.at(y, y0, channel))
        return context.get_dummy_value()

    place = [types.int64] * 3  # q, right and down come as int32
    return types.void(m, m0, step, bias, base, boff, y, yoff, *place, outputs), generate


@intrinsic
def transform_slope(typing, dy, d0, drow, outputs, out, o0, panel, step):
    """out[...] = A dy A^T of the four pixels from d0 on, whose rows are drow apart.

    Element (u, v) lies at o0 + (4 u + v) step, in panels of WIDE channels that are `panel` apart.
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        dy, d0, drow, outputs, out, o0, panel, step = e.args

        def mix(a, b):
            return a, builder.fadd(a, b), builder.fsub(a, b), builder.fneg(b)

        with _over_channels(builder, outputs) as (channel, _):
            pixel = e.at(dy, d0, channel)
            d = [[e.load(e.at(pixel, r, c)) for c in (0, outputs)] for r in (0, drow)]
            width = ir.Constant(INT64, WIDE)
            place = e.mul(builder.udiv(channel, width), panel)
            place = e.add(place, builder.urem(channel, width))
            columns = [mix(*column) for column in zip(*d)]
            for u, row in enumerate(zip(*columns)):
                for v, value in enumerate(mix(*row)):
                    e.store(value, e.at(out, o0, place, e.mul(step, 4 * u + v)))
        return context.get_dummy_value()

    return types.void(dy, d0, drow, outputs, out, o0, panel, step), generate


@kernel
def transform_weights(w):
    """w (3, 3, C, O) -> G w G^T, packed as `direct.pack` packs (4, 4, C, O)."""
    inputs, outputs = w.shape[2], w.shape[3]
    packed = np.zeros(16 * inputs * ((outputs + LANES - 1) // LANES * LANES), np.float32)
    d, half = np.zeros((9, WIDE), np.float32), np.zeros((12, WIDE), np.float32)
    full = np.zeros((16, WIDE), np.float32)
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


@kernel
def fold_weights(part, dw):
    """dw += G^T part G over the two first axes: (4, 4, n) -> (3, 3, n)."""
    half = np.empty((3, 4, part.shape[2]), np.float32)
    for k in range(4):
        for n in range(part.shape[2]):
            plus = HALF * (part[1, k, n] + part[2, k, n])
            minus = HALF * (part[1, k, n] - part[2, k, n])
            half[0, k, n] = part[0, k, n] + plus
            half[1, k, n] = minus
            half[2, k, n] = plus + part[3, k, n]
    for u in range(3):
        for n in range(part.shape[2]):
            plus = HALF * (half[u, 1, n] + half[u, 2, n])
            minus = HALF * (half[u, 1, n] - half[u, 2, n])
            dw[u, 0, n] += half[u, 0, n] + plus
            dw[u, 1, n] += minus
            dw[u, 2, n] += plus + half[u, 3, n]
