"""The CUDA kernel that lays the patches of images side by side, float32, over flat arrays."""

import numpy as np
from numba import cuda

from .device_functions import ZERO, load4, store4


def im2col_kernel(wide):
    """im2col; `wide` moves four channels at once: channels and addresses must be multiples of 4."""
    step = 4 if wide else 1

    @cuda.jit
    def im2col(x, patches, height, width, channels, k, stride, before, columns):
        """Every k x k patch of x as a row of k k C values; beyond an image lie zeros.

        Launched over (samples, rows of the result, pixels of a patch), threads over (channels,
        columns).

        Args:
            x: (B, height, width, channels), flat.
            patches: (B, rows, columns, k, k, channels), flat, filled.
            k, stride: the patch's side and the step between patches.
            before: the zeros before an image's first row and column.
            columns: how many patches a row of the result has.
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


IM2COL = {wide: im2col_kernel(wide) for wide in (True, False)}
