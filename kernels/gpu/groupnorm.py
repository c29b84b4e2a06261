"""The CUDA kernels of GroupNorm, with or without SiLU, float32, over flat channels-last arrays.

One block of threads takes a slab of one sample: some neighbouring groups, so that what it reads of
a pixel is a whole sector of memory or more. A thread takes four neighbouring channels of every
blockDim.y-th pixel. Each array is read twice, the second time from the cache where the first has
left it. Sums have one order, the same in every run: also those over the samples, which the last
block of a slab makes.

Every kernel exists twice: `wide`, with 16-byte loads and stores, for channels, slabs and addresses
that are multiples of four floats, and narrow. The backward is in `groupnorm_backward`.
"""

import numpy as np
from numba import cuda, float32

from .device_functions import ZERO, access, device, maximum, norm_formulas, sqrt

normalised, silu = norm_formulas.normalised, norm_formulas.silu
THREADS = 256  # of a block, at most: the size of what it shares
SUMS = 8 * THREADS
MOST = 512  # channels of a slab: two numbers of each are shared
UNIT = np.float32(1)
load_few, _ = access(False)


@device
def fold_block(shared, value):
    """The sum of `value` over all threads of the block, a tree; shared: (THREADS,)."""
    place = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    shared[place] = value
    cuda.syncthreads()
    count = cuda.blockDim.x * cuda.blockDim.y
    while count > 1:
        half = (count + 1) >> 1
        if place + half < count:
            shared[place] += shared[place + half]
        cuda.syncthreads()
        count = half
    total = shared[0]
    cuda.syncthreads()
    return total


@device
def fold_pixels(shared, sums):
    """Sum eight numbers over the threads of one threadIdx.x; blockDim.y is a power of two.

    In two passes over all columns at once: a thread adds eight of the rows, another those sums.

    Args:
        shared: (SUMS,); number k of column x is found at k blockDim.x + x afterwards.
        sums: this thread's eight.
    """
    across, down, x, y = cuda.blockDim.x, cuda.blockDim.y, cuda.threadIdx.x, cuda.threadIdx.y
    row = 8 * across
    place = y * row + x
    shared[place], shared[place + across] = sums[0], sums[1]
    place += 2 * across
    shared[place], shared[place + across] = sums[2], sums[3]
    place += 2 * across
    shared[place], shared[place + across] = sums[4], sums[5]
    place += 2 * across
    shared[place], shared[place + across] = sums[6], sums[7]
    cuda.syncthreads()
    if down < 8:
        column, k = x, 0
        while y == 0 and k < 8:
            total, r = ZERO, 0
            while r < down:
                total += shared[r * row + column]
                r += 1
            shared[column] = total
            column += across
            k += 1
        cuda.syncthreads()
        return
    parts, column = down >> 3, (y & 7) * across + x
    place, r, total = (y >> 3) * row + column, 0, ZERO
    first = place
    while r < 8:
        total += shared[place]
        place += parts * row
        r += 1
    shared[first] = total
    cuda.syncthreads()
    if y < 8:
        total, r = ZERO, 0
        while r < parts:
            total += shared[r * row + column]
            r += 1
        shared[column] = total
    cuda.syncthreads()


@device
def moments(sums, v, shift):
    """sums, with four more values: of v - shift, and of its square."""
    d0, d1, d2, d3 = v[0] - shift[0], v[1] - shift[1], v[2] - shift[2], v[3] - shift[3]
    a, b = (sums[0] + d0, sums[1] + d1), (sums[2] + d2, sums[3] + d3)
    c, d = (sums[4] + d0 * d0, sums[5] + d1 * d1), (sums[6] + d2 * d2, sums[7] + d3 * d3)
    return a + b + c + d


@device
def channel_moments(centre, spread, parts, column, shift, c, slab, pixels):
    """A channel's mean and sum of squares about it, into the shared, from sums about a shift."""
    if c < slab:
        total = parts[column]
        over = total / np.float32(pixels)
        centre[c] = shift + over
        spread[c] = parts[column + 4 * cuda.blockDim.x] - total * over


@device
def group_moments(centre, spread, slab, width, pixels, tol):
    """Each group's mean and 1 / sqrt(var + tol) in the place of its channels' moments.

    The mean of a group's channels' means, and the sum of squares about it, are exact however far
    from zero they lie (Chan, Golub & LeVeque 1983). A thread takes a group.
    """
    first = (cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x) * width
    count, size = np.float32(pixels), np.float32(width)
    while first < slab:
        mean, square = ZERO, ZERO
        c = first
        while c < first + width:
            mean += centre[c]
            c += 1
        mean /= size
        c = first
        while c < first + width:
            d = centre[c] - mean
            square += spread[c] + count * (d * d)
            c += 1
        scale = UNIT / sqrt(maximum(square, ZERO) / (count * size) + tol)
        c = first
        while c < first + width:
            centre[c], spread[c] = mean, scale
            c += 1
        first += width * cuda.blockDim.x * cuda.blockDim.y


@device
def four(shared, c, slab):
    """shared[c : c + 4]; zeros from `slab` on."""
    return load_few(shared, np.uint64(c), slab - c, ZERO)


@device
def start(c, pixels, channels, slab):
    """Where four channels of this thread's first pixel lie, and how far apart its pixels are.

    Unsigned, so that Numba does not look for negative indices at every access.
    """
    sample = np.int64(cuda.blockIdx.x) * pixels * channels
    first = sample + channels * cuda.threadIdx.y + cuda.blockIdx.y * slab + c
    return np.uint64(first), np.uint64(channels * cuda.blockDim.y)


def sum_function(load):
    """sum_pixels, with a way to load four values."""

    @device
    def sum_pixels(x, c, left, pixels, channels, slab):
        """A shift for each of four channels, and this thread's eight sums about them.

        The shift is the sample's first pixel: no digit is lost however far from zero they lie.
        """
        i, apart = start(c, pixels, channels, slab)
        shift = load(x, i - np.uint64(channels * cuda.threadIdx.y), left, ZERO)
        sums = (ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)
        j, step = np.int64(cuda.threadIdx.y), np.int64(cuda.blockDim.y)
        while j + 3 * step < pixels:  # four loads are under way together
            v0, v1 = load(x, i, left, ZERO), load(x, i + apart, left, ZERO)
            i += apart + apart
            v2, v3 = load(x, i, left, ZERO), load(x, i + apart, left, ZERO)
            i += apart + apart
            sums = moments(moments(sums, v0, shift), v1, shift)
            sums = moments(moments(sums, v2, shift), v3, shift)
            j += 4 * step
        while j < pixels:
            sums = moments(sums, load(x, i, left, ZERO), shift)
            i += apart
            j += step
        return sums, shift

    return sum_pixels


def write_function(activate, load, store):
    """write_pixels, with ways to load and store four values, and SiLU where `activate`."""

    @device
    def finished(v, centre, scale, weight, bias):
        n = normalised(v, centre, scale, weight, bias)
        return silu(n) if activate else n

    @device
    def write(y, i, left, v, m, s, w, b):
        p, q = finished(v[0], m[0], s[0], w[0], b[0]), finished(v[1], m[1], s[1], w[1], b[1])
        r, t = finished(v[2], m[2], s[2], w[2], b[2]), finished(v[3], m[3], s[3], w[3], b[3])
        store(y, i, left, p, q, r, t)

    @device
    def write_pixels(x, y, c, sizes, m, s, weight, bias):
        """This thread's pixels of y in four channels, of mean m and 1 / sqrt(var + tol) s."""
        pixels, channels, slab = sizes
        left = slab - c
        i, apart = start(c, pixels, channels, slab)
        j, step = np.int64(cuda.threadIdx.y), np.int64(cuda.blockDim.y)
        while j + step < pixels:
            v0, v1 = load(x, i, left, ZERO), load(x, i + apart, left, ZERO)
            write(y, i, left, v0, m, s, weight, bias)
            write(y, i + apart, left, v1, m, s, weight, bias)
            i += apart + apart
            j += 2 * step
        if j < pixels:
            write(y, i, left, load(x, i, left, ZERO), m, s, weight, bias)

    return write_pixels


def statistics_function(load):
    """statistics, with a way to load four values."""
    sum_pixels = sum_function(load)

    @device
    def statistics(x, centre, spread, parts, pixels, channels, width, slab, tol):
        """Each channel's mean and 1 / sqrt(var + tol), those of its group, into the shared."""
        c, turn = 4 * np.int64(cuda.threadIdx.x), np.int64(0)
        while turn < slab:  # all threads go round equally often: fold_pixels waits for them all
            sums, left = (ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO), slab - c
            shift = (ZERO, ZERO, ZERO, ZERO)
            if left > 0:
                sums, shift = sum_pixels(x, c, left, pixels, channels, slab)
            fold_pixels(parts, sums)
            if cuda.threadIdx.y == 0:
                p, q = cuda.threadIdx.x, cuda.blockDim.x  # where a sum lies, and the next one
                channel_moments(centre, spread, parts, p, shift[0], c, slab, pixels)
                channel_moments(centre, spread, parts, p + q, shift[1], c + 1, slab, pixels)
                channel_moments(centre, spread, parts, p + 2 * q, shift[2], c + 2, slab, pixels)
                channel_moments(centre, spread, parts, p + 3 * q, shift[3], c + 3, slab, pixels)
            cuda.syncthreads()
            turn += 4 * cuda.blockDim.x
            c += 4 * cuda.blockDim.x
        group_moments(centre, spread, slab, width, pixels, tol)
        cuda.syncthreads()

    return statistics


def norm_kernel(activate, wide):
    """norm: GroupNorm (Wu18 eq. 1), followed by SiLU where `activate`."""
    load, store = access(wide)
    statistics, write_pixels = statistics_function(load), write_function(activate, load, store)

    @cuda.jit
    def norm(x, w, b, y, mean, inv, pixels, channels, width, slab, tol):
        """y = w (x - mean) inv + b, or its SiLU, launched over (samples, slabs).

        Args:
            x, y: (B, pixels, channels), flat; y is filled.
            w, b: (channels,).
            mean, inv: (B, channels), flat, filled with the mean and 1 / sqrt(var + tol) of each
                channel's group.
            pixels, channels: of x.
            width: the channels of a group.
            slab: the channels of a block, at most MOST: whole groups.
            tol: float32.
        """
        # a line for each: the simulator knows shared arrays by their lines
        parts = cuda.shared.array(SUMS, float32)
        centre = cuda.shared.array(MOST, float32)
        spread = cuda.shared.array(MOST, float32)
        statistics(x, centre, spread, parts, pixels, channels, width, slab, tol)
        c = 4 * np.int64(cuda.threadIdx.x)
        while c < slab:
            left, first = slab - c, cuda.blockIdx.y * slab + c
            weight = load_few(w, np.uint64(first), left, ZERO)
            bias = load_few(b, np.uint64(first), left, ZERO)
            m, s = four(centre, c, slab), four(spread, c, slab)
            if cuda.threadIdx.y == 0:
                place = np.uint64(np.int64(cuda.blockIdx.x) * channels + first)
                store(mean, place, left, m[0], m[1], m[2], m[3])
                store(inv, place, left, s[0], s[1], s[2], s[3])
            write_pixels(x, y, c, (pixels, channels, slab), m, s, weight, bias)
            c += 4 * cuda.blockDim.x

    return norm


FORWARD = {
    wide: {"norm": norm_kernel(False, wide), "norm_silu": norm_kernel(True, wide)}
    for wide in (True, False)
}
