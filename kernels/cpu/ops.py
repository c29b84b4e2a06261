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
from .layout import frame_of, framed, offsets, pixels, storage
from .tiles import LANES, TILES

# the convolutions that kernels take, (k, stride): pads
KERNELS = {(3, 1): [(1, 1)], (3, 2): [(0, 0), (0, 1), (1, 0), (1, 1)], (1, 1): [(0, 0)]}
PARITIES = [(0, 0), (0, 1), (1, 0), (1, 1)]
MOST_TIMES = 1 << 14  # up to so many times t are embedded once and for all
MOST_KEPT = 512  # layers whose weights are kept laid out for sampling


class _Convolved(NamedTuple):
    """What conv2d_backward needs."""

    frame: np.ndarray  # holds the input
    border: int  # of the frame
    w: np.ndarray
    stride: int
    before: int  # the zeros before each axis
    shape: tuple  # of the input


class _Doubled(NamedTuple):
    """What upsample_conv2d_backward needs."""

    frame: np.ndarray  # holds the input
    w: np.ndarray
    shape: tuple  # of the input


class _Normalised(NamedTuple):
    """What the backward of a normalisation needs."""

    data: np.ndarray  # holds the input
    border: int  # of data
    mean: np.ndarray  # (B, C)
    inv: np.ndarray  # (B, C), 1 / sqrt(var + tol)
    w: np.ndarray
    b: np.ndarray
    groups: int
    shape: tuple  # of the input, as images


class NumbaOps(Ops):
    """Ops on NumPy arrays with convolutions and normalisations compiled by Numba, float32.

    An input must stay as it is until its backward: the tape holds inputs, not copies of them.
    tiles: whether the convolutions' register tiles can be built here; without them the reference
    computes convolutions.
    """

    name = "numba"

    def __init__(self, tiles=True):
        self.tiles = tiles
        self._prepared = {}

    # Convolution.

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """Ops.conv2d, which reads x in a frame of zeros."""
        k, _, _, O = p.w.shape
        if not self._takes(x) or tuple(pad) not in KERNELS.get((k, stride), ()):
            return super().conv2d(x, p, tape, stride, pad, shift, onto)
        frame, border = (self._framed(x), 1) if k == 3 else storage(x)
        size = tuple((n + sum(pad) - k) // stride + 1 for n in x.shape[1:3])
        grid = (len(x), *size)
        y = np.empty((*grid, O), np.float32)
        tape.append(_Convolved(frame, border, p.w, stride, pad[0], x.shape))

        def make(w):
            return self._prepare(w, grid if stride == 1 else None)

        patches = pixels(frame, border, size, stride, (-pad[0], -pad[0]))
        weights = self._weights(p.w, tape, make, size)
        correlate(patches, weights, p.b, pixels(y, 0, size), shift, onto)
        return y

    def conv2d_backward(self, dy, g, tape):
        """dw, db and dx; at stride 2, dx is a convolution for each parity of rows and columns."""
        if not isinstance(tape[-1], _Convolved):
            return super().conv2d_backward(dy, g, tape)
        frame, border, w, stride, before, shape = tape.pop()
        B, H, W, _ = shape
        size, three = dy.shape[1:3], len(w) == 3
        slopes, slope_border = (self._framed(dy), 1) if three else storage(dy)
        patches = pixels(frame, border, size, stride, (-before, -before))
        plain = three and stride == 1
        outer(patches, pixels(slopes, slope_border, size), g.w, g.b, plain)
        dx = np.empty(shape, np.float32)
        for a in range(min(stride, H)):
            for b in range(min(stride, W)):
                part = -((a - H) // stride), -((b - W) // stride)
                kernel, first = turned(w, before, stride, a, b)
                correlate(
                    pixels(slopes, slope_border, part, 1, first),
                    self._prepare(kernel, (B, *part)),
                    None,
                    pixels(dx, 0, part, stride, (a, b)),
                )
        return dx

    def upsample_conv2d(self, x, p, tape):
        """conv2d(upsample(x)): 2 x 2 pixels of x for each parity, 16 products instead of 36."""
        if not self._takes(x):
            return super().upsample_conv2d(x, p, tape)
        frame, (B, H, W, _) = self._framed(x), x.shape
        y = np.empty((B, 2 * H, 2 * W, p.w.shape[3]), np.float32)
        tape.append(_Doubled(frame, p.w, x.shape))

        def make(w):
            return [self._prepare(mix(UP[a], UP[b], w)) for a, b in PARITIES]

        kernels = self._weights(p.w, tape, make, "upsample")
        for (a, b), weights in zip(PARITIES, kernels):
            patches = pixels(frame, 1, (H, W), 1, (a - 1, b - 1))
            correlate(patches, weights, p.b, pixels(y, 0, (H, W), 2, (a, b)))
        return y

    def upsample_conv2d_backward(self, dy, g, tape):
        """dw and dx from the 4 x 4 pixels of dy that each pixel of x reaches."""
        if not isinstance(tape[-1], _Doubled):
            return super().upsample_conv2d_backward(dy, g, tape)
        frame, w, shape = tape.pop()
        B, H, W, C = shape
        reach = pixels(self._framed(dy), 1, (H, W), 2, (-1, -1))
        dw, dx = np.zeros((4, 4, w.shape[3], C), np.float32), np.empty(shape, np.float32)
        outer(reach, pixels(frame, 1, (H, W)), dw, np.zeros(C, np.float32))
        g.w += mix(DOWN.T, DOWN.T, dw).swapaxes(2, 3)
        g.b += self.pixel_sum(dy).sum(axis=0)
        kernel = self._prepare(mix(DOWN, DOWN, w).swapaxes(2, 3))
        correlate(reach, kernel, None, pixels(dx, 0, (H, W)))
        return dx

    # Apart, so that a measurement can tell what only moves numbers.

    def _framed(self, x):
        return frame_of(x)

    def _prepare(self, w, grid=None):
        return prepare(w, grid)

    def _takes(self, x):
        return self.tiles and x.dtype == np.float32

    def _weights(self, w, tape, make, kind):
        """make(w), kept where no backward comes, until w's numbers change; kind: what it is for."""
        if not isinstance(tape, Forget):
            return make(w)
        key = w.__array_interface__["data"][0], w.shape, kind
        kept = self._prepared.get(key)
        if kept is None or not np.array_equal(kept[0], w):
            if len(self._prepared) >= MOST_KEPT:
                self._prepared.clear()
            kept = self._prepared[key] = w.copy(), make(w)
        return kept[1]

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

    def groupnorm_backward(self, dy, g, tape):
        """dx, dw, db in two passes over each image."""
        if dy.dtype != np.float32:
            return super().groupnorm_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape, False)

    def groupnorm_silu_backward(self, dy, g, tape):
        """SiLU's backward and GroupNorm's at once; SiLU's input is computed again, not kept."""
        if dy.dtype != np.float32:
            return super().groupnorm_silu_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape, True)

    def _normalise(self, x, p, groups, tape, tol, activate):
        data, border = storage(_images(x))
        y = framed(x.shape) if activate and x.ndim == 4 else np.empty(x.shape, np.float32)
        out, out_border = storage(_images(y))
        mean, inv = np.empty((2, len(x), x.shape[-1]), np.float32)
        settings = p.w, p.b, groups, np.float32(tol), activate
        groupnorm.groupnorm(_rows(data), border, *settings, _rows(out), out_border, mean, inv)
        tape.append(_Normalised(data, border, mean, inv, p.w, p.b, groups, _images(x).shape))
        return y

    def _normalise_backward(self, dy, g, tape, activate):
        data, border, mean, inv, w, b, groups, shape = tape.pop()
        slopes, slope_border = storage(dy if dy.ndim == 4 else dy.reshape(shape))
        dx = framed(dy.shape) if dy.ndim == 4 else np.empty(dy.shape, np.float32)
        out, out_border = storage(dx if dx.ndim == 4 else dx.reshape(shape))
        inputs = _rows(slopes), slope_border, _rows(data), border
        settings = w, b, groups, activate, mean, inv
        groupnorm.groupnorm_backward(*inputs, *settings, _rows(out), out_border, g.w, g.b)
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
        data, border = storage(_images(x))
        total = np.empty((len(x), x.shape[-1]), np.float32)
        groupnorm.pixel_sums(_rows(data), border, x.shape[-1], total)
        return total


def _images(x):
    """x itself if it is (B, H, W, C), otherwise its pixels as one row of an image."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, -1, x.shape[-1])


def _rows(data):
    """(B, H, W, C) -> (B, H, W C)."""
    return data.reshape(*data.shape[:2], -1)


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
