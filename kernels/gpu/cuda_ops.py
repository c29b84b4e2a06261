"""The operations with CUDA kernels: on a GPU over CuPy's arrays, or simulated over NumPy's.

CudaKernels is a class to stand before an Ops over the same arrays. Nothing here copies between host
and device or waits for the device; numbers travel as kernel arguments. Float64, and whatever no
kernel computes, is the parent's, except for the fused steps, which refuse it.
"""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tinyddpm.errors import InputError
from tinyddpm.nn.ops import Ops
from tinyddpm.noise import EPS, REVERSE

from . import groupnorm, products
from .capture import Recorder
from .cupy_ops import CupyOps
from .device_functions import SIMULATED
from .launch import STEP_THREADS, aligned, tiles_for
from .layers import CudaLayers

NORM_THREADS = 8 if SIMULATED else groupnorm.THREADS  # of a block; few for the simulator
ENOUGH_BLOCKS, FEW_BLOCKS = 256, 128  # about two for each processor of an H100, and one


class _Normalised(NamedTuple):
    """What the backward of a normalisation needs; its arrays are flat."""

    x: object
    w: object
    b: object
    mean: object  # of each group of each sample
    inv: object  # 1 / sqrt(var + tol), likewise
    groups: int
    silu: bool  # whether SiLU followed


class CudaKernels(CudaLayers):
    """What CUDA kernels compute, float32, in the signatures of Ops."""

    # Noise and the steps of diffusion.

    def normal(self, shape, seed=0, purpose=EPS, step=0, first_sample=0):
        """Ops.normal, on the device."""
        z = self.xp.empty(shape, np.float32)
        words = self._counter(shape[0], seed, purpose, step, first_sample)
        self._launch_rows("normal", shape, [z.reshape(-1)], *words, each=8)
        return z

    def noised(self, x0, eps, c_x0, c_eps):
        """Ops.noised, in one kernel; float32 alone."""
        xt = self.xp.empty(x0.shape, np.float32)
        c_x0, c_eps = (self._flat(c, x0.shape[:1]) for c in (c_x0, c_eps))
        arrays = [self._flat(x0), self._flat(eps, x0.shape), c_x0, c_eps, xt.reshape(-1)]
        self._launch_rows("noised", x0.shape, arrays)
        return xt

    def noised_drawn(self, x0, c_x0, c_eps, seed=0, purpose=EPS, step=0, first_sample=0):
        """Ops.noised_drawn, in one kernel: the eps that `normal` draws with these arguments."""
        xt, eps = self.xp.empty(x0.shape, np.float32), self.xp.empty(x0.shape, np.float32)
        c_x0, c_eps = (self._flat(c, x0.shape[:1]) for c in (c_x0, c_eps))
        arrays = [self._flat(x0), c_x0, c_eps, xt.reshape(-1), eps.reshape(-1)]
        words = self._counter(len(x0), seed, purpose, step, first_sample)
        self._launch_rows("noised_drawn", x0.shape, arrays, *words)
        return xt, eps

    def reverse(self, xt, prediction, z, c):
        """Ops.reverse, in one kernel; float32 alone."""
        xs = self.xp.empty(xt.shape, np.float32)
        z = z if c.sigma else xt  # any array will do: it is multiplied by 0
        given = [self._flat(x, xt.shape) for x in (xt, prediction, z)]
        self._launch_rows("reverse", xt.shape, [*given, xs.reshape(-1)], self._numbers(*c))
        return xs

    def reverse_drawn(self, xt, prediction, c, seed=0, purpose=REVERSE, step=0, first_sample=0):
        """Ops.reverse_drawn, in one kernel: the z that `normal` draws with these arguments."""
        xs = self.xp.empty(xt.shape, np.float32)
        arrays = [self._flat(xt), self._flat(prediction, xt.shape), xs.reshape(-1)]
        words = self._counter(len(xt), seed, purpose, step, first_sample)
        c = c if isinstance(c, self.xp.ndarray) else self._numbers(*c)
        self._launch_rows("reverse_drawn", xt.shape, arrays, c, *words)
        return xs

    def adamw_ema(self, vectors, grad, scale, factors, ema_weight):
        """Ops.adamw_ema, in one kernel; flat contiguous float32, scale (1,) on the device.

        Raises InputError for anything else.
        """
        theta, *others = (self._in_place(x) for x in vectors)
        flat = [theta, self._flat(grad, theta.shape), *others]
        if any(x.shape != theta.shape for x in others):
            raise InputError(
                f"adamw_ema needs vectors of one shape, got {[x.shape for x in vectors]}"
            )
        threads, tiles = tiles_for(-(-theta.size // 4), STEP_THREADS)
        if not isinstance(factors, self.xp.ndarray):
            numbers = self._numbers(*factors, ema_weight)
            factors, ema_weight = numbers[:6], numbers[6]
        numbers = np.int64(theta.size), factors, ema_weight.reshape(1)
        arrays = *flat, self._flat(scale, (1,))
        self._launch("adamw_ema", (tiles,), (threads,), *arrays, *numbers, wide=aligned(flat))

    # GroupNorm and SiLU.

    def groupnorm(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm, in one kernel."""
        if x.dtype != np.float32 or x.shape[-1] > groupnorm.MOST * groups:
            return super().groupnorm(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=False)

    def groupnorm_backward(self, dy, g, tape, *onto):
        """Ops.groupnorm_backward, in one kernel."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_backward(dy, g, tape, *onto)
        return self.added(self._normalise_backward(dy, g, tape), *onto)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm_silu, in one kernel."""
        if x.dtype != np.float32 or x.shape[-1] > groupnorm.MOST * groups:
            return super().groupnorm_silu(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=True)

    def groupnorm_silu_backward(self, dy, g, tape, *onto):
        """Ops.groupnorm_silu_backward, in one kernel."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_silu_backward(dy, g, tape, *onto)
        return self.added(self._normalise_backward(dy, g, tape), *onto)

    def _normalise(self, x, p, groups, tape, tol, silu):
        B, C = len(x), x.shape[-1]
        y = self.xp.empty(x.shape, np.float32)
        mean, inv = (self.xp.empty(B * C, np.float32) for _ in range(2))
        w, b = self._flat(p.w, (C,)), self._flat(p.b, (C,))
        kept = _Normalised(self._flat(x), w, b, mean, inv, groups, silu)
        wide = C % 4 == 0 and aligned([kept.x, y])
        grid, block, sizes = slab_launch(x.shape, groups, wide)
        arrays = kept.x, w, b, y.reshape(-1), mean, inv
        name = "norm_silu" if silu else "norm"
        self._launch(name, grid, block, *arrays, *sizes, np.float32(tol), wide=wide)
        tape.append(kept)
        return y

    def _normalise_backward(self, dy, g, tape):
        kept = tape.pop()
        dx, dy = self.xp.empty(dy.shape, np.float32), self.xp.ascontiguousarray(dy)
        B, C = len(dy), dy.shape[-1]
        dw, db = (self.xp.empty(B * C, np.float32) for _ in range(2))
        wide = C % 4 == 0 and aligned([kept.x, dx, dy])
        grid, block, sizes = slab_launch(dy.shape, kept.groups, wide)
        given = self._flat(dy), kept.x, kept.w, kept.b, kept.mean, kept.inv
        filled = dx.reshape(-1), dw, db, self._in_place(g.w), self._in_place(g.b)
        name = "norm_silu_backward" if kept.silu else "norm_backward"
        arrays = *given, *filled, self._slab_counts(grid[1])
        self._launch(name, grid, block, *arrays, *sizes, wide=wide)
        return dx

    @cached_property
    def _counts(self):
        """What finds the last block of a slab, by device and stream: zeros between kernels."""
        return {}

    def _slab_counts(self, slabs):
        """A zero for each slab, of which no kernel on another stream knows."""
        key = slabs
        if self.xp is not np:
            cuda = self.xp.cuda
            key = slabs, cuda.runtime.getDevice(), cuda.get_current_stream().ptr
        if key not in self._counts:
            self._counts[key] = self.xp.zeros(slabs, np.uint32)
        return self._counts[key]


def slab_launch(shape, groups, wide):
    """How a normalisation of an array (B, ..., C) is launched.

    Returns:
        The grid, the block, and the kernel's sizes: pixels, channels, those of a group, and those
        of a slab. A slab is whole groups; of up to 64 channels, so that neighbours are read
        together, but fewer where that leaves processors without a block.
    """
    B, C = shape[0], shape[-1]
    pixels, width = math.prod(shape[1:-1]), C // groups
    unit = math.lcm(width, 4) if wide else width
    slabs = [n for n in range(unit, max(unit, min(C, 64)) + 1, unit) if C % n == 0]
    slabs = [n for n in slabs if n >= 8] or slabs[-1:]  # 32 bytes: what memory hands over at once
    slab = slabs[0]
    for least in (FEW_BLOCKS, ENOUGH_BLOCKS):
        slab = max((n for n in slabs if B * (C // n) >= least), default=slab)
    across = min(-(-slab // 4), max(1, NORM_THREADS // 8))
    down = 1 << (min(NORM_THREADS // across, max(pixels, 1)).bit_length() - 1)
    return (B, C // slab), (across, down), tuple(map(np.int64, (pixels, C, width, slab)))


class CudaOps(Recorder, CudaKernels, CupyOps):
    """The kernels on a GPU; what they do not compute is CuPy's.

    Args:
        cupy: the module.
        precision: of the products, "fp32" or "tf32".
    """

    name = "cuda"

    def __init__(self, cupy, precision="fp32"):
        super().__init__(cupy)
        self.precision, self.products = precision, products.make(cupy, precision)
        self._streams = {}


class CudaSimOps(CudaKernels, Ops):
    """The same kernels, simulated over the reference: for tests, and for readers without a GPU."""

    name = "cuda-sim"
    # the simulator's threads share what a block shares, so one kernel runs at a time
    shards = 1
    products = products.PlainProducts(np)


def make(name, precision="fp32"):
    """The backend `cuda` or `cuda-sim`, for `backend.get`."""
    if name == "cuda-sim":
        return CudaSimOps()
    import cupy

    return CudaOps(cupy, precision)
