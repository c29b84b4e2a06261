"""The CUDA kernels of GroupNorm's backward, with or without SiLU, laid out as `groupnorm`'s.

The sums over a channel's pixels are dw and db; weighted by w, they are the means in dx. The
kernels' arguments:
    dy, x, dx: (B, pixels, channels), flat; dx is filled.
    w, b, mean, inv, pixels, channels, width, slab: as `norm`'s.
    dw, db: (B, channels), flat, filled with each sample's part.
    gw, gb: (channels,), to which the sums of dw and db over the samples are added.
    counts: uint32, a zero for each slab, and zero again afterwards.
"""

import numpy as np
from numba import cuda, float32, uint32

from .device_functions import ZERO, access, device, norm_formulas
from .groupnorm import MOST, SUMS, fold_pixels, four, load_few, start

normalised_backward, silu_slope = norm_formulas.normalised_backward, norm_formulas.silu_slope
NOTHING, ONE_MORE = np.uint32(0), np.uint32(1)


@device
def group_means(sum_w, sum_b, w, slab, width, pixels):
    """Each group's means of dn and dn n in the place of its channels' sums of d n and d.

    dn = d w: sum_b becomes mean(dn), and sum_w mean(dn n). A thread takes a group.
    """
    first = (cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x) * width
    size = np.float32(pixels * width)
    while first < slab:
        dn, dn_n = ZERO, ZERO
        c = first
        while c < first + width:
            weight = w[cuda.blockIdx.y * slab + c]
            dn += weight * sum_b[c]
            dn_n += weight * sum_w[c]
            c += 1
        dn, dn_n = dn / size, dn_n / size
        c = first
        while c < first + width:
            sum_b[c], sum_w[c] = dn, dn_n
            c += 1
        first += width * cuda.blockDim.x * cuda.blockDim.y


@device
def is_last(counts, shared):
    """Whether this block is the last of its slab to come here; it sets the slab's count back.

    What every block wrote before is then to be seen by this one.
    """
    cuda.threadfence()
    cuda.syncthreads()
    if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        before = cuda.atomic.add(counts, cuda.blockIdx.y, ONE_MORE)
        shared[0] = before
        if before == cuda.gridDim.x - 1:
            counts[cuda.blockIdx.y] = NOTHING
        cuda.threadfence()
    cuda.syncthreads()
    return shared[0] == cuda.gridDim.x - 1


@device
def add_samples(parts, dw, db, gw, gb, channels, slab):
    """gw and gb += the sums of dw and db over the samples, by one block for its slab.

    A column of threads takes a channel; its rows take every blockDim.y-th sample each.
    """
    samples, step = np.int64(cuda.gridDim.x), np.int64(cuda.blockDim.y)
    across, turn = 4 * np.int64(cuda.blockDim.x), np.int64(0)
    c = 4 * np.int64(cuda.threadIdx.x)
    while turn < slab:
        sums, left = (ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO), slab - c
        first = cuda.blockIdx.y * slab + c
        if left > 0:
            j = np.int64(cuda.threadIdx.y)
            while j < samples:
                i = np.uint64(j * channels + first)
                p, q = load_few(dw, i, left, ZERO), load_few(db, i, left, ZERO)
                a, b = (sums[0] + p[0], sums[1] + p[1]), (sums[2] + p[2], sums[3] + p[3])
                d, e = (sums[4] + q[0], sums[5] + q[1]), (sums[6] + q[2], sums[7] + q[3])
                sums = a + b + d + e
                j += step
        fold_pixels(parts, sums)
        if cuda.threadIdx.y == 0:
            k = 0
            while k < 4 and c + k < slab:
                column = k * cuda.blockDim.x + cuda.threadIdx.x
                gw[first + k] += parts[column]
                gb[first + k] += parts[column + 4 * cuda.blockDim.x]
                k += 1
        cuda.syncthreads()
        turn += across
        c += across


def upstream_function(activate):
    """upstream: the gradient of weight n + bias, which is dy, through SiLU where `activate`."""

    @device
    def upstream(dy, n, weight, bias):
        return dy * silu_slope(weight * n + bias) if activate else dy

    return upstream


def slopes_function(activate, load):
    """sum_slopes, with a way to load four values, and SiLU where `activate`."""
    upstream = upstream_function(activate)

    @device
    def slopes(sums, u, v, layer):
        m, s, w, b = layer
        n0, n1 = (v[0] - m[0]) * s[0], (v[1] - m[1]) * s[1]
        n2, n3 = (v[2] - m[2]) * s[2], (v[3] - m[3]) * s[3]
        d0, d1 = upstream(u[0], n0, w[0], b[0]), upstream(u[1], n1, w[1], b[1])
        d2, d3 = upstream(u[2], n2, w[2], b[2]), upstream(u[3], n3, w[3], b[3])
        p, q = (sums[0] + d0 * n0, sums[1] + d1 * n1), (sums[2] + d2 * n2, sums[3] + d3 * n3)
        return p + q + (sums[4] + d0, sums[5] + d1, sums[6] + d2, sums[7] + d3)

    @device
    def sum_slopes(dy, x, c, sizes, layer):
        """This thread's sums of d n and of d in four channels; d: upstream's."""
        pixels, channels, slab = sizes
        left = slab - c
        sums = (ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)
        i, apart = start(c, pixels, channels, slab)
        j, step = np.int64(cuda.threadIdx.y), np.int64(cuda.blockDim.y)
        while j + step < pixels:
            u0, v0 = load(dy, i, left, ZERO), load(x, i, left, ZERO)
            u1, v1 = load(dy, i + apart, left, ZERO), load(x, i + apart, left, ZERO)
            sums = slopes(slopes(sums, u0, v0, layer), u1, v1, layer)
            i += apart + apart
            j += 2 * step
        if j < pixels:
            sums = slopes(sums, load(dy, i, left, ZERO), load(x, i, left, ZERO), layer)
        return sums

    return sum_slopes


def write_function(activate, load, store):
    """write_slopes, with ways to load and store four values, and SiLU where `activate`."""
    upstream = upstream_function(activate)

    @device
    def one(u, v, m, s, w, b, dn, dn_n):
        n = (v - m) * s
        return normalised_backward(w * upstream(u, n, w, b), n, s, dn, dn_n)

    @device
    def write_slopes(dy, x, dx, c, sizes, layer, dn, dn_n):
        """This thread's pixels of dx in four channels, of the means dn and dn_n."""
        (pixels, channels, slab), (m, s, w, b) = sizes, layer
        left = slab - c
        i, apart = start(c, pixels, channels, slab)
        j = np.int64(cuda.threadIdx.y)
        while j < pixels:
            u, v = load(dy, i, left, ZERO), load(x, i, left, ZERO)
            p = one(u[0], v[0], m[0], s[0], w[0], b[0], dn[0], dn_n[0])
            q = one(u[1], v[1], m[1], s[1], w[1], b[1], dn[1], dn_n[1])
            r = one(u[2], v[2], m[2], s[2], w[2], b[2], dn[2], dn_n[2])
            t = one(u[3], v[3], m[3], s[3], w[3], b[3], dn[3], dn_n[3])
            store(dx, i, left, p, q, r, t)
            i += apart
            j += cuda.blockDim.y

    return write_slopes


@device
def keep_sums(parts, sum_w, sum_b, dw, db, c, slab, place):
    """Four channels' sums, of parts, into the shared and this sample's dw and db."""
    k = 0
    while k < 4 and c + k < slab:
        column = k * cuda.blockDim.x + cuda.threadIdx.x
        on_w, on_b = parts[column], parts[column + 4 * cuda.blockDim.x]
        sum_w[c + k], sum_b[c + k] = on_w, on_b
        dw[place + k], db[place + k] = on_w, on_b
        k += 1


def norm_backward_kernel(activate, wide):
    """norm_backward: the backward of SiLU where `activate`, and then that of GroupNorm."""
    load, store = access(wide)
    sum_slopes = slopes_function(activate, load)
    write_slopes = write_function(activate, load, store)

    @device
    def layer_of(w, b, mean, inv, c, channels, slab):
        """Mean, 1 / sqrt(var + tol), weight and bias of four channels."""
        left, first = slab - c, cuda.blockIdx.y * slab + c
        place = np.uint64(np.int64(cuda.blockIdx.x) * channels + first)
        m, s = load(mean, place, left, ZERO), load(inv, place, left, ZERO)
        few = load_few(w, np.uint64(first), left, ZERO), load_few(b, np.uint64(first), left, ZERO)
        return m, s, few[0], few[1]

    @cuda.jit
    def norm_backward(
        dy, x, w, b, mean, inv, dx, dw, db, gw, gb, counts, pixels, channels, width, slab
    ):
        """dx, and dw and db added to gw and gb, launched as `norm`; arguments as above."""
        parts = cuda.shared.array(SUMS, float32)
        seen = cuda.shared.array(1, uint32)
        sum_w = cuda.shared.array(MOST, float32)
        sum_b = cuda.shared.array(MOST, float32)
        sizes = pixels, channels, slab
        c, turn = 4 * np.int64(cuda.threadIdx.x), np.int64(0)
        while turn < slab:  # all threads go round equally often
            sums = (ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)
            if c < slab:
                layer = layer_of(w, b, mean, inv, c, channels, slab)
                sums = sum_slopes(dy, x, c, sizes, layer)
            fold_pixels(parts, sums)
            if cuda.threadIdx.y == 0:
                place = np.int64(cuda.blockIdx.x) * channels + cuda.blockIdx.y * slab + c
                keep_sums(parts, sum_w, sum_b, dw, db, c, slab, place)
            cuda.syncthreads()
            turn += 4 * cuda.blockDim.x
            c += 4 * cuda.blockDim.x
        group_means(sum_w, sum_b, w, slab, width, pixels)
        cuda.syncthreads()
        c = 4 * np.int64(cuda.threadIdx.x)
        while c < slab:
            layer = layer_of(w, b, mean, inv, c, channels, slab)
            dn, dn_n = four(sum_b, c, slab), four(sum_w, c, slab)
            write_slopes(dy, x, dx, c, sizes, layer, dn, dn_n)
            c += 4 * cuda.blockDim.x
        if is_last(counts, seen):
            add_samples(parts, dw, db, gw, gb, channels, slab)

    return norm_backward


BACKWARD = {
    wide: {
        "norm_backward": norm_backward_kernel(False, wide),
        "norm_silu_backward": norm_backward_kernel(True, wide),
    }
    for wide in (True, False)
}
