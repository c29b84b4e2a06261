"""The CUDA kernels of 3 x 3 convolution at stride 1 with 4 products an output pixel instead of 9.

F(2 x 2, 3 x 3) of Lavin & Gray 2016 (section 4.1), as on the CPU: a tile of 2 x 2 output pixels is
Y = A^T [(G w G^T) * (B^T d B)] A of the 4 x 4 input pixels d that it sees, * element by element:
sixteen matrix products over the channels. The backward is each transform's adjoint. Images are
padded by one zero on each side. Arrays are flat float32, channels multiples of four; a thread takes
four channels of one row of a transform. Transformed arrays are (16, tiles or C, channels).
"""

import numpy as np
from numba import cuda

from .device_functions import ZERO, device, load4, store4

HALF, UNIT, MINUS = np.float32(0.5), np.float32(1), np.float32(-1)


@device
def scaled(s, a):
    """s a, for four channels."""
    return s * a[0], s * a[1], s * a[2], s * a[3]


@device
def plus(a, s, b):
    """a + s b, for four channels."""
    return a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2], a[3] + s * b[3]


@device
def put(x, i, a):
    """x[i : i + 4] = a."""
    store4(x, i, a[0], a[1], a[2], a[3])


@device
def pixel(x, line, row, column, height, width, channels, c):
    """Four channels of a pixel of image `line`, zeros beyond its border."""
    if 0 <= row < height and 0 <= column < width:
        return load4(x, np.uint64(((line * height + row) * width + column) * channels + c))
    return ZERO, ZERO, ZERO, ZERO


@cuda.jit
def winograd_input(x, v, height, width, channels, across, tiles):
    """v = B^T d B of each tile, launched over (samples, rows of tiles, 4), threads over (channels,
    tiles of a row).

    Args:
        x: (B, height, width, channels).
        v: (16, tiles, channels), filled.
        across: tiles of a row.
        tiles: of all images.
    """
    line, i, u = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.blockIdx.z)
    # row u of B^T: d0 - d2, d1 + d2, d2 - d1, d1 - d3
    top, sign = 2 * i - 1, UNIT if u == 1 else MINUS
    first = top + (2 if u == 2 else 1 if u > 0 else 0)
    second = top + (3 if u == 3 else 1 if u == 2 else 2)
    j = np.int64(cuda.threadIdx.y)
    while j < across:
        c, left = np.int64(4 * cuda.threadIdx.x), 2 * j - 1
        place = ((4 * u * tiles) + (line * cuda.gridDim.y + i) * across + j) * channels
        while c < channels:
            a0 = pixel(x, line, first, left, height, width, channels, c)
            a1 = pixel(x, line, first, left + 1, height, width, channels, c)
            a2 = pixel(x, line, first, left + 2, height, width, channels, c)
            a3 = pixel(x, line, first, left + 3, height, width, channels, c)
            a0 = plus(a0, sign, pixel(x, line, second, left, height, width, channels, c))
            a1 = plus(a1, sign, pixel(x, line, second, left + 1, height, width, channels, c))
            a2 = plus(a2, sign, pixel(x, line, second, left + 2, height, width, channels, c))
            a3 = plus(a3, sign, pixel(x, line, second, left + 3, height, width, channels, c))
            step, out = tiles * channels, place + c
            put(v, np.uint64(out), plus(a0, MINUS, a2))
            put(v, np.uint64(out + step), plus(a1, UNIT, a2))
            put(v, np.uint64(out + 2 * step), plus(a2, MINUS, a1))
            put(v, np.uint64(out + 3 * step), plus(a1, MINUS, a3))
            c += 4 * cuda.blockDim.x
        j += cuda.blockDim.y


@cuda.jit
def winograd_slope(dy, m, height, width, channels, across, tiles):
    """m = A dy A^T of each tile's 2 x 2 pixels, launched as `winograd_input`.

    Args:
        dy: (B, height, width, channels).
        m: (16, tiles, channels), filled.
        across, tiles: as `winograd_input`'s.
    """
    line, i, u = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.blockIdx.z)
    # row u of A: d0, d0 + d1, d0 - d1, -d1
    p, q = (ZERO if u == 3 else UNIT), (ZERO if u == 0 else UNIT if u == 1 else MINUS)
    j = np.int64(cuda.threadIdx.y)
    while j < across:
        c, left, top = np.int64(4 * cuda.threadIdx.x), 2 * j, 2 * i
        place = ((4 * u * tiles) + (line * cuda.gridDim.y + i) * across + j) * channels
        while c < channels:
            a = scaled(p, pixel(dy, line, top, left, height, width, channels, c))
            b = scaled(p, pixel(dy, line, top, left + 1, height, width, channels, c))
            a = plus(a, q, pixel(dy, line, top + 1, left, height, width, channels, c))
            b = plus(b, q, pixel(dy, line, top + 1, left + 1, height, width, channels, c))
            step, out = tiles * channels, place + c
            put(m, np.uint64(out), a)
            put(m, np.uint64(out + step), plus(a, UNIT, b))
            put(m, np.uint64(out + 2 * step), plus(a, MINUS, b))
            put(m, np.uint64(out + 3 * step), scaled(MINUS, b))
            c += 4 * cuda.blockDim.x
        j += cuda.blockDim.y


def output_kernel(shifted, residual):
    """winograd_output: the transform back, with the epilogue of a convolution."""

    @cuda.jit
    def winograd_output(m, b, shift, onto, y, height, width, channels, across, tiles, each):
        """y = A^T m A + b, and shift of the sample, and onto; launched over (samples, rows of
        tiles, 2), threads over (channels, tiles of a row).

        Args:
            m: (16, tiles, channels).
            b: (channels,).
            shift: (samples or 1, channels); read where the kernel is `shifted`.
            onto: like y; read where the kernel has a `residual`.
            y: (B, height, width, channels), filled.
            across, tiles: as `winograd_input`'s; each: from a shift to the next, 0 for one alone.
        """
        line, i, r = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.blockIdx.z)
        row, step = 2 * i + r, tiles * channels
        # row r of A^T: m0 + m1 + m2, m1 - m2 - m3
        p, q, s = (ZERO if r else UNIT), (MINUS if r else UNIT), (MINUS if r else ZERO)
        j = np.int64(cuda.threadIdx.y)
        while j < across and row < height:
            c = np.int64(4 * cuda.threadIdx.x)
            place = ((line * cuda.gridDim.y + i) * across + j) * channels
            while c < channels:
                left = load4(b, np.uint64(c))
                if shifted:
                    left = plus(left, UNIT, load4(shift, np.uint64(line * each + c)))
                right = left
                for v in range(4):
                    k = place + c + v * step
                    t = scaled(p, load4(m, np.uint64(k)))
                    t = plus(t, UNIT, load4(m, np.uint64(k + 4 * step)))
                    t = plus(t, q, load4(m, np.uint64(k + 8 * step)))
                    t = plus(t, s, load4(m, np.uint64(k + 12 * step)))
                    left = plus(left, ZERO if v == 3 else UNIT, t)
                    right = plus(right, ZERO if v == 0 else UNIT if v == 1 else MINUS, t)
                out = ((line * height + row) * width + 2 * j) * channels + c
                if residual:
                    left = plus(left, UNIT, load4(onto, np.uint64(out)))
                put(y, np.uint64(out), left)
                if 2 * j + 1 < width:
                    out += channels
                    if residual:
                        right = plus(right, UNIT, load4(onto, np.uint64(out)))
                    put(y, np.uint64(out), right)
                c += 4 * cuda.blockDim.x
            j += cuda.blockDim.y

    return winograd_output


@device
def source(place, n):
    """The n-th of the four rows of transformed tiles that a pixel gathers from along one axis.

    The pixel lies in the 4 x 4 pixels of two tiles, as their row a; B's row a has the entries
    a = 0: u0; 1: u1 - u2 + u3; 2: -u0 + u1 + u2; 3: -u3. Returns the tile, u, and the sign.
    """
    k = place >> 1
    if place & 1:
        return (k + 1 if n == 0 else k), (n - 1 if n > 0 else 0), (MINUS if n == 1 else UNIT)
    return (k - 1 if n == 3 else k), (n + 1 if n < 3 else 3), (MINUS if n & 1 else UNIT)


@cuda.jit
def winograd_gather(dv, dx, height, width, channels, down, across, tiles):
    """dx = the sum over tiles of B dv B^T, launched over (samples, height), threads over (channels,
    width).

    Args:
        dv: (16, tiles, channels).
        dx: (B, height, width, channels), filled.
        down, across: rows of tiles, and tiles of a row.
        tiles: of all images.
    """
    line, row = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
    column = np.int64(cuda.threadIdx.y)
    while column < width:
        c = np.int64(4 * cuda.threadIdx.x)
        while c < channels:
            total = ZERO, ZERO, ZERO, ZERO
            for n in range(4):
                i, u, sign_u = source(row, n)
                if 0 <= i < down:
                    for o in range(4):
                        j, v, sign_v = source(column, o)
                        if 0 <= j < across:
                            k = (4 * u + v) * tiles + (line * down + i) * across + j
                            value = load4(dv, np.uint64(k * channels + c))
                            total = plus(total, sign_u * sign_v, value)
            put(dx, np.uint64(((line * height + row) * width + column) * channels + c), total)
            c += 4 * cuda.blockDim.x
        column += cuda.blockDim.y


@cuda.jit
def winograd_weights(w, g, inputs, outputs):
    """g = G w G^T for each pair of channels; a thread takes four outputs of row u = blockIdx.z.

    Args:
        w: (3, 3, inputs, outputs).
        g: (16, inputs, outputs), filled.
    """
    i = np.int64(4 * cuda.grid(1))
    size, u = np.int64(inputs) * outputs, np.int64(cuda.blockIdx.z)
    if i < size:
        # row u of G: w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2
        p = ZERO if u == 3 else UNIT if u == 0 else HALF
        q = HALF if u == 1 else -HALF if u == 2 else ZERO
        r = ZERO if u == 0 else UNIT if u == 3 else HALF
        t0 = scaled(p, load4(w, np.uint64(i)))
        t1 = scaled(p, load4(w, np.uint64(i + size)))
        t2 = scaled(p, load4(w, np.uint64(i + 2 * size)))
        t0, t1 = (
            plus(t0, q, load4(w, np.uint64(i + 3 * size))),
            plus(t1, q, load4(w, np.uint64(i + 4 * size))),
        )
        t2 = plus(t2, q, load4(w, np.uint64(i + 5 * size)))
        t0, t1 = (
            plus(t0, r, load4(w, np.uint64(i + 6 * size))),
            plus(t1, r, load4(w, np.uint64(i + 7 * size))),
        )
        t2 = plus(t2, r, load4(w, np.uint64(i + 8 * size)))
        even, out = scaled(HALF, plus(t0, UNIT, t2)), i + 4 * u * size
        put(g, np.uint64(out), t0)
        put(g, np.uint64(out + size), plus(even, HALF, t1))
        put(g, np.uint64(out + 2 * size), plus(even, -HALF, t1))
        put(g, np.uint64(out + 3 * size), t2)


@cuda.jit
def winograd_weights_backward(dg, dw, inputs, outputs):
    """dw += G^T dg G, the adjoint of `winograd_weights`; blockIdx.z is the row of dw."""
    i = np.int64(4 * cuda.grid(1))
    size, r = np.int64(inputs) * outputs, np.int64(cuda.blockIdx.z)
    if i < size:
        # row r of G^T: u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3
        p, q = (UNIT if r == 0 else ZERO), (-HALF if r == 1 else HALF)
        s = UNIT if r == 2 else ZERO
        d0, d1, d2 = (ZERO, ZERO, ZERO, ZERO), (ZERO, ZERO, ZERO, ZERO), (ZERO, ZERO, ZERO, ZERO)
        for v in range(4):
            k = i + v * size
            t = plus(scaled(p, load4(dg, np.uint64(k))), HALF, load4(dg, np.uint64(k + 4 * size)))
            t = plus(t, q, load4(dg, np.uint64(k + 8 * size)))
            t = plus(t, s, load4(dg, np.uint64(k + 12 * size)))
            middle = v == 1 or v == 2
            d0 = plus(d0, UNIT if v == 0 else HALF if middle else ZERO, t)
            d1 = plus(d1, HALF if v == 1 else -HALF if v == 2 else ZERO, t)
            d2 = plus(d2, UNIT if v == 3 else HALF if middle else ZERO, t)
        out = i + 3 * r * size
        put(dw, np.uint64(out), plus(load4(dw, np.uint64(out)), UNIT, d0))
        put(dw, np.uint64(out + size), plus(load4(dw, np.uint64(out + size)), UNIT, d1))
        put(dw, np.uint64(out + 2 * size), plus(load4(dw, np.uint64(out + 2 * size)), UNIT, d2))


winograd_output = output_kernel(shifted=False, residual=False)
winograd_output_shift = output_kernel(shifted=True, residual=False)
winograd_output_onto = output_kernel(shifted=False, residual=True)
winograd_output_shift_onto = output_kernel(shifted=True, residual=True)
