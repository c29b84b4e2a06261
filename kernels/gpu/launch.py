"""How CUDA kernels are launched over CuPy's arrays, or simulated over NumPy's."""

import math
from functools import cached_property
from typing import Any

import numpy as np
from numba import types

from tinyddpm.errors import InputError
from tinyddpm.noise import words

from . import cubins
from .device_functions import SIMULATED
from .signatures import SIGNATURES, kernel

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


CASTS = {
    types.int64: int,
    types.int32: np.int32,
    types.uint32: np.uint32,
    types.float32: np.float32,
}


def parameters(signature, arguments):
    """A kernel's arguments as CUDA takes them: what Numba's code expects, one after another.

    A flat array is seven words of 64 bits: nothing to count references with, no parent, elements,
    bytes of one, address, shape, strides. A tuple is its values.
    """
    packed = []
    for kind, value in zip(signature, arguments, strict=True):
        if isinstance(kind, types.Array):
            size, step = value.size, value.itemsize
            packed += 0, 0, size, step, value.data.ptr, size, step
        elif isinstance(kind, types.UniTuple):
            packed += map(CASTS[kind.dtype], value)
        else:
            packed.append(CASTS[kind](value))
    return tuple(packed)


class Launcher:
    """The part of a backend that starts kernels; `xp` is the module of its arrays."""

    functions: dict[tuple, Any] = {}  # the kernels that have been loaded, by device, name, form

    @cached_property
    def _still(self):
        """The clock that moves nothing, by device."""
        return {}

    @cached_property
    def _rows_of_ones(self):
        """Rows of ones that products sum with, by their length."""
        return {}

    def _counter(self, samples, seed, purpose, step, first_sample):
        """The words and the clock of what is drawn; `step` may be a clock, (5,) on the device."""
        if isinstance(step, self.xp.ndarray):
            return counter(samples, seed, purpose, 0, first_sample), step
        device = 0 if self.xp is np else self.xp.cuda.runtime.getDevice()
        if device not in self._still:
            self._still[device] = self.xp.zeros(5, np.uint32)
        return counter(samples, seed, purpose, step, first_sample), self._still[device]

    def _numbers(self, *values):
        """At most eight numbers as float32 on the device, without a copy from the host's memory."""
        if self.xp is np:
            return np.float32(values)
        words, numbers = self.xp.empty(8, np.uint32), self.xp.empty(8, np.float32)
        self._assign(words, numbers, (), values)
        return numbers[: len(values)]

    def _assign(self, words, numbers, given_words, given_numbers):
        """words and numbers, eight of each on the device, become the host's, or 0 beyond them."""
        given_words = map(np.uint32, (*given_words, *[0] * (8 - len(given_words))))
        given_numbers = map(np.float32, (*given_numbers, *[0] * (8 - len(given_numbers))))
        given = tuple(given_words), tuple(given_numbers)
        self._launch("assign", (1,), (1,), words, numbers, *given)

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

    def _launch(self, name, grid, block, *arguments, wide=True):
        """Start a kernel on the current stream, unless its grid has no block at all.

        Args:
            name: a key of SIGNATURES.
            grid, block: numbers of blocks, and of a block's threads.
            arguments: of the types that SIGNATURES says.
            wide: which form of a kernel that has two.
        """
        if 0 in grid:
            return
        if self.xp is np:  # simulated
            kernel(name, wide)[grid, block](*arguments)
            return
        self._function(name, wide)(grid, block, parameters(SIGNATURES[name], arguments))

    def _function(self, name, wide):
        """The compiled kernel on the current device."""
        key = self.xp.cuda.runtime.getDevice(), name, wide
        if key not in self.functions:
            cc = self.xp.cuda.Device().compute_capability
            path = cubins.path(name, wide, (int(cc[:-1]), int(cc[-1])))
            module = self.xp.RawModule(path=str(path))
            self.functions[key] = module.get_function(cubins.entry(name))
        return self.functions[key]

    def _launch_rows(self, name, shape, arrays, *arguments, times=1, each=4):
        """Start a kernel of `fused_steps` over rows.

        Args:
            name: the kernel's; its wide form is taken where every row allows it.
            shape: (B, ...), B rows of as many elements as the other axes have.
            arrays: the kernel's arrays, flat.
            arguments: what follows the rows' number and length.
            times: how many such shapes lie one behind the other, as blockIdx.z counts.
            each: the elements of a thread.
        """
        samples, n = shape[0], math.prod(shape[1:])
        wide = n % 4 == 0 and aligned(arrays)
        across, tiles = tiles_for(-(-n // each), STEP_THREADS)
        if tiles > MOST_TILES:
            raise InputError(
                "a CUDA kernel takes samples of at most "
                f"{each * STEP_THREADS * MOST_TILES} elements, got {n}"
            )
        down, rows = tiles_for(samples, STEP_THREADS // across)
        sizes = np.int32(samples), np.int32(n)
        self._launch(
            name, (rows, tiles, times), (across, down), *arrays, *sizes, *arguments, wide=wide
        )
