"""GroupNorm on a CPU, with SiLU or without, float32, for whole vectors of channels.

Other numbers of channels are `groupnorm_rows`'s. Every kernel runs on the calling thread, without
the interpreter's lock. Each image first gets, for each channel, the scale and shift that make one
multiply-add of the normalisation, which is all that a pass over memory has time for.
"""

import numpy as np

from . import groupnorm_rows as by_rows
from .channels import image_pass
from .jit import inline, kernel
from .layout import places, storage
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


@image_pass
def _slopes_and(d, x, one, scale, shift, product):
    return (d * scale + shift - x * product + one,)


@image_pass
def _slopes_and_both(d, x, one, two, scale, shift, product):
    return (d * scale + shift - x * product + one + two,)


@inline
def _image(flat, steps, k, n):
    """Image n of the k-th of some `places`, for a pass."""
    k *= 4
    return flat, steps[k] + n * steps[k + 1], steps[k + 2], steps[k + 3]


def pixel_sums(x, total):
    """total (B, C) = the sum of the images x, (B, H, W, C) float32, over their pixels."""
    if x.shape[3] % LANES:
        data, border = storage(x)
        by_rows.pixel_sums(_rows(data), border, x.shape[3], total)
    else:
        _pixel_sums(*places(x), x.shape[1], x.shape[2], total)


@kernel
def _pixel_sums(x, steps, H, W, total):
    size = H, W, total.shape[1]
    for n in range(len(total)):
        _sums(size, (_image(x, steps, 0, n),), (), (), (total[n],))


def forward(x, p, groups, tol, activate, y):
    """y = w (x - mean) inv + b (Wu18 eq. 1), or its SiLU.

    Args:
        x, y: (B, H, W, C), float32; y is filled.
        p: p.w and p.b, (C,).
        groups: how many, a divisor of C.
        tol: added to the variance.
        activate: whether SiLU follows.

    Returns:
        The groups' mean and 1 / sqrt(var + tol), (B, C) each.
    """
    B, H, W, C = x.shape
    mean, inv = np.empty((2, B, C), np.float32)
    settings = p.w, p.b, groups, np.float32(tol), activate
    if C % LANES:
        (data, border), (out, out_border) = storage(x), storage(y)
        by_rows.groupnorm(_rows(data), border, *settings, _rows(out), out_border, mean, inv)
    else:
        _forward(*places(x, y), H, W, *settings, mean, inv)
    return mean, inv


@kernel
def _forward(x, y, steps, H, W, w, b, groups, tol, activate, mean, inv):
    """`forward`; x, y, steps: `places`. The variance takes a second pass: one would lose digits."""
    C = len(w)
    size = H, W, C
    scale, shift = np.empty(C, np.float32), np.empty(C, np.float32)
    for n in range(len(mean)):
        inputs, outputs = (_image(x, steps, 0, n),), (_image(y, steps, 1, n),)
        _sums(size, inputs, (), (), (shift,))
        by_rows.group_means(shift, C, groups, H * W)
        _squares(size, inputs, (), (shift,), (scale,))
        by_rows.group_means(scale, C, groups, H * W)
        by_rows.forward_tables(shift, scale, w, b, tol, mean, inv, n)
        if activate:
            _activated(size, inputs, outputs, (scale, shift), ())
        else:
            _normalised(size, inputs, outputs, (scale, shift), ())


def backward(dy, x, kept, g, dx, onto=()):
    """dx = inv (dn - mean(dn) - n mean(dn n)) with n = (x - mean) inv, dn = w dy, and onto.

    Args:
        dy, x, dx: (B, H, W, C), float32; dx is filled.
        kept: w, b, groups, activate, as `forward` took them, and mean and inv, as it gave them;
            where SiLU followed, its backward comes first.
        g: g.w and g.b, (C,), to which dw and db are added.
        onto: images like dx, added to it.
    """
    _, H, W, C = x.shape
    if C % LANES:
        (slopes, db), (data, xb), (out, ob) = storage(dy), storage(x), storage(dx)
        arrays = _rows(slopes), db, _rows(data), xb
        by_rows.groupnorm_backward(*arrays, *kept, _rows(out), ob, g.w, g.b)
        added = 0
    else:
        added = min(len(onto), 2)
        given = places(dy, x, dx, *(*onto, x, x)[:2])
        _backward(*given, added, H, W, *kept, g.w, g.b)
    for each in onto[added:]:
        dx += each


@kernel
def _backward(dy, x, dx, one, two, steps, added, H, W, w, b, groups, activate, mean, inv, gw, gb):
    """`backward`; dy, x, dx, one, two, steps: `places`, of which `added` of the last two count."""
    C = len(w)
    size = H, W, C
    scale, shift, centre = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    total, product, root = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    for n in range(len(mean)):
        d, image = _image(dy, steps, 0, n), _image(x, steps, 1, n)
        out = _image(dx, steps, 2, n)
        by_rows.image_tables(mean, inv, n, w, b, centre, root, scale, shift)
        if activate:
            tables = scale, shift, centre
            _activated_sums(size, (d, image), (out,), tables, (total, product))
            d = out
        else:
            _plain_sums(size, (d, image), (), (centre,), (total, product))
        by_rows.backward_tables(centre, root, w, groups, H * W, shift, total, product, gw, gb)
        tables = scale, shift, product
        if added == 0:
            _slopes(size, (d, image), (out,), tables, ())
        elif added == 1:
            _slopes_and(size, (d, image, _image(one, steps, 3, n)), (out,), tables, ())
        else:
            also = _image(one, steps, 3, n), _image(two, steps, 4, n)
            _slopes_and_both(size, (d, image, *also), (out,), tables, ())


def _rows(data):
    """(B, H, W, C) -> (B, H, W C)."""
    return data.reshape(*data.shape[:2], -1)
