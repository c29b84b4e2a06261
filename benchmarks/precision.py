"""python -m benchmarks.precision: how far TF32's products lead from fp32's, emulated in NumPy.

The backend `cuda` with precision "tf32" rounds the factors of cuBLAS's products to 10 bits behind
the point. Here the same products, of patches and of transformed tiles, are made of rounded factors
by NumPy; what the CUDA kernels compute themselves stays fp32. No device is asked.
"""

import sys

import numpy as np
from tinyddpm.kernels.gpu.linear import MOST, MOST_ROWS
from tinyddpm.kernels.gpu.tiled import FEWEST

from tinyddpm import Model, linear, noise, sample
from tinyddpm.nn import params
from tinyddpm.nn.ops import Ops
from tinyddpm.training import Batch, Objective, loss_and_grad

from .network import fresh
from .roofline import networks

B_T = np.float32([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.float32([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.float32([[1, 1, 1, 0], [0, 1, -1, -1]])
BATCH = {"a": 32, "b": 8, "c": 512, "d": 2}  # of what is computed here; the choices are a card's
STEPS = 50  # of DDIM
LINE = "{:42} {:>10} {:>10} {:>10}   {:>8} {:>8}"


def tf32(x):
    """x rounded to 10 bits behind the point, to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    half = np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)


def both(x, one, two):
    """one x two^T along the first two axes of x."""
    return np.tensordot(one, np.tensordot(two, x, (1, 1)), (1, 1))


class CardsProducts(Ops):
    """The reference, its products those that the backend `cuda` makes.

    Args:
        precision: "fp32" or "tf32".
        times: how many times this batch a card's is, whose sizes decide how a product is made.
    """

    shards = 1
    most, most_rows, fewest = MOST, MOST_ROWS, FEWEST  # as in the kernels' own modules

    def __init__(self, precision, times):
        self.times, self.up = times, False
        self.factor = tf32 if precision == "tf32" else np.asarray

    def product(self, a, b):
        """a b of rounded factors."""
        return self.factor(a) @ self.factor(b)

    def _small(self, x, outputs):
        return 2 * x.size * outputs * self.times <= self.most

    def linear(self, x, p, tape, shift=None, onto=None):
        """Ops.linear."""
        if self._small(x, p.w.shape[1]):
            return super().linear(x, p, tape, shift, onto)
        tape.append((x, p.w))
        y = self.product(x, p.w) + p.b
        return sum((extra for extra in (shift, onto) if extra is not None), y)

    def linear_backward(self, dy, g, tape, onto=None):
        """Ops.linear_backward."""
        x, w = tape[-1]
        if self._small(x, w.shape[1]) and x.size * self.times <= self.most_rows * len(w):
            return super().linear_backward(dy, g, tape, onto)
        tape.pop()
        rows = dy.reshape(-1, dy.shape[-1])
        g.b += rows.sum(axis=0)
        g.w += self.product(x.reshape(-1, len(w)).T, rows)
        dx = dy @ w.T if self._small(x, w.shape[1]) else self.product(dy, w.T)
        return dx if onto is None else onto + dx

    def pixel_sum(self, x):
        """Ops.pixel_sum; that of images is a product with ones, a normalisation's is not."""
        return super().pixel_sum(self.factor(x) if x.ndim == 4 else x)

    def upsample_conv2d(self, x, p, tape):
        """Ops.upsample_conv2d, which is not made by tiles."""
        self.up = True
        y = super().upsample_conv2d(x, p, tape)
        self.up = False
        return y

    def conv2d(self, x, p, tape, stride=1, pad=(1, 1), shift=None, onto=None):
        """Ops.conv2d, by tiles or patches as on a card."""
        k, _, inputs, outputs = p.w.shape
        many = 18 * x.size * outputs * self.times >= self.fewest
        tiles = (k, stride, pad, self.up) == (3, 1, (1, 1), False) and many
        if not tiles or inputs % 4 or outputs % 4:
            kept = []
            y = super().conv2d(x, p, kept, stride, pad, shift, onto)
            tape.append((*kept, k == 1 and shift is None and self._small(x, outputs)))
            return y
        V, U = self._tiles(x), both(p.w, G, G)
        M = self.product(V.reshape(16, -1, inputs), U.reshape(16, inputs, outputs))
        B, H, W, _ = x.shape
        Y = both(M.reshape(4, 4, B, -(-H // 2), -(-W // 2), outputs), A_T, A_T)
        y = Y.transpose(2, 3, 0, 4, 1, 5).reshape(B, H + H % 2, W + W % 2, outputs)
        tape.append((x.shape, V.reshape(16, -1, inputs), U.reshape(16, inputs, outputs)))
        more = (shift if shift is None else shift[:, None, None]), onto
        return sum((extra for extra in more if extra is not None), y[:, :H, :W] + p.b)

    def _correlate(self, x, w, stride, size, terms=()):
        if w.shape[0] > 1 or not self._small(x, w.shape[3]):
            x, w = self.factor(x), self.factor(w)
        return super()._correlate(x, w, stride, size, terms)

    def conv2d_backward(self, dy, g, tape, *onto):
        """Ops.conv2d_backward."""
        if len(tape[-1]) == 3:
            return sum(onto, self._tiles_backward(dy, g, tape))
        (padded, w, stride, before, shape), small = tape.pop()
        exact = g.b + dy.sum(axis=(0, 1, 2))
        many = small and dy.size // dy.shape[-1] * self.times <= self.most_rows
        x, d = (padded, dy) if many else map(self.factor, (padded, dy))
        dx = super().conv2d_backward(d, g, [(x, w, stride, before, shape)], *onto)
        g.b[:] = exact
        return dx

    def _tiles(self, x):
        """B^T d B of each tile, (4, 4, B, down, across, C)."""
        B, H, W, C = x.shape
        padded = np.pad(x, ((0, 0), (1, 1 + H % 2), (1, 1 + W % 2), (0, 0)))
        b, h, w, c = padded.strides
        shape = 4, 4, B, -(-H // 2), -(-W // 2), C
        return both(
            np.lib.stride_tricks.as_strided(padded, shape, (h, w, b, 2 * h, 2 * w, c)), B_T, B_T
        )

    def _tiles_backward(self, dy, g, tape):
        (B, H, W, C), V, U = tape.pop()
        g.b += dy.sum(axis=(0, 1, 2))
        down, across, O = -(-H // 2), -(-W // 2), dy.shape[-1]
        padded = np.pad(dy, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)))
        halves = padded.reshape(B, down, 2, across, 2, O).transpose(2, 4, 0, 1, 3, 5)
        M = both(halves, A_T.T, A_T.T).reshape(16, -1, O)
        dU = self.product(V.swapaxes(1, 2), M).reshape(4, 4, C, O)
        g.w += both(dU, G.T, G.T)
        dV = self.product(M, U.swapaxes(1, 2)).reshape(4, 4, B, down, across, C)
        d, dx = both(dV, B_T.T, B_T.T), np.zeros((B, 2 * down + 2, 2 * across + 2, C), np.float32)
        for i in range(4):
            for j in range(4):
                dx[:, i : i + 2 * down : 2, j : j + 2 * across : 2] += d[i, j]
        return dx[:, 1 : H + 1, 1 : W + 1]

    def attention(self, q, k, v, heads, tape):
        """Ops.attention."""
        q, k, v = (self._split(x, heads) for x in (q, k, v))
        scale = np.float32(q.shape[-1] ** -0.5)
        weights = self.softmax(self.product(q, k.swapaxes(2, 3)) * scale, tape)
        tape.append((q, k, v, weights, scale))
        return self._merge(self.product(weights, v))

    def attention_backward(self, dy, tape):
        """Ops.attention_backward."""
        q, k, v, weights, scale = tape.pop()
        dy = self._split(dy, q.shape[1])
        dv = self.product(weights.swapaxes(2, 3), dy)
        dscore = self.softmax_backward(self.product(dy, v.swapaxes(2, 3)), tape) * scale
        dq, dk = self.product(dscore, k), self.product(dscore.swapaxes(2, 3), q)
        return self._merge(dq), self._merge(dk), self._merge(dv)


def answers(net, shape, batch, ops):
    """(output, gradient, samples) of one network, its weights random and off Ho20's zeros."""
    s, theta = linear(1000), fresh(net).theta
    x0, eps = (np.tanh(noise.normal((batch, *shape), seed)) for seed in (1, 2))
    t, grad = np.linspace(1, s.T, batch).astype(int), np.zeros_like(theta)
    p, g = (params.views(net.spec(), flat) for flat in (theta, grad))
    model = Model(net, theta, s, shape, ops=ops)
    y = model.predict(x0, t)[0]
    loss_and_grad(ops, net, p, g, s, Batch(x0, t, eps), Objective())
    return y, grad, sample(model, batch, 3, steps=STEPS, sampler="ddim")


def apart(got, want):
    """The root mean square of the difference, as a share of want's."""
    return float(np.sqrt(np.mean((got - want) ** 2.0) / np.mean(want**2.0)))


def measure(letters=()):
    """{network: [rms error of TF32's output, gradient, samples; fp32's of output and gradient
    against the reference's]}.
    """
    found = {}
    for title, net in networks(letters).items():
        batch = min(BATCH[title[0]], net.batch)
        times = net.batch // batch
        plain, exact, rounded = (
            answers(net.net, net.shape, batch, ops)
            for ops in (Ops(), CardsProducts("fp32", times), CardsProducts("tf32", times))
        )
        found[title] = [apart(got, want) for got, want in zip(rounded, exact)]
        found[title] += [apart(got, want) for got, want in zip(exact[:2], plain)]
    return found


def table(found):
    """The lines of `measure`."""
    head = "TF32 against fp32, emulated", "output", "gradient", f"{STEPS} steps"
    lines = [LINE.format(*head, "fp32", "gradient")]
    lines += [LINE.format(title, *(f"{x:.1e}" for x in row)) for title, row in found.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure(sys.argv[1:])))
