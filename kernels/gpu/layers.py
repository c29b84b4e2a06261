"""The layers of a network with CUDA kernels: products into place, and what stands between them.

Every product goes through `products`; sums of gradients are added to where they belong by the
product itself. Float64, and strides beyond 2, are the parent's.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.nn.ops import Forget

from . import groupnorm
from .device_functions import SIMULATED
from .launch import STEP_THREADS, aligned, tiles_for
from .linear import Dense, LinearLayers
from .tiled import Tiled, TiledConvolution

KEPT_BYTES = 1 << 27  # of a layer's patches that are kept for its backward; larger are made anew
BLOCKS = 4 if SIMULATED else 512  # of a sum over all parameters
SUM_THREADS = 4 if SIMULATED else groupnorm.THREADS


class _Convolved(NamedTuple):
    """What the backward of a convolution needs."""

    x: Any  # the input, contiguous
    patches: Any  # its patches, or None where they were too large to keep
    w: Any
    stride: int
    before: int  # the zeros before each axis
    size: tuple  # of the result's images
    up: int  # 1 where x stands for itself at twice its size


class _Attended(NamedTuple):
    """What the backward of attention needs."""

    q: Any
    k: Any
    v: Any
    weights: Any  # (heads, B, N, N)


class _Activated(NamedTuple):
    """What the backward of SiLU needs."""

    x: Any


class CudaLayers(TiledConvolution, LinearLayers):
    """What CUDA kernels and cuBLAS compute of a network's layers, float32, as Ops does."""

    def _add_bias(self, y, b, shift=None, onto=None):
        """y (rows, C) += b, shift (B or 1, C) of each row's sample, and onto, like y."""
        rows, channels = y.shape
        name = "bias" + "_shift" * (shift is not None) + "_onto" * (onto is not None)
        samples = 1 if shift is None else len(shift)
        arrays = [y, self._flat(b), *(b if x is None else self._flat(x) for x in (shift, onto))]
        arrays = [x.reshape(-1) for x in arrays]
        self._launch_rows(name, (rows // max(samples, 1), channels), arrays, times=samples)

    def silu(self, x, tape):
        """Ops.silu, in one kernel."""
        if x.dtype != np.float32:
            return super().silu(x, tape)
        kept, y = _Activated(self._flat(x)), self.xp.empty(x.shape, np.float32)
        self._launch_rows("silu", (x.size // x.shape[-1], x.shape[-1]), [kept.x, y.reshape(-1)])
        tape.append(kept)
        return y

    def silu_backward(self, dy, tape):
        """Ops.silu_backward, in one kernel."""
        if not isinstance(tape[-1], _Activated):
            return super().silu_backward(dy, tape)
        kept, dx = tape.pop(), self.xp.empty(dy.shape, np.float32)
        arrays = [self._flat(dy), kept.x, dx.reshape(-1)]
        self._launch_rows("silu_backward", (dy.size // dy.shape[-1], dy.shape[-1]), arrays)
        return dx

    def pixel_sum(self, x):
        """Ops.pixel_sum: a product with ones."""
        if x.dtype != np.float32:
            return super().pixel_sum(x)
        rows = x.reshape(len(x), -1, x.shape[-1])
        return self.products.product(self._ones(rows.shape[1]), rows)[:, 0]

    def _ones(self, count):
        """(1, count) ones, made once."""
        if count not in self._rows_of_ones:
            self._rows_of_ones[count] = self.xp.ones((1, count), np.float32)
        return self._rows_of_ones[count]

    # Convolution.

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None, up=0):
        """Ops.conv2d: patches, a product, and one pass that adds b, shift and onto.

        up: 1 for the convolution of x at twice its size.
        """
        if x.dtype != np.float32 or stride not in (1, 2):
            return super().conv2d(x, p, tape, stride, pad, shift, onto)
        k, _, inputs, outputs = p.w.shape
        x = self.xp.ascontiguousarray(x)
        if self.tiles_pay(x, p.w, stride, pad, up):
            return self.tiled(x, p, tape, shift, onto, KEPT_BYTES)
        if (k, stride, pad, shift) == (1, 1, (0, 0), None) and self._is_small(x, p.w):
            return self._dense(x, p, tape, shift, onto, activate=False)
        size = tuple(((n << up) + sum(pad) - k) // stride + 1 for n in x.shape[1:3])
        kept = _Convolved(x, None, p.w, stride, pad[0], size, up)
        y, w = self.xp.empty((len(x), *size, outputs), np.float32), p.w.reshape(-1, outputs)
        parts = self._parts(y, k * k * inputs)
        for part in parts:
            patches = self._unrolled(kept, part)
            self.products.product(patches, w, out=y[part].reshape(-1, outputs))
        if len(parts) == 1 and patches.nbytes <= KEPT_BYTES and not isinstance(tape, Forget):
            kept = kept._replace(patches=patches)
        self._add_bias(y.reshape(-1, outputs), p.b, shift, onto)
        tape.append(kept)
        return y

    def conv2d_backward(self, dy, g, tape, *onto):
        """Ops.conv2d_backward; dx gathers from dy w^T what the patches had spread."""
        if isinstance(tape[-1], Tiled):
            return self.added(self.tiled_backward(dy, g, tape), *onto)
        if isinstance(tape[-1], Dense):
            return self.added(self._dense_backward(dy, g, tape), *onto)
        if not isinstance(tape[-1], _Convolved):
            return super().conv2d_backward(dy, g, tape, *onto)
        kept = tape.pop()
        k, _, inputs, outputs = kept.w.shape
        w, dw = kept.w.reshape(-1, outputs), g.w.reshape(-1, outputs)
        dx = self.xp.empty(kept.x.shape, np.float32)
        self.products.add_rows(dy.reshape(-1, outputs), g.b)
        for part in self._parts(dy, k * k * inputs):
            patches = self._unrolled(kept, part) if kept.patches is None else kept.patches
            rows = dy[part].reshape(-1, outputs)
            self.products.product(patches.T, rows, out=dw, add=True)
            if k == kept.stride == 1 and not (kept.up or kept.before):
                self.products.product(rows, w.T, out=dx[part].reshape(-1, inputs))
            else:
                self._gather(self.products.product(rows, w.T), dx[part], kept)
        return self.added(dx, *onto)

    def upsample_conv2d(self, x, p, tape):
        """Ops.upsample_conv2d; the larger image is never written."""
        if x.dtype != np.float32:
            return super().upsample_conv2d(x, p, tape)
        return self.conv2d(x, p, tape, up=1)

    def upsample_conv2d_backward(self, dy, g, tape):
        """Ops.upsample_conv2d_backward, likewise."""
        if not isinstance(tape[-1], _Convolved):
            return super().upsample_conv2d_backward(dy, g, tape)
        return self.conv2d_backward(dy, g, tape)

    def _unrolled(self, kept, part):
        """The patches of a part of the batch, (rows, k k C)."""
        x, k = kept.x[part], kept.w.shape[0]
        if k == kept.stride == 1 and not (kept.up or kept.before):
            return x.reshape(-1, x.shape[-1])
        return self._patches(x, k, kept.stride, kept.size, kept.before, kept.up)

    def _patches(self, x, k, stride, size, before=0, up=0):
        """Ops._patches, in one kernel; `before` zeros stand before x, and as needed after it."""
        if x.dtype != np.float32 or (k == 1 and stride == 1 and before == 0):
            return super()._patches(x, k, stride, size)
        B, H, W, C = x.shape
        patches, flat = self.xp.empty((B * size[0] * size[1], k * k * C), np.float32), self._flat(x)
        wide = C % 4 == 0 and aligned([flat, patches])
        across, _ = tiles_for(C // (4 if wide else 1), STEP_THREADS)
        grid, block = (B, size[0], k * k), (across, min(STEP_THREADS // across, size[1]))
        sizes = map(np.int64, (H, W, C, k, stride, before, size[1], up))
        self._launch("im2col", grid, block, flat, patches.reshape(-1), *sizes, wide=wide)
        return patches

    def _gather(self, dpatches, dx, kept):
        """dx = the sum of the patches' gradients at each pixel, in one kernel."""
        B, H, W, C = dx.shape
        flat = dx.reshape(-1)
        wide = C % 4 == 0 and aligned([flat, dpatches])
        across, _ = tiles_for(C // (4 if wide else 1), STEP_THREADS)
        sizes = H, W, C, kept.w.shape[0], kept.stride - 1, kept.before, *kept.size, kept.up
        grid, block = (B, H), (across, min(STEP_THREADS // across, W))
        self._launch("col2im", grid, block, dpatches.reshape(-1), flat, *sizes, wide=wide)

    # Attention.

    def attention(self, q, k, v, heads, tape):
        """Ops.attention: two products a head, and softmax in one kernel."""
        if q.dtype != np.float32:
            return super().attention(q, k, v, heads, tape)
        B, N, C = q.shape
        weights, y = self.xp.empty((heads, B, N, N), np.float32), self.xp.empty(q.shape, np.float32)
        q, k, v = (self.xp.ascontiguousarray(x) for x in (q, k, v))
        for i, (one, two) in enumerate(zip(self._heads(q, heads), self._heads(k, heads))):
            self.products.product(one, two.swapaxes(1, 2), out=weights[i])
        self._rows_kernel("softmax", weights, (), np.float32(math.sqrt(heads / C)))
        for i, (one, out) in enumerate(zip(self._heads(v, heads), self._heads(y, heads))):
            self.products.product(weights[i], one, out=out)
        tape.append(_Attended(q, k, v, weights))
        return y

    def attention_backward(self, dy, tape):
        """Ops.attention_backward, likewise."""
        if not isinstance(tape[-1], _Attended):
            return super().attention_backward(dy, tape)
        q, k, v, weights = tape.pop()
        heads, C, product = len(weights), q.shape[-1], self.products.product
        dy = self.xp.ascontiguousarray(dy)
        dq, dk, dv = (self.xp.empty(q.shape, np.float32) for _ in range(3))
        dscores = self.xp.empty(weights.shape, np.float32)
        for i, (one, two) in enumerate(zip(self._heads(dy, heads), self._heads(v, heads))):
            product(one, two.swapaxes(1, 2), out=dscores[i])
            product(weights[i].swapaxes(1, 2), one, out=self._heads(dv, heads)[i])
        scale = np.float32(math.sqrt(heads / C))
        self._rows_kernel("softmax_backward", dscores, (weights.reshape(-1),), scale)
        for i, (one, two) in enumerate(zip(self._heads(q, heads), self._heads(k, heads))):
            product(dscores[i], two, out=self._heads(dq, heads)[i])
            product(dscores[i].swapaxes(1, 2), one, out=self._heads(dk, heads)[i])
        return dq, dk, dv

    def _heads(self, x, heads):
        """The windows (B, N, d) of each head on x, (B, N, heads d)."""
        d = x.shape[-1] // heads
        return [x[..., i * d : (i + 1) * d] for i in range(heads)]

    def _rows_kernel(self, name, x, others, scale):
        """Start a kernel that takes a block for each row of x's last axis."""
        n = x.shape[-1]
        threads, _ = tiles_for(n, SUM_THREADS)
        arrays = x.reshape(-1), *others
        self._launch(name, (x.size // n,), (threads,), *arrays, np.int64(n), scale)

    # What surrounds the network.

    def embedding_backward(self, dy, g, tape):
        """Ops.embedding_backward: the product with one-hot rows, into g."""
        label = tape.pop() % len(g.w)
        rows = (self.xp.arange(len(g.w))[:, None] == label).astype(dy.dtype)
        self.products.product(rows, dy, out=g.w, add=True)

    def clip_scale(self, grad, limit):
        """(scale, norm), (1,) and () on the device, for a kernel to read: `optim.clip_scale`."""
        grad, sums = self._flat(grad), self.xp.empty(BLOCKS, np.float32)
        scale, norm = self.xp.empty(1, np.float32), self.xp.empty(1, np.float32)
        threads = (SUM_THREADS,)
        self._launch("square_sums", (BLOCKS,), threads, grad, sums, np.int64(grad.size))
        numbers = np.int64(BLOCKS), np.float32(limit or math.inf)
        self._launch("clip", (1,), threads, sums, scale, norm, *numbers)
        return scale, norm.reshape(())

    def dropout_mask(self, shape, dtype, rate, seed, purpose, step, first_sample):
        """Ops.dropout_mask, in one kernel."""
        if dtype != np.float32:
            return super().dropout_mask(shape, dtype, rate, seed, purpose, step, first_sample)
        mask = self.xp.empty(shape, np.float32)
        words = self._counter(shape[0], seed, purpose, step, first_sample)
        # the uniform number of a word w is (w + 1/2) / 2^32
        threshold = np.int64(math.ceil(rate * 2**32 - 0.5))
        value = np.float32(1) / np.float32(1 - rate)
        self._launch_rows("dropout_mask", shape, [mask.reshape(-1)], *words, threshold, value)
        return mask
