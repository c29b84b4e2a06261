"""A multilayer perceptron for points in a few dimensions: spec, forward, backward."""

from dataclasses import dataclass
from numbers import Integral

from . import params
from .errors import InputError


@dataclass(frozen=True)
class MLP:
    """Residual blocks h <- h + silu(h w_a + e w_t) w_b, where e embeds t; x (B, dim) -> (B, dim).

    hidden: the width, even and at least 4; layers: how many blocks. Raises InputError for other sizes.
    """

    dim: int = 2
    hidden: int = 128
    layers: int = 3

    def __post_init__(self):
        whole = all(isinstance(n, Integral) for n in (self.dim, self.hidden, self.layers))
        if not whole or self.dim < 1 or self.layers < 1 or self.hidden < 4 or self.hidden % 2:
            raise InputError(f"an MLP needs dim and layers of at least 1 and an even hidden of at least 4, got {self}")

    def spec(self):
        """Every parameter of the net, once; the last layer of each branch starts at zero."""
        width = self.hidden
        block = {"a": params.linear(width, width), "time": params.linear(width, width),
                 "b": params.linear(width, width, gain=0.0)}
        return {
            "time": params.linear(width, width),
            "input": params.linear(self.dim, width),
            "blocks": [block] * self.layers,
            "output": params.linear(width, self.dim, gain=0.0),
        }

    def forward(self, ops, p, x, t, tape, drop=None):
        """The net's output for x (B, dim) at t, (B,) or (1,); there is no dropout in it."""
        sines = ops.time_embedding(t, self.hidden, x.dtype)
        e = ops.silu(ops.linear(sines, p.time, tape), tape)
        h = ops.linear(x, p.input, tape)
        for block in p.blocks:
            u = ops.linear(h, block.a, tape) + ops.linear(e, block.time, tape)
            h = h + ops.linear(ops.silu(u, tape), block.b, tape)
        return ops.linear(ops.silu(h, tape), p.output, tape)

    def backward(self, ops, g, dy, tape):
        """Adds every parameter's gradient to g, empties the tape and returns dx."""
        dh = ops.silu_backward(ops.linear_backward(dy, g.output, tape), tape)
        de = 0
        for block in reversed(g.blocks):
            du = ops.silu_backward(ops.linear_backward(dh, block.b, tape), tape)
            de = de + ops.linear_backward(du, block.time, tape)
            dh = dh + ops.linear_backward(du, block.a, tape)
        dx = ops.linear_backward(dh, g.input, tape)
        ops.linear_backward(ops.silu_backward(de, tape), g.time, tape)
        assert not tape
        return dx
