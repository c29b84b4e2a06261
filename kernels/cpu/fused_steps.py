"""The steps of the diffusion and of the optimiser on a CPU: loops over tinyddpm.formulas, float32.

Every function runs on the calling thread, without the interpreter's lock.
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
    """A whole number below 2**31 as a float32, by int32, for which vectors have an instruction."""
    return np.float32(np.int32(word))


@inline
def _sqrt(x):
    return np.sqrt(x)


P = polynomials.make(jit=inline, fma=_fma, bits=_bits, value=_value, whole=_float, select=_select)
ARITHMETIC = formulas.Arithmetic(_float, P.log, _sqrt, P.cospi, P.sinpi, minimum=min, maximum=max)
F = formulas.make(inline, ARITHMETIC)
_normals, _noised, _reverse, _adamw, _average = F.normals, F.noised, F.reverse, F.adamw, F.average


@kernel
def normals(out, step, purpose, k0, k1, first_sample):
    """out (samples, size) = the values of tinyddpm.noise.normal.

    Args:
        out: float32, filled.
        step, purpose, k0, k1: words of the counter and of the key, uint64.
        first_sample: the number of the first sample.
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
def noised(x0, eps, c_x0, c_eps, out):
    """out = c_x0 x0 + c_eps eps (Ho20 eq. 4).

    Args:
        x0, eps, out: (B, n); out is filled.
        c_x0, c_eps: (B,).
    """
    for i in range(len(x0)):
        for k in range(x0.shape[1]):
            out[i, k] = _noised(x0[i, k], eps[i, k], c_x0[i], c_eps[i])


@kernel
def reverse(xt, prediction, z, c, out):
    """out = the reverse step of every element (Ho20 eq. 6-7; Song21a eq. 12).

    Args:
        xt, prediction, z, out: flat; out is filled.
        c: the numbers of a FusedStep, float32.
    """
    for k in range(xt.size):
        out[k] = _reverse(xt[k], prediction[k], z[k], c)


@kernel
def adamw_ema(theta, g, m, v, ema, scale, factors, ema_weight):
    """One step of AdamW and one of the average, in one pass over the parameters.

    Args:
        theta, m, v, ema: flat, changed in place.
        g: flat, left as it is.
        scale: what g is multiplied by first, float32.
        factors: the numbers of AdamWFactors, float32.
        ema_weight: float32.
    """
    for k in range(theta.size):
        theta[k], m[k], v[k] = _adamw(theta[k], scale * g[k], m[k], v[k], factors)
        ema[k] = _average(ema[k], theta[k], ema_weight)
