"""3 x 3 convolution by tiles, over the kernels of `winograd`: what `layers` asks for where it pays.

By `benchmarks roofline`: the transforms of weights and their gradient are a node each, 2 us; the
products have 4 / 9 of the operations, and read and write 4 numbers a pixel and channel where
unrolled patches are 9. Below FEWEST operations the nodes cost more than the products save.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.nn.ops import Forget

from .launch import STEP_THREADS, Launcher, aligned, tiles_for

FEWEST = 1e8  # operations of a convolution's patches times its weights


class Tiled(NamedTuple):
    """What the backward of a convolution by tiles needs."""

    x: Any  # the input, contiguous
    v: Any  # its transformed tiles, or None where they were too large to keep
    g: Any  # the transformed weights, (16, C, O)


class TiledConvolution(Launcher):
    """3 x 3 convolutions at stride 1, padded by one zero, of multiples of four channels."""

    def tiles_pay(self, x, w, stride, pad, up):
        """Whether a convolution is made by tiles."""
        k, _, inputs, outputs = w.shape
        fits = (k, stride, tuple(pad), up) == (3, 1, (1, 1), 0)
        fits = fits and inputs % 4 == outputs % 4 == 0 and aligned([x, w])
        return fits and 18 * math.prod(x.shape) * outputs >= self.fewest

    fewest = FEWEST

    def tiled(self, x, p, tape, shift, onto, keep):
        """y of `Ops.conv2d`; keep: the bytes of transformed tiles that the tape may hold."""
        outputs = p.w.shape[3]
        g = self.xp.empty((16, *p.w.shape[2:]), np.float32)
        self._over_weights("winograd_weights", self._flat(p.w), g)
        y = self.xp.empty((*x.shape[:3], outputs), np.float32)
        name = "winograd_output" + "_shift" * (shift is not None) + "_onto" * (onto is not None)
        parts = self._parts(y, 4 * max(x.shape[3], outputs))
        b = self._flat(p.b)
        each = outputs if shift is not None and len(shift) > 1 else 0  # from a shift to the next
        for part in parts:
            v = self._over_tiles("winograd_input", x[part])
            m = self.products.product(v, g)
            more = shift[part] if each else shift, onto if onto is None else onto[part]
            more = [b if a is None else self._flat(a) for a in more]
            arrays = m.reshape(-1), b, *more, y[part].reshape(-1)
            self._start(name, y[part].shape, 2, arrays, m.shape[1], each)
        kept = len(parts) == 1 and v.nbytes <= keep and not isinstance(tape, Forget)
        tape.append(Tiled(x, v if kept else None, g))
        return y

    def tiled_backward(self, dy, g, tape):
        """dx of `Ops.conv2d_backward`; the gradient of the weights is added to g.w."""
        kept = tape.pop()
        dy, dx = self.xp.ascontiguousarray(dy), self.xp.empty(kept.x.shape, np.float32)
        dg = self.xp.empty(kept.g.shape, np.float32)
        self.products.add_rows(dy.reshape(-1, dy.shape[-1]), g.b)
        for number, part in enumerate(self._parts(dy, 4 * max(kept.x.shape[3], dy.shape[3]))):
            v = self._over_tiles("winograd_input", kept.x[part]) if kept.v is None else kept.v
            m = self._over_tiles("winograd_slope", dy[part])
            self.products.product(v.swapaxes(1, 2), m, out=dg, add=number > 0)
            dv = self.products.product(m, kept.g.swapaxes(1, 2))
            self._gather_tiles(dv, dx[part])
        self._over_weights("winograd_weights_backward", dg.reshape(-1), g.w)
        return dx

    def _over_tiles(self, name, x):
        """The transformed tiles (16, tiles, C) of x."""
        B, H, W, C = x.shape
        tiles = B * -(-H // 2) * -(-W // 2)
        v = self.xp.empty((16, tiles, C), np.float32)
        self._start(name, x.shape, 4, (self._flat(x), v.reshape(-1)), tiles)
        return v

    def _start(self, name, shape, rows, arrays, tiles, *more):
        """Start a kernel over images' tiles, `rows` rows of a transform each."""
        B, H, W, C = shape
        down, across = -(-H // 2), -(-W // 2)
        threads, _ = tiles_for(C // 4, STEP_THREADS)
        block = threads, min(STEP_THREADS // threads, across)
        sizes = map(np.int64, (H, W, C, across, tiles, *more))
        self._launch(name, (B, down, rows), block, *arrays, *sizes)

    def _gather_tiles(self, dv, dx):
        """dx = what all tiles hold of its pixels."""
        B, H, W, C = dx.shape
        threads, _ = tiles_for(C // 4, STEP_THREADS)
        block = threads, min(STEP_THREADS // threads, W)
        sizes = map(np.int64, (H, W, C, -(-H // 2), -(-W // 2), dv.shape[1]))
        self._launch("winograd_gather", (B, H), block, dv.reshape(-1), dx.reshape(-1), *sizes)

    def _over_weights(self, name, one, two):
        """Start a kernel over pairs of channels, four outputs a thread."""
        inputs, outputs = two.shape[-2:]
        threads, blocks = tiles_for(inputs * outputs // 4, STEP_THREADS)
        rows = 4 if name == "winograd_weights" else 3
        sizes = np.int64(inputs), np.int64(outputs)
        self._launch(name, (blocks, 1, rows), (threads,), one, two.reshape(-1), *sizes)
