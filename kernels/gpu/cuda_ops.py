"""The operations with CUDA kernels: on a GPU over CuPy's arrays, or simulated over NumPy's.

A class to stand before an Ops over the same arrays: CudaOps(CudaKernels, CupyOps),
CudaSimOps(CudaKernels, Ops). Nothing here copies between host and device or waits for the device;
scalars travel as kernel arguments. Float64, and whatever no kernel knows, is the parent's, except
for the fused steps, which refuse it.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import cuda as numba_cuda

from tinyddpm.errors import InputError
from tinyddpm.nn import optim
from tinyddpm.nn.ops import Ops
from tinyddpm.noise import EPS, REVERSE, words

from . import fused_steps as cuda
from . import layers as cuda_norm
from .cupy_ops import CupyOps
from .device import SIMULATED

# Threads of a block. The simulator starts a thread of the operating system for each, so it gets
# few.
STEP_THREADS, NORM_THREADS = (16, 8) if SIMULATED else (128, cuda_norm.THREADS)
MOST_TILES = 65535  # blocks of a grid along its second axis


class _Normalised(NamedTuple):
    """What a normalisation's backward needs."""

    x: object
    w: object
    b: object
    mean: object
    inv: object
    groups: int
    silu: bool


def _tiles(size, threads):
    """(threads, tiles) that cover `size` with a power of two of threads, `threads` at most."""
    threads = min(threads, 1 << max(size - 1, 0).bit_length())
    return threads, -(-size // threads)


def _float32(*values):
    return tuple(np.float32(value) for value in values)


class CudaKernels:
    """What the kernels of `cuda` and `cuda_norm` speed up, float32, in the signatures of Ops and of
    the samplers.
    """

    # Launching.

    def _flat(self, x, shape=None):
        """x as a contiguous flat float32 array, copied where its elements are not neighbours.
        Raises InputError.
        """
        if x.dtype != np.float32 or (shape is not None and x.shape != tuple(shape)):
            raise InputError(
                f"a CUDA kernel needs float32 of shape {shape or x.shape}, "
                f"got {x.dtype} of {x.shape}"
            )
        return self.xp.ascontiguousarray(x).reshape(-1)

    def _in_place(self, x):
        """x, flat, itself: what a kernel changes cannot be a copy. Raises InputError where it is
        not contiguous.
        """
        if x.dtype != np.float32 or not x.flags.c_contiguous:
            raise InputError(
                "a CUDA kernel changes only contiguous float32 in place, "
                f"got {x.dtype} with strides {x.strides}"
            )
        return x.reshape(-1)

    def _launch(self, kernel, grid, block, *arguments):
        """Start a kernel on the current stream; one whose grid has no block at all has nothing to
        do.
        """
        if 0 in grid:
            return
        stream = 0
        if not SIMULATED:
            pointer = self.xp.cuda.get_current_stream().ptr
            stream = numba_cuda.external_stream(pointer) if pointer else 0
            arguments = [
                numba_cuda.as_cuda_array(a, sync=False) if isinstance(a, self.xp.ndarray) else a
                for a in arguments
            ]
        kernel[grid, block, stream](*arguments)

    def _step(self, name, shape, arrays, *arguments):
        """Launch a kernel over the rows of `shape`, four elements a thread; wide where every row
        allows it.
        """
        samples, n = shape[0], math.prod(shape[1:])
        wide = n % 4 == 0 and _aligned(arrays)
        across, tiles = _tiles(-(-n // 4), STEP_THREADS)
        if tiles > MOST_TILES:
            raise InputError(
                f"a CUDA kernel takes samples of at most {4 * STEP_THREADS * MOST_TILES} elements, "
                f"got {n}"
            )
        down, rows = _tiles(samples, STEP_THREADS // across)
        self._launch(
            getattr(cuda.KERNELS[wide], name),
            (rows, tiles),
            (across, down),
            *arrays,
            np.int32(samples),
            np.int32(n),
            *arguments,
        )

    # Noise and the steps of diffusion.

    def normal(self, shape, seed=0, purpose=EPS, step=0, first_sample=0):
        """noise.normal, on the device."""
        z = self.xp.empty(shape, np.float32)
        self._step(
            "normal", shape, [z.reshape(-1)], _counter(shape[0], seed, purpose, step, first_sample)
        )
        return z

    def noised(self, x0, eps, signal, noise):
        """Ho20 eq. 4: x_t = signal x0 + noise eps; x0, eps (B, ...), signal, noise (B,) on the
        device; float32.
        """
        xt = self.xp.empty(x0.shape, np.float32)
        self._step(
            "noised",
            x0.shape,
            [
                self._flat(x0),
                self._flat(eps, x0.shape),
                self._flat(signal, x0.shape[:1]),
                self._flat(noise, x0.shape[:1]),
                xt.reshape(-1),
            ],
        )
        return xt

    def noised_drawn(self, x0, signal, noise, seed=0, purpose=EPS, step=0, first_sample=0):
        """(x_t, eps) with eps drawn in the kernel: the same eps as `normal` with these arguments."""
        xt, eps = self.xp.empty(x0.shape, np.float32), self.xp.empty(x0.shape, np.float32)
        self._step(
            "noised_drawn",
            x0.shape,
            [
                self._flat(x0),
                self._flat(signal, x0.shape[:1]),
                self._flat(noise, x0.shape[:1]),
                xt.reshape(-1),
                eps.reshape(-1),
            ],
            _counter(len(x0), seed, purpose, step, first_sample),
        )
        return xt, eps

    def reverse(self, xt, output, z, factors):
        """x_s by formulas.reverse; factors: Python floats a_xt, a_output, bound (or inf), c_x0,
        c_xt, sigma.
        """
        xs = self.xp.empty(xt.shape, np.float32)
        z = z if factors[-1] else xt  # any array will do: it is multiplied by 0
        self._step(
            "reverse",
            xt.shape,
            [self._flat(xt), self._flat(output, xt.shape), self._flat(z, xt.shape), xs.reshape(-1)],
            _float32(*factors),
        )
        return xs

    def reverse_drawn(self, xt, output, factors, seed=0, purpose=REVERSE, step=0, first_sample=0):
        """x_s with z drawn in the kernel: the same z as `normal` with these arguments; none where
        sigma is 0.
        """
        xs = self.xp.empty(xt.shape, np.float32)
        self._step(
            "reverse_drawn",
            xt.shape,
            [self._flat(xt), self._flat(output, xt.shape), xs.reshape(-1)],
            _float32(*factors),
            _counter(len(xt), seed, purpose, step, first_sample),
        )
        return xs

    def adamw_ema(self, theta, grad, m, v, ema, scale, factors):
        """One step of AdamW and of the average, all but grad in place; flat float32 vectors of one
        length.

        scale: (1,) on the device, by which grad counts; factors: Python floats keep, rate, gain_m,
        gain_v, correct_v, tol (formulas.adamw) and the average's weight. Raises InputError.
        """
        flat = [
            self._in_place(theta),
            self._flat(grad, theta.shape),
            *map(self._in_place, (m, v, ema)),
        ]
        if not m.shape == v.shape == ema.shape == theta.shape:
            raise InputError(
                f"adamw_ema needs vectors of one shape, got {[x.shape for x in (theta, m, v, ema)]}"
            )
        threads, tiles = _tiles(-(-theta.size // 4), STEP_THREADS)
        self._launch(
            cuda.KERNELS[_aligned(flat)].adamw_ema,
            (tiles,),
            (threads,),
            *flat,
            self._flat(scale, (1,)),
            np.int64(theta.size),
            _float32(*factors),
        )

    def clip_scale(self, grad, limit):
        """`optim.clip_scale_unread`: (scale, norm) on the device, the scale (1,) for a kernel to
        read.
        """
        with np.errstate(all="ignore"):  # divergence is the caller's to look for
            scale, norm = optim.clip_scale_unread(self.xp, grad, limit)
        return scale.reshape(1), norm

    # GroupNorm and SiLU.

    def groupnorm(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm, in one kernel."""
        if x.dtype != np.float32:
            return super().groupnorm(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=False)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm_silu, in one kernel."""
        if x.dtype != np.float32:
            return super().groupnorm_silu(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, silu=True)

    def groupnorm_backward(self, dy, g, tape):
        """Ops.groupnorm_backward, in one kernel and two sums over the samples."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape)

    def groupnorm_silu_backward(self, dy, g, tape):
        """Ops.groupnorm_silu_backward, in one kernel and two sums over the samples."""
        if not isinstance(tape[-1], _Normalised):
            return super().groupnorm_silu_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape)

    def _normalise(self, x, p, groups, tape, tol, silu):
        B, C = len(x), x.shape[-1]
        y = self.xp.empty(x.shape, np.float32)
        kept = _Normalised(
            self._flat(x),
            self._flat(p.w, (C,)),
            self._flat(p.b, (C,)),
            self.xp.empty(B * groups, np.float32),
            self.xp.empty(B * groups, np.float32),
            groups,
            silu,
        )
        kernel = cuda_norm.norm_silu if silu else cuda_norm.norm
        grid, block, sizes = _group_launch(x.shape, groups)
        self._launch(
            kernel,
            grid,
            block,
            kept.x,
            kept.w,
            kept.b,
            y.reshape(-1),
            kept.mean,
            kept.inv,
            *sizes,
            np.float32(tol),
        )
        tape.append(kept)
        return y

    def _normalise_backward(self, dy, g, tape):
        kept = tape.pop()
        B, C = len(dy), dy.shape[-1]
        dx = self.xp.empty(dy.shape, np.float32)
        dw, db = self.xp.empty((B, C), np.float32), self.xp.empty((B, C), np.float32)
        kernel = cuda_norm.norm_silu_backward if kept.silu else cuda_norm.norm_backward
        grid, block, sizes = _group_launch(dy.shape, kept.groups)
        self._launch(
            kernel,
            grid,
            block,
            self._flat(dy),
            kept.x,
            kept.w,
            kept.b,
            kept.mean,
            kept.inv,
            dx.reshape(-1),
            dw.reshape(-1),
            db.reshape(-1),
            *sizes,
        )
        g.w += dw.sum(axis=0)
        g.b += db.sum(axis=0)
        return dx

    # Convolution.

    def _patches(self, x, k, stride, size, before=0):
        """Ops._patches in one kernel; `before` zeros stand before x on each axis, and as many as
        needed after.
        """
        if x.dtype != np.float32 or (k == 1 and stride == 1 and before == 0):
            return super()._patches(x, k, stride, size)
        B, H, W, C = x.shape
        patches, flat = self.xp.empty((B * size[0] * size[1], k * k * C), np.float32), self._flat(x)
        wide = C % 4 == 0 and _aligned([flat, patches])
        across, _ = _tiles(C // (4 if wide else 1), STEP_THREADS)
        block = across, min(STEP_THREADS // across, size[1])
        self._launch(
            cuda_norm.IM2COL[wide],
            (B, size[0], k * k),
            block,
            flat,
            patches.reshape(-1),
            *map(np.int64, (H, W, C, k, stride, before, size[1])),
        )
        return patches


class CudaOps(CudaKernels, CupyOps):
    """The kernels on a GPU; what no kernel knows is CuPy's."""

    name = "cuda"


class CudaSimOps(CudaKernels, Ops):
    """The same kernels, simulated, before the reference: for tests, and to read along without a
    GPU.
    """

    name = "cuda-sim"
    # the simulator's threads share what a block shares, so one kernel runs at a time
    shards = 1


def make(name):
    """The backend `cuda` or `cuda-sim`, for `backend.get`."""
    if name == "cuda-sim":
        return CudaSimOps()
    import cupy

    return CudaOps(cupy)


def _aligned(arrays):
    """Whether each array begins at a multiple of 16 bytes, as a load of four floats needs."""
    return all(
        (x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr) % 16 == 0 for x in arrays
    )


def _counter(samples, seed, purpose, step, first_sample):
    """The words that the kernels build a counter from: k0, k1, purpose, step, first_sample. Raises
    InputError.
    """
    *_, step, purpose, k0, k1 = words(samples, 0, seed, purpose, step, first_sample)
    return tuple(np.uint32(word) for word in (k0, k1, purpose, step, first_sample))


def _group_launch(shape, groups):
    """Grid, block and sizes (pixels, channels, channels of a group) of the normalisation kernels."""
    B, C = shape[0], shape[-1]
    pixels, width = math.prod(shape[1:-1]), C // groups
    across = min(width, NORM_THREADS)
    block = across, max(1, min(NORM_THREADS // across, pixels))
    return (B, groups), block, (np.int64(pixels), np.int64(C), np.int64(width))
