"""The operations with CUDA kernels: on a GPU over CuPy's arrays, or simulated over NumPy's.

CudaKernels is a class to stand before an Ops over the same arrays. Nothing here copies between host
and device or waits for the device; numbers travel as kernel arguments. Float64, and whatever no
kernel computes, is the parent's, except for the fused steps, which refuse it.
"""

import math
from typing import NamedTuple

import numpy as np

from tinyddpm.errors import InputError
from tinyddpm.nn import optim
from tinyddpm.nn.ops import Ops
from tinyddpm.noise import EPS, REVERSE

from . import groupnorm
from .cupy_ops import CupyOps
from .device_functions import SIMULATED
from .launch import STEP_THREADS, Launcher, aligned, tiles_for

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


class CudaKernels(Launcher):
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

    def clip_scale(self, grad, limit):
        """`optim.clip_scale_unread`: on the device, the scale (1,) for a kernel to read."""
        with np.errstate(all="ignore"):  # divergence is the caller's to look for
            scale, norm = optim.clip_scale_unread(self.xp, grad, limit)
        return scale.reshape(1), norm

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
        dw, db = (self.xp.empty((len(dy), dy.shape[-1]), np.float32) for _ in range(2))
        name = "norm_silu_backward" if kept.silu else "norm_backward"
        grid, block, sizes = _group_launch(dy.shape, kept.groups)
        given = self._flat(dy), kept.x, kept.w, kept.b, kept.mean, kept.inv
        filled = (a.reshape(-1) for a in (dx, dw, db))
        self._launch(name, grid, block, *given, *filled, *sizes)
        g.w += dw.sum(axis=0)
        g.b += db.sum(axis=0)
        return dx

    # Convolution.

    def _patches(self, x, k, stride, size, before=0):
        """Ops._patches, in one kernel; `before` zeros stand before x, and as needed after it."""
        if x.dtype != np.float32 or (k == 1 and stride == 1 and before == 0):
            return super()._patches(x, k, stride, size)
        B, H, W, C = x.shape
        patches, flat = self.xp.empty((B * size[0] * size[1], k * k * C), np.float32), self._flat(x)
        wide = C % 4 == 0 and aligned([flat, patches])
        across, _ = tiles_for(C // (4 if wide else 1), STEP_THREADS)
        grid, block = (B, size[0], k * k), (across, min(STEP_THREADS // across, size[1]))
        sizes = map(np.int64, (H, W, C, k, stride, before, size[1]))
        self._launch("im2col", grid, block, flat, patches.reshape(-1), *sizes, wide=wide)
        return patches


def _group_launch(shape, groups):
    """Grid, block and sizes (pixels, channels, channels of a group) of a normalisation's kernel."""
    B, C = shape[0], shape[-1]
    pixels, width = math.prod(shape[1:-1]), C // groups
    across = min(width, NORM_THREADS)
    block = across, max(1, min(NORM_THREADS // across, pixels))
    return (B, groups), block, (np.int64(pixels), np.int64(C), np.int64(width))


class CudaOps(CudaKernels, CupyOps):
    """The kernels on a GPU; what they do not compute is CuPy's."""

    name = "cuda"


class CudaSimOps(CudaKernels, Ops):
    """The same kernels, simulated over the reference: for tests, and for readers without a GPU."""

    name = "cuda-sim"
    # the simulator's threads share what a block shares, so one kernel runs at a time
    shards = 1


def make(name):
    """The backend `cuda` or `cuda-sim`, for `backend.get`."""
    if name == "cuda-sim":
        return CudaSimOps()
    import cupy

    return CudaOps(cupy)
