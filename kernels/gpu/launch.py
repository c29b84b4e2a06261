"""How CUDA kernels are launched over CuPy's arrays, or simulated over NumPy's."""

import math

import numpy as np
from numba import cuda

from tinyddpm.errors import InputError
from tinyddpm.noise import words

from . import fused_steps
from .device_functions import SIMULATED

# Threads of a block. The simulator starts a thread of the operating system for each, so it gets
# few.
STEP_THREADS = 16 if SIMULATED else 128
MOST_TILES = 65535  # blocks of a grid along its second axis


def tiles_for(size, threads):
    """(threads, tiles) that cover `size`: threads are a power of two and no more than given."""
    threads = min(threads, 1 << max(size - 1, 0).bit_length())
    return threads, -(-size // threads)


def aligned(arrays):
    """Whether each array begins at a multiple of 16 bytes, as a load of four floats needs."""
    return all(
        (x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr) % 16 == 0 for x in arrays
    )


def float32(*values):
    """Numbers as float32, for a kernel's arguments."""
    return tuple(np.float32(value) for value in values)


def counter(samples, seed, purpose, step, first_sample):
    """The words from which kernels build Philox's counter and key.

    Args:
        samples: how many samples are drawn.
        seed, purpose, step, first_sample: as `noise.normal`'s.

    Returns:
        k0, k1, purpose, step, first_sample, uint32.

    Raises:
        InputError: an argument is no whole number in its range.
    """
    *_, step, purpose, k0, k1 = words(samples, 0, seed, purpose, step, first_sample)
    return tuple(np.uint32(word) for word in (k0, k1, purpose, step, first_sample))


class Launcher:
    """The part of a backend that starts kernels; `xp` is the module of its arrays."""

    def _flat(self, x, shape=None):
        """x as a flat array, copied where its elements are not neighbours.

        Raises InputError unless x is float32, and of the given shape where one is given.
        """
        if x.dtype != np.float32 or (shape is not None and x.shape != tuple(shape)):
            raise InputError(
                f"a CUDA kernel needs float32 of shape {shape or x.shape}, "
                f"got {x.dtype} of {x.shape}"
            )
        return self.xp.ascontiguousarray(x).reshape(-1)

    def _in_place(self, x):
        """x itself, flat: what a kernel changes must not be a copy.

        Raises InputError unless x is contiguous float32.
        """
        if x.dtype != np.float32 or not x.flags.c_contiguous:
            raise InputError(
                "a CUDA kernel changes only contiguous float32 in place, "
                f"got {x.dtype} with strides {x.strides}"
            )
        return x.reshape(-1)

    def _launch(self, kernel, grid, block, *arguments):
        """Start a kernel on the current stream, unless its grid has no block at all."""
        if 0 in grid:
            return
        stream = 0
        if not SIMULATED:
            pointer = self.xp.cuda.get_current_stream().ptr
            stream = cuda.external_stream(pointer) if pointer else 0
            arguments = [
                cuda.as_cuda_array(a, sync=False) if isinstance(a, self.xp.ndarray) else a
                for a in arguments
            ]
        kernel[grid, block, stream](*arguments)

    def _launch_rows(self, name, shape, arrays, *arguments):
        """Start a kernel of `fused_steps` over rows, four elements a thread.

        Args:
            name: the kernel's; its wide form is taken where every row allows it.
            shape: (B, ...), B rows of as many elements as the other axes have.
            arrays: the kernel's arrays, flat.
            arguments: what follows the rows' number and length.
        """
        samples, n = shape[0], math.prod(shape[1:])
        wide = n % 4 == 0 and aligned(arrays)
        across, tiles = tiles_for(-(-n // 4), STEP_THREADS)
        if tiles > MOST_TILES:
            raise InputError(
                f"a CUDA kernel takes samples of at most {4 * STEP_THREADS * MOST_TILES} elements, "
                f"got {n}"
            )
        down, rows = tiles_for(samples, STEP_THREADS // across)
        kernel, sizes = getattr(fused_steps.KERNELS[wide], name), (np.int32(samples), np.int32(n))
        self._launch(kernel, (rows, tiles), (across, down), *arrays, *sizes, *arguments)
