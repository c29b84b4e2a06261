"""GroupNorm and SiLU on a CPU, fused, and the exponential that SiLU needs, float32.

Every function runs on the calling thread, without the interpreter's lock. The innermost loops run
over channels, which lie side by side, so that the compiler turns them into vector instructions.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm.formulas import make_norm

from .jit import inline, kernel
from .tiles import INT64, LANES, Emitter

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
def exp(x):
    """exp(x) within 2 units in the last place, for x cut to -87.3..88.3: no branch, no table."""
    x = min(max(x, LOWEST), HIGHEST)
    n = floor(x * LOG2_E + HALF)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2
    return (p * r * r + r + ONE) * power_of_two(n)


@inline
def _reciprocal(x):
    return ONE / x


# GroupNorm's formulas are not taken from make_norm: here each image first gets, for each channel,
# the scale and shift that make one multiply-add of them, which is all that a pass over memory has
# time for.
F = make_norm(jit=inline, exp=exp, reciprocal=_reciprocal)
_silu, _silu_slope = F.silu, F.silu_slope


@kernel
def silu(x, y):
    """y = silu(x), flat."""
    for k in range(x.size):
        y[k] = _silu(x[k])


@kernel
def silu_backward(dy, x, dx):
    """dx = dy silu'(x), flat."""
    for k in range(x.size):
        dx[k] = dy[k] * _silu_slope(x[k])


# Images come as rows, (B, H, W C), with a border of so many pixels around those that count: a row's
# numbers lie side by side, and its tables (a scale, a sum for each place in the row) make one long
# loop of it.


def _by_vectors(generate_column):
    """An intrinsic (row, length, channels) that works on a row a vector of channels at a time.

    generate_column(e, first, pixels): writes what is done with one of them, whose first pixel is at
    the address `first`; `pixels` makes a loop over the other pixels' addresses.
    """

    @intrinsic
    def over(typing, row, length, channels):
        def generate(context, builder, signature, args):
            e = Emitter(context, builder, signature, args)
            row, length, channels = e.args
            step = ir.Constant(INT64, LANES)
            zero = ir.Constant(INT64, 0)
            with cgutils.for_range_slice(builder, zero, channels, step, intp=INT64) as (c, _):

                def pixels():
                    return cgutils.for_range_slice(builder, channels, length, channels, intp=INT64)

                generate_column(e, e.at(row, c), pixels)
            return context.get_dummy_value()

        return types.void(row, length, channels), generate

    return over


def _add_column(e, first, pixels):
    """first = the sum over all pixels, one after the other."""
    total = cgutils.alloca_once_value(e.builder, e.load(first))
    with pixels() as (k, _):
        e.builder.store(e.builder.fadd(e.builder.load(total), e.load(e.at(first, k))), total)
    e.store(e.builder.load(total), first)


def _copy_column(e, first, pixels):
    """Every pixel = the first."""
    value = e.load(first)
    with pixels() as (k, _):
        e.store(value, e.at(first, k))


_add_columns, _copy_columns = _by_vectors(_add_column), _by_vectors(_copy_column)


# Both would do with their second loops alone, but the compiler checks before each of the short
# inner ones whether the two parts of the row overlap, which takes longer than the work itself.


@kernel
def fold(row, channels):
    """Sums for each place in a row (W C,) -> sums for each channel, in row[:C]."""
    if channels % LANES == 0:
        _add_columns(row, len(row), channels)
        return
    for k in range(channels, len(row), channels):
        for c in range(channels):
            row[c] += row[k + c]


@kernel
def unfold(row, channels):
    """row[:C] repeated along the row."""
    if channels % LANES == 0:
        _copy_columns(row, len(row), channels)
        return
    for k in range(channels, len(row), channels):
        for c in range(channels):
            row[k + c] = row[c]


@kernel
def group_means(row, channels, groups, pixels):
    """Channels' sums over so many pixels, row[:C] -> the mean of each channel's group.

    Args:
        row: (W C,), changed in place.
        channels: C.
        groups: how many, a divisor of C.
        pixels: how many of them the sums run over.
    """
    size = channels // groups
    for g in range(0, channels, size):
        total = np.float32(0)
        for c in range(g, g + size):
            total += row[c]
        for c in range(g, g + size):
            row[c] = total / np.float32(size * pixels)


@kernel
def sum_rows(image, border, left, total):
    """total (W C,) = the sum of the rows of an image (H, ...), from place `left` on in each."""
    total[:] = 0
    for i in range(border, len(image) - border):
        row = image[i, left : left + len(total)]
        for k in range(len(total)):
            total[k] += row[k]


@kernel
def pixel_sums(x, border, channels, total):
    """total (B, C) = the sum of x over its pixels.

    Args:
        x: (B, H, W C).
        border: of x, in pixels.
        channels: C.
        total: (B, C), filled.
    """
    left = border * channels
    row = np.empty(x.shape[2] - 2 * left, np.float32)
    for n in range(len(x)):
        sum_rows(x[n], border, left, row)
        fold(row, channels)
        for c in range(channels):
            total[n, c] = row[c]


@kernel
def groupnorm(x, xb, w, b, groups, tol, activate, y, yb, mean, inv):
    """y = w (x - mean) inv + b (Wu18 eq. 1), or its SiLU.

    The variance takes a second pass over an image that is still in cache: one pass would lose
    digits.

    Args:
        x, y: (B, H, W C); y is filled.
        xb, yb: the borders of x and y, in pixels.
        w, b: (C,).
        groups: how many, a divisor of C.
        tol: added to the variance, float32.
        activate: whether SiLU follows.
        mean, inv: (B, C), filled with the groups' mean and 1 / sqrt(var + tol).
    """
    C = len(w)
    H, xl, yl = x.shape[1] - 2 * xb, xb * C, yb * C
    length = x.shape[2] - 2 * xl
    pixels = H * length // C
    scale, shift = np.empty(length, np.float32), np.empty(length, np.float32)
    for n in range(len(x)):
        sum_rows(x[n], xb, xl, shift)
        fold(shift, C)
        group_means(shift, C, groups, pixels)
        unfold(shift, C)
        _sum_squares(x[n], xb, xl, shift, scale)
        fold(scale, C)
        group_means(scale, C, groups, pixels)
        for c in range(C):
            mean[n, c], inv[n, c] = shift[c], ONE / np.sqrt(scale[c] + tol)
            scale[c] = inv[n, c] * w[c]
            shift[c] = b[c] - mean[n, c] * scale[c]
        unfold(scale, C)
        unfold(shift, C)
        for i in range(H):
            xr, yr = x[n, xb + i, xl : xl + length], y[n, yb + i, yl : yl + length]
            if activate:
                for k in range(length):
                    yr[k] = _silu(xr[k] * scale[k] + shift[k])
            else:
                for k in range(length):
                    yr[k] = xr[k] * scale[k] + shift[k]


@kernel
def _sum_squares(image, border, left, centre, total):
    """total (W C,) = the sum over the rows of an image of (row - centre)^2."""
    total[:] = 0
    for i in range(border, len(image) - border):
        row = image[i, left : left + len(total)]
        for k in range(len(total)):
            total[k] += (row[k] - centre[k]) ** 2


@kernel
def groupnorm_backward(dy, db, x, xb, w, b, groups, activate, mean, inv, dx, ob, gw, gb):
    """dx = inv (dn - mean(dn) - n mean(dn n)) with n = (x - mean) inv, dn = w dy.

    Args:
        dy, x, dx: (B, H, W C); dx is filled.
        db, xb, ob: the borders of dy, x and dx, in pixels.
        w, b, groups, activate, mean, inv: as `groupnorm`'s; where SiLU followed, its backward
            comes first.
        gw, gb: (C,), to which dw and db are added.
    """
    C = len(w)
    H, xl, ol = x.shape[1] - 2 * xb, xb * C, ob * C
    length = x.shape[2] - 2 * xl
    pixels = H * length // C
    scale, shift = np.empty(length, np.float32), np.empty(length, np.float32)
    middle, total = np.empty(length, np.float32), np.empty(length, np.float32)
    product = np.empty(length, np.float32)
    for n in range(len(x)):
        for c in range(C):
            middle[c] = mean[n, c]
            scale[c] = inv[n, c] * w[c]
            shift[c] = b[c] - mean[n, c] * scale[c]
        unfold(middle, C)
        unfold(scale, C)
        unfold(shift, C)
        silu = activate, scale, shift
        _upstream(dy[n], db, x[n], xb, dx[n], ob, C, silu, middle, total, product)
        fold(total, C)
        fold(product, C)
        for c in range(C):
            product[c] *= inv[n, c]
            gb[c] += total[c]
            gw[c] += product[c]
            total[c] *= w[c]
            product[c] *= w[c]
        group_means(total, C, groups, pixels)
        group_means(product, C, groups, pixels)
        for c in range(C):  # dx = scale d - slope (x - mean) - inv mean(dn)
            product[c] *= inv[n, c] * inv[n, c]
            shift[c] = mean[n, c] * product[c] - total[c] * inv[n, c]
        unfold(product, C)
        unfold(shift, C)
        for i in range(H):
            xr, out = x[n, xb + i, xl : xl + length], dx[n, ob + i, ol : ol + length]
            for k in range(length):
                out[k] = out[k] * scale[k] + shift[k] - xr[k] * product[k]


@kernel
def _upstream(dy, db, x, xb, dx, ob, channels, silu, middle, total, product):
    """dx = dy after SiLU's backward; total, product (W C,) = the sums of dx and dx (x - middle).

    dy, x, dx: one image's rows, (H, W C); silu: activate, scale and shift.
    """
    activate, scale, shift = silu
    length = len(total)
    dl, xl, ol = db * channels, xb * channels, ob * channels
    total[:] = 0
    product[:] = 0
    for i in range(len(x) - 2 * xb):
        xr, dr = x[xb + i, xl : xl + length], dy[db + i, dl : dl + length]
        out = dx[ob + i, ol : ol + length]
        if activate:
            for k in range(length):
                out[k] = dr[k] * _silu_slope(xr[k] * scale[k] + shift[k])
        else:
            for k in range(length):
                out[k] = dr[k]
        for k in range(length):
            d = out[k]
            total[k] += d
            product[k] += d * (xr[k] - middle[k])
