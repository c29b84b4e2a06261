"""The diffusion's and the optimiser's own steps on a CPU: loops over the formulas of
tinyddpm.formulas, float32.

Every function runs on the calling thread and lets go of the interpreter's lock.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm import formulas

from .. import polynomials
from .jit import inline, kernel


@intrinsic
def _fma(typing, a, b, c):
    """a b + c, in one instruction where the CPU has it."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f32"), args
        )

    return types.float32(*[types.float32] * 3), generate


@intrinsic
def _bits(typing, x):
    """A float32's bits as an int32."""
    return types.int32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def _value(typing, i):
    """The float32 whose bits are the low 32 of i, which Numba has made an int64 on the way."""
    return types.float32(types.int64), lambda context, builder, signature, args: builder.bitcast(
        builder.trunc(args[0], ir.IntType(32)), ir.FloatType()
    )


@inline
def _select(condition, a, b):
    return a if condition else b


@inline
def _float(word):
    """A whole number below 2**31 as a float32, by way of int32, for which vectors have an
    instruction.
    """
    return np.float32(np.int32(word))


@inline
def _sqrt(x):
    return np.sqrt(x)


P = polynomials.make(jit=inline, fma=_fma, bits=_bits, value=_value, whole=_float, select=_select)
F = formulas.make(
    jit=inline,
    f32=_float,
    log=P.log,
    sqrt=_sqrt,
    cospi=P.cospi,
    sinpi=P.sinpi,
    minimum=min,
    maximum=max,
)
_normals, _noised, _reverse, _adamw, _average = F.normals, F.noised, F.reverse, F.adamw, F.average


@kernel
def normals(out, step, purpose, k0, k1, first_sample):
    """out (samples, size) = the values of tinyddpm.noise.normal; step, purpose and key words are
    uint64.
    """
    samples, size = out.shape
    blocks = (size + 3) // 4
    draws = np.empty((4, blocks), np.float32)
    for n in range(samples):
        sample = np.uint64(first_sample + n)
        for b in range(blocks):
            draws[0, b], draws[1, b], draws[2, b], draws[3, b] = _normals(
                np.uint64(b), sample, step, purpose, k0, k1
            )
        for b in range(size // 4):
            for k in range(4):
                out[n, 4 * b + k] = draws[k, b]
        for e in range(size // 4 * 4, size):
            out[n, e] = draws[e % 4, blocks - 1]


@kernel
def noised(x0, eps, signal, noise, out):
    """out = signal x0 + noise eps (Ho20 eq. 4); x0, eps, out (B, n), signal and noise (B,)."""
    for i in range(len(x0)):
        for k in range(x0.shape[1]):
            out[i, k] = _noised(x0[i, k], eps[i, k], signal[i], noise[i])


@kernel
def reverse(xt, output, z, a_xt, a_output, bound, c_x0, c_xt, sigma, out):
    """out = the reverse step of every element; all flat, the coefficients float32."""
    for k in range(xt.size):
        out[k] = _reverse(xt[k], output[k], z[k], a_xt, a_output, bound, c_x0, c_xt, sigma)


@kernel
def adamw_ema(theta, g, m, v, ema, scale, keep, rate, gain_m, gain_v, correct_v, tol, weight):
    """One AdamW step and the average's, in one pass over the parameters; all flat, the factors
    float32.
    """
    for k in range(theta.size):
        theta[k], m[k], v[k] = _adamw(
            theta[k], scale * g[k], m[k], v[k], keep, rate, gain_m, gain_v, correct_v, tol
        )
        ema[k] = _average(ema[k], theta[k], weight)
