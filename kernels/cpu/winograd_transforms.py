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
from .tiles import INT64, LANES, VECTOR, Emitter, transpose_block
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


@intrinsic
def _transform_vector(typing, w, start, row, column, out, o0, step):
    """G w G^T of a vector of output channels.

    out[o0 + (4 u + v) step + :] = (G w G^T)[u, v]; w's rows are `row` apart from `start` on, its
    columns `column`.
    """

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        w, start, row, column, out, o0, step = e.args
        half = ir.Constant(VECTOR, [0.5] * LANES)

        def mix(a, b, c):
            plus, minus = (builder.fadd(builder.fadd(a, b), c), builder.fadd(builder.fsub(a, b), c))
            return a, builder.fmul(half, plus), builder.fmul(half, minus), c

        def load(u, v):
            return e.load(e.at(w, start, e.mul(row, u), e.mul(column, v)))

        columns = [mix(*(load(u, v) for u in range(3))) for v in range(3)]
        for u, three in enumerate(zip(*columns)):
            for v, value in enumerate(mix(*three)):
                e.store(value, e.at(out, o0, e.mul(step, 4 * u + v)))
        return context.get_dummy_value()

    return types.void(w, start, row, column, out, o0, step), generate


def transform_weights(w):
    """w (3, 3, C, O), of any strides -> G w G^T, packed as `direct.pack` packs (4, 4, C, O)."""
    lengths = [stride // 4 for stride in w.strides]
    if 1 not in lengths[2:]:
        w = np.ascontiguousarray(w)
    return _transform_weights(w)


@kernel
def _transform_weights(w):
    """Output channels lie side by side, or input channels, which are then turned in squares."""
    inputs, outputs = w.shape[2], w.shape[3]
    row, column, channel, lane = [stride // 4 for stride in w.strides]
    packed, square = np.empty(16 * inputs * outputs, np.float32), LANES * LANES
    turned = np.empty(9 * square, np.float32)
    o = 0
    while o < outputs:
        width = WIDE if o + WIDE <= outputs else LANES
        step = width * inputs
        for first in range(0, width, LANES):
            start, place = (o + first) * lane, 16 * o * inputs + first
            if lane == 1:
                for _ in range(inputs):
                    _transform_vector(w, start, row, column, packed, place, step)
                    start += channel
                    place += width
            else:
                for _ in range(0, inputs, LANES):
                    for k in range(9):
                        here = start + k // 3 * row + k % 3 * column
                        transpose_block(w, here, lane, turned, k * square, LANES)
                    for c in range(0, square, LANES):
                        _transform_vector(turned, c, 3 * square, square, packed, place, step)
                        place += width
                    start += LANES
        o += width
    return packed


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
