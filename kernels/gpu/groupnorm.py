"""The CUDA kernels of GroupNorm, with or without SiLU, float32, over flat channels-last arrays.

One block of threads computes one group of one sample: threadIdx.x counts the group's channels,
threadIdx.y its pixels. Sums are trees in shared memory, always of the same shape, so that a result
is the same in every run.
"""

import numpy as np
from numba import cuda, float32

from .device_functions import ZERO, device, norm_formulas, sqrt

normalised, normalised_backward = norm_formulas.normalised, norm_formulas.normalised_backward
silu, silu_slope = norm_formulas.silu, norm_formulas.silu_slope
THREADS = 256  # of a block, at most: the size of what it shares
UNIT = np.float32(1)


@device
def fold(shared, value, lane, count, stride):
    """The sum of `value` over a column of threads; several columns call this together.

    Args:
        shared: (THREADS,), shared memory.
        value: this thread's.
        lane: this thread's rank in its column.
        count: the threads of a column.
        stride: how far apart in `shared` they are.
    """
    place = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    shared[place] = value
    cuda.syncthreads()
    while count > 1:
        half = (count + 1) >> 1
        if lane + half < count:
            shared[place] += shared[place + half * stride]
        cuda.syncthreads()
        count = half
    total = shared[place - lane * stride]
    cuda.syncthreads()
    return total


@device
def fold_pixels(shared, value):
    """The sum of `value` over the threads of one threadIdx.x, which share their channels."""
    return fold(shared, value, cuda.threadIdx.y, cuda.blockDim.y, cuda.blockDim.x)


@device
def fold_block(shared, value):
    """The sum of `value` over all threads of the block."""
    place = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    return fold(shared, value, place, cuda.blockDim.x * cuda.blockDim.y, 1)


@device
def block_group(pixels, channels, width):
    """This block's group: its place among all groups, its first channel, its size as a float32."""
    return (
        cuda.blockIdx.x * cuda.gridDim.y + cuda.blockIdx.y,
        cuda.blockIdx.y * width,
        np.float32(pixels * width),
    )


@device
def thread_pixels(c, pixels, channels):
    """This thread's pixels in channel c of this block's sample: the first index, the step, the end.

    Unsigned, so that Numba does not look for negative indices at every access.
    """
    sample = np.int64(cuda.blockIdx.x) * pixels * channels
    return (
        np.uint64(sample + channels * cuda.threadIdx.y + c),
        np.uint64(channels * cuda.blockDim.y),
        np.uint64(sample + pixels * channels),
    )


@device
def moment(x, centre, power, first, pixels, channels, width):
    """This thread's part of a group's sum of (x - centre)^power.

    Args:
        x: the flat array.
        centre: float32.
        power: 1 or 2.
        first: the group's first channel.
        pixels, channels, width: as `norm`'s.
    """
    total, c = ZERO, cuda.threadIdx.x
    while c < width:
        i, step, end = thread_pixels(first + c, pixels, channels)
        while i < end:
            d = x[i] - centre
            total += d * d if power == 2 else d
            i += step
        c += cuda.blockDim.x
    return total


def norm_kernel(activate):
    """norm: GroupNorm (Wu18 eq. 1), followed by SiLU where `activate`."""

    @cuda.jit
    def norm(x, w, b, y, mean, inv, pixels, channels, width, tol):
        """y = w (x - mean) inv + b, or its SiLU, launched over (samples, groups).

        The variance is the mean of squared differences, in a pass of its own.

        Args:
            x, y: (B, pixels, channels), flat; y is filled.
            w, b: (channels,).
            mean, inv: (B groups,), filled with each group's mean and 1 / sqrt(var + tol).
            pixels, channels: of x.
            width: the channels of a group.
            tol: float32.
        """
        shared = cuda.shared.array(THREADS, float32)
        place, first, size = block_group(pixels, channels, width)
        centre = fold_block(shared, moment(x, ZERO, 1, first, pixels, channels, width)) / size
        variance = fold_block(shared, moment(x, centre, 2, first, pixels, channels, width)) / size
        scale = UNIT / sqrt(variance + tol)
        if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
            mean[place], inv[place] = centre, scale
        c = cuda.threadIdx.x
        while c < width:
            weight, bias = w[first + c], b[first + c]
            i, step, end = thread_pixels(first + c, pixels, channels)
            while i < end:
                n = normalised(x[i], centre, scale, weight, bias)
                y[i] = silu(n) if activate else n
                i += step
            c += cuda.blockDim.x

    return norm


def upstream_function(activate):
    """upstream: the gradient of weight n + bias, which is dy, through SiLU where `activate`."""

    @device
    def upstream(dy, n, weight, bias):
        return dy * silu_slope(weight * n + bias) if activate else dy

    return upstream


def norm_backward_kernel(activate):
    """norm_backward: the backward of SiLU where `activate`, and then that of GroupNorm."""
    upstream = upstream_function(activate)

    @cuda.jit
    def norm_backward(dy, x, w, b, mean, inv, dx, dw, db, pixels, channels, width):
        """dx, and each sample's part of dw and db, launched as `norm`.

        The sums over a group's pixels are dw and db; weighted by w, they are the means in dx.

        Args:
            dy, x, dx: (B, pixels, channels), flat; dx is filled.
            w, b, mean, inv, pixels, channels, width: as `norm`'s.
            dw, db: (B, channels), flat, filled; to be summed over the samples afterwards.
        """
        shared = cuda.shared.array(THREADS, float32)
        place, first, size = block_group(pixels, channels, width)
        centre, scale, sum_dn, sum_dn_n = mean[place], inv[place], ZERO, ZERO
        c = cuda.threadIdx.x
        # all threads go round equally often: fold waits for them all
        while c - cuda.threadIdx.x < width:
            weight, bias, on_w, on_b = ZERO, ZERO, ZERO, ZERO
            if c < width:
                weight, bias = w[first + c], b[first + c]
                i, step, end = thread_pixels(first + c, pixels, channels)
                while i < end:
                    n = (x[i] - centre) * scale
                    d = upstream(dy[i], n, weight, bias)
                    on_w += d * n
                    on_b += d
                    i += step
            on_w, on_b = fold_pixels(shared, on_w), fold_pixels(shared, on_b)
            if c < width and cuda.threadIdx.y == 0:
                place = cuda.blockIdx.x * channels + first + c
                dw[place], db[place] = on_w, on_b
                sum_dn, sum_dn_n = sum_dn + weight * on_b, sum_dn_n + weight * on_w
            c += cuda.blockDim.x
        mean_dn, mean_dn_n = fold_block(shared, sum_dn) / size, fold_block(shared, sum_dn_n) / size
        c = cuda.threadIdx.x
        while c < width:
            weight, bias = w[first + c], b[first + c]
            i, step, end = thread_pixels(first + c, pixels, channels)
            while i < end:
                n = (x[i] - centre) * scale
                dn = weight * upstream(dy[i], n, weight, bias)
                dx[i] = normalised_backward(dn, n, scale, mean_dn, mean_dn_n)
                i += step
            c += cuda.blockDim.x

    return norm_backward


norm, norm_silu = norm_kernel(activate=False), norm_kernel(activate=True)
norm_backward = norm_backward_kernel(activate=False)
norm_silu_backward = norm_backward_kernel(activate=True)
