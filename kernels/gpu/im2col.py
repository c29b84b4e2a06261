"""The CUDA kernels that lay patches of images side by side and add them up again, float32, flat."""

import numpy as np
from numba import cuda

from .device_functions import ZERO, device, load4, store4


def im2col_kernel(wide):
    """im2col; `wide` moves four channels at once: channels and addresses must be multiples of 4."""
    step = 4 if wide else 1

    @cuda.jit
    def im2col(x, patches, height, width, channels, k, stride, before, columns, up):
        """Every k x k patch of x as a row of k k C values; beyond an image lie zeros.

        Launched over (samples, rows of the result, pixels of a patch), threads over (channels,
        columns).

        Args:
            x: (B, height, width, channels), flat.
            patches: (B, rows, columns, k, k, channels), flat, filled.
            k, stride: the patch's side and the step between patches.
            before: the zeros before an image's first row and column.
            columns: how many patches a row of the result has.
            up: 1 where the patches are those of x at twice its size (nearest neighbour), else 0.
        """
        u, v = 0, cuda.blockIdx.z
        while v >= k:  # a division would be a hundred instructions
            u, v = u + 1, v - k
        row = cuda.blockIdx.y * stride - before + u
        line = np.int64(cuda.blockIdx.x) * height + (row >> up)
        result = (np.int64(cuda.blockIdx.x) * cuda.gridDim.y + cuda.blockIdx.y) * columns
        j = cuda.threadIdx.y
        while j < columns:
            column = j * stride - before + v
            inside = 0 <= row < height << up and 0 <= column < width << up
            c = step * cuda.threadIdx.x
            while c < channels:
                i = np.uint64((line * width + (column >> up)) * channels + c)
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


def copies_function(wide):
    """copies: what one patch holds of one pixel of x."""

    @device
    def copies(patches, place, c, k, channels, u, v, up):
        """The sum of a pixel's copies in the patch whose rows begin at `place`."""
        s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
        a = u - up if u > up else 0
        while a <= u and a < k:
            b = v - up if v > up else 0
            while b <= v and b < k:
                i = np.uint64(((place + a) * k + b) * channels + c)
                if wide:
                    p, q, r, s = load4(patches, i)
                    s0, s1, s2, s3 = s0 + p, s1 + q, s2 + r, s3 + s
                else:
                    s0 += patches[i]
                b += 1
            a += 1
        return s0, s1, s2, s3

    return copies


def col2im_kernel(wide):
    """col2im, the backward of im2col; `wide` as there."""
    step, copies = 4 if wide else 1, copies_function(wide)

    @cuda.jit
    def col2im(patches, x, height, width, channels, k, halving, before, rows, columns, up):
        """Every pixel of x is the sum of the patches' values that are its copies.

        Launched over (samples, height), threads over (channels, width). Gathers, so that a sum
        always has one order.

        Args:
            patches: (B, rows, columns, k, k, channels), flat.
            x: (B, height, width, channels), flat, filled.
            k: the patch's side.
            halving: 0 where the step between patches is 1, 1 where it is 2.
            before: the zeros before an image's first row and column.
            rows, columns: how many patches an image has along its axes.
            up: as `im2col`'s.
        """
        line, pixel = np.int64(cuda.blockIdx.x), cuda.threadIdx.y
        while pixel < width:
            c = step * cuda.threadIdx.x
            while c < channels:
                s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
                u = 0
                while u < k + up:
                    # with up, a pixel has two copies: u - 1 of the one is u of the other
                    row = (np.int64(cuda.blockIdx.y) << up) + before + up - u
                    v = 0
                    while v < k + up and 0 <= row < rows << halving and not row & halving:
                        column = (np.int64(pixel) << up) + before + up - v
                        if 0 <= column < columns << halving and not column & halving:
                            place = (line * rows + (row >> halving)) * columns
                            place = (place + (column >> halving)) * k
                            p, q, r, s = copies(patches, place, c, k, channels, u, v, up)
                            s0, s1, s2, s3 = s0 + p, s1 + q, s2 + r, s3 + s
                        v += 1
                    u += 1
                out = np.uint64(((line * height + cuda.blockIdx.y) * width + pixel) * channels + c)
                if wide:
                    store4(x, out, s0, s1, s2, s3)
                else:
                    x[out] = s0
                c += step * cuda.blockDim.x
            pixel += cuda.blockDim.y

    return col2im


COL2IM = {wide: col2im_kernel(wide) for wide in (True, False)}
IM2COL = {wide: im2col_kernel(wide) for wide in (True, False)}
