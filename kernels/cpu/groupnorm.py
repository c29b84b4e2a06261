"""GroupNorm on a CPU, with SiLU or without, float32, for whole vectors of channels.

Other numbers of channels are `groupnorm_rows`'s. Every function runs on the calling thread, without
the interpreter's lock. Images come as (B, H, W C), with a border of so many pixels around those
that count. Each image first gets, for each channel, the scale and shift that make one multiply-add
of the normalisation, which is all that a pass over memory has time for.
"""

import numpy as np

from . import groupnorm_rows as by_rows
from .channels import image_pass
from .jit import kernel
from .silu import VECTORS
from .tiles import LANES


@image_pass
def _sums(x):
    return (x,)


@image_pass
def _squares(x, centre):
    return ((x - centre) * (x - centre),)


@image_pass
def _normalised(x, scale, shift):
    return (x * scale + shift,)


@image_pass
def _activated(x, scale, shift):
    return (VECTORS.silu(x * scale + shift),)


@image_pass
def _plain_sums(d, x, centre):
    return d, d * (x - centre)


@image_pass
def _activated_sums(d, x, scale, shift, centre):
    d = d * VECTORS.silu_slope(x * scale + shift)
    return d, d, d * (x - centre)


@image_pass
def _slopes(d, x, scale, shift, product):
    return (d * scale + shift - x * product,)


@kernel
def _image(flat, x, n, border, channels):
    """Image n of x, for a pass: the flat array, where the first pixel starts, a row's length."""
    return flat, (n * x.shape[1] + border) * x.shape[2] + border * channels, x.shape[2]


@kernel
def pixel_sums(x, border, channels, total):
    """total (B, C) = the sum of x over its pixels.

    Args:
        x: (B, H, W C).
        border: of x, in pixels.
        channels: C.
        total: (B, C), filled.
    """
    if channels % LANES:
        by_rows.pixel_sums(x, border, channels, total)
        return
    flat = x.reshape(-1)
    size = x.shape[1] - 2 * border, x.shape[2] // channels - 2 * border, channels
    for n in range(len(x)):
        _sums(size, (_image(flat, x, n, border, channels),), (), (), (total[n],))


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
    if C % LANES:
        by_rows.groupnorm(x, xb, w, b, groups, tol, activate, y, yb, mean, inv)
        return
    xf, yf = x.reshape(-1), y.reshape(-1)
    size = x.shape[1] - 2 * xb, x.shape[2] // C - 2 * xb, C
    pixels = size[0] * size[1]
    scale, shift = np.empty(C, np.float32), np.empty(C, np.float32)
    for n in range(len(x)):
        inputs, outputs = (_image(xf, x, n, xb, C),), (_image(yf, y, n, yb, C),)
        _sums(size, inputs, (), (), (shift,))
        by_rows.group_means(shift, C, groups, pixels)
        _squares(size, inputs, (), (shift,), (scale,))
        by_rows.group_means(scale, C, groups, pixels)
        by_rows.forward_tables(shift, scale, w, b, tol, mean, inv, n)
        if activate:
            _activated(size, inputs, outputs, (scale, shift), ())
        else:
            _normalised(size, inputs, outputs, (scale, shift), ())


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
    if C % LANES:
        by_rows.groupnorm_backward(dy, db, x, xb, w, b, groups, activate, mean, inv, dx, ob, gw, gb)
        return
    df, xf, of = dy.reshape(-1), x.reshape(-1), dx.reshape(-1)
    size = x.shape[1] - 2 * xb, x.shape[2] // C - 2 * xb, C
    pixels = size[0] * size[1]
    scale, shift, centre = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    total, product, root = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    for n in range(len(x)):
        d, image, out = (
            _image(df, dy, n, db, C),
            _image(xf, x, n, xb, C),
            _image(of, dx, n, ob, C),
        )
        by_rows.image_tables(mean, inv, n, w, b, centre, root, scale, shift)
        if activate:
            tables = scale, shift, centre
            _activated_sums(size, (d, image), (out,), tables, (total, product))
            d = out
        else:
            _plain_sums(size, (d, image), (), (centre,), (total, product))
        by_rows.backward_tables(centre, root, w, groups, pixels, shift, total, product, gw, gb)
        _slopes(size, (d, image), (out,), (scale, shift, product), ())
