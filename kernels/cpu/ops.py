"""The operations that Numba speeds up on a CPU; the rest, and all of float64, is the reference's."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba.core.errors import NumbaError

from tinyddpm import noise
from tinyddpm.nn.ops import Forget, Ops

from . import direct as conv
from . import fused_steps as steps
from . import groupnorm as cpu
from .convolution import DOWN, UP, correlate, mix, outer, prepare, turned
from .layout import frame_of, framed, inside, offsets, storage

# (k, stride): pads
DIRECT = {(3, 1): [(1, 1)], (3, 2): [(0, 0), (0, 1), (1, 0), (1, 1)], (1, 1): [(0, 0)]}
PARITIES = [(0, 0), (0, 1), (1, 0), (1, 1)]
MOST_KEPT = 512  # layers whose weights are kept laid out for sampling


class _Patches(NamedTuple):
    """What a convolution's backward needs: where the input lies, and the weights."""

    frame: np.ndarray
    border: int
    w: np.ndarray
    stride: int
    before: int
    shape: tuple


class _Doubled(NamedTuple):
    """What upsample_conv2d's backward needs."""

    frame: np.ndarray
    w: np.ndarray
    shape: tuple


class NumbaOps(Ops):
    """Ops on NumPy arrays with convolutions and normalisations compiled by Numba, float32.

    An input must stay as it is until its backward: what the tape holds are inputs, not copies of
    them. tiles: whether the convolutions' register tiles can be built here; without them they are
    the reference's.
    """

    name = "numba"

    def __init__(self, tiles=True):
        self.tiles = tiles
        self._prepared = {}

    # Convolution.

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """The reference's conv2d, reading x in a frame of zeros; shift (B or 1, O) or onto (like y)
        is added.
        """
        k, _, _, O = p.w.shape
        if not self._takes(x) or tuple(pad) not in DIRECT.get((k, stride), ()):
            return super().conv2d(x, p, tape, stride, pad, shift, onto)
        frame, border = (frame_of(x), 1) if k == 3 else storage(x)
        size = tuple((n + sum(pad) - k) // stride + 1 for n in x.shape[1:3])
        grid = (len(x), *size)
        y = np.empty((*grid, O), np.float32)
        tape.append(_Patches(frame, border, p.w, stride, pad[0], x.shape))
        weights = self._weights(
            p.w, tape, lambda w: prepare(w, grid if stride == 1 else None), grid[1:]
        )
        correlate(
            frame,
            inside(frame, border, size, stride, (-pad[0], -pad[0])),
            weights,
            p.b,
            y,
            inside(y, 0, size),
            grid,
            shift,
            onto,
        )
        return y

    def conv2d_backward(self, dy, g, tape):
        """dw, db and dx; at stride 2, dx is one convolution for each parity of its rows and
        columns.
        """
        if not isinstance(tape[-1], _Patches):
            return super().conv2d_backward(dy, g, tape)
        frame, border, w, stride, before, shape = tape.pop()
        B, H, W, _ = shape
        size, three = dy.shape[1:3], len(w) == 3
        out, outb = (frame_of(dy), 1) if three else storage(dy)
        outer(
            frame,
            inside(frame, border, size, stride, (-before, -before)),
            out,
            inside(out, outb, size),
            g.w,
            g.b,
            (B, *size),
            three and stride == 1,
        )
        dx = np.empty(shape, np.float32)
        for a in range(min(stride, H)):
            for b in range(min(stride, W)):
                part = -((a - H) // stride), -((b - W) // stride)
                kernel, first = turned(w, before, stride, a, b)
                correlate(
                    out,
                    inside(out, outb, part, 1, first),
                    prepare(kernel, (B, *part)),
                    None,
                    dx,
                    inside(dx, 0, part, stride, (a, b)),
                    (B, *part),
                )
        return dx

    def upsample_conv2d(self, x, p, tape):
        """conv2d(upsample(x)): each parity of rows and columns sees 2 x 2 pixels of x, 16 products
        instead of 36.
        """
        if not self._takes(x):
            return super().upsample_conv2d(x, p, tape)
        frame, (B, H, W, _) = frame_of(x), x.shape
        y = np.empty((B, 2 * H, 2 * W, p.w.shape[3]), np.float32)
        tape.append(_Doubled(frame, p.w, x.shape))
        kernels = self._weights(
            p.w, tape, lambda w: [prepare(mix(UP[a], UP[b], w)) for a, b in PARITIES], "upsample"
        )
        for (a, b), weights in zip(PARITIES, kernels):
            correlate(
                frame,
                inside(frame, 1, (H, W), 1, (a - 1, b - 1)),
                weights,
                p.b,
                y,
                inside(y, 0, (H, W), 2, (a, b)),
                (B, H, W),
            )
        return y

    def upsample_conv2d_backward(self, dy, g, tape):
        """dw and dx from the 4 x 4 pixels of dy that each pixel of x reaches."""
        if not isinstance(tape[-1], _Doubled):
            return super().upsample_conv2d_backward(dy, g, tape)
        frame, w, shape = tape.pop()
        B, H, W, C = shape
        out = frame_of(dy)
        reach = inside(out, 1, (H, W), 2, (-1, -1))
        dw, dx = np.zeros((4, 4, w.shape[3], C), np.float32), np.empty(shape, np.float32)
        outer(out, reach, frame, inside(frame, 1, (H, W)), dw, np.zeros(C, np.float32), (B, H, W))
        g.w += mix(DOWN.T, DOWN.T, dw).swapaxes(2, 3)
        g.b += self.pixel_sum(dy).sum(axis=0)
        kernel = prepare(mix(DOWN, DOWN, w).swapaxes(2, 3))
        correlate(out, reach, kernel, None, dx, inside(dx, 0, (H, W)), (B, H, W))
        return dx

    def _takes(self, x):
        return self.tiles and x.dtype == np.float32

    def _weights(self, w, tape, make, kind):
        """make(w); without a backward to come it is kept, and made again only when w's numbers have
        changed.
        """
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

    def linear(self, x, p, tape):
        """The reference's linear, on rows."""
        if x.dtype != np.float32:
            return super().linear(x, p, tape)
        y = super().linear(x.reshape(-1, x.shape[-1]), p, tape)
        return y.reshape(*x.shape[:-1], -1)

    def linear_backward(self, dy, g, tape):
        """The reference's linear_backward, on rows."""
        if dy.dtype != np.float32:
            return super().linear_backward(dy, g, tape)
        dx = super().linear_backward(dy.reshape(-1, dy.shape[-1]), g, tape)
        return dx.reshape(*dy.shape[:-1], -1)

    # Normalisation.

    def groupnorm(self, x, p, groups, tape, tol=1e-6):
        """The reference's groupnorm in three passes over each image."""
        if x.dtype != np.float32:
            return super().groupnorm(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, False)

    def groupnorm_silu(self, x, p, groups, tape, tol=1e-6):
        """GroupNorm and SiLU, laid straight into a frame for the convolution that follows."""
        if x.dtype != np.float32:
            return super().groupnorm_silu(x, p, groups, tape, tol)
        return self._normalise(x, p, groups, tape, tol, True)

    def groupnorm_backward(self, dy, g, tape):
        """dx, dw, db in two passes over each image."""
        if dy.dtype != np.float32:
            return super().groupnorm_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape, False)

    def groupnorm_silu_backward(self, dy, g, tape):
        """SiLU's backward fused with GroupNorm's; SiLU's input is computed again instead of being
        kept.
        """
        if dy.dtype != np.float32:
            return super().groupnorm_silu_backward(dy, g, tape)
        return self._normalise_backward(dy, g, tape, True)

    def _normalise(self, x, p, groups, tape, tol, activate):
        data, border = storage(_images(x))
        y = framed(x.shape) if activate and x.ndim == 4 else np.empty(x.shape, np.float32)
        out, outb = storage(_images(y))
        mean, inv = np.empty((2, len(x), x.shape[-1]), np.float32)
        cpu.groupnorm(
            _rows(data),
            border,
            p.w,
            p.b,
            groups,
            np.float32(tol),
            activate,
            _rows(out),
            outb,
            mean,
            inv,
        )
        tape.append((data, border, mean, inv, p.w, p.b, groups, _images(x).shape))
        return y

    def _normalise_backward(self, dy, g, tape, activate):
        data, border, mean, inv, w, b, groups, shape = tape.pop()
        out, outb = storage(dy if dy.ndim == 4 else dy.reshape(shape))
        dx = framed(dy.shape) if dy.ndim == 4 else np.empty(dy.shape, np.float32)
        into, intob = storage(dx if dx.ndim == 4 else dx.reshape(shape))
        cpu.groupnorm_backward(
            _rows(out),
            outb,
            _rows(data),
            border,
            w,
            b,
            groups,
            activate,
            mean,
            inv,
            _rows(into),
            intob,
            g.w,
            g.b,
        )
        return dx

    # The diffusion's and the optimiser's steps.

    def normal(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """noise.normal: the same random words, and values within 4 units in the last place."""
        *_, step, purpose, k0, k1 = noise.words(shape[0], 0, seed, purpose, step, first_sample)
        out = np.empty((shape[0], math.prod(shape[1:])), np.float32)
        steps.normals(out, step, purpose, k0, k1, first_sample)
        return out.reshape(shape)

    def noised(self, x0, eps, signal, sigma):
        """x_t = signal x0 + sigma eps (Ho20 eq. 4), signal and sigma (B,)."""
        if not x0.dtype == eps.dtype == np.float32:
            return super().noised(x0, eps, signal, sigma)
        out = np.empty(x0.shape, np.float32)
        flat = (np.ascontiguousarray(a).reshape(len(x0), -1) for a in (x0, eps))
        steps.noised(
            *flat,
            *(np.ascontiguousarray(a, np.float32) for a in (signal, sigma)),
            out.reshape(len(x0), -1),
        )
        return out

    def reverse(self, xt, output, z, factors):
        """formulas.reverse in one pass."""
        if not xt.dtype == output.dtype == np.float32:
            return super().reverse(xt, output, z, factors)
        out = np.empty(xt.shape, np.float32)
        flat = (np.ascontiguousarray(a).reshape(-1) for a in (xt, output, z if factors[-1] else xt))
        steps.reverse(*flat, *map(np.float32, factors), out.reshape(-1))
        return out

    def adamw_ema(self, theta, grad, m, v, ema, scale, factors):
        """AdamW on scale grad and the average, in one pass."""
        if theta.dtype != np.float32:
            return super().adamw_ema(theta, grad, m, v, ema, scale, factors)
        steps.adamw_ema(theta, grad, m, v, ema, np.float32(scale), *map(np.float32, factors))

    # Element by element.

    def silu(self, x, tape):
        """The reference's silu, with an exponential by a polynomial."""
        if x.dtype != np.float32:
            return super().silu(x, tape)
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        cpu.silu(x.reshape(-1), y.reshape(-1))
        tape.append(x)
        return y

    def silu_backward(self, dy, tape):
        """dx = dy (s + x s (1 - s)), with s computed again from x."""
        if dy.dtype != np.float32:
            return super().silu_backward(dy, tape)
        x = tape.pop()
        dx = np.empty_like(x)
        cpu.silu_backward(np.ascontiguousarray(dy).reshape(-1), x.reshape(-1), dx.reshape(-1))
        return dx

    def pixel_sum(self, x):
        """The reference's pixel_sum; images may lie in a frame."""
        if x.dtype != np.float32:
            return super().pixel_sum(x)
        data, border = storage(_images(x))
        total = np.empty((len(x), x.shape[-1]), np.float32)
        cpu.pixel_sums(_rows(data), border, x.shape[-1], total)
        return total


def _images(x):
    """x itself if it is (B, H, W, C), otherwise its pixels as one row of an image."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, -1, x.shape[-1])


def _rows(data):
    """(B, H, W, C) -> (B, H, W C)."""
    return data.reshape(*data.shape[:2], -1)


@lru_cache(maxsize=1)
def tiles_missing():
    """Why the convolutions' tiles cannot be built for this CPU, or None: the smallest convolution
    is tried.
    """
    pixel = offsets((1, 1, 1), (0, 0, 0))
    try:
        conv.correlate(
            np.ones(1, np.float32),
            pixel,
            1,
            1,
            1,
            conv.pack(np.ones((1, 1, 1, conv.LANES), np.float32)),
            np.zeros(conv.LANES, np.float32),
            np.zeros(conv.LANES, np.float32),
            pixel,
            np.empty(conv.LANES, np.float32),
            pixel,
        )
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
    return f"direct and Winograd convolutions in vectors of {conv.LANES} floats"
