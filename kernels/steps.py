"""The diffusion's and the optimiser's own steps on a CPU: loops over the formulas of tinyddpm.formulas, float32.

Every function runs on the calling thread and lets go of the interpreter's lock.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tinyddpm import formulas

from .cpu import INLINE, JIT, LN2_HIGH, LN2_LOW, ONE, floor

HALF, TWO, SQRT_HALF = np.float32(0.5), np.float32(2), np.float32(math.sqrt(0.5))
# log(1 + x) = x - x^2 / 2 + x^3 P(x) on sqrt(1/2) <= 1 + x < sqrt(2), from Moshier's Cephes library (logf)
L0, L1, L2 = np.float32(7.0376836292e-2), np.float32(-1.1514610310e-1), np.float32(1.1676998740e-1)
L3, L4, L5 = np.float32(-1.2420140846e-1), np.float32(1.4249322787e-1), np.float32(-1.6668057665e-1)
L6, L7, L8 = np.float32(2.0000714765e-1), np.float32(-2.4999993993e-1), np.float32(3.3333331174e-1)
# The series of sin(pi r) and cos(pi r), enough of each for |r| <= 1/4; pi in two parts.
PI_HIGH, PI_LOW = np.float32(math.pi), np.float32(math.pi - float(np.float32(math.pi)))
S3, S5, S7, S9 = (np.float32((-1) ** (k // 2) * math.pi**k / math.factorial(k)) for k in (3, 5, 7, 9))
C2, C4, C6, C8, C10 = (np.float32((-1) ** (k // 2) * math.pi**k / math.factorial(k)) for k in (2, 4, 6, 8, 10))


@intrinsic
def split(typing, x):
    """(e, m) with x = 2^e m and 1/2 <= m < 1, both float32, for a positive normal x."""
    def generate(context, builder, signature, args):
        word, real = ir.IntType(32), ir.FloatType()
        bits = builder.bitcast(args[0], word)
        exponent = builder.sub(builder.lshr(bits, ir.Constant(word, 23)), ir.Constant(word, 126))
        mantissa = builder.or_(builder.and_(bits, ir.Constant(word, 0x7FFFFF)), ir.Constant(word, 0x3F000000))
        return context.make_tuple(builder, signature.return_type,
                                  (builder.sitofp(exponent, real), builder.bitcast(mantissa, real)))
    return types.UniTuple(types.float32, 2)(types.float32), generate


@njit(**INLINE)
def log(x):
    """log(x) for a positive normal x, within 2 units in the last place; without a branch or a table."""
    e, m = split(x)
    low = m < SQRT_HALF
    e = e - ONE if low else e
    x = m + m - ONE if low else m - ONE
    square = x * x
    y = ((((((((L0 * x + L1) * x + L2) * x + L3) * x + L4) * x + L5) * x + L6) * x + L7) * x + L8) * x * square
    return (x + (y + e * LN2_LOW - HALF * square)) + e * LN2_HIGH


@njit(**INLINE)
def _sine(r):
    s = r * r
    return r * PI_HIGH + r * (PI_LOW + s * (S3 + s * (S5 + s * (S7 + s * S9))))


@njit(**INLINE)
def _cosine(r):
    s = r * r
    return ONE + s * (C2 + s * (C4 + s * (C6 + s * (C8 + s * C10))))


@njit(**INLINE)
def cospi(a):
    """cos(pi a) for 0 <= a < 2."""
    k = floor(a + a + HALF)                     # the nearest multiple of 1/2
    r = a - HALF * k
    odd = k - TWO * floor(HALF * k) != 0
    value = _sine(r) if odd else _cosine(r)
    return -value if (k == 1) | (k == 2) else value


@njit(**INLINE)
def sinpi(a):
    """sin(pi a) for 0 <= a < 2."""
    k = floor(a + a + HALF)
    r = a - HALF * k
    odd = k - TWO * floor(HALF * k) != 0
    value = _cosine(r) if odd else _sine(r)
    return -value if (k == 2) | (k == 3) else value


@njit(**INLINE)
def _float(word):
    """A random word cut to 24 bits or less, as a float32; by way of int32, for which vectors have an instruction."""
    return np.float32(np.int32(word))


@njit(**INLINE)
def _sqrt(x):
    return np.sqrt(x)


F = formulas.make(jit=njit(**INLINE), f32=_float, log=log, sqrt=_sqrt, cospi=cospi, sinpi=sinpi,
                  minimum=min, maximum=max)
_normals, _noised, _reverse, _adamw, _average = F.normals, F.noised, F.reverse, F.adamw, F.average


@njit(**JIT)
def normals(out, step, purpose, k0, k1, first_sample):
    """out (samples, size) = the values of tinyddpm.noise.normal; step, purpose and key words are uint64."""
    samples, size = out.shape
    blocks = (size + 3) // 4
    draws = np.empty((4, blocks), np.float32)
    for n in range(samples):
        sample = np.uint64(first_sample + n)
        for b in range(blocks):
            draws[0, b], draws[1, b], draws[2, b], draws[3, b] = _normals(np.uint64(b), sample, step, purpose, k0, k1)
        for b in range(size // 4):
            for k in range(4):
                out[n, 4 * b + k] = draws[k, b]
        for e in range(size // 4 * 4, size):
            out[n, e] = draws[e % 4, blocks - 1]


@njit(**JIT)
def noised(x0, eps, signal, noise, out):
    """out = signal x0 + noise eps (Ho20 eq. 4); x0, eps, out (B, n), signal and noise (B,)."""
    for i in range(len(x0)):
        for k in range(x0.shape[1]):
            out[i, k] = _noised(x0[i, k], eps[i, k], signal[i], noise[i])


@njit(**JIT)
def reverse(xt, output, z, a_xt, a_output, bound, c_x0, c_xt, sigma, out):
    """out = the reverse step of every element; all flat, the coefficients float32."""
    for k in range(xt.size):
        out[k] = _reverse(xt[k], output[k], z[k], a_xt, a_output, bound, c_x0, c_xt, sigma)


@njit(**JIT)
def adamw_ema(theta, g, m, v, ema, scale, keep, rate, gain_m, gain_v, correct_v, tol, weight):
    """One AdamW step and the average's, in one pass over the parameters; all flat, the factors float32."""
    for k in range(theta.size):
        theta[k], m[k], v[k] = _adamw(theta[k], scale * g[k], m[k], v[k], keep, rate, gain_m, gain_v, correct_v, tol)
        ema[k] = _average(ema[k], theta[k], weight)
