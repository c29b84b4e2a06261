"""A multilayer perceptron for points in a few dimensions: spec, forward, backward."""

from dataclasses import dataclass

from . import params


@dataclass(frozen=True)
class MLP:
    """Residual layers h <- h + silu(h w + b), fed with x and an embedding of t; x (B, dim) -> (B, dim)."""

    dim: int = 2
    hidden: int = 128
    layers: int = 3

    def spec(self):
        """Every parameter of the net, once; the last layer starts at zero."""
        width = self.hidden
        return {
            "time": params.linear(width, width),
            "input": params.linear(self.dim, width),
            "layers": [params.linear(width, width) for _ in range(self.layers)],
            "output": params.linear(width, self.dim, gain=0.0),
        }

    def forward(self, ops, p, x, t, tape, drop=None):
        """The net's output for x (B, dim) at t, (B,) or (1,); `drop` is not used here."""
        sines = ops.time_embedding(t, self.hidden, x.dtype)
        e = ops.linear(sines, p.time, tape)
        h = ops.silu(ops.linear(x, p.input, tape) + e, tape)
        for layer in p.layers:
            h = h + ops.silu(ops.linear(h, layer, tape), tape)
        return ops.linear(h, p.output, tape)

    def backward(self, ops, g, dy, tape):
        """Adds every parameter's gradient to g, empties the tape and returns dx."""
        dh = ops.linear_backward(dy, g.output, tape)
        for layer in reversed(g.layers):
            dh = dh + ops.linear_backward(ops.silu_backward(dh, tape), layer, tape)
        de = ops.silu_backward(dh, tape)
        dx = ops.linear_backward(de, g.input, tape)
        ops.linear_backward(de, g.time, tape)
        assert not tape
        return dx
