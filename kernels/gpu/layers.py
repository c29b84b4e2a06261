"""GroupNorm with SiLU, and im2col, for CUDA, float32, over channels-last arrays that are handed in
flat.

One block of threads works on one group of one sample: threadIdx.x walks over the group's channels,
threadIdx.y over the pixels. Sums are trees in shared memory, always of the same shape, so that a
result is the same in every run.
"""

import numpy as np
from numba import cuda, float32

from .device import ZERO, device, load4, norm_formulas, sqrt, store4

normalised, normalised_backward = norm_formulas.normalised, norm_formulas.normalised_backward
silu, silu_slope = norm_formulas.silu, norm_formulas.silu_slope
THREADS = 256  # of a block, at most: the size of what it shares
UNIT = np.float32(1)


@device
def fold(shared, value, lane, count, stride):
    """The sum of `value` over the `count` threads whose places in `shared` are `stride` apart;
    lane: this one's rank.

    Threads of several such columns call this together; each gets its own column's sum.
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
def group(pixels, channels, width):
    """This block's group: its place among all groups, its first channel, and its size as a float32."""
    return (
        cuda.blockIdx.x * cuda.gridDim.y + cuda.blockIdx.y,
        cuda.blockIdx.y * width,
        np.float32(pixels * width),
    )


@device
def walk(c, pixels, channels):
    """A thread's walk over the pixels of channel c of this block's sample: first index, step, end.

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
    """This thread's share of a group's sum of (x - centre)^power, power 1 or 2."""
    total, c = ZERO, cuda.threadIdx.x
    while c < width:
        i, step, end = walk(first + c, pixels, channels)
        while i < end:
            d = x[i] - centre
            total += d * d if power == 2 else d
            i += step
        c += cuda.blockDim.x
    return total


def norm_kernels(activate):
    """norm and norm_backward: GroupNorm, followed by SiLU where `activate`."""

    @cuda.jit
    def norm(x, w, b, y, mean, inv, pixels, channels, width, tol):
        """y from x, `width` channels a group; each group's mean and 1 / sqrt(var + tol) are kept,
        (B, groups).

        Launched over (samples, groups). The variance is the mean of squared differences, in a pass
        of its own.
        """
        shared = cuda.shared.array(THREADS, float32)
        place, first, size = group(pixels, channels, width)
        centre = fold_block(shared, moment(x, ZERO, 1, first, pixels, channels, width)) / size
        variance = fold_block(shared, moment(x, centre, 2, first, pixels, channels, width)) / size
        scale = UNIT / sqrt(variance + tol)
        if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
            mean[place], inv[place] = centre, scale
        c = cuda.threadIdx.x
        while c < width:
            weight, bias = w[first + c], b[first + c]
            i, step, end = walk(first + c, pixels, channels)
            while i < end:
                n = normalised(x[i], centre, scale, weight, bias)
                y[i] = silu(n) if activate else n
                i += step
            c += cuda.blockDim.x

    @device
    def upstream(dy, n, weight, bias):
        """What reaches weight * n: dy, through SiLU where there is one."""
        return dy * silu_slope(weight * n + bias) if activate else dy

    @cuda.jit
    def norm_backward(dy, x, w, b, mean, inv, dx, dw, db, pixels, channels, width):
        """dx, and each sample's share of dw and db, (B, C), to be summed over the samples
        afterwards.

        Launched as `norm`. The sums over a group's pixels are dw and db; weighted by w, they are
        the means of dx.
        """
        shared = cuda.shared.array(THREADS, float32)
        place, first, size = group(pixels, channels, width)
        centre, scale = mean[place], inv[place]
        sum_dn, sum_dn_n = ZERO, ZERO
        c = cuda.threadIdx.x
        # all threads go round equally often: fold waits for them all
        while c - cuda.threadIdx.x < width:
            weight, bias, on_w, on_b = ZERO, ZERO, ZERO, ZERO
            if c < width:
                weight, bias = w[first + c], b[first + c]
                i, step, end = walk(first + c, pixels, channels)
                while i < end:
                    n = (x[i] - centre) * scale
                    d = upstream(dy[i], n, weight, bias)
                    on_w += d * n
                    on_b += d
                    i += step
            on_w, on_b = fold_pixels(shared, on_w), fold_pixels(shared, on_b)
            if c < width and cuda.threadIdx.y == 0:
                dw[cuda.blockIdx.x * channels + first + c] = on_w
                db[cuda.blockIdx.x * channels + first + c] = on_b
                sum_dn += weight * on_b
                sum_dn_n += weight * on_w
            c += cuda.blockDim.x
        mean_dn, mean_dn_n = fold_block(shared, sum_dn) / size, fold_block(shared, sum_dn_n) / size
        c = cuda.threadIdx.x
        while c < width:
            weight, bias = w[first + c], b[first + c]
            i, step, end = walk(first + c, pixels, channels)
            while i < end:
                n = (x[i] - centre) * scale
                dn = weight * upstream(dy[i], n, weight, bias)
                dx[i] = normalised_backward(dn, n, scale, mean_dn, mean_dn_n)
                i += step
            c += cuda.blockDim.x

    return norm, norm_backward


def im2col_kernel(wide):
    """im2col; `wide` moves four channels at once, for channels and addresses that are multiples of
    four floats.
    """
    step = 4 if wide else 1

    @cuda.jit
    def im2col(x, patches, height, width, channels, k, stride, before, columns):
        """Every k x k patch of x as a row of k k C values; beyond x lie zeros, `before` of them
        before its first pixel.

        Launched over (samples, rows of the result, pixels of a patch), threads over (channels,
        columns).
        """
        u, v = 0, cuda.blockIdx.z
        while v >= k:  # a division would be a hundred instructions
            u, v = u + 1, v - k
        row = cuda.blockIdx.y * stride - before + u
        line = np.int64(cuda.blockIdx.x) * height + row
        result = (np.int64(cuda.blockIdx.x) * cuda.gridDim.y + cuda.blockIdx.y) * columns
        j = cuda.threadIdx.y
        while j < columns:
            column = j * stride - before + v
            inside = 0 <= row < height and 0 <= column < width
            c = step * cuda.threadIdx.x
            while c < channels:
                i = np.uint64((line * width + column) * channels + c)
                out = np.uint64(((result + j) * k * k + cuda.blockIdx.z) * channels + c)
                if wide:
                    p, q, r, s = ZERO, ZERO, ZERO, ZERO
                    if inside:
                        p, q, r, s = load4(x, i)
                    store4(patches, out, p, q, r, s)
                else:
                    patches[out] = x[i] if inside else ZERO
                c += step * cuda.blockDim.x
            j += cuda.blockDim.y

    return im2col


norm, norm_backward = norm_kernels(activate=False)
norm_silu, norm_silu_backward = norm_kernels(activate=True)
IM2COL = {wide: im2col_kernel(wide) for wide in (True, False)}
