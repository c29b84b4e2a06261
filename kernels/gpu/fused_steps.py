"""The CUDA kernels of noise, of the diffusion's steps and of the optimiser's step, float32.

Arrays are flat: `samples` rows of n elements, one after another. A thread takes four neighbouring
elements of one row, which share a Philox counter; the counter starts anew at each row. Every kernel
exists twice: `wide`, with 16-byte loads and stores, for n and addresses that are multiples of four
floats, and narrow.
"""

from types import SimpleNamespace

import numpy as np
from numba import cuda

from .device_functions import FOUR, ONE, ZERO, access, device, formulas, load4, store4

# a kernel can name a function, but not an attribute of a namespace
normals, noised, reverse = formulas.normals, formulas.noised, formulas.reverse
adamw, average = formulas.adamw, formulas.average


@device
def six(numbers):
    """The six numbers of an array as a tuple, which is unpacked by their names."""
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]


@device
def place(n):
    """This thread's row, its first element there, and how many elements the row has from there."""
    row = np.int32(cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y)
    first = np.int32(4 * (cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x))
    return row, first, n - first


@device
def flat(row, n, first):
    """The index of element `first` of a row."""
    return np.uint64(row) * np.uint64(n) + np.uint64(first)


@device
def counter(row, first, words, clock):
    """Philox's four counter and two key words for the four elements from `first` on of a row.

    Args:
        row, first: where.
        words: k0, k1, purpose, step, first_sample, uint32.
        clock: (5,) uint32, added to the words: what a recorded graph moves on with.
    """
    k0, k1, purpose, step, first_sample = words
    sample = np.uint32(np.uint32(first_sample + clock[4]) + np.uint32(row))
    return (
        np.uint64(np.uint32(first >> 2)),
        np.uint64(sample),
        np.uint64(np.uint32(step + clock[3])),
        np.uint64(np.uint32(purpose + clock[2])),
        np.uint64(np.uint32(k0 + clock[0])),
        np.uint64(np.uint32(k1 + clock[1])),
    )


@device
def draw(row, first, words, clock):
    """Four N(0, 1) values for the elements from `first` on of a row; arguments as `counter`'s."""
    c0, c1, c2, c3, k0, k1 = counter(row, first, words, clock)
    return normals(c0, c1, c2, c3, k0, k1)


def normal_kernel(wide):
    """normal(z, samples, n, words)."""
    _, store = access(wide)

    @cuda.jit(fastmath=True)
    def normal(z, samples, n, words, clock):
        """z ~ N(0, I); a thread takes eight elements, of two counters under one series of keys.

        Args:
            z: float32, filled.
            samples, n: how many rows, and how many elements each has.
            words, clock: as `counter`'s.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            next_first = first + np.int32(4 * cuda.blockDim.x * cuda.gridDim.y)
            z0, z1, z2, z3 = draw(row, first, words, clock)
            y0, y1, y2, y3 = draw(row, next_first, words, clock)
            store(z, flat(row, n, first), left, z0, z1, z2, z3)
            if next_first < n:
                store(z, flat(row, n, next_first), n - next_first, y0, y1, y2, y3)

    return {"normal": normal}


def noised_kernels(wide):
    """noised and noised_drawn: the forward step (Ho20 eq. 4), eps given or drawn."""
    load, store = access(wide)

    @device
    def write(x0, c_x0, c_eps, xt, row, i, left, e0, e1, e2, e3):
        """Store x_t of one thread's elements, whose noise is e0..e3."""
        a, b = c_x0[row], c_eps[row]
        x = load(x0, i, left, ZERO)
        x0, x1 = noised(x[0], e0, a, b), noised(x[1], e1, a, b)
        x2, x3 = noised(x[2], e2, a, b), noised(x[3], e3, a, b)
        store(xt, i, left, x0, x1, x2, x3)

    @cuda.jit(fastmath=True)
    def noised_given(x0, eps, c_x0, c_eps, xt, samples, n):
        """xt = c_x0 x0 + c_eps eps.

        Args:
            x0, eps, xt: rows of n elements; xt is filled.
            c_x0, c_eps: (samples,).
            samples, n: how many rows, and how many elements each has.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            e0, e1, e2, e3 = load(eps, i, left, ZERO)
            write(x0, c_x0, c_eps, xt, row, i, left, e0, e1, e2, e3)

    @cuda.jit(fastmath=True)
    def noised_drawn(x0, c_x0, c_eps, xt, eps, samples, n, words, clock):
        """eps ~ N(0, I) and xt = c_x0 x0 + c_eps eps: 12 bytes an element.

        Args:
            x0, xt, eps: rows of n elements; xt and eps are filled.
            c_x0, c_eps, samples, n: as `noised_given`'s.
            words, clock: as `counter`'s.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            e0, e1, e2, e3 = draw(row, first, words, clock)
            store(eps, i, left, e0, e1, e2, e3)
            write(x0, c_x0, c_eps, xt, row, i, left, e0, e1, e2, e3)

    return {"noised": noised_given, "noised_drawn": noised_drawn}


def reverse_kernels(wide):
    """reverse and reverse_drawn: one step of a sampler (Ho20 eq. 6-7), z given or drawn."""
    load, store = access(wide)

    @device
    def write(xt, prediction, xs, i, left, c, z0, z1, z2, z3):
        """Store x_s of one thread's elements, whose noise is z0..z3."""
        c = six(c)
        x, y = load(xt, i, left, ZERO), load(prediction, i, left, ZERO)
        s0, s1 = reverse(x[0], y[0], z0, c), reverse(x[1], y[1], z1, c)
        s2, s3 = reverse(x[2], y[2], z2, c), reverse(x[3], y[3], z3, c)
        store(xs, i, left, s0, s1, s2, s3)

    @cuda.jit(fastmath=True)
    def reverse_given(xt, prediction, z, xs, samples, n, c):
        """x_s from x_t, the network's prediction and z.

        Args:
            xt, prediction, z, xs: rows of n elements; xs is filled.
            samples, n: how many rows, and how many elements each has.
            c: (6,), the numbers of a FusedStep in its order: an array, as scale in `adamw_ema`.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            i = flat(row, n, first)
            z0, z1, z2, z3 = load(z, i, left, ZERO)
            write(xt, prediction, xs, i, left, c, z0, z1, z2, z3)

    @cuda.jit(fastmath=True)
    def reverse_drawn(xt, prediction, xs, samples, n, c, words, clock):
        """x_s from x_t and the network's prediction: 12 bytes an element.

        Args:
            xt, prediction, xs, samples, n, c: as `reverse_given`'s.
            words, clock: as `counter`'s; z is drawn unless sigma is 0.
        """
        row, first, left = place(n)
        if left > 0 and row < samples:
            z0, z1, z2, z3 = ZERO, ZERO, ZERO, ZERO
            _, _, _, _, _, sigma = six(c)
            if sigma != ZERO:
                z0, z1, z2, z3 = draw(row, first, words, clock)
            write(xt, prediction, xs, flat(row, n, first), left, c, z0, z1, z2, z3)

    return {"reverse": reverse_given, "reverse_drawn": reverse_drawn}


def optimiser_kernel(wide):
    """adamw_ema: AdamW and the moving average in one pass, 36 bytes a parameter."""

    @device
    def updated(p, g, m, v, e, factors, ema_weight):
        """One parameter's new theta, m, v and average."""
        p, m, v = adamw(p, g, m, v, factors)
        return p, m, v, average(e, p, ema_weight)

    @cuda.jit(fastmath=True)
    def adamw_ema(theta, grad, m, v, ema, scale, n, factors, ema_weight):
        """One step of AdamW and of the average, in place; the last n % 4 elements one by one.

        Args:
            theta, m, v, ema: (n,), changed in place.
            grad: (n,).
            scale: (1,), what grad is multiplied by first; an array, so that neither the host nor
                a recorded graph has to know it.
            n: how many parameters.
            factors: (6,), the numbers of AdamWFactors in their order.
            ema_weight: (1,).
        """
        i, end = np.uint64(4 * cuda.grid(1)), np.uint64(n)
        factors = six(factors)
        ema_weight = ema_weight[0]
        if wide and i + FOUR <= end:
            s, p, g = scale[0], load4(theta, i), load4(grad, i)
            a, b, e = load4(m, i), load4(v, i), load4(ema, i)
            p0, m0, v0, e0 = updated(p[0], s * g[0], a[0], b[0], e[0], factors, ema_weight)
            p1, m1, v1, e1 = updated(p[1], s * g[1], a[1], b[1], e[1], factors, ema_weight)
            p2, m2, v2, e2 = updated(p[2], s * g[2], a[2], b[2], e[2], factors, ema_weight)
            p3, m3, v3, e3 = updated(p[3], s * g[3], a[3], b[3], e[3], factors, ema_weight)
            store4(theta, i, p0, p1, p2, p3)
            store4(m, i, m0, m1, m2, m3)
            store4(v, i, v0, v1, v2, v3)
            store4(ema, i, e0, e1, e2, e3)
        else:
            end = i + FOUR if i + FOUR < end else end
            while i < end:
                theta[i], m[i], v[i], ema[i] = updated(
                    theta[i], scale[0] * grad[i], m[i], v[i], ema[i], factors, ema_weight
                )
                i += ONE

    return {"adamw_ema": adamw_ema}


@cuda.jit
def assign(words, numbers, given_words, given_numbers):
    """Write what changes from step to step where recorded kernels read it, by one thread.

    Args:
        words, numbers: (8,) uint32 and (8,) float32, filled.
        given_words, given_numbers: eight of each, by value: no memory of the host is read later.
    """
    words[0], words[1], words[2], words[3] = given_words[:4]
    words[4], words[5], words[6], words[7] = given_words[4:]
    numbers[0], numbers[1], numbers[2], numbers[3] = given_numbers[:4]
    numbers[4], numbers[5], numbers[6], numbers[7] = given_numbers[4:]


def kernels(wide):
    """Every kernel of this file by its name, in one of its two forms."""
    makers = normal_kernel, noised_kernels, reverse_kernels, optimiser_kernel
    return SimpleNamespace(**{name: k for make in makers for name, k in make(wide).items()})


KERNELS = {wide: kernels(wide) for wide in (True, False)}
