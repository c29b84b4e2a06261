"""Passes over an image on a CPU, one or two vectors of channels at a time, float32.

A channel's numbers (a scale, a sum) stay in a register while its pixels go by. The passes are
written in LLVM's instructions; formulas are those of their callers, called on `Lanes`. An image is
given as (flat array, where its first pixel starts, how far apart its rows are, and its pixels);
channels are a multiple of LANES.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .tiles import INT32, INT64, LANES, VECTOR, Emitter

FUSED = ("contract",)  # a product and a sum may become one instruction


class Lanes:
    """A vector in a formula: its operators write instructions; other operands may be numbers."""

    __array_ufunc__ = None  # a NumPy number leaves its operations to this class

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _of(self, other):
        if isinstance(other, Lanes):
            return other.value
        return ir.Constant(VECTOR, [float(other)] * LANES)

    def _new(self, value):
        return Lanes(self.builder, value)

    def __add__(self, other):
        return self._new(self.builder.fadd(self.value, self._of(other), flags=FUSED))

    def __sub__(self, other):
        return self._new(self.builder.fsub(self.value, self._of(other), flags=FUSED))

    def __rsub__(self, other):
        return self._new(self.builder.fsub(self._of(other), self.value, flags=FUSED))

    def __mul__(self, other):
        return self._new(self.builder.fmul(self.value, self._of(other), flags=FUSED))

    def __neg__(self):
        return self._new(self.builder.fneg(self.value))

    __radd__, __rmul__ = __add__, __mul__


def traced(function):
    """A formula as it is: called on Lanes, it writes its instructions."""
    return function


def reciprocal(x):
    """1 / x."""
    return Lanes(x.builder, x.builder.fdiv(x._of(1), x.value))


def cut(x, lowest, highest):
    """x within the bounds; NaN stays NaN."""
    b, low, high = x.builder, x._of(lowest), x._of(highest)
    value = b.select(b.fcmp_ordered("<", x.value, low), low, x.value)
    return Lanes(b, b.select(b.fcmp_ordered(">", value, high), high, value))


def floor(x):
    """The largest whole number not above x."""
    kind = ir.FunctionType(VECTOR, [VECTOR])
    name = f"llvm.floor.v{LANES}f32"
    return Lanes(
        x.builder,
        x.builder.call(cgutils.get_or_insert_function(x.builder.module, kind, name), [x.value]),
    )


def power_of_two(n):
    """2^n for a whole n in -126..127: n + 127 in the exponent's place."""
    whole = ir.VectorType(INT32, LANES)
    exponent = n.builder.add(n.builder.fptosi(n.value, whole), ir.Constant(whole, [127] * LANES))
    shifted = n.builder.shl(exponent, ir.Constant(whole, [23] * LANES))
    return Lanes(n.builder, n.builder.bitcast(shifted, VECTOR))


def image_pass(formula):
    """Make formula(a vector of each input and of each table) -> (outputs ..., terms of sums ...).

    It becomes an intrinsic (size, inputs, outputs, tables, sums), all of them tuples, that goes
    over all pixels. size: rows, pixels in a row, channels; a table holds a number for each channel;
    a sum, likewise, is set to the sum of its terms, row by row.
    """

    @intrinsic
    def over_image(typing, size, inputs, outputs, tables, sums):
        def generate(context, builder, signature, args):
            size, *groups = (
                _unpacked(context, builder, *each) for each in zip(signature.args, args)
            )
            _by_columns(Emitter(context, builder, signature, ()), formula, size, *groups)
            return context.get_dummy_value()

        return types.void(size, inputs, outputs, tables, sums), generate

    return over_image


def _unpacked(context, builder, kind, value):
    """A tuple's values, also of the tuples in it; of arrays, where their numbers start."""
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value, len(kind.types))
        return [_unpacked(context, builder, *each) for each in zip(kind.types, parts)]
    if isinstance(kind, types.Array):
        return context.make_array(kind)(context, builder, value).data
    return value


def _by_columns(e, formula, size, inputs, outputs, tables, sums):
    """All channels: two vectors at a time, and one where one is left."""
    channels, two = size[2], e.whole(2 * LANES)
    pairs = e.mul(e.builder.sdiv(channels, two), two)
    for first, last, wide in ((e.whole(0), pairs, 2), (pairs, channels, 1)):
        step = e.whole(wide * LANES)
        with cgutils.for_range_slice(e.builder, first, last, step, intp=INT64) as (c, _):
            known = [
                [Lanes(e.builder, e.load(e.at(table, c, v * LANES))) for table in tables]
                for v in range(wide)
            ]
            whole = e.sums(wide, len(sums))
            e.clear(whole)
            places = [(e.at(x, start, c), *steps) for x, start, *steps in (*inputs, *outputs)]
            _by_rows(e, formula, size, places, known, whole, len(inputs))
            for v, totals in enumerate(whole):
                for total, out in zip(totals, sums):
                    e.store(e.builder.load(total), e.at(out, c, v * LANES))


def _by_rows(e, formula, size, places, known, whole, inputs):
    """All pixels of some channels; a row's terms are summed by themselves: short sums lose less."""
    rows, pixels, _ = size
    with cgutils.for_range(e.builder, rows, intp=INT64) as i:
        part = e.sums(len(whole), len(whole[0]))
        e.clear(part)
        starts = [(e.at(place, e.mul(i.index, row)), step) for place, row, step in places]
        with cgutils.for_range(e.builder, pixels, intp=INT64) as j:
            here = [e.at(start, e.mul(j.index, step)) for start, step in starts]
            for v, totals in enumerate(part):
                at = [e.at(pixel, v * LANES) for pixel in here]
                values = [Lanes(e.builder, e.load(a)) for a in at[:inputs]]
                results = [result.value for result in formula(*values, *known[v])]
                for result, a in zip(results, at[inputs:]):
                    e.store(result, a)
                for result, total in zip(results[len(at) - inputs :], totals):
                    _add(e.builder, result, total)
        for totals, sums in zip(part, whole):
            for term, total in zip(totals, sums):
                _add(e.builder, e.builder.load(term), total)


def _add(builder, value, total):
    builder.store(builder.fadd(builder.load(total), value), total)
