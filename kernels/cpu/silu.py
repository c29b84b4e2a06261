"""SiLU on a CPU, and the exponential that it needs, for numbers and for vectors, float32."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm.formulas import make_norm

from . import channels
from .jit import inline, kernel

ONE, HALF = np.float32(1), np.float32(0.5)
LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.3)
# exp(r) = 1 + r + r^2 P(r) on |r| <= log(2) / 2, from Moshier's Cephes library (expf)
E2, E3, E4 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
E5, E6, E7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)


@intrinsic
def power_of_two(typing, n):
    """2^n for a whole float32 n in -126..127: n + 127 in the exponent's place."""

    def generate(context, builder, signature, args):
        whole = builder.fptosi(args[0], ir.IntType(32))
        shifted = builder.shl(
            builder.add(whole, ir.Constant(ir.IntType(32), 127)), ir.Constant(ir.IntType(32), 23)
        )
        return builder.bitcast(shifted, ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def floor(typing, x):
    """The largest whole number not above x, float32; the compiler has one instruction for it."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.floor.f32"), args
        )

    return types.float32(types.float32), generate


@inline
def _cut(x, lowest, highest):
    return min(max(x, lowest), highest)


def make_exp(jit, cut, floor, power_of_two):
    """exp(x) within 2 units in the last place, for x cut to -87.3..88.3: no branch, no table."""

    @jit
    def exp(x):
        x = cut(x, LOWEST, HIGHEST)
        n = floor(x * LOG2_E + HALF)
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        p = ((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2
        return (p * r * r + r + ONE) * power_of_two(n)

    return exp


@inline
def _reciprocal(x):
    return ONE / x


exp = make_exp(inline, _cut, floor, power_of_two)
NUMBERS = make_norm(jit=inline, exp=exp, reciprocal=_reciprocal)
silu_of, slope_of = NUMBERS.silu, NUMBERS.silu_slope

# The same text for vectors, whose operators write instructions.
_exp = make_exp(channels.traced, channels.cut, channels.floor, channels.power_of_two)
VECTORS = make_norm(jit=channels.traced, exp=_exp, reciprocal=channels.reciprocal)


@kernel
def silu(x, y):
    """y = silu(x), flat."""
    for k in range(x.size):
        y[k] = silu_of(x[k])


@kernel
def silu_backward(dy, x, dx):
    """dx = dy silu'(x), flat."""
    for k in range(x.size):
        dx[k] = dy[k] * slope_of(x[k])
