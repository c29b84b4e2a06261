"""Every differentiable operation and, under it, its backward: the reference backend, in NumPy.

An operation holds no state. Forward puts what its backward needs on a last-in-first-out `tape`;
backward takes it off, adds parameter gradients to the views `g` (the same names as `p`) and returns
the input's gradient, so a backward is its forward read from the bottom up. dy stands for dLoss/dy.
Images are channels-last, (B, H, W, C); every result keeps the dtype of its input. Other backends
override what they speed up.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import Steps

Array = NDArray[Any]  # of NumPy, or of the backend's module


class Forget:
    """The tape of inference: it keeps nothing that is put on it."""

    def append(self, item):
        """Drop the item."""


Tape = list[Any] | Forget


class Ops(Steps):
    """The operations on arrays of the module `xp`; every other backend is tested against them."""

    # A block of unrolled patches should stay in cache between being written and being multiplied.
    block_bytes = 1 << 21

    # Linear: y = x w + b; x (..., C), w (C, O), b (O,).

    def linear(self, x, p, tape, shift=None, onto=None):
        """y = x w + b, over the last axis, and what else is added.

        Args:
            x, p, tape: as above; the tape takes what linear_backward needs.
            shift: (B or 1, O), for x (B, C), or None; its gradient is dy.
            onto: like y, or None; its gradient is dy.
        """
        tape.append((x, p.w))
        y = x @ p.w
        y += p.b
        if shift is not None:
            y += shift
        if onto is not None:
            y += onto
        return y

    def linear_backward(self, dy, g, tape, onto=None):
        """dw = x^T dy, db = sum dy, dx = dy w^T, or onto + dx, perhaps in onto."""
        x, w = tape.pop()
        rows = dy.reshape(-1, dy.shape[-1])
        g.b += rows.sum(axis=0)
        g.w += x.reshape(-1, x.shape[-1]).T @ rows
        dx = dy @ w.T
        if onto is not None:
            dx += onto
        return dx

    def silu_linear(self, x, p, tape, shift=None, onto=None):
        """linear(silu(x)), in which a backend may activate x as it reads it."""
        return self.linear(self.silu(x, tape), p, tape, shift, onto)

    def silu_linear_backward(self, dy, g, tape):
        """linear's backward, then SiLU's."""
        return self.silu_backward(self.linear_backward(dy, g, tape), tape)

    # SiLU (Elfwing17 eq. 4): y = x s with s = 1 / (1 + exp(-x)); dy/dx = s + y (1 - s).

    def silu(self, x, tape):
        """y = x / (1 + exp(-x)); where exp overflows, its infinity gives the right limit, 0."""
        s = -x
        with np.errstate(over="ignore"):
            self.xp.exp(s, out=s)
        s += 1
        self.xp.reciprocal(s, out=s)
        y = x * s
        tape.append((s, y))
        return y

    def silu_backward(self, dy, tape):
        """dx = dy (s + y (1 - s))."""
        s, y = tape.pop()
        dx = 1 - s
        dx *= y
        dx += s
        dx *= dy
        return dx

    def pixel_sum(self, x):
        """The sum over all but the first and last axis, (B, C); a product with ones beats `sum`."""
        rows = x.reshape(len(x), -1, x.shape[-1])
        return (self.xp.ones((1, rows.shape[1]), x.dtype) @ rows)[:, 0]

    def pixel_dot(self, x, y):
        """The sum of x y over the middle axis, both (B, S, C): (B, C)."""
        return self.xp.einsum("bsc,bsc->bc", x, y)

    # Convolution with w (k, k, C, O) and stride s:
    # y[b,i,j,:] = b + sum_{u,v} x[b, s i + u - pad, s j + v - pad, :] w[u,v].

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """A k x k convolution, as unrolled patches times a matrix.

        Args:
            x: (B, H, W, C).
            p: p.w (k, k, C, O) and p.b (O,).
            tape: takes what conv2d_backward needs.
            stride: the step between patches, along both axes.
            pad: how many zeros stand before and after each axis.
            shift: (B or 1, O), added at every pixel, or None; a backend can add it on the way. Its
                gradient is pixel_sum(dy).
            onto: like y, added too, or None; its gradient is dy.

        Returns:
            y, (B, H', W', O) with H' = (H + sum(pad) - k) // stride + 1, and W' likewise.
        """
        k = p.w.shape[0]
        size = [(n + sum(pad) - k) // stride + 1 for n in x.shape[1:3]]
        padded = self._pad_spread(x, [n + sum(pad) for n in x.shape[1:3]], pad[0], 1)
        tape.append((padded, p.w, stride, pad[0], x.shape))
        y = self._correlate(padded, p.w, stride, size)
        y += p.b
        if shift is not None:
            y += shift[:, None, None]
        if onto is not None:
            y += onto
        return y

    def conv2d_backward(self, dy, g, tape):
        """dw = patches^T dy; dx = dy, spread by the stride, convolved with w turned by 180."""
        padded, w, stride, before, shape = tape.pop()
        k, _, inputs, outputs = w.shape
        g.b += self.pixel_sum(dy).sum(axis=0)
        for part in self._parts(dy, k * k * inputs):
            patches = self._patches(padded[part], k, stride, dy.shape[1:3])
            g.w += (patches.T @ dy[part].reshape(-1, outputs)).reshape(w.shape)
        spread = self._pad_spread(dy, [n + k - 1 for n in shape[1:3]], k - 1 - before, stride)
        turned = w[::-1, ::-1].swapaxes(2, 3)
        return self._correlate(spread, turned, 1, shape[1:3])

    def _pad_spread(self, x, size, before, step):
        """x in zeros of the given size: its first pixel at `before`, its pixels `step` apart."""
        if tuple(size) == x.shape[1:3] and before == 0 and step == 1:
            return x
        B, H, W, C = x.shape
        out = self.xp.zeros((B, *size, C), x.dtype)
        out[
            :,
            before : before + step * (H - 1) + 1 : step,
            before : before + step * (W - 1) + 1 : step,
        ] = x
        return out

    def _correlate(self, x, w, stride, size):
        """Every k x k patch of x times w, without bias; (B, *size, O)."""
        k, _, inputs, outputs = w.shape
        w = w.reshape(-1, outputs)
        y = self.xp.empty((len(x), *size, outputs), x.dtype)
        for part in self._parts(y, k * k * inputs):
            self.xp.matmul(
                self._patches(x[part], k, stride, size), w, out=y[part].reshape(-1, outputs)
            )
        return y

    def _parts(self, y, width):
        """Slices of the batch whose patches, `width` numbers a pixel of y, fit in block_bytes."""
        step = max(1, self.block_bytes // (math.prod(y.shape[1:3]) * width * y.dtype.itemsize))
        return [slice(b, b + step) for b in range(0, len(y), step)]

    def _patches(self, x, k, stride, size):
        """im2col: the k x k patches of x as rows, (B H W, k k C)."""
        B, _, _, C = x.shape
        if k == 1 and stride == 1:
            return x.reshape(-1, C)
        x = self.xp.ascontiguousarray(x)
        b, h, w, c = x.strides
        # the k pixels of a patch's row lie side by side in x
        windows = self.xp.lib.stride_tricks.as_strided(
            x, (B, *size, k, k * C), (b, stride * h, stride * w, h, c)
        )
        return windows.reshape(-1, k * k * C)

    # GroupNorm (Wu18 eq. 1-3): y = w (x - mean) / sqrt(var + tol) + b; mean and variance are taken
    # over (H, W, C / groups) of each sample.

    def groupnorm(self, x, p, groups, tape, tol=1e-6):
        """Normalise each group of channels of each sample.

        Args:
            x: (B, ..., C).
            p: p.w and p.b, (C,).
            groups: how many, a divisor of C.
            tape: takes what groupnorm_backward needs.
            tol: added to the variance.

        Returns:
            y, like x.
        """
        rows = x.reshape(len(x), -1, x.shape[-1])
        centred = rows - self._group_mean(self.pixel_sum(rows), groups, rows.shape[1])[:, None]
        square = self.pixel_dot(centred, centred)
        inv = 1 / self.xp.sqrt(self._group_mean(square, groups, rows.shape[1]) + x.dtype.type(tol))
        tape.append((centred, inv, p.w, groups))
        y = centred * (inv * p.w)[:, None]
        y += p.b
        return y.reshape(x.shape)

    def groupnorm_backward(self, dy, g, tape):
        """dx = inv (dn - mean(dn) - n mean(dn n)), n = centred inv, dn = dy w; means of groups."""
        centred, inv, w, groups = tape.pop()
        pixels = centred.shape[1]
        rows = dy.reshape(centred.shape)
        sum_dy = self.pixel_sum(rows)
        sum_dy_n = self.pixel_dot(rows, centred) * inv
        g.b += sum_dy.sum(axis=0)
        g.w += sum_dy_n.sum(axis=0)
        mean_dn = self._group_mean(sum_dy * w, groups, pixels)
        mean_dn_n = self._group_mean(sum_dy_n * w, groups, pixels)
        dx = rows * (inv * w)[:, None]
        dx -= centred * (inv * inv * mean_dn_n)[:, None]
        dx -= (inv * mean_dn)[:, None]
        return dx.reshape(dy.shape)

    def _group_mean(self, sums, groups, pixels):
        """Sums over pixels (B, C) -> the mean of each channel's group, (B, C)."""
        B, C = sums.shape
        mean = sums.reshape(B, groups, -1).sum(axis=2) / sums.dtype.type(pixels * (C // groups))
        return mean.repeat(C // groups, axis=1)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """silu(groupnorm(x)): the pair before most convolutions, which a backend may fuse.

        Args:
            x, p, groups, tape, tol: as `groupnorm`'s.

        Returns:
            y, like x.
        """
        return self.silu(self.groupnorm(x, p, groups, tape, tol), tape)

    def groupnorm_silu_backward(self, dy, g, tape):
        """SiLU's backward, then GroupNorm's."""
        return self.groupnorm_backward(self.silu_backward(dy, tape), g, tape)

    # Softmax, and attention (Vaswani17 eq. 1): y = softmax(q k^T / sqrt(d)) v for each head of d
    # channels.

    def softmax(self, x, tape):
        """y = exp(x) / sum exp(x) over the last axis; x less its maximum, so nothing overflows."""
        y = self.xp.exp(x - x.max(axis=-1, keepdims=True))
        y /= y.sum(axis=-1, keepdims=True)
        tape.append(y)
        return y

    def softmax_backward(self, dy, tape):
        """dx = y (dy - sum(dy y))."""
        y = tape.pop()
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))

    def attention(self, q, k, v, heads, tape):
        """Attention among the N tokens of each sample, in each of `heads` parts of the channels.

        Args:
            q, k, v: (B, N, C).
            heads: how many, a divisor of C.
            tape: takes what attention_backward needs.

        Returns:
            y, (B, N, C).
        """
        q, k, v = (self._split(x, heads) for x in (q, k, v))
        scale = q.dtype.type(1 / math.sqrt(q.shape[-1]))
        weights = self.softmax((q @ k.swapaxes(2, 3)) * scale, tape)
        tape.append((q, k, v, weights, scale))
        return self._merge(weights @ v)

    def attention_backward(self, dy, tape):
        """dq, dk, dv, each (B, N, C)."""
        q, k, v, weights, scale = tape.pop()
        dy = self._split(dy, q.shape[1])
        dv = weights.swapaxes(2, 3) @ dy
        dscore = self.softmax_backward(dy @ v.swapaxes(2, 3), tape) * scale
        return self._merge(dscore @ k), self._merge(dscore.swapaxes(2, 3) @ q), self._merge(dv)

    def _split(self, x, heads):
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    def _merge(self, x):
        """(B, heads, N, d) -> (B, N, heads d)."""
        return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)

    # Operations without parameters.

    def upsample(self, x, tape):
        """Nearest neighbour, twice the size: (B, H, W, C) -> (B, 2 H, 2 W, C)."""
        B, H, W, C = x.shape
        return self.xp.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C)).reshape(
            B, 2 * H, 2 * W, C
        )

    def upsample_backward(self, dy, tape):
        """Each input pixel gathers the four that it was copied to."""
        rows = dy[:, ::2] + dy[:, 1::2]
        return rows[:, :, ::2] + rows[:, :, 1::2]

    def concat(self, a, b, tape):
        """a and b side by side along the channels."""
        tape.append(a.shape[-1])
        return self.xp.concatenate([a, b], axis=-1)

    def concat_backward(self, dy, tape):
        """da, db: two copies, so that each may be added to in place."""
        n = tape.pop()
        return dy[..., :n].copy(), dy[..., n:].copy()

    def upsample_conv2d(self, x, p, tape):
        """conv2d(upsample(x)), in which a backend may share the work of equal pixels."""
        return self.conv2d(self.upsample(x, tape), p, tape)

    def upsample_conv2d_backward(self, dy, g, tape):
        """conv2d's backward, then upsample's."""
        return self.upsample_backward(self.conv2d_backward(dy, g, tape), tape)

    def dropout(self, x, mask, tape):
        """x times a mask of 0 and 1 / (1 - rate) (Srivastava14); x itself for mask None."""
        tape.append(mask)
        return x if mask is None else x * mask

    def dropout_backward(self, dy, tape):
        """dx = dy mask."""
        mask = tape.pop()
        return dy if mask is None else dy * mask

    # Embedding: y = w[label], one row for each class and the last for no class at all.

    def embedding(self, label, p, tape):
        """Rows of w (classes + 1, width) for label, (B,) or (1,) ints; -1, the last: no label."""
        tape.append(label)
        return p.w[label]

    def embedding_backward(self, dy, g, tape):
        """dw[k] = the sum of dy over the samples with label k: a product with one-hot rows."""
        label = tape.pop() % len(g.w)
        g.w += (self.xp.arange(len(g.w))[:, None] == label).astype(dy.dtype) @ dy

    def time_embedding(self, t, dim, dtype, shift=1, cos_first=False):
        """Vaswani17 section 3.5, Ho20's code: [sin, cos](t w), w_i = 10000^(-i / (dim/2 - shift)).

        Args:
            t: (B,) or an int.
            dim: how many numbers, even.
            dtype: of the result; all before it is float64.
            shift: 1 as in Ho20's code, 0 as in Vaswani17.
            cos_first: whether it is [cos, sin] instead.

        Returns:
            (B or 1, dim).
        """
        xp, half = self.xp, dim // 2
        t = xp.full((1,), t) if isinstance(t, int) else t
        angle = t[:, None] * xp.exp(-math.log(10000) / (half - shift) * xp.arange(half))
        waves = [xp.sin(angle), xp.cos(angle)]
        return xp.concatenate(waves[::-1] if cos_first else waves, axis=1).astype(dtype)

    # The loss: mean of weight (y - target)^2 (Ho20 eq. 14, per element).

    def mse(self, y, target, weight, tape):
        """The mean over all elements of weight (y - target)^2.

        Args:
            y, target: (B, ...).
            weight: a number, or an array that broadcasts to y, such as (B, 1, ..., 1).
            tape: takes what mse_backward needs.

        Returns:
            A number, or an array () of the backend.
        """
        error = y - target
        tape.append((error, weight))
        return (weight * error * error).mean()

    def mse_backward(self, dloss, tape):
        """dy = 2 weight (y - target) dloss / size."""
        error, weight = tape.pop()
        return error * (weight * error.dtype.type(2 * dloss / error.size))
