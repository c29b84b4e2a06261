"""The CUDA kernels that sum over rows: softmax and its backward, the norm of a gradient.

Sums are trees in shared memory, always of the same shape, so that a result is the same in every
run.
"""

import numpy as np
from numba import cuda, float32

from .device_functions import ZERO, device, exp, maximum, reciprocal, sqrt
from .groupnorm import THREADS, fold_block

UNIT = np.float32(1)
LOWEST, LARGEST = np.float32(-3.4028235e38), np.float32(3.4028235e38)


@device
def largest(shared, value):
    """The largest value over all threads of the block."""
    place, count = cuda.threadIdx.x, cuda.blockDim.x
    shared[place] = value
    cuda.syncthreads()
    while count > 1:
        half = (count + 1) >> 1
        if place + half < count:
            shared[place] = maximum(shared[place], shared[place + half])
        cuda.syncthreads()
        count = half
    top = shared[0]
    cuda.syncthreads()
    return top


@device
def thread_range(n):
    """This thread's elements of the block's row of n: the first index, the step, the end."""
    start = np.int64(cuda.blockIdx.x) * n
    return np.uint64(start + cuda.threadIdx.x), np.uint64(cuda.blockDim.x), np.uint64(start + n)


@cuda.jit
def softmax(x, n, scale):
    """x = softmax(scale x) in place, a block for each row of n (Vaswani17 eq. 1)."""
    shared = cuda.shared.array(THREADS, float32)
    i, step, end = thread_range(n)
    top, j = LOWEST, i
    while j < end:
        top = maximum(top, scale * x[j])
        j += step
    top, total, j = largest(shared, top), ZERO, i
    while j < end:
        e = exp(scale * x[j] - top)
        x[j] = e
        total += e
        j += step
    total = fold_block(shared, total)
    over = reciprocal(total)
    while i < end:
        x[i] *= over
        i += step


@cuda.jit
def softmax_backward(dy, y, n, scale):
    """dy = scale y (dy - sum(dy y)) in place, a block for each row of n."""
    shared = cuda.shared.array(THREADS, float32)
    i, step, end = thread_range(n)
    total, j = ZERO, i
    while j < end:
        total += dy[j] * y[j]
        j += step
    total = fold_block(shared, total)
    while i < end:
        dy[i] = scale * (y[i] * (dy[i] - total))
        i += step


@cuda.jit
def square_sums(x, sums, n):
    """sums[block] = the block's part of sum x^2; blocks and threads take elements in turn."""
    shared = cuda.shared.array(THREADS, float32)
    i, step, total = np.uint64(cuda.grid(1)), np.uint64(cuda.gridsize(1)), ZERO
    end = np.uint64(n)
    while i < end:
        total += x[i] * x[i]
        i += step
    total = fold_block(shared, total)
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = total


@cuda.jit
def clip(sums, scale, norm, count, limit):
    """norm = sqrt(sum of sums), scale = min(1, limit / norm) (Pascanu13 Algorithm 1), one block.

    Args:
        sums: (count,), as `square_sums` left them.
        scale, norm: (1,), filled; scale is 1 where the norm is not finite.
        count: how many.
        limit: float32, infinite for none.
    """
    shared = cuda.shared.array(THREADS, float32)
    i, step, total = np.uint64(cuda.threadIdx.x), np.uint64(cuda.blockDim.x), ZERO
    end = np.uint64(count)
    while i < end:
        total += sums[i]
        i += step
    length = sqrt(fold_block(shared, total))
    if cuda.threadIdx.x == 0:
        norm[0] = length
        scale[0] = limit / length if limit < length <= LARGEST else UNIT
