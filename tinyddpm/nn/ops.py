"""Every differentiable operation and, under it, its backward: the reference backend, in NumPy.

An operation holds no state. Forward puts what its backward needs on a last-in-first-out `tape`;
backward takes it off, adds parameter gradients to the views `g` (the same names as `p`) and returns
the input's gradient, so a backward is its forward read from the bottom up. dy stands for dLoss/dy.
Images are channels-last, (B, H, W, C); every result keeps the dtype of its input. Other backends
override what they speed up.
"""

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .convolution import Convolution, long_rows

Array = NDArray[Any]  # of NumPy, or of the backend's module


class Forget:
    """The tape of inference, one for each call of a network: it keeps nothing that is put on it."""

    def __init__(self) -> None:
        # what a backend finds unchanged after this, it may take for unchanged until the end
        self.begun = time.perf_counter()

    def append(self, item):
        """Drop the item."""


class Recompute(list[Any]):
    """A tape that keeps of a U-Net's block its input: backward computes the rest again (Chen16)."""


Tape = list[Any] | Forget


class Ops(Convolution):
    """The operations on arrays of the module `xp`; every other backend is tested against them."""

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
        return self._silu(self.xp.array(x), tape)

    def _silu(self, x, tape):
        """silu, in place of x."""
        s = -x
        with np.errstate(over="ignore"):
            self.xp.exp(s, out=s)
        s += 1
        self.xp.reciprocal(s, out=s)
        x *= s
        tape.append((s, x))
        return x

    def silu_backward(self, dy, tape):
        """dx = dy (s + y (1 - s))."""
        s, y = tape.pop()
        dx = 1 - s
        dx *= y
        dx += s
        dx *= dy
        return dx

    def pixel_dot(self, x, y):
        """The sum of x y over the middle axis, both (B, S, C): (B, C)."""
        return self.xp.einsum("bsc,bsc->bc", x, y)

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
        rows, pixels = long_rows(x), x.reshape(len(x), -1, x.shape[-1])
        mean = self._group_mean(self.pixel_sum(pixels), groups, pixels.shape[1])
        centred = rows - self._along(mean, rows)
        pixels = centred.reshape(pixels.shape)
        square = self._group_mean(self.pixel_dot(pixels, pixels), groups, pixels.shape[1])
        inv = 1 / self.xp.sqrt(square + x.dtype.type(tol))
        tape.append((centred, inv, p.w, groups))
        y = centred * self._along(inv * p.w, rows)
        y += self._along(p.b[None], rows)
        return y.reshape(x.shape)

    def groupnorm_backward(self, dy, g, tape, *onto):
        """dx = inv (dn - mean(dn) - n mean(dn n)), n = centred inv, dn = dy w; means of groups.

        onto: arrays like dx, added to it: the input's gradients from elsewhere.
        """
        return self._groupnorm_backward(self.xp.array(dy), g, tape, onto)

    def _groupnorm_backward(self, dx, g, tape, onto):
        """groupnorm_backward, where it can be in place of dx, which is dy at first."""
        centred, inv, w, groups = tape.pop()
        dy, pixels = (x.reshape(len(x), -1, len(w)) for x in (dx, centred))
        sum_dy = self.pixel_sum(dy)
        sum_dy_n = self.pixel_dot(dy, pixels) * inv
        g.b += sum_dy.sum(axis=0)
        g.w += sum_dy_n.sum(axis=0)
        mean_dn = self._group_mean(sum_dy * w, groups, pixels.shape[1])
        mean_dn_n = self._group_mean(sum_dy_n * w, groups, pixels.shape[1])
        rows = long_rows(dx)
        rows *= self._along(inv * w, rows)
        rows -= centred * self._along(inv * inv * mean_dn_n, rows)
        rows -= self._along(inv * mean_dn, rows)
        return self.added(rows.reshape(dx.shape), *onto)

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
        return self._silu(self.groupnorm(x, p, groups, tape, tol), tape)

    def groupnorm_silu_backward(self, dy, g, tape, *onto):
        """SiLU's backward, then GroupNorm's."""
        return self._groupnorm_backward(self.silu_backward(dy, tape), g, tape, onto)

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

    def concat(self, a, b, tape):
        """a and b side by side along the channels."""
        tape.append(a.shape[-1])
        return self.xp.concatenate([a, b], axis=-1)

    def concat_backward(self, dy, tape):
        """da, db: two copies, so that each may be added to in place."""
        n = tape.pop()
        return dy[..., :n].copy(), dy[..., n:].copy()

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
