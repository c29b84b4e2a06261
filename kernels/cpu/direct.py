"""Direct convolution on a CPU: a register-tiled micro-kernel and the loops around it, float32.

A k x k patch of a channels-last image is k runs of k C numbers that lie side by side, so a
convolution is a matrix product whose left rows are read in place, at offsets held in a table:
nothing is unrolled. The innermost tile keeps `PIXELS` x `VECTORS` vectors of sums in registers;
each step takes one weight vector per column and one input value per pixel, spread over a vector
(Goto08, "Anatomy of high-performance matrix multiplication"). The tile follows the CPU's vector
width and number of registers. Images, and nothing else, are what a caller may share among threads:
every function here runs on the calling thread and lets go of the interpreter's lock.
"""

from itertools import chain

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from .jit import kernel


def _tile_shape():
    """(floats in a vector, vectors in a row of the tile, pixels in the tile) for the CPU that Numba
    compiles for.

    Of R registers V hold weights, one the spread input value and the rest sums: pixels = (R - 1 -
    V) / V. Twelve pixels are the most whose addresses an x86 CPU still holds in its general
    registers.
    """
    features = config.CPU_FEATURES if config.CPU_FEATURES is not None else get_host_cpu_features()
    arm = llvm.get_process_triple().split("-")[0] in ("aarch64", "arm64")
    lanes, vectors, registers = 4, 2, 16
    if arm:
        lanes, vectors, registers = 4, 4, 32
    elif "+avx512f" in features:
        lanes, vectors, registers = 16, 2, 32
    elif "+avx" in features:
        lanes, vectors, registers = 8, 2, 16
    return lanes, vectors, min(12, (registers - 1 - vectors) // vectors)


LANES, VECTORS, PIXELS = _tile_shape()
WIDE = LANES * VECTORS  # output channels of a full tile
# floats of input that stay in a core's second cache: 128 KB
CACHE = 1 << 15
GROUP = 96  # pixels whose dy is summed at a time
# up to so many output channels, lanes are laid along the input instead
NARROW = 4

VECTOR, FLOAT, INT64, INT32 = (
    ir.VectorType(ir.FloatType(), LANES),
    ir.FloatType(),
    ir.IntType(64),
    ir.IntType(32),
)


class Emitter:
    """What the two tiles have in common: addresses, vector loads and stores, and a multiply-add."""

    def __init__(self, context, builder, signature, args):
        self.builder = builder
        self.args = [
            context.make_array(kind)(context, builder, arg).data
            if isinstance(kind, types.Array)
            else arg
            for kind, arg in zip(signature.args, args)
        ]
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        self.lane = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)

    def at(self, pointer, *offsets):
        """The address so many elements on."""
        for offset in offsets:
            offset = ir.Constant(INT64, offset) if isinstance(offset, int) else offset
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def entry(self, table, index):
        """A table's entry, widened to an address offset."""
        return self.builder.sext(self.builder.load(self.at(table, index)), INT64)

    def load(self, pointer):
        return self.builder.load(self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def store(self, vector, pointer):
        self.builder.store(vector, self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def spread(self, pointer):
        """The number there, in every lane."""
        one = self.builder.insert_element(
            ir.Constant(VECTOR, ir.Undefined), self.builder.load(pointer), ir.Constant(INT32, 0)
        )
        return self.builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), self.lane)

    def sums(self, rows, columns):
        """rows x columns vectors that the compiler will keep in registers."""
        return [
            [cgutils.alloca_once(self.builder, VECTOR) for _ in range(columns)] for _ in range(rows)
        ]

    def accumulate(self, sum_, a, b):
        self.builder.store(self.builder.call(self.fma, [a, b, self.builder.load(sum_)]), sum_)


def correlate_tile(pixels, columns):
    """The tile of a convolution: y[q] = bias + base[q] + sum_{r, k} x[q, r xrow + k] w[r run + k].

    Pixel q of an array starts at the entry q of its table; q takes `pixels` values from `first` on,
    the output channels `columns` vectors from o0 on, whose weights are the packed panel that starts
    at w0.
    """

    @intrinsic
    def tile(typing, x, xoff, xrow, rows, run, w, w0, bias, base, boff, y, yoff, first, o0):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, xoff, xrow, rows, run, w, w0, bias, base, boff, y, yoff, first, o0 = e.args
            places = [builder.add(first, ir.Constant(INT64, p)) for p in range(pixels)]
            sums = e.sums(pixels, columns)
            for p, place in enumerate(places):
                under = e.at(base, e.entry(boff, place), o0)
                for v in range(columns):
                    start = builder.fadd(
                        e.load(e.at(bias, o0, v * LANES)), e.load(e.at(under, v * LANES))
                    )
                    builder.store(start, sums[p][v])
            starts = [e.at(x, e.entry(xoff, place)) for place in places]
            with cgutils.for_range(builder, rows, intp=INT64) as r:
                inputs = [e.at(start, builder.mul(r.index, xrow)) for start in starts]
                panel = e.at(
                    w,
                    w0,
                    builder.mul(builder.mul(r.index, run), ir.Constant(INT64, columns * LANES)),
                )
                with cgutils.for_range(builder, run, intp=INT64) as k:
                    step = builder.mul(k.index, ir.Constant(INT64, columns * LANES))
                    weights = [e.load(e.at(panel, step, v * LANES)) for v in range(columns)]
                    for p in range(pixels):
                        value = e.spread(e.at(inputs[p], k.index))
                        for v in range(columns):
                            e.accumulate(sums[p][v], value, weights[v])
            for p, place in enumerate(places):
                out = e.at(y, e.entry(yoff, place), o0)
                for v in range(columns):
                    e.store(builder.load(sums[p][v]), e.at(out, v * LANES))
            return context.get_dummy_value()

        return types.void(
            x, xoff, xrow, rows, run, w, w0, bias, base, boff, y, yoff, first, o0
        ), generate

    return tile


def outer_tile(terms, columns):
    """The tile of a weight gradient: dw[d0 + m step + :] += sum_{q < n} x[xoff[first + q] + x0 + m]
    panel[q, :].

    m < terms; panel: `columns` vectors of output channels for each pixel, from p0 on.
    """

    @intrinsic
    def tile(typing, x, xoff, x0, first, n, panel, p0, dw, d0, step):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, xoff, x0, first, n, panel, p0, dw, d0, step = e.args
            sums = e.sums(terms, columns)
            for sum_ in chain.from_iterable(sums):
                builder.store(ir.Constant(VECTOR, None), sum_)
            x, panel, xoff = e.at(x, x0), e.at(panel, p0), e.at(xoff, first)
            with cgutils.for_range(builder, n, intp=INT64) as q:
                inputs = e.at(x, e.entry(xoff, q.index))
                slopes = e.at(panel, builder.mul(q.index, ir.Constant(INT64, columns * LANES)))
                slopes = [e.load(e.at(slopes, v * LANES)) for v in range(columns)]
                for m in range(terms):
                    value = e.spread(e.at(inputs, m))
                    for v in range(columns):
                        e.accumulate(sums[m][v], value, slopes[v])
            for m in range(terms):
                for v in range(columns):
                    place = e.at(dw, d0, builder.mul(step, ir.Constant(INT64, m)), v * LANES)
                    e.store(builder.fadd(e.load(place), builder.load(sums[m][v])), place)
            return context.get_dummy_value()

        return types.void(x, xoff, x0, first, n, panel, p0, dw, d0, step), generate

    return tile


_wide_tile, _slim_tile = correlate_tile(PIXELS, VECTORS), correlate_tile(PIXELS, 1)
_outer_full, _outer_four, _outer_one = (outer_tile(m, VECTORS) for m in (PIXELS, 4, 1))


@kernel
def pack(w):
    """w (k, l, C, O) -> panels of WIDE columns, then of LANES: each contiguous, (k l C, WIDE), the
    last zero-filled.
    """
    k, l, inputs, outputs = w.shape
    depth = k * l * inputs
    packed = np.zeros(depth * (outputs + LANES - 1) // LANES * LANES, np.float32)
    o = 0
    while o < outputs:
        width = WIDE if o + WIDE <= outputs else LANES
        lanes = min(width, outputs - o)
        for u in range(k):
            for v in range(l):
                for c in range(inputs):
                    place = depth * o + ((u * l + v) * inputs + c) * width
                    for lane in range(lanes):
                        packed[place + lane] = w[u, v, c, o + lane]
        o += width
    return packed


@kernel
def correlate(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff):
    """y = bias + base + patches w at every pixel of the tables, whose length is a multiple of
    PIXELS.

    x, base, y: flat float32; xoff, boff, yoff (n,) int32: where a pixel's patch, base and output
    start in them; a patch is `rows` runs of `run` numbers, xrow apart; w: `pack`ed; bias (O,).
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
    """The output channels from o on, fewer than a vector: whole vectors beside y, of which a part
    is taken.
    """
    tile, zeros, none = (
        np.zeros(PIXELS * LANES, np.float32),
        np.zeros(LANES, np.float32),
        np.zeros(PIXELS, np.int32),
    )
    places = (np.arange(PIXELS) * LANES).astype(np.int32)
    for q in range(0, len(xoff), PIXELS):
        _slim_tile(
            x, xoff[q:], xrow, rows, run, w, o * rows * run, zeros, zeros, none, tile, places, 0, 0
        )
        for p in range(PIXELS):
            for k in range(len(bias) - o):
                y[yoff[q + p] + o + k] = (
                    tile[p * LANES + k] + bias[o + k] + base[boff[q + p] + o + k]
                )


@kernel(fastmath={"contract", "reassoc"})
def correlate_narrow(x, xoff, xrow, rows, run, w, bias, base, boff, y, yoff):
    """correlate for few output channels: w (O, rows run), lanes along the run of inputs."""
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
    """dw (rows run, width) += patches^T dy and db += sum dy, over the first n pixels; arguments as
    correlate's.

    db (O,); width: O filled up to a multiple of WIDE. Sums run over GROUP pixels at a time, whose
    dy is copied side by side, and are then added: a short sum loses less than a long one.
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
    outputs, depth = dw.shape
    part, total = np.zeros(depth, np.float32), np.float32(0)
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
