"""The innermost loops of the convolutions on a CPU: matrix products held in registers, float32.

A tile keeps `pixels` x `vectors` vectors of sums in registers; each of its steps takes one weight
vector a column and one input value a pixel, spread over a vector (Goto08, "Anatomy of
high-performance matrix multiplication"). The tiles are written in LLVM's instructions, so that the
sums stay in registers whatever a compiler makes of loops. In their arguments, x0, w0, y0 and the
like are where in a flat array a tile begins.

Their shapes are fixed for each kind of CPU, so that nothing depends on a noisy moment: those that
`python -m benchmarks tiles` found fastest. TINYDDPM_TILE puts others in their place, for measuring.
"""

import os
import re
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from tinyddpm.errors import InputError

VARIABLE = "TINYDDPM_TILE"


class Tile(NamedTuple):
    """The shape of a tile."""

    vectors: int  # in a row: output channels are taken LANES * vectors at a time
    pixels: int  # rows


class Tiles(NamedTuple):
    """The shapes of all tiles for one kind of CPU."""

    lanes: int  # floats in a vector
    direct: Tile
    winograd: Tile

    def __str__(self):
        """As TINYDDPM_TILE takes it, such as 16:2x12:2x10."""
        return f"{self.lanes}:" + ":".join(f"{t.vectors}x{t.pixels}" for t in self[1:])


# Of R registers V hold weights, one the spread input value and the rest sums: at most (R - 1 - V) /
# V pixels. Beyond ten the addresses of Winograd's pixels leave an x86 CPU's general registers.
CHOICES = {
    "sse": Tiles(4, Tile(2, 6), Tile(2, 6)),
    "avx": Tiles(8, Tile(2, 6), Tile(2, 6)),
    "avx512f": Tiles(16, Tile(2, 12), Tile(2, 8)),
    "arm": Tiles(4, Tile(4, 6), Tile(4, 6)),
}


def kind_of_cpu():
    """The key of CHOICES for the CPU that Numba compiles for."""
    features = config.CPU_FEATURES if config.CPU_FEATURES is not None else get_host_cpu_features()
    if llvm.get_process_triple().split("-")[0] in ("aarch64", "arm64"):
        return "arm"
    return next((kind for kind in ("avx512f", "avx") if f"+{kind}" in features), "sse")


def choose(given=None):
    """The tiles in use: those of this kind of CPU, or those that `given` names, as 16:2x12:2x10.

    Raises InputError for a text that names none.
    """
    if not given:
        return CHOICES[kind_of_cpu()]
    found = re.fullmatch(r"(4|8|16):([1-4])x(\d{1,2}):([1-4])x(\d{1,2})", given)
    numbers = [int(number) for number in found.groups()] if found else [0] * 5
    if 0 in numbers:
        raise InputError(
            f"{VARIABLE} is LANES:VECTORSxPIXELS:VECTORSxPIXELS, direct and Winograd, such as "
            f"{CHOICES[kind_of_cpu()]}; got {given!r}"
        )
    return Tiles(numbers[0], Tile(*numbers[1:3]), Tile(*numbers[3:]))


TILES = choose(os.environ.get(VARIABLE))
LANES, DIRECT, WINOGRAD = TILES
DIRECT_WIDE = LANES * DIRECT.vectors  # output channels of a full direct tile
WINOGRAD_WIDE = LANES * WINOGRAD.vectors  # and of a full Winograd tile

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


class Emitter:
    """Writes the instructions that all tiles need: addresses, vector loads and stores, sums."""

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

    @contextmanager
    def loop(self, count):
        """A loop over 0..count - 1, as a context manager whose `index` is an int64.

        LLVM is told to leave it as it is: unrolled twice, a tile of twelve pixels keeps 24 input
        values beside its 24 sums, more than there are registers.
        """
        with cgutils.for_range(self.builder, count, intp=INT64) as found:
            yield found
            body = self.builder.basic_block
        module = self.builder.module
        rule = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
        loop = module.add_metadata([rule, ir.Constant(INT64, len(module.metadata))])
        loop.operands = (loop, rule)  # a loop's own node names itself first
        body.terminator.set_metadata("llvm.loop", loop)

    def whole(self, n):
        """A Python int as an int64; any other value as it is."""
        return ir.Constant(INT64, n) if isinstance(n, int) else n

    def add(self, a, b):
        """a + b of int64 values, either of which may be a Python int."""
        return self.builder.add(self.whole(a), self.whole(b))

    def mul(self, a, b):
        """a b of int64 values, either of which may be a Python int."""
        return self.builder.mul(self.whole(a), self.whole(b))

    def at(self, pointer, *offsets):
        """The address that lies so many elements behind a pointer."""
        for offset in offsets:
            pointer = self.builder.gep(pointer, [self.whole(offset)])
        return pointer

    def entry(self, table, index):
        """A table's int32 entry, as an int64."""
        return self.builder.sext(self.builder.load(self.at(table, index)), INT64)

    def load(self, pointer):
        """The vector at an address."""
        return self.builder.load(self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def load_columns(self, pointer, columns):
        """So many vectors that lie side by side."""
        return [self.load(self.at(pointer, v * LANES)) for v in range(columns)]

    def store(self, vector, pointer):
        """Write a vector to an address."""
        self.builder.store(vector, self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def spread(self, pointer):
        """The number at an address, in every lane of a vector."""
        nothing = ir.Constant(VECTOR, ir.Undefined)
        one = self.builder.insert_element(
            nothing, self.builder.load(pointer), ir.Constant(INT32, 0)
        )
        return self.builder.shuffle_vector(one, nothing, self.lane)

    def transpose(self, vectors):
        """LANES vectors as the columns of a square; its rows: halves of pairs change places."""
        rows, distance = list(vectors), 1
        while distance < LANES:
            for i in (i for i in range(LANES) if not i & distance):
                pair = rows[i], rows[i + distance]
                for offset in (0, distance):
                    taken = [
                        j + offset if not j & distance else LANES + j - distance + offset
                        for j in range(LANES)
                    ]
                    rows[i + offset] = self.builder.shuffle_vector(
                        *pair, ir.Constant(ir.VectorType(INT32, LANES), taken)
                    )
            distance *= 2
        return rows

    def sum_lanes(self, vector):
        """The sum of a vector's lanes, in whatever order is fastest."""
        kind = ir.FunctionType(FLOAT, [FLOAT, VECTOR])
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        add = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(add, [ir.Constant(FLOAT, 0.0), vector], fastmath=("reassoc",))

    def sums(self, rows, columns):
        """rows x columns vectors that the compiler will keep in registers."""
        return [
            [cgutils.alloca_once(self.builder, VECTOR) for _ in range(columns)] for _ in range(rows)
        ]

    def clear(self, sums):
        """Set every sum to zero."""
        for each in chain.from_iterable(sums):
            self.builder.store(ir.Constant(VECTOR, None), each)

    def accumulate(self, sums, rows, columns):
        """sums[r][c] += rows[r] columns[c], where `rows` are the addresses of numbers."""
        for pointer, row in zip(rows, sums):
            value = self.spread(pointer)
            for vector, each in zip(columns, row):
                total = self.builder.call(self.fma, [value, vector, self.builder.load(each)])
                self.builder.store(total, each)


@intrinsic
def transpose_block(typing, x, x0, step, out, o0, out_step):
    """out[o0 + i out_step + j] = x[x0 + j step + i] for i, j < LANES."""

    def generate(context, builder, signature, args):
        e = Emitter(context, builder, signature, args)
        x, x0, step, out, o0, out_step = e.args
        columns = [e.load(e.at(x, x0, e.mul(step, j))) for j in range(LANES)]
        for i, row in enumerate(e.transpose(columns)):
            e.store(row, e.at(out, o0, e.mul(out_step, i)))
        return context.get_dummy_value()

    return types.void(x, x0, step, out, o0, out_step), generate


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
            places, sums = [e.add(first, p) for p in range(pixels)], e.sums(pixels, columns)
            for place, row in zip(places, sums):
                under = e.at(base, e.entry(boff, place), o0)
                for v, each in enumerate(row):
                    start = e.load(e.at(bias, o0, v * LANES))
                    start = builder.fadd(start, e.load(e.at(under, v * LANES)))
                    builder.store(start, each)
            starts = [e.at(x, e.entry(xoff, place)) for place in places]
            with e.loop(rows) as r:
                inputs = [e.at(start, e.mul(r.index, xrow)) for start in starts]
                panel = e.at(w, w0, e.mul(e.mul(r.index, run), columns * LANES))
                with e.loop(run) as k:
                    weights = e.load_columns(e.at(panel, e.mul(k.index, columns * LANES)), columns)
                    e.accumulate(sums, [e.at(row, k.index) for row in inputs], weights)
            for place, row in zip(places, sums):
                out = e.at(y, e.entry(yoff, place), o0)
                for v, each in enumerate(row):
                    e.store(builder.load(each), e.at(out, v * LANES))
            return context.get_dummy_value()

        kinds = x, xoff, xrow, rows, run, w, w0, bias, base, boff, y, yoff, first, o0
        return types.void(*kinds), generate

    return tile


def narrow_tile(pixels):
    """The tile of a convolution's one output channel, its lanes along the inputs: y of `pixels`.

    y[p] = sum_{r, k} x[q + p, r xrow + k] w[w0 + r run + k], where pixel q of x starts at xoff[q],
    for q = first; run is a multiple of LANES.
    """

    @intrinsic
    def tile(typing, x, xoff, xrow, rows, run, w, w0, first, y):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, xoff, xrow, rows, run, w, w0, first, y = e.args
            sums = e.sums(pixels, 1)
            e.clear(sums)
            starts = [e.at(x, e.entry(xoff, e.add(first, p))) for p in range(pixels)]
            vectors = builder.sdiv(run, ir.Constant(INT64, LANES))
            with e.loop(rows) as r:
                inputs = [e.at(start, e.mul(r.index, xrow)) for start in starts]
                panel = e.at(w, w0, e.mul(r.index, run))
                with e.loop(vectors) as k:
                    place = e.mul(k.index, LANES)
                    weight = e.load(e.at(panel, place))
                    for row, (total,) in zip(inputs, sums):
                        terms = [e.load(e.at(row, place)), weight, builder.load(total)]
                        builder.store(builder.call(e.fma, terms), total)
            for p, (total,) in enumerate(sums):
                builder.store(e.sum_lanes(builder.load(total)), e.at(y, p))
            return context.get_dummy_value()

        return types.void(x, xoff, xrow, rows, run, w, w0, first, y), generate

    return tile


def outer_tile(terms, columns):
    """The tile of a weight gradient: dw[m] += sum_{q < n} x[q, m] panel[q], for m < terms.

    x[q, m] stands at xoff[first + q] + x0 + m; panel holds `columns` vectors of output channels for
    each pixel, from p0 on; dw[m] starts at d0 + m step.
    """

    @intrinsic
    def tile(typing, x, xoff, x0, first, n, panel, p0, dw, d0, step):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, xoff, x0, first, n, panel, p0, dw, d0, step = e.args
            sums = e.sums(terms, columns)
            e.clear(sums)
            x, panel, xoff = e.at(x, x0), e.at(panel, p0), e.at(xoff, first)
            with e.loop(n) as q:
                inputs = e.at(x, e.entry(xoff, q.index))
                slopes = e.load_columns(e.at(panel, e.mul(q.index, columns * LANES)), columns)
                e.accumulate(sums, [e.at(inputs, m) for m in range(terms)], slopes)
            for m, row in enumerate(sums):
                for v, each in enumerate(row):
                    place = e.at(dw, d0, e.mul(step, m), v * LANES)
                    e.store(builder.fadd(e.load(place), builder.load(each)), place)
            return context.get_dummy_value()

        return types.void(x, xoff, x0, first, n, panel, p0, dw, d0, step), generate

    return tile


def narrow_outer_tile(vectors):
    """The tile of one output channel's weight gradient, lanes along the inputs.

    dw[d0 + k] += sum_{q < n} x[q, k] dy[q], for k < vectors LANES; x[q, k] stands at
    xoff[first + q] + x0 + k, and dy[q] at yoff[first + q] + y0.
    """

    @intrinsic
    def tile(typing, x, xoff, x0, dy, yoff, y0, first, n, dw, d0):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, xoff, x0, dy, yoff, y0, first, n, dw, d0 = e.args
            sums = e.sums(1, vectors)
            e.clear(sums)
            x, dy, xoff, yoff = e.at(x, x0), e.at(dy, y0), e.at(xoff, first), e.at(yoff, first)
            with e.loop(n) as q:
                inputs = e.load_columns(e.at(x, e.entry(xoff, q.index)), vectors)
                e.accumulate(sums, [e.at(dy, e.entry(yoff, q.index))], inputs)
            for v, each in enumerate(sums[0]):
                place = e.at(dw, d0, v * LANES)
                e.store(builder.fadd(e.load(place), builder.load(each)), place)
            return context.get_dummy_value()

        return types.void(x, xoff, x0, dy, yoff, y0, first, n, dw, d0), generate

    return tile


def product_tile(pixels, columns):
    """The tile of a matrix product: y[q, :] = sum_k x[q, k] w[k, :].

    q takes `pixels` values from `first` on, the columns of y are `columns` vectors from y0 on;
    x (n, depth) and y (n, width) are whole and w is a packed panel from w0 on.
    """

    @intrinsic
    def tile(typing, x, x0, depth, w, w0, y, y0, width, first):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            x, x0, depth, w, w0, y, y0, width, first = e.args
            sums = e.sums(pixels, columns)
            e.clear(sums)
            places = [e.add(first, p) for p in range(pixels)]
            inputs, panel = [e.at(x, x0, e.mul(place, depth)) for place in places], e.at(w, w0)
            with e.loop(depth) as k:
                weights = e.load_columns(e.at(panel, e.mul(k.index, columns * LANES)), columns)
                e.accumulate(sums, [e.at(row, k.index) for row in inputs], weights)
            for place, row in zip(places, sums):
                out = e.at(y, y0, e.mul(place, width))
                for v, each in enumerate(row):
                    e.store(builder.load(each), e.at(out, v * LANES))
            return context.get_dummy_value()

        return types.void(x, x0, depth, w, w0, y, y0, width, first), generate

    return tile
