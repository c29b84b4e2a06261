"""The CUDA kernels of small linear layers: y = f(x) w + b and its backward, each in one node.

A product of few rows fills no device: cuBLAS takes a node for it, what is added takes another, and
both wait for their start and end, not for arithmetic. Here a block takes four rows (of the weights'
gradient: four inputs) and some columns; its threads take four columns each and share the sum, which
is a tree of one shape: the same in every run. f is SiLU where the kernel is told to activate, else
nothing. Arrays are flat float32.

Every kernel exists twice: `wide`, with 16-byte loads, for inputs, outputs and addresses that are
multiples of four floats, and narrow.
"""

import numpy as np
from numba import cuda, float32

from .device_functions import ZERO, access, device, norm_formulas
from .winograd import plus

silu, silu_slope = norm_formulas.silu, norm_formulas.silu_slope
THREADS = 256  # of a block, at most
SUMS = 16 * THREADS
EACH, FIRST = np.int32(2), np.int32(1)  # which row of the shift a row is given


@device
def upto(i, last):
    """i, or the last index: what is read twice is multiplied by 0, or not kept."""
    return i if i < last else last


@device
def nothing():
    """Four zeros."""
    return ZERO, ZERO, ZERO, ZERO


@device
def activated(a, activate):
    """SiLU of four values where `activate` is not 0."""
    if activate:
        return silu(a[0]), silu(a[1]), silu(a[2]), silu(a[3])
    return a


@device
def weighted(s, a, v0, v1, v2, v3):
    """s + a v, for a row a of four and a matrix v of four rows."""
    return plus(plus(plus(plus(s, a[0], v0), a[1], v1), a[2], v2), a[3], v3)


@device
def dot(a, v):
    """The sum of a v, of four."""
    return a[0] * v[0] + a[1] * v[1] + a[2] * v[2] + a[3] * v[3]


@device
def dots(s, a, v0, v1, v2, v3):
    """s + v a, likewise."""
    return s[0] + dot(a, v0), s[1] + dot(a, v1), s[2] + dot(a, v2), s[3] + dot(a, v3)


@device
def keep(shared, place, across, s):
    """Four sums of this thread, a column's width apart."""
    shared[place], shared[place + across] = s[0], s[1]
    shared[place + 2 * across], shared[place + 3 * across] = s[2], s[3]


@device
def fold(shared, s0, s1, s2, s3):
    """Sum sixteen numbers over the threads of one threadIdx.x.

    Number k of column x is found at k blockDim.x + x afterwards.
    """
    across, down = cuda.blockDim.x, cuda.blockDim.y
    width, x, y = 16 * across, cuda.threadIdx.x, cuda.threadIdx.y
    cuda.syncthreads()
    keep(shared, y * width + x, across, s0)
    keep(shared, y * width + x + 4 * across, across, s1)
    keep(shared, y * width + x + 8 * across, across, s2)
    keep(shared, y * width + x + 12 * across, across, s3)
    cuda.syncthreads()
    item = y * across + x
    while item < width:
        total, part = ZERO, item
        while part < width * down:
            total += shared[part]
            part += width
        shared[item] = total  # which no other thread reads
        item += across * down
    cuda.syncthreads()


@device
def folded(shared, row):
    """Four sums of this column in one of the four rows, as `fold` left them."""
    place, across = 4 * row * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockDim.x
    return (
        shared[place],
        shared[place + across],
        shared[place + 2 * across],
        shared[place + 3 * across],
    )


@device
def column():
    """This thread's first column."""
    return np.int32(4 * (cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x))


@device
def at(row, width, place):
    """The index of an element of a row, none beyond the last row."""
    return np.uint64(row) * np.uint64(width) + np.uint64(place)


def dense_sums(load):
    """four rows' sums, with a way to load four values."""

    @device
    def sums(x, w, row, c, rows, inputs, outputs, activate):
        """This thread's part of four rows' sums, four columns each."""
        s0, s1, s2, s3 = nothing(), nothing(), nothing(), nothing()
        last, left, k = rows - 1, outputs - c, np.int32(4 * cuda.threadIdx.y)
        end = inputs - 1
        while k < inputs:
            more = inputs - k
            a0 = activated(load(x, at(row, inputs, k), more, ZERO), activate)
            a1 = activated(load(x, at(upto(row + 1, last), inputs, k), more, ZERO), activate)
            a2 = activated(load(x, at(upto(row + 2, last), inputs, k), more, ZERO), activate)
            a3 = activated(load(x, at(upto(row + 3, last), inputs, k), more, ZERO), activate)
            v0 = load(w, at(k, outputs, c), left, ZERO)
            v1 = load(w, at(upto(k + 1, end), outputs, c), left, ZERO)
            v2 = load(w, at(upto(k + 2, end), outputs, c), left, ZERO)
            v3 = load(w, at(upto(k + 3, end), outputs, c), left, ZERO)
            s0, s1 = weighted(s0, a0, v0, v1, v2, v3), weighted(s1, a1, v0, v1, v2, v3)
            s2, s3 = weighted(s2, a2, v0, v1, v2, v3), weighted(s3, a3, v0, v1, v2, v3)
            k += 4 * cuda.blockDim.y
        return s0, s1, s2, s3

    return sums


def dense_kernel(wide):
    """dense: a linear layer, with what is added to it."""
    load, store = access(wide)
    sums = dense_sums(load)

    @cuda.jit
    def dense(x, w, b, shift, onto, y, rows, inputs, outputs, activate, shifted, added):
        """y = f(x) w + b, and shift, and onto; launched over (rows / 4, columns).

        Args:
            x: (rows, inputs).
            w, b: (inputs, outputs), (outputs,).
            shift: (rows or 1, outputs); read where `shifted` is EACH or FIRST, else 0.
            onto: (rows, outputs); read where `added` is not 0.
            y: (rows, outputs), filled; it may be onto.
            rows, inputs, outputs: how many.
            activate: whether f is SiLU.
        """
        shared = cuda.shared.array(SUMS, float32)
        row, c = np.int32(4 * cuda.blockIdx.x), column()
        s0, s1, s2, s3 = nothing(), nothing(), nothing(), nothing()
        if c < outputs:
            s0, s1, s2, s3 = sums(x, w, row, c, rows, inputs, outputs, activate)
        fold(shared, s0, s1, s2, s3)
        r, left = np.int32(cuda.threadIdx.y), outputs - c
        while r < 4 and row + r < rows and left > 0:
            v = folded(shared, r)
            v = plus(load(b, np.uint64(c), left, ZERO), np.float32(1), v)
            if shifted:
                first = row + r if shifted == EACH else np.int32(0)
                v = plus(v, np.float32(1), load(shift, at(first, outputs, c), left, ZERO))
            i = at(row + r, outputs, c)
            if added:
                v = plus(v, np.float32(1), load(onto, i, left, ZERO))
            store(y, i, left, v[0], v[1], v[2], v[3])
            r += np.int32(cuda.blockDim.y)

    return dense


def dense_backward_sums(load):
    """four rows' sums over the outputs, likewise."""

    @device
    def sums(dy, w, row, c, rows, inputs, outputs):
        """This thread's part of four rows' sums over the outputs, for four inputs each."""
        s0, s1, s2, s3 = nothing(), nothing(), nothing(), nothing()
        last, end, k = rows - 1, inputs - 1, np.int32(4 * cuda.threadIdx.y)
        while k < outputs:
            more = outputs - k
            a0 = load(dy, at(row, outputs, k), more, ZERO)
            a1 = load(dy, at(upto(row + 1, last), outputs, k), more, ZERO)
            a2 = load(dy, at(upto(row + 2, last), outputs, k), more, ZERO)
            a3 = load(dy, at(upto(row + 3, last), outputs, k), more, ZERO)
            v0 = load(w, at(c, outputs, k), more, ZERO)
            v1 = load(w, at(upto(c + 1, end), outputs, k), more, ZERO)
            v2 = load(w, at(upto(c + 2, end), outputs, k), more, ZERO)
            v3 = load(w, at(upto(c + 3, end), outputs, k), more, ZERO)
            s0, s1 = dots(s0, a0, v0, v1, v2, v3), dots(s1, a1, v0, v1, v2, v3)
            s2, s3 = dots(s2, a2, v0, v1, v2, v3), dots(s3, a3, v0, v1, v2, v3)
            k += 4 * cuda.blockDim.y
        return s0, s1, s2, s3

    return sums


def dense_backward_kernel(wide):
    """dense_backward: the gradient of a linear layer's input."""
    load, store = access(wide)
    sums = dense_backward_sums(load)

    @cuda.jit
    def dense_backward(dy, w, x, onto, dx, rows, inputs, outputs, activate, added):
        """dx = f'(x) dy w^T, and onto; launched over (rows / 4, columns of x).

        Args:
            dy: (rows, outputs).
            w: (inputs, outputs).
            x: (rows, inputs); read where `activate` is not 0.
            onto: (rows, inputs); read where `added` is not 0.
            dx: (rows, inputs), filled; it may be onto.
            rows, inputs, outputs: how many.
        """
        shared = cuda.shared.array(SUMS, float32)
        row, c = np.int32(4 * cuda.blockIdx.x), column()
        s0, s1, s2, s3 = nothing(), nothing(), nothing(), nothing()
        if c < inputs:
            s0, s1, s2, s3 = sums(dy, w, row, c, rows, inputs, outputs)
        fold(shared, s0, s1, s2, s3)
        r, left = np.int32(cuda.threadIdx.y), inputs - c
        while r < 4 and row + r < rows and left > 0:
            v, i = folded(shared, r), at(row + r, inputs, c)
            if activate:
                u = load(x, i, left, ZERO)
                p, q = v[0] * silu_slope(u[0]), v[1] * silu_slope(u[1])
                v = p, q, v[2] * silu_slope(u[2]), v[3] * silu_slope(u[3])
            if added:
                v = plus(v, np.float32(1), load(onto, i, left, ZERO))
            store(dx, i, left, v[0], v[1], v[2], v[3])
            r += np.int32(cuda.blockDim.y)

    return dense_backward


def dense_weights_kernel(wide):
    """dense_weights: the gradients of a linear layer's parameters."""
    load, store = access(wide)

    @cuda.jit
    def dense_weights(x, dy, gw, gb, rows, inputs, outputs, activate):
        """gw += f(x)^T dy and gb += the sum of dy's rows; launched over (inputs / 4, columns).

        Args:
            x: (rows, inputs).
            dy: (rows, outputs).
            gw, gb: (inputs, outputs), (outputs,).
            rows, inputs, outputs: how many.
            activate: whether f is SiLU.
        """
        shared = cuda.shared.array(SUMS, float32)
        i, c = np.int32(4 * cuda.blockIdx.x), column()
        few, left, r = inputs - i, outputs - c, np.int32(cuda.threadIdx.y)
        s0, s1, s2, s3, t = nothing(), nothing(), nothing(), nothing(), nothing()
        while r < rows and left > 0:
            a = activated(load(x, at(r, inputs, i), few, ZERO), activate)
            v = load(dy, at(r, outputs, c), left, ZERO)
            s0, s1, s2 = plus(s0, a[0], v), plus(s1, a[1], v), plus(s2, a[2], v)
            s3, t = plus(s3, a[3], v), plus(t, np.float32(1), v)
            r += np.int32(cuda.blockDim.y)
        fold(shared, s0, s1, s2, s3)
        r = np.int32(cuda.threadIdx.y)
        while r < 4 and r < few and left > 0:
            place = at(i + r, outputs, c)
            v = plus(load(gw, place, left, ZERO), np.float32(1), folded(shared, r))
            store(gw, place, left, v[0], v[1], v[2], v[3])
            r += np.int32(cuda.blockDim.y)
        if cuda.blockIdx.x == 0:  # one block for each column adds up dy
            fold(shared, t, t, t, t)
            if cuda.threadIdx.y == 0 and left > 0:
                place = np.uint64(c)
                v = plus(load(gb, place, left, ZERO), np.float32(1), folded(shared, 0))
                store(gb, place, left, v[0], v[1], v[2], v[3])

    return dense_weights


KERNELS = {
    wide: {
        "dense": dense_kernel(wide),
        "dense_backward": dense_backward_kernel(wide),
        "dense_weights": dense_weights_kernel(wide),
    }
    for wide in (True, False)
}
