"""The operations that Numba speeds up on a CPU; all others, and float64, are the reference's."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba.core.errors import NumbaError

from tinyddpm import noise
from tinyddpm.nn.ops import Forget, Ops

from . import direct, fused_steps, groupnorm, silu
from .convolution import DOWN, UP, correlate, mix, outer, prepare, turned
from .layout import Pixels, framed, in_frame, offsets, pixels
from .prepared import Prepared
from .tiles import LANES, TILES

# the convolutions that kernels take, (k, stride): pads
KERNELS = {(3, 1): [(1, 1)], (3, 2): [(0, 0), (0, 1), (1, 0), (1, 1)], (1, 1): [(0, 0)]}
PARITIES = [(0, 0), (0, 1), (1, 0), (1, 1)]
MOST_TIMES = 1 << 14  # up to so many times t are embedded once and for all


class _Convolved(NamedTuple):
    """What conv2d_backward needs."""

    patches: Pixels  # at which the input's patches start
    w: np.ndarray
    stride: int
    before: int  # the zeros before each axis
    shape: tuple  # of the input


class _Doubled(NamedTuple):
    """What upsample_conv2d_backward needs."""

    x: np.ndarray  # the input, in a frame
    w: np.ndarray


class _Normalised(NamedTuple):
    """What the backward of a normalisation needs."""

    x: np.ndarray  # the input, as images
    w: np.ndarray
    b: np.ndarray
    groups: int
    activate: bool  # whether SiLU followed
    mean: np.ndarray  # (B, C)
    inv: np.ndarray  # (B, C), 1 / sqrt(var + tol)


class NumbaOps(Ops):
    """Ops on NumPy arrays with convolutions and normalisations compiled by Numba, float32.

    An input must stay as it is until its backward: the tape holds inputs, not copies of them.
    tiles: whether the convolutions' register tiles can be built here; without them the reference
    computes convolutions.
    """

    name = "numba"

    def __init__(self, tiles=True):
        self.tiles = tiles
        self._prepared = Prepared()

    # Convolution.

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """Ops.conv2d, which reads x in a frame of zeros."""
        k, O = len(p.w), p.w.shape[3]
        if not self._takes(x) or tuple(pad) not in KERNELS.get((k, stride), ()):
            return super().conv2d(x, p, tape, stride, pad, shift, onto)
        size = tuple((n + sum(pad) - k) // stride + 1 for n in x.shape[1:3])
        shape = (len(x), *size, O)
        y = np.empty(shape, np.float32)
        patches = pixels(self._framed(x, k), size, stride, (-pad[0], -pad[0]))
        tape.append(_Convolved(patches, p.w, stride, pad[0], x.shape))

        def make(w):
            return self._prepare(w, patches.grid if stride == 1 else None)

        weights = self._weights(p.w, tape, make, size)
        base = None if onto is None else pixels(onto, size)
        correlate(patches, weights, p.b, pixels(y, size), shift, base)
        return y

    def conv2d_backward(self, dy, g, tape, *onto):
        """dw, db and dx; at stride 2, dx is a convolution for each parity of rows and columns."""
        if not isinstance(tape[-1], _Convolved):
            return super().conv2d_backward(dy, g, tape, *onto)
        patches, w, stride, before, shape = tape.pop()
        B, H, W, _ = shape
        dy = self._framed(dy, len(w))
        outer(patches, pixels(dy, dy.shape[1:3]), g.w, g.b, len(w) == 3 and stride == 1)
        # at stride 2 it is the gradient of a block's end, whose backward reads patches
        dx = np.empty(shape, np.float32) if stride == 1 else framed(shape)
        for a in range(min(stride, H)):
            for b in range(min(stride, W)):
                part = -((a - H) // stride), -((b - W) // stride)
                kernel, first = turned(w, before, stride, a, b)
                weights = self._prepare(kernel, (B, *part))
                base = pixels(onto[0], part, stride, (a, b)) if onto else None
                out = pixels(dx, part, stride, (a, b))
                correlate(pixels(dy, part, 1, first), weights, None, out, onto=base)
        return self.added(dx, *onto[1:])

    def upsample_conv2d(self, x, p, tape):
        """conv2d(upsample(x)): 2 x 2 pixels of x for each parity, 16 products instead of 36."""
        if not self._takes(x):
            return super().upsample_conv2d(x, p, tape)
        x, (B, H, W, _) = self._framed(x), x.shape
        y = np.empty((B, 2 * H, 2 * W, p.w.shape[3]), np.float32)
        tape.append(_Doubled(x, p.w))

        def make(w):
            return [self._prepare(mix(UP[a], UP[b], w)) for a, b in PARITIES]

        kernels = self._weights(p.w, tape, make, "upsample")
        for (a, b), weights in zip(PARITIES, kernels):
            patches = pixels(x, (H, W), 1, (a - 1, b - 1))
            correlate(patches, weights, p.b, pixels(y, (H, W), 2, (a, b)))
        return y

    def upsample_conv2d_backward(self, dy, g, tape):
        """dw and dx from the 4 x 4 pixels of dy that each pixel of x reaches."""
        if not isinstance(tape[-1], _Doubled):
            return super().upsample_conv2d_backward(dy, g, tape)
        x, w = tape.pop()
        size, C = x.shape[1:3], x.shape[3]
        reach = pixels(self._framed(dy), size, 2, (-1, -1))
        dw, dx = np.zeros((4, 4, w.shape[3], C), np.float32), framed(x.shape)
        outer(reach, pixels(x, size), dw, np.zeros(C, np.float32))
        g.w += mix(DOWN.T, DOWN.T, dw).swapaxes(2, 3)
        g.b += self.pixel_sum(dy).sum(axis=0)
        kernel = self._prepare(mix(DOWN, DOWN, w).swapaxes(2, 3))
        correlate(reach, kernel, None, pixels(dx, size))
        return dx

    def concat_backward(self, dy, tape):
        """da, whose convolution reads it by patches, in a frame; db where it is."""
        if dy.dtype != np.float32 or dy.ndim != 4:
            return super().concat_backward(dy, tape)
        n = tape.pop()
        return self._framed(dy[..., :n]), dy[..., n:]

    # Apart, so that a measurement can tell what only moves numbers.

    def _framed(self, x, k=3):
        """x as a k x k convolution reads it: in a frame, if k is 3."""
        return in_frame(x) if k == 3 else x

    def _prepare(self, w, grid=None):
        return prepare(w, grid)

    def _takes(self, x):
        return self.tiles and x.dtype == np.float32

    def _weights(self, w, tape, make, kind):
        """make(w), kept where no backward comes; kind: what it is for."""
        if not isinstance(tape, Forget):
            return make(w)
        return self._prepared.find(w, kind, make, tape.begun)

    # Linear layers of many short samples as one product.

    def linear(self, x, p, tape, shift=None, onto=None):
        """Ops.linear, on rows."""
        if x.dtype != np.float32:
            return super().linear(x, p, tape, shift, onto)
        onto = onto if onto is None else onto.reshape(-1, onto.shape[-1])
        y = super().linear(x.reshape(-1, x.shape[-1]), p, tape, shift, onto)
        return y.reshape(*x.shape[:-1], -1)

    def linear_backward(self, dy, g, tape, onto=None):
        """Ops.linear_backward, on rows."""
        if dy.dtype != np.float32:
            return super().linear_backward(dy, g, tape, onto)
        onto = onto if onto is None else onto.reshape(-1, onto.shape[-1])
        dx = super().linear_backward(dy.reshape(-1, dy.shape[-1]), g, tape, onto)
        return dx.reshape(*dy.shape[:-1], -1)

    # Normalisation.

    def groupnorm(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm, in three passes over each image."""
        if x.dtype != np.float32:
            return super().groupnorm(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, False)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """Ops.groupnorm_silu, written into a frame for the convolution that follows."""
        if x.dtype != np.float32:
            return super().groupnorm_silu(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, True)

    def groupnorm_backward(self, dy, g, tape, *onto):
        """dx, dw, db in two passes over each image."""
        if dy.dtype != np.float32:
            return super().groupnorm_backward(dy, g, tape, *onto)
        return self._normalise_backward(dy, g, tape, onto)

    def groupnorm_silu_backward(self, dy, g, tape, *onto):
        """SiLU's backward and GroupNorm's at once; SiLU's input is computed again, not kept."""
        if dy.dtype != np.float32:
            return super().groupnorm_silu_backward(dy, g, tape, *onto)
        return self._normalise_backward(dy, g, tape, onto)

    def _normalise(self, x, p, groups, tape, tol, activate):
        y = framed(x.shape) if activate and x.ndim == 4 else np.empty(x.shape, np.float32)
        mean, inv = groupnorm.forward(_images(x), p, groups, tol, activate, _images(y))
        tape.append(_Normalised(_images(x), p.w, p.b, groups, activate, mean, inv))
        return y

    def _normalise_backward(self, dy, g, tape, onto):
        x, *kept = tape.pop()
        dx = framed(dy.shape) if dy.ndim == 4 else np.empty(dy.shape, np.float32)
        slopes, out, *onto = (_images(each) for each in (dy, dx, *onto))
        groupnorm.backward(slopes, x, tuple(kept), g, out, onto)
        return dx

    # The diffusion's and the optimiser's steps.

    def normal(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """Ops.normal: the same random words, and values within 4 units in the last place."""
        *_, step, purpose, k0, k1 = noise.words(shape[0], 0, seed, purpose, step, first_sample)
        out = np.empty((shape[0], math.prod(shape[1:])), np.float32)
        fused_steps.normals(out, step, purpose, k0, k1, first_sample)
        return out.reshape(shape)

    def noised(self, x0, eps, c_x0, c_eps):
        """Ops.noised, in one pass."""
        if not x0.dtype == eps.dtype == np.float32:
            return super().noised(x0, eps, c_x0, c_eps)
        out = np.empty(x0.shape, np.float32)
        flat = (np.ascontiguousarray(a).reshape(len(x0), -1) for a in (x0, eps))
        c_x0, c_eps = (np.ascontiguousarray(c, np.float32) for c in (c_x0, c_eps))
        fused_steps.noised(*flat, c_x0, c_eps, out.reshape(len(x0), -1))
        return out

    def reverse(self, xt, prediction, z, c):
        """Ops.reverse, in one pass."""
        if not xt.dtype == prediction.dtype == np.float32:
            return super().reverse(xt, prediction, z, c)
        z = z if c.sigma else xt  # any array will do: it is multiplied by 0
        out = np.empty(xt.shape, np.float32)
        flat = (np.ascontiguousarray(a).reshape(-1) for a in (xt, prediction, z))
        fused_steps.reverse(*flat, tuple(map(np.float32, c)), out.reshape(-1))
        return out

    def adamw_ema(self, vectors, grad, scale, factors, ema_weight):
        """Ops.adamw_ema, in one pass."""
        theta, m, v, ema = vectors
        if theta.dtype != np.float32:
            return super().adamw_ema(vectors, grad, scale, factors, ema_weight)
        scale, ema_weight = np.float32(scale), np.float32(ema_weight)
        factors = tuple(map(np.float32, factors))
        fused_steps.adamw_ema(theta, grad, m, v, ema, scale, factors, ema_weight)

    def time_embedding(self, t, dim, dtype, *settings):
        """Ops.time_embedding: rows of a table, where there is one for such times."""
        whole = not isinstance(t, int) and t.dtype.kind == "i" and t.size
        if not whole or t.min() < 0 or t.max() >= MOST_TIMES:
            return super().time_embedding(t, dim, dtype, *settings)
        # to the next power of two, so that few tables are made
        count = 1 << int(t.max()).bit_length()
        return _time_table(count, dim, np.dtype(dtype), *settings)[t]

    # Element by element.

    def silu(self, x, tape):
        """Ops.silu, with an exponential by a polynomial."""
        if x.dtype != np.float32:
            return super().silu(x, tape)
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        silu.silu(x.reshape(-1), y.reshape(-1))
        tape.append(x)
        return y

    def silu_backward(self, dy, tape):
        """dx = dy (s + x s (1 - s)), with s computed again from x."""
        if dy.dtype != np.float32:
            return super().silu_backward(dy, tape)
        x = tape.pop()
        dx = np.empty_like(x)
        silu.silu_backward(np.ascontiguousarray(dy).reshape(-1), x.reshape(-1), dx.reshape(-1))
        return dx

    def pixel_sum(self, x):
        """Ops.pixel_sum; images may lie in a frame."""
        if x.dtype != np.float32:
            return super().pixel_sum(x)
        total = np.empty((len(x), x.shape[-1]), np.float32)
        groupnorm.pixel_sums(_images(x), total)
        return total


def _images(x):
    """x itself if it is (B, H, W, C), otherwise its pixels as one row of an image."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, -1, x.shape[-1])


@lru_cache(maxsize=8)
def _time_table(count, dim, dtype, *settings):
    """The embeddings of all t below `count`, (count, dim)."""
    return Ops().time_embedding(np.arange(count), dim, dtype, *settings)


@lru_cache(maxsize=1)
def tiles_missing():
    """Why the tiles cannot be built for this CPU, or None: the smallest convolution is tried."""
    pixel, ones = offsets((1, 1, 1), (0, 0, 0)), np.ones(1, np.float32)
    zeros, out = np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    try:
        weights = direct.pack(np.ones((1, 1, 1, LANES), np.float32))
        direct.correlate(ones, pixel, 1, 1, 1, weights, zeros, zeros, pixel, out, pixel)
    except (NumbaError, RuntimeError) as error:  # RuntimeError: what LLVM's parser raises
        return str(error).strip().split("\n")[0]
    return None


def make(name):
    """The backend, for `backend.get`."""
    return NumbaOps(tiles=tiles_missing() is None)


def describe():
    """How the convolutions are computed on this machine."""
    missing = tiles_missing()
    if missing is not None:
        return f"convolutions by im2col, as numpy's: no tiles for this CPU ({missing})"
    return f"direct and Winograd convolutions in vectors of {LANES} floats, tiles {TILES}"
