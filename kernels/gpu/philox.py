"""Philox alone as a CUDA kernel, to hold a device against the words that its authors published."""

from numba import cuda

from .device_functions import formulas

philox = formulas.philox  # a kernel can name a function, but not an attribute of a namespace


@cuda.jit
def encipher(counters, words):
    """words (N, 4) = Philox of counters (N, 6): four counter and two key words each, uint64."""
    i = cuda.grid(1)
    if i < counters.shape[0]:
        c0, c1, c2, c3 = counters[i, 0], counters[i, 1], counters[i, 2], counters[i, 3]
        words[i, 0], words[i, 1], words[i, 2], words[i, 3] = philox(
            c0, c1, c2, c3, counters[i, 4], counters[i, 5]
        )
