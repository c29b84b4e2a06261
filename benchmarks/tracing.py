"""What one train step and one sampling step do on a device, counted without one.

The step's own code runs on the arrays of `blank`: what it starts is counted, not written down by
hand, so that the counts follow the code.
"""

import math

import numpy as np
from tinyddpm.kernels.gpu.cuda_ops import CudaKernels
from tinyddpm.kernels.gpu.cupy_ops import CupyOps

from tinyddpm import Model, Noise, linear, samplers
from tinyddpm.nn import params
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

from .blank import Module, Node, reach

T = 500  # where the sampling step begins
STEPS = "train", "sample"
# The arrays that a kernel both reads and writes, by their place; all others cross once.
READ_AND_WRITTEN = {
    "adamw_ema": (0, 2, 3, 4),
    **dict.fromkeys(("bias", "bias_shift", "bias_onto", "bias_shift_onto"), (0,)),
    **dict.fromkeys(("softmax", "softmax_backward"), (0,)),
    "dense_weights": (2, 3),
}
DENSE = "dense", "dense_weights", "dense_backward"  # of rows, inputs and outputs


class Products:
    """The products of a backend that brings its own: a sum that ends in one is no node."""

    def __init__(self, nodes):
        self.nodes = nodes

    def product(self, a, b, out=None, add=False):
        """a b, in out, or added to what it holds, which is then read too."""
        result = a.product(a, b, out, a.dtype)
        if add:
            last = self.nodes.pop()
            self.nodes.append(last._replace(bytes=last.bytes + reach(out)))
        return result

    def add_rows(self, x, out):
        """out += the sum of the rows of x."""
        self.nodes.append(Node("product", reach(x) + 2 * reach(out), 2 * x.size))


class TracedOps(CudaKernels, CupyOps):
    """The backend `cuda` on Blanks; `nodes` is what it was told to do."""

    def __init__(self, precision="fp32"):
        self.nodes, self.precision = [], precision
        super().__init__(Module(self.nodes))
        self.products = Products(self.nodes)

    def asarray(self, host):
        """A Blank of the host's shape and type."""
        return self.xp.asarray(host)

    def _launch(self, name, grid, block, *arguments, wide=True):
        if 0 in grid:
            return
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        once = {x.ctypes.data: reach(x) for x in arrays}  # one given twice is read once
        again = sum(reach(arrays[i]) for i in READ_AND_WRITTEN.get(name, ()))
        sizes = arguments[len(arrays) :]
        if name == "dense_backward" and sizes[-1]:
            again += reach(arrays[-1])  # which is added to
        operations = 2 * math.prod(map(int, sizes[:3])) if name in DENSE else 0
        self.nodes.append(Node(name, sum(once.values()) + again, operations))


def trace(net, shape, batch, precision="fp32"):
    """{"train": nodes, "sample": nodes} of one step each.

    Args:
        net: the network.
        shape: of one sample.
        batch: how many samples.
        precision: of the products, which decides what they are put together from.
    """
    ops, s = TracedOps(precision), linear(1000)
    size = params.size(net.spec())
    state = TrainState(0, *(ops.xp.empty(size, np.float32) for _ in range(4)))
    x = np.empty((4 * batch, *shape), np.float32)
    trainer = Trainer(net, s, x, Recipe(batch=batch, shards=1), state, ops)
    model = Model(net, state.theta, s, shape, ops=ops)
    xt, c = ops.xp.empty((batch, *shape), np.float32), samplers.ancestral_coefficients(s, T, T - 1)

    def sample():
        return model.reverse(xt, T, c, 1.0, Noise(0))

    found = {}
    for name, step in zip(STEPS, (trainer.step, sample)):
        step()  # what is made once and kept is no part of a step
        ops.nodes.clear()
        step()
        found[name] = list(ops.nodes)
    return found
