"""Linear layers with CUDA kernels: small ones in one node each (`dense`), large ones by cuBLAS.

By `benchmarks roofline`: a product by cuBLAS is a node of 5 us, and what is added to it one of 2;
a node of `dense` takes 2.5 us and does 10 TFLOP/s, what the cache hands to it. Beyond MOST
operations cuBLAS is the faster. Small layers are fp32 in every precision.
"""

from typing import Any, NamedTuple

import numpy as np

from .dense import EACH, FIRST
from .device_functions import SIMULATED
from .launch import Launcher, aligned, tiles_for

MOST = 5e7  # operations of a layer that is one node
MOST_ROWS = 1024  # of one whose weights' gradient is one node: few blocks go over all rows
DENSE_THREADS = 8 if SIMULATED else 256  # of a block
COLUMNS = 8  # threads side by side, four columns each: what they read of a row is 128 bytes


class Multiplied(NamedTuple):
    """What the backward of a linear layer needs."""

    rows: Any  # (rows, C)
    w: Any


class Dense(NamedTuple):
    """The same, of a layer that is one node."""

    rows: Any
    w: Any
    activate: bool  # whether SiLU stands before it


class LinearLayers(Launcher):
    """What CUDA kernels and cuBLAS compute of linear layers, float32, as Ops does."""

    most_dense = MOST

    def linear(self, x, p, tape, shift=None, onto=None):
        """Ops.linear: one kernel, or a product and one pass that adds b, shift and onto."""
        if x.dtype != np.float32:
            return super().linear(x, p, tape, shift, onto)
        if self._is_small(x, p.w):
            return self._dense(x, p, tape, shift, onto, activate=False)
        kept = Multiplied(x.reshape(-1, x.shape[-1]), p.w)
        y = self.products.product(*kept)
        onto = onto if onto is None else onto.reshape(y.shape)
        self._add_bias(y, p.b, shift, onto)
        tape.append(kept)
        return y.reshape(*x.shape[:-1], -1)

    def linear_backward(self, dy, g, tape, onto=None):
        """Ops.linear_backward: two kernels, or three products, two of them into g."""
        if isinstance(tape[-1], Dense):
            return self._dense_backward(dy, g, tape, onto)
        if not isinstance(tape[-1], Multiplied):
            return super().linear_backward(dy, g, tape, onto)
        rows, w = tape.pop()
        drows = dy.reshape(-1, dy.shape[-1])
        self.products.add_rows(drows, g.b)
        self.products.product(rows.T, drows, out=g.w, add=True)
        if onto is None:
            return self.products.product(drows, w.T).reshape(*dy.shape[:-1], -1)
        self.products.product(drows, w.T, out=onto.reshape(len(drows), -1), add=True)
        return onto

    def silu_linear(self, x, p, tape, shift=None, onto=None):
        """Ops.silu_linear: in a small layer, x is activated as it is read."""
        small = self._is_small(x, p.w) and x.size <= MOST_ROWS * x.shape[-1]
        if x.dtype != np.float32 or not small:
            return super().silu_linear(x, p, tape, shift, onto)
        return self._dense(x, p, tape, shift, onto, activate=True)

    def silu_linear_backward(self, dy, g, tape):
        """Ops.silu_linear_backward, likewise."""
        if not (isinstance(tape[-1], Dense) and tape[-1].activate):
            return super().silu_linear_backward(dy, g, tape)
        return self._dense_backward(dy, g, tape)

    def _is_small(self, x, w):
        """Whether a layer's product is made in one node."""
        return 2 * x.size * w.shape[-1] <= self.most_dense

    def _dense(self, x, p, tape, shift, onto, activate):
        """y of a small layer."""
        rows, (inputs, outputs) = self._flat(x), p.w.shape[-2:]
        count, y = x.size // inputs, self.xp.empty((*x.shape[:-1], outputs), np.float32)
        shifted = 0 if shift is None else EACH if len(shift) == count else FIRST
        w, b = self._flat(p.w), self._flat(p.b)
        extra = (b if a is None else self._flat(a) for a in (shift, onto))
        arrays = rows, w, b, *extra, y.reshape(-1)
        flags = int(activate), shifted, int(onto is not None)
        self._launch_dense("dense", (count, inputs, outputs), (count, outputs), arrays, flags)
        tape.append(Dense(rows, w, activate))
        return y

    def _dense_backward(self, dy, g, tape, onto=None):
        """dx of a small layer, added to onto where that is given."""
        rows, w, activate = tape.pop()
        inputs, outputs = g.w.shape[-2:]
        given, flag = self._flat(dy), int(activate)
        sizes = count, _, _ = rows.size // inputs, inputs, outputs
        if count <= MOST_ROWS:
            into = rows, given, self._in_place(g.w), self._in_place(g.b)
            self._launch_dense("dense_weights", sizes, (inputs, outputs), into, (flag,))
        else:
            drows, dw = given.reshape(count, outputs), g.w.reshape(inputs, outputs)
            self.products.add_rows(drows, g.b)
            self.products.product(rows.reshape(count, inputs).T, drows, out=dw, add=True)
        dx = self.xp.empty((*dy.shape[:-1], inputs), np.float32) if onto is None else onto
        flat = self._in_place(dx)
        before = rows if activate else given  # any array will do where SiLU is not
        arrays, flags = (given, w, before, flat, flat), (flag, int(onto is not None))
        self._launch_dense("dense_backward", sizes, (count, inputs), arrays, flags)
        return dx

    def _launch_dense(self, name, sizes, shape, arrays, flags):
        """Start a kernel of `dense`, whose result has this shape."""
        _, inputs, outputs = sizes
        wide = inputs % 4 == outputs % 4 == 0 and aligned(arrays)
        terms = {"dense": inputs / 4, "dense_backward": outputs / 4, "dense_weights": sizes[0]}
        across, columns = tiles_for(-(-shape[1] // 4), min(COLUMNS, DENSE_THREADS))
        down, _ = tiles_for(max(int(terms[name]), 1), DENSE_THREADS // across)
        grid, block = (-(-shape[0] // 4), columns), (across, down)
        self._launch(name, grid, block, *arrays, *map(np.int32, (*sizes, *flags)), wide=wide)
