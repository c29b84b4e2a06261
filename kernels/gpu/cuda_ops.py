"""The operations with CUDA kernels: on a GPU over CuPy's arrays, or simulated over NumPy's.

CudaKernels is a class to stand before an Ops over the same arrays. Nothing here copies between host
and device or waits for the device; numbers travel as kernel arguments. Float64, and whatever no
kernel computes, is the parent's, except for the fused steps, which refuse it.
"""

import math
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
        self._launch_rows("normal", shape, [z.reshape(-1)], *words)
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
        if x.dtype != np.float32:
            return super().groupnorm(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=False)

    def groupnorm_backward(self, dy, g, tape):
        """Ops.groupnorm_backward, in one kernel and two sums over the samples."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm_silu, in one kernel."""
        if x.dtype != np.float32:
            return super().groupnorm_silu(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=True)

    def groupnorm_silu_backward(self, dy, g, tape):
        """Ops.groupnorm_silu_backward, in one kernel and two sums over the samples."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_silu_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape)

    def _normalise(self, x, p, groups, tape, tol, silu):
        B, C = len(x), x.shape[-1]
        y = self.xp.empty(x.shape, np.float32)
        mean, inv = (self.xp.empty(B * groups, np.float32) for _ in range(2))
        w, b = self._flat(p.w, (C,)), self._flat(p.b, (C,))
        kept = _Normalised(self._flat(x), w, b, mean, inv, groups, silu)
        name = "norm_silu" if silu else "norm"
        grid, block, sizes = _group_launch(x.shape, groups)
        arrays = kept.x, w, b, y.reshape(-1), mean, inv
        self._launch(name, grid, block, *arrays, *sizes, np.float32(tol))
        tape.append(kept)
        return y

    def _normalise_backward(self, dy, g, tape):
        kept = tape.pop()
        dx = self.xp.empty(dy.shape, np.float32)
        B, C = len(dy), dy.shape[-1]
        dw, db = (self.xp.empty((B, C), np.float32) for _ in range(2))
        name = "norm_silu_backward" if kept.silu else "norm_backward"
        grid, block, sizes = _group_launch(dy.shape, kept.groups)
        given = self._flat(dy), kept.x, kept.w, kept.b, kept.mean, kept.inv
        filled = (a.reshape(-1) for a in (dx, dw, db))
        self._launch(name, grid, block, *given, *filled, *sizes)
        self.products.add_rows(dw, g.w)
        self.products.add_rows(db, g.b)
        return dx


def _group_launch(shape, groups):
    """Grid, block and sizes (pixels, channels, channels of a group) of a normalisation's kernel."""
    B, C = shape[0], shape[-1]
    pixels, width = math.prod(shape[1:-1]), C // groups
    across = min(width, NORM_THREADS)
    block = across, max(1, min(NORM_THREADS // across, pixels))
    return (B, groups), block, (np.int64(pixels), np.int64(C), np.int64(width))


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
