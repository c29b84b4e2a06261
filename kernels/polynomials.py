"""log, cos(pi x) and sin(pi x) by polynomials, for the arguments of Box and Muller's formula.

A library's versions spend half of their instructions on arguments that never come here: zeros,
infinities, subnormals, angles beyond a turn. Each polynomial is the minimax one of its degree, in
relative error (fitted in float64 by Lawson's iteration); log and the two of the circle stay within
1.5 units in the last place of float32 (a test tries every argument there is). The operations that
differ from one compiler to the next are arguments of `make`, so that arrays and scalars share this
text.
"""

from types import SimpleNamespace

import numpy as np

f = np.float32
L1, L2, L3, L4 = f(0.14026351), f(-0.1538854), f(0.13995808), f(-0.16415961)
L5, L6, L7, L8 = f(0.20011169), f(-0.2500782), f(0.33333197), f(-0.49999937)
LN2_ULP_23 = f(np.log(2) * 2.0**-23)
TWO_THIRDS = np.int32(0x3F2AAAAB)  # the bits of 2/3
EXPONENT = np.int32(-0x800000)  # sign and exponent
PI_HIGH = f(np.pi)
PI_LOW = f(np.pi - float(PI_HIGH))
S1, S2, S3 = f(-0.58941877), f(2.5498052), f(-5.167709)
C1, C2, C3, C4 = f(0.23136424), f(-1.3350506), f(4.0587077), f(-4.934802)
ROUND = f(1.5 * 2**23)  # added to a small number, it leaves a whole one in the low bits
ONE, TWO, MINUS_ONE, MINUS_HALF = f(1), f(2), f(-1), f(-0.5)
ODD, NEXT, TO_SIGN, SIGN = np.int32(1), np.int32(1), np.int32(30), np.int32(-0x80000000)


def make(jit, fma, bits, value, whole, select):
    """Build log, cospi and sinpi for one backend.

    Args:
        jit: decorates each function; the identity for arrays.
        fma: (a, b, c) -> a b + c.
        bits: a float32's bits as an int32.
        value: an int32's bits as a float32.
        whole: int32 -> float32.
        select: (condition, a, b) -> a where the condition holds, else b.
    """

    @jit
    def log(x):
        """log x for a positive normal x = 2^k m, m in [2/3, 4/3): k log 2 + log(1 + (m - 1))."""
        power = (bits(x) - TWO_THIRDS) & EXPONENT
        m = value(bits(x) - power) + MINUS_ONE
        q = fma(fma(fma(fma(m, L1, L2), m, L3), m, L4), m, L5)
        q = fma(fma(fma(q, m, L6), m, L7), m, L8)
        return fma(whole(power), LN2_ULP_23, fma(m * m, q, m))

    @jit
    def quadrant(x):
        """x = n / 2 + r with |r| <= 1/4: n in the low bits of an integer, sin(pi r), cos(pi r)."""
        n = fma(x, TWO, ROUND)
        r = fma(n - ROUND, MINUS_HALF, x)
        s = r * r
        sine = fma(r, PI_HIGH, r * fma(s, fma(fma(s, S1, S2), s, S3), PI_LOW))
        return bits(n), sine, fma(s, fma(fma(fma(s, C1, C2), s, C3), s, C4), ONE)

    @jit
    def cospi(x):
        """cos(pi x) for 0 <= x < 2."""
        n, sine, cosine = quadrant(x)
        return value(bits(select(n & ODD, sine, cosine)) ^ (((n + NEXT) << TO_SIGN) & SIGN))

    @jit
    def sinpi(x):
        """sin(pi x) for 0 <= x < 2."""
        n, sine, cosine = quadrant(x)
        return value(bits(select(n & ODD, cosine, sine)) ^ ((n << TO_SIGN) & SIGN))

    return SimpleNamespace(log=log, cospi=cospi, sinpi=sinpi)


def _fma(a, b, c):
    """a b + c rounded once: in float64 the product is exact, and the sum nearly always."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


numpy_polynomials = make(
    jit=lambda function: function,
    fma=_fma,
    bits=lambda x: np.asarray(x, np.float32).view(np.int32),
    value=lambda i: np.asarray(i, np.int32).view(np.float32),
    whole=lambda i: np.asarray(i).astype(np.float32),
    select=np.where,
)
