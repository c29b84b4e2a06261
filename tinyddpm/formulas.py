"""The fused formulas, written once: arithmetic only, for arrays and scalars, on every backend.

Random bits are Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy
as 1, 2, 3", section 3.2): a counter of four 32-bit words, encrypted with a key of two. Normals
are made from them by Box & Muller's formula (1958).

Integers are uint64 values below 2**32, so that a 32 x 32 bit product needs no wider type; constants
carry their type, because a bare literal would promote uint64 to float64 and float32 to float64 in a
compiled kernel. What differs from one compiler to the next (the decorator, casts, the mathematical
functions) are arguments of `make`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio, sqrt(3) - 1
MASK, SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
BITS_9, BITS_8 = np.uint64(9), np.uint64(8)
HALF, ONE, MINUS_TWO = np.float32(0.5), np.float32(1.0), np.float32(-2.0)
ULP_23 = np.float32(2.0**-23)
Function = Callable[..., Any]


def product(a, b):
    """The product of two 32-bit words, as its high and its low word."""
    p = a * b
    return p >> SHIFT, p & MASK


class Arithmetic(NamedTuple):
    """The functions that differ from one compiler to the next; all but f32 act on float32."""

    f32: Function  # casts whole numbers to float32
    log: Function
    sqrt: Function
    cospi: Function  # cos(pi x)
    sinpi: Function  # sin(pi x)
    minimum: Function
    maximum: Function
    # `product`, or the same in a text of which a compiler makes faster code
    multiply: Function = product


def make(jit: Function, arithmetic: Arithmetic) -> SimpleNamespace:
    """Build the formulas of noise, diffusion and the optimiser for one backend.

    jit decorates each function, and is the identity for arrays. Returns a namespace of functions:
    philox, box_muller, normals; noised, reverse, adamw, average.
    """
    return SimpleNamespace(**_random(jit, arithmetic), **_steps(jit, arithmetic))


def _random(jit, arithmetic):
    """Random words and normals."""
    f32, log, sqrt, cospi, sinpi, *_, multiply = arithmetic
    multiply = jit(multiply)

    @jit
    def philox(c0, c1, c2, c3, k0, k1):
        """Philox4x32-10 (Salmon11 section 3.2): four counter and two key words -> four words."""
        for _ in range(10):
            high0, low0 = multiply(MULTIPLIER_0, c0)
            high1, low1 = multiply(MULTIPLIER_1, c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0 = (k0 + WEYL_0) & MASK
            k1 = (k1 + WEYL_1) & MASK
        return c0, c1, c2, c3

    @jit
    def box_muller(u, w):
        """Two random words -> two independent N(0, 1) values (Box58).

        z = sqrt(-2 log U) (cos(2 pi W), sin(2 pi W)). U = (u' + 1/2) / 2**23 keeps 23 bits, so it
        is exact in float32 and never 0 or 1: the largest magnitude is sqrt(2 log 2**24) = 5.77,
        beyond which N(0, 1) has probability 8e-9.
        """
        radius = sqrt(MINUS_TWO * log((f32(u >> BITS_9) + HALF) * ULP_23))
        angle = f32(w >> BITS_8) * ULP_23  # 24 bits of an angle in [0, 2), in units of pi
        return radius * cospi(angle), radius * sinpi(angle)

    @jit
    def normals(c0, c1, c2, c3, k0, k1):
        """One counter -> four independent N(0, 1) values in float32."""
        w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
        z0, z1 = box_muller(w0, w1)
        z2, z3 = box_muller(w2, w3)
        return z0, z1, z2, z3

    return {"philox": philox, "box_muller": box_muller, "normals": normals}


def _steps(jit, arithmetic):
    """The forward step, the reverse step, the optimiser's step."""
    sqrt, minimum, maximum = arithmetic.sqrt, arithmetic.minimum, arithmetic.maximum

    @jit
    def noised(x0, eps, c_x0, c_eps):
        """Ho20 eq. 4: x_t = c_x0 x_0 + c_eps eps, sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t)."""
        return c_x0 * x0 + c_eps * eps

    @jit
    def reverse(xt, prediction, z, c):
        """One reverse step, x_s = c_x0 x0_hat + c_xt x_t + sigma z (Ho20 eq. 6-7; Song21a eq. 12).

        x0_hat = a_xt x_t + a_prediction prediction (Ho20 eq. 15 for a prediction of eps, Salimans22
        section 4 for one of v), clipped to [-bound, bound]. c: the numbers of a FusedStep.
        """
        a_xt, a_prediction, bound, c_x0, c_xt, sigma = c
        x0_hat = maximum(minimum(a_xt * xt + a_prediction * prediction, bound), -bound)
        return c_x0 * x0_hat + c_xt * xt + sigma * z

    @jit
    def adamw(theta, g, m, v, factors):
        """One element of AdamW (Loshchilov19 Algorithm 2) -> new theta, m, v.

        factors, the numbers of AdamWFactors: keep = 1 - lr weight_decay; rate = lr / (1 -
        decay_m^step); gain_m = 1 - decay_m and gain_v = 1 - decay_v; correct_v = 1 / sqrt(1 -
        decay_v^step); tol.
        """
        keep, rate, gain_m, gain_v, correct_v, tol = factors
        m = m + gain_m * (g - m)
        v = v + gain_v * (g * g - v)
        return keep * theta - rate * m / (sqrt(v) * correct_v + tol), m, v

    @jit
    def average(ema, theta, ema_weight):
        """The exponential moving average: ema + ema_weight (theta - ema)."""
        return ema + ema_weight * (theta - ema)

    return {"noised": noised, "reverse": reverse, "adamw": adamw, "average": average}


def make_norm(jit, exp, reciprocal):
    """Build the formulas of GroupNorm and SiLU for one backend, as a namespace of functions."""

    @jit
    def normalised(x, mean, inv, w, b):
        """Wu18 eq. 1: y = w (x - mean) inv + b, with inv = 1 / sqrt(var + tol)."""
        return w * ((x - mean) * inv) + b

    @jit
    def normalised_backward(dn, n, inv, mean_dn, mean_dn_n):
        """dx = inv (dn - mean(dn) - n mean(dn n)) with n = (x - mean) inv, dn = dy w."""
        return inv * (dn - mean_dn - n * mean_dn_n)

    @jit
    def silu(x):
        """Elfwing17 eq. 4: y = x s with s = 1 / (1 + exp(-x))."""
        return x * reciprocal(ONE + exp(-x))

    @jit
    def silu_slope(x):
        """dy/dx = s (1 + x (1 - s))."""
        s = reciprocal(ONE + exp(-x))
        return s * (ONE + x * (ONE - s))

    return SimpleNamespace(
        normalised=normalised,
        normalised_backward=normalised_backward,
        silu=silu,
        silu_slope=silu_slope,
    )


def over_arrays(xp):
    """The formulas over arrays of the module xp, NumPy's or CuPy's."""
    # The angle is taken in float64 and rounded once, as the devices' own cospi and sinpi do in
    # effect: a float32 product pi * angle would already be off by many units in the last place near
    # a zero of the cosine.
    arithmetic = Arithmetic(
        f32=lambda u: u.astype(np.float32),
        log=xp.log,
        sqrt=xp.sqrt,
        cospi=lambda a: xp.cos(np.pi * a.astype(np.float64)).astype(np.float32),
        sinpi=lambda a: xp.sin(np.pi * a.astype(np.float64)).astype(np.float32),
        minimum=xp.minimum,
        maximum=xp.maximum,
    )
    return make(lambda function: function, arithmetic)


numpy_formulas = over_arrays(np)
