"""A multilayer perceptron for points in a few dimensions: spec, forward, backward."""

from dataclasses import dataclass
from numbers import Integral

from ..errors import InputError
from . import params


@dataclass(frozen=True)
class MLP:
    """Residual blocks h <- h + silu(h w_a + e w_t) w_b, where e embeds t; x (B, dim) -> (B, out or
    dim).

    hidden: the width, even and at least 4; layers: how many blocks; classes: how many labels it
    knows, 0 for none. Raises InputError for other sizes.
    """

    dim: int = 2
    hidden: int = 128
    layers: int = 3
    classes: int = 0
    out: int | None = None

    def __post_init__(self):
        sizes = (self.dim, self.layers, self.dim if self.out is None else self.out)
        whole = all(isinstance(n, Integral) for n in (*sizes, self.hidden, self.classes))
        if not whole or min(sizes) < 1 or self.classes < 0 or self.hidden < 4 or self.hidden % 2:
            raise InputError(
                "an MLP needs dim, layers and out of at least 1, an even hidden of at least 4 and classes "
                f"of at least 0, got {self}"
            )

    def spec(self):
        """Every parameter of the net, once; the last layer of each branch starts at zero."""
        width = self.hidden
        block = {
            "a": params.linear(width, width),
            "time": params.linear(width, width),
            "b": params.linear(width, width, gain=0.0),
        }
        return {
            "time": params.linear(width, width),
            "input": params.linear(self.dim, width),
            "blocks": [block] * self.layers,
            "output": params.linear(width, self.out or self.dim, gain=0.0),
            "label": params.embedding(self.classes, width) if self.classes else None,
        }

    def forward(self, ops, p, x, t, tape, drop=None, label=None):
        """The net's output for x (B, dim) at t, (B,) or (1,), and label, likewise; there is no
        dropout in it.
        """
        sines = ops.time_embedding(t, self.hidden, x.dtype)
        e = ops.linear(sines, p.time, tape)
        if p.label:
            e = e + ops.embedding(
                params.no_label(ops.xp) if label is None else label, p.label, tape
            )
        e = ops.silu(e, tape)
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
        de = ops.silu_backward(de, tape)
        if g.label:
            ops.embedding_backward(de, g.label, tape)
        ops.linear_backward(de, g.time, tape)
        assert not tape
        return dx
