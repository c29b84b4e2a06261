"""A multilayer perceptron for points in a few dimensions: spec, forward, backward."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from types import SimpleNamespace
from typing import Any

from ..errors import InputError
from ..settings import setting
from . import params
from .ops import Array, Ops, Tape


@dataclass(frozen=True)
class MLP:
    """Residual blocks h <- h + silu(h w_a + e w_t) w_b, where e is an embedding of t.

    From (B, dim) to (B, out or dim). Raises InputError for sizes that cannot be built.
    """

    dim: int = 2  # of the points
    hidden: int = setting(128, "width of the perceptron for points (default: 128)")
    layers: int = setting(3, "residual layers of the perceptron (default: 3)")
    classes: int = 0  # how many labels it knows; 0: it takes none
    out: int | None = None  # the output's dimensions; None: as many as dim

    def __post_init__(self):
        sizes = (self.dim, self.layers, self.dim if self.out is None else self.out)
        whole = all(isinstance(n, Integral) for n in (*sizes, self.hidden, self.classes))
        if not whole or min(sizes) < 1 or self.classes < 0 or self.hidden < 4 or self.hidden % 2:
            raise InputError(
                "an MLP needs dim, layers and out of at least 1, an even hidden of at least 4 "
                f"and classes of at least 0, got {self}"
            )

    def spec(self) -> dict[str, Any]:
        """The tree of parameters (`params`); the last layer of each branch starts at zero."""
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

    def forward(
        self,
        ops: Ops,
        p: SimpleNamespace,
        x: Array,
        t: Array,
        tape: Tape,
        drop: Callable[..., Array] | None = None,
        label: Array | None = None,
    ) -> Array:
        """The network's output.

        Args:
            ops: the backend.
            p: the parameters, `params.views` of theta.
            x: (B, dim).
            t: (B,), or (1,) for one t throughout, which only a Forget takes.
            tape: a list, for `backward`, or a Forget.
            drop: not used: there is no dropout in it.
            label: (B,) or (1,) ints, -1 for no class; None: no class at all.

        Returns:
            (B, out or dim).
        """
        sines = ops.time_embedding(t, self.hidden, x.dtype)
        e = ops.linear(sines, p.time, tape)
        if p.label:
            label = params.known_label(ops.xp, label)
            e = e + ops.embedding(label, p.label, tape)
        e = ops.silu(e, tape)
        h = ops.linear(x, p.input, tape)
        for block in p.blocks:
            u = ops.linear(h, block.a, tape, shift=ops.linear(e, block.time, tape))
            h = ops.silu_linear(u, block.b, tape, onto=h)
        return ops.silu_linear(h, p.output, tape)

    def backward(self, ops: Ops, g: SimpleNamespace, dy: Array, tape: list[Any]) -> Array:
        """The gradients of the parameters, added to g, and that of x, returned.

        Args:
            ops: the backend.
            g: `params.views` of the gradient.
            dy: like the output.
            tape: what `forward` put there; empty afterwards.

        Returns:
            dx, like x.
        """
        dh, de = ops.silu_linear_backward(dy, g.output, tape), None
        for block in reversed(g.blocks):
            du = ops.silu_linear_backward(dh, block.b, tape)
            dh = ops.linear_backward(du, block.a, tape, onto=dh)
            de = ops.linear_backward(du, block.time, tape, onto=de)
        dx = ops.linear_backward(dh, g.input, tape)
        de = ops.silu_backward(de, tape)
        if g.label:
            ops.embedding_backward(de, g.label, tape)
        ops.linear_backward(de, g.time, tape)
        assert not tape
        return dx
