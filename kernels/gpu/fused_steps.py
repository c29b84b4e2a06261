"""The step kernels for CUDA: noise, the forward step, the reverse step and the optimiser's,
float32.

Arrays are flat: `samples` rows of n elements, one after another. A thread takes four neighbouring
elements of one row, which share a Philox counter; the counter starts anew at each row. Every kernel
exists twice: `wide`, with 16-byte loads and stores, for n and addresses that are multiples of four
floats, and narrow.
"""

from types import SimpleNamespace

import numpy as np
from numba import cuda

from .device import FOUR, ONE, ZERO, access, device, formulas, load4, store4

normals, noised, reverse = formulas.normals, formulas.noised, formulas.reverse
adamw, average = formulas.adamw, formulas.average


@device
def place(n):
    """This thread's row, its first element there, and how many elements of the row are left from it
    on.
    """
    row = np.int32(cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y)
    first = np.int32(4 * (cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x))
    return row, first, n - first


@device
def flat(row, n, first):
    """The index of element `first` of a row."""
    return np.uint64(row) * np.uint64(n) + np.uint64(first)


@device
def draw(row, first, words):
    """Four N(0, 1) values of the counter at (row, first); words: k0, k1, purpose, step,
    first_sample, uint32.
    """
    k0, k1, purpose, step, first_sample = words
    return normals(
        np.uint64(np.uint32(first >> 2)),
        np.uint64(np.uint32(first_sample + row)),
        step,
        purpose,
        k0,
        k1,
    )


def step_kernels(wide):
    """normal, noised, noised_drawn, reverse, reverse_drawn: kernels over rows of four, by name."""
    load, store = access(wide)

    @cuda.jit(fastmath=True)
    def normal(z, samples, n, words):
        """z ~ N(0, I)."""
        row, first, left = place(n)
        if left > 0 and row < samples:
            z0, z1, z2, z3 = draw(row, first, words)
            store(z, flat(row, n, first), left, z0, z1, z2, z3)

    @device
    def noise(x0, signal, scale, xt, row, i, left, e0, e1, e2, e3):
        """One thread's part of Ho20 eq. 4."""
        a, b = signal[row], scale[row]
        x = load(x0, i, left, ZERO)
        store(
            xt,
            i,
            left,
            noised(x[0], e0, a, b),
            noised(x[1], e1, a, b),
            noised(x[2], e2, a, b),
            noised(x[3], e3, a, b),
        )

    @cuda.jit(fastmath=True)
    def noised_given(x0, eps, signal, scale, xt, samples, n):
        """xt = signal x0 + scale eps, signal and scale one for each row."""
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            e0, e1, e2, e3 = load(eps, i, left, ZERO)
            noise(x0, signal, scale, xt, row, i, left, e0, e1, e2, e3)

    @cuda.jit(fastmath=True)
    def noised_drawn(x0, signal, scale, xt, eps, samples, n, words):
        """eps ~ N(0, I) and xt = signal x0 + scale eps: 12 bytes an element."""
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            e0, e1, e2, e3 = draw(row, first, words)
            store(eps, i, left, e0, e1, e2, e3)
            noise(x0, signal, scale, xt, row, i, left, e0, e1, e2, e3)

    @device
    def descend(xt, output, xs, i, left, factors, z0, z1, z2, z3):
        """One thread's part of a reverse step."""
        a_xt, a_output, bound, c_x0, c_xt, sigma = factors
        x, y = load(xt, i, left, ZERO), load(output, i, left, ZERO)
        s0 = reverse(x[0], y[0], z0, a_xt, a_output, bound, c_x0, c_xt, sigma)
        s1 = reverse(x[1], y[1], z1, a_xt, a_output, bound, c_x0, c_xt, sigma)
        s2 = reverse(x[2], y[2], z2, a_xt, a_output, bound, c_x0, c_xt, sigma)
        s3 = reverse(x[3], y[3], z3, a_xt, a_output, bound, c_x0, c_xt, sigma)
        store(xs, i, left, s0, s1, s2, s3)

    @cuda.jit(fastmath=True)
    def reverse_given(xt, output, z, xs, samples, n, factors):
        """x_s from x_t, the net's output and z; factors: a_xt, a_output, bound, c_x0, c_xt, sigma."""
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            z0, z1, z2, z3 = load(z, i, left, ZERO)
            descend(xt, output, xs, i, left, factors, z0, z1, z2, z3)

    @cuda.jit(fastmath=True)
    def reverse_drawn(xt, output, xs, samples, n, factors, words):
        """x_s from x_t and the net's output, z drawn here unless sigma is 0: 12 bytes an element."""
        row, first, left = place(n)
        if left > 0 and row < samples:
            z0, z1, z2, z3 = ZERO, ZERO, ZERO, ZERO
            if factors[5] != ZERO:
                z0, z1, z2, z3 = draw(row, first, words)
            descend(xt, output, xs, flat(row, n, first), left, factors, z0, z1, z2, z3)

    return {
        "normal": normal,
        "noised": noised_given,
        "noised_drawn": noised_drawn,
        "reverse": reverse_given,
        "reverse_drawn": reverse_drawn,
    }


def optimiser_kernel(wide):
    """AdamW and the moving average in one pass over flat vectors: 36 bytes a parameter."""

    @device
    def updated(p, g, m, v, e, factors):
        """One parameter's new theta, m, v and average."""
        keep, rate, gain_m, gain_v, correct_v, tol, weight = factors
        p, m, v = adamw(p, g, m, v, keep, rate, gain_m, gain_v, correct_v, tol)
        return p, m, v, average(e, p, weight)

    @cuda.jit(fastmath=True)
    def adamw_ema(theta, grad, m, v, ema, scale, n, factors):
        """All in place but the gradient, which counts scale[0] times, so that clipping does not
        wait for the host.

        factors: keep, rate, gain_m, gain_v, correct_v, tol (formulas.adamw) and the average's
        weight. The last elements, fewer than four, are taken one by one.
        """
        i, end = np.uint64(4 * cuda.grid(1)), np.uint64(n)
        if wide and i + FOUR <= end:
            s, p, g = scale[0], load4(theta, i), load4(grad, i)
            a, b, e = load4(m, i), load4(v, i), load4(ema, i)
            p0, m0, v0, e0 = updated(p[0], s * g[0], a[0], b[0], e[0], factors)
            p1, m1, v1, e1 = updated(p[1], s * g[1], a[1], b[1], e[1], factors)
            p2, m2, v2, e2 = updated(p[2], s * g[2], a[2], b[2], e[2], factors)
            p3, m3, v3, e3 = updated(p[3], s * g[3], a[3], b[3], e[3], factors)
            store4(theta, i, p0, p1, p2, p3)
            store4(m, i, m0, m1, m2, m3)
            store4(v, i, v0, v1, v2, v3)
            store4(ema, i, e0, e1, e2, e3)
        else:
            end = i + FOUR if i + FOUR < end else end
            while i < end:
                theta[i], m[i], v[i], ema[i] = updated(
                    theta[i], scale[0] * grad[i], m[i], v[i], ema[i], factors
                )
                i += ONE

    return {"adamw_ema": adamw_ema}


KERNELS = {
    wide: SimpleNamespace(**step_kernels(wide), **optimiser_kernel(wide)) for wide in (True, False)
}
