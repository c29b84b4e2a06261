"""The CUDA kernels that pass once over rows of elements: a product's epilogue, SiLU, dropout.

Rows, places and the two forms are those of `fused_steps`.
"""

from types import SimpleNamespace

import numpy as np
from numba import cuda

from .device_functions import ZERO, access, device, formulas, norm_formulas
from .fused_steps import counter, flat, place

philox = formulas.philox
silu_of, silu_slope = norm_formulas.silu, norm_formulas.silu_slope


def bias_kernel(wide, shifted, residual):
    """The epilogue of a product: what is added to it, in one pass."""
    load, store = access(wide)

    @cuda.jit
    def bias(y, b, shift, onto, pixels, n):
        """y += b, and shift of the row's sample, and onto, in place; blockIdx.z is the sample.

        Args:
            y: rows of n channels, changed in place.
            b: (n,).
            shift: a row of n for each sample; read where the kernel is `shifted`.
            onto: like y; read where the kernel has a `residual`.
            pixels, n: how many rows a sample has, and how many channels.
        """
        row, first, left = place(n)
        if left > 0 and row < pixels:
            sample = np.int32(cuda.blockIdx.z)
            i, c = flat(np.int64(sample) * pixels + row, n, first), np.uint64(first)
            y0, y1, y2, y3 = load(y, i, left, ZERO)
            b0, b1, b2, b3 = load(b, c, left, ZERO)
            y0, y1, y2, y3 = y0 + b0, y1 + b1, y2 + b2, y3 + b3
            if shifted:
                b0, b1, b2, b3 = load(shift, flat(sample, n, first), left, ZERO)
                y0, y1, y2, y3 = y0 + b0, y1 + b1, y2 + b2, y3 + b3
            if residual:
                b0, b1, b2, b3 = load(onto, i, left, ZERO)
                y0, y1, y2, y3 = y0 + b0, y1 + b1, y2 + b2, y3 + b3
            store(y, i, left, y0, y1, y2, y3)

    return bias


def silu_kernels(wide):
    """silu and silu_backward, which keeps x alone."""
    load, store = access(wide)

    @cuda.jit
    def silu(x, y, rows, n):
        """y = x / (1 + exp(-x)), rows of n."""
        row, first, left = place(n)
        if left > 0 and row < rows:
            i = flat(row, n, first)
            x0, x1, x2, x3 = load(x, i, left, ZERO)
            store(y, i, left, silu_of(x0), silu_of(x1), silu_of(x2), silu_of(x3))

    @cuda.jit
    def silu_backward(dy, x, dx, rows, n):
        """dx = dy times SiLU's slope at x, rows of n."""
        row, first, left = place(n)
        if left > 0 and row < rows:
            i = flat(row, n, first)
            x0, x1, x2, x3 = load(x, i, left, ZERO)
            d0, d1, d2, d3 = load(dy, i, left, ZERO)
            d0, d1 = d0 * silu_slope(x0), d1 * silu_slope(x1)
            d2, d3 = d2 * silu_slope(x2), d3 * silu_slope(x3)
            store(dx, i, left, d0, d1, d2, d3)

    return {"silu": silu, "silu_backward": silu_backward}


def mask_kernel(wide):
    """dropout_mask: 0 with a probability, else a number."""
    _, store = access(wide)

    @device
    def kept(word, threshold, value):
        """The mask of one element: its uniform number is at least the rate."""
        return value if word >= threshold else ZERO

    @cuda.jit
    def dropout_mask(mask, samples, n, words, clock, threshold, value):
        """mask = value where the element's word is at least the threshold, else 0.

        Args:
            mask: rows of n, filled.
            samples, n: how many rows, and how many elements each has.
            words, clock: as `fused_steps.counter`'s.
            threshold: the smallest word of 32 bits that is kept.
            value: float32.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            c0, c1, c2, c3, k0, k1 = counter(row, first, words, clock)
            w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
            limit = np.uint64(threshold)
            m0, m1 = kept(w0, limit, value), kept(w1, limit, value)
            m2, m3 = kept(w2, limit, value), kept(w3, limit, value)
            store(mask, flat(row, n, first), left, m0, m1, m2, m3)

    return {"dropout_mask": dropout_mask}


def kernels(wide):
    """Every kernel of this file by its name, in one of its two forms."""
    return SimpleNamespace(
        bias=bias_kernel(wide, shifted=False, residual=False),
        bias_shift=bias_kernel(wide, shifted=True, residual=False),
        bias_onto=bias_kernel(wide, shifted=False, residual=True),
        bias_shift_onto=bias_kernel(wide, shifted=True, residual=True),
        **silu_kernels(wide),
        **mask_kernel(wide),
    )


KERNELS = {wide: kernels(wide) for wide in (True, False)}
