"""`groupnorm` for any number of channels, float32: the innermost loops run along whole rows."""

import numpy as np

from .jit import kernel
from .silu import silu_of, slope_of

ONE = np.float32(1)

# Images come as rows, (B, H, W C), with a border of so many pixels around those that count: a row's
# numbers lie side by side, and its tables (a scale, a sum for each place in the row) make one long
# loop of it.


@kernel
def fold(row, channels):
    """Sums for each place in a row (W C,) -> sums for each channel, in row[:C]."""
    for k in range(channels, len(row), channels):
        for c in range(channels):
            row[c] += row[k + c]


@kernel
def unfold(row, channels):
    """row[:C] repeated along the row."""
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
        total /= np.float32(size * pixels)
        for c in range(g, g + size):
            row[c] = total


# Of more arrays in one loop, the compiler no longer asks whether they overlap: it takes the numbers
# one by one.


@kernel
def _add(a, b, channels):
    """a += b."""
    for c in range(channels):
        a[c] += b[c]


@kernel
def _multiply(a, b, channels):
    """a *= b."""
    for c in range(channels):
        a[c] *= b[c]


@kernel
def forward_tables(shift, scale, w, b, tol, mean, inv, n):
    """From mean and variance of each channel's group: scale and shift with y = scale x + shift.

    shift, scale: the mean and the variance, [:C] changed in place; mean, inv: [n] filled.
    """
    for c in range(len(w)):
        inv[n, c] = ONE / np.sqrt(scale[c] + tol)
    for c in range(len(w)):
        mean[n, c] = shift[c]
    for c in range(len(w)):
        scale[c] = inv[n, c] * w[c]
    for c in range(len(w)):
        shift[c] = b[c] - shift[c] * scale[c]


@kernel
def image_tables(mean, inv, n, w, b, centre, root, scale, shift):
    """The same tables from what was kept of image n: centre[:C] = mean[n], root[:C] = inv[n]."""
    for c in range(len(w)):
        centre[c] = mean[n, c]
    for c in range(len(w)):
        root[c] = inv[n, c]
    for c in range(len(w)):
        scale[c] = root[c] * w[c]
    for c in range(len(w)):
        shift[c] = b[c] - centre[c] * scale[c]


@kernel
def backward_tables(centre, root, w, groups, pixels, shift, total, product, gw, gb):
    """From the sums of d and d (x - mean), [:C] each: what makes dx of d and x.

    dx = scale d - product x + shift = scale d - product (x - mean) - inv mean(dn). Changes shift
    and product, and adds the parameters' gradients to gw and gb.
    """
    C = len(w)
    _add(gb, total, C)
    _multiply(product, root, C)
    _add(gw, product, C)
    _multiply(total, w, C)
    _multiply(product, w, C)
    group_means(total, C, groups, pixels)
    group_means(product, C, groups, pixels)
    _multiply(product, root, C)
    _multiply(product, root, C)
    for c in range(C):
        shift[c] = centre[c] * product[c]
    for c in range(C):
        shift[c] -= total[c] * root[c]


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
        forward_tables(shift, scale, w, b, tol, mean, inv, n)
        unfold(scale, C)
        unfold(shift, C)
        for i in range(H):
            xr, yr = x[n, xb + i, xl : xl + length], y[n, yb + i, yl : yl + length]
            if activate:
                for k in range(length):
                    yr[k] = silu_of(xr[k] * scale[k] + shift[k])
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
    product, root = np.empty(length, np.float32), np.empty(C, np.float32)
    for n in range(len(x)):
        image_tables(mean, inv, n, w, b, middle, root, scale, shift)
        unfold(middle, C)
        unfold(scale, C)
        unfold(shift, C)
        silu = activate, scale, shift
        _upstream(dy[n], db, x[n], xb, dx[n], ob, C, silu, middle, total, product)
        fold(total, C)
        fold(product, C)
        backward_tables(middle, root, w, groups, pixels, shift, total, product, gw, gb)
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
                out[k] = dr[k] * slope_of(xr[k] * scale[k] + shift[k])
        else:
            for k in range(length):
                out[k] = dr[k]
        for k in range(length):
            d = out[k]
            total[k] += d
            product[k] += d * (xr[k] - middle[k])
