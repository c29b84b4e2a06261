"""Every operation once in each of its options, as cases for the tests of every backend."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from support.gradients import OPS


def normals(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@dataclass(frozen=True)
class Case:
    """One operation; its inputs are every array but w and b."""

    shapes: dict  # of its arrays, by name
    forward: Callable  # (a, tape) -> y; a: a namespace of the arrays
    # (dy, g, tape) -> the inputs' gradients, in their order; g.w and g.b start at zero
    backward: Callable

    def arrays(self):
        return {
            name: normals(*shape, seed=i + 1) for i, (name, shape) in enumerate(self.shapes.items())
        }

    def run(self, arrays, dy, grads=None):
        """(y, {name: gradient}); gradients of w and b are added to `grads`, which start at zero."""
        tape, a = [], SimpleNamespace(**arrays)
        y = self.forward(a, tape)
        grads = grads or {
            name: np.zeros(v.shape, v.dtype) for name, v in arrays.items() if name in "wb"
        }
        dx = self.backward(dy, SimpleNamespace(**grads), tape)
        assert not tape, "the backward leaves something on the tape"
        inputs = [name for name in arrays if name not in "wb"]
        dx = dx if isinstance(dx, tuple) else (dx,)
        return y, dict(zip(inputs, dx, strict=True)) | grads


def conv(k, stride, pad, size=(5, 7), channels=(3, 4)):
    shapes = {"x": (3, *size, channels[0]), "w": (k, k, *channels), "b": channels[1:]}
    return Case(shapes, lambda a, tape: OPS.conv2d(a.x, a, tape, stride, pad), OPS.conv2d_backward)


def norm(groups, shape=(3, 3, 5, 6), tol=1e-6, silu=""):
    forward, backward = (getattr(OPS, f"groupnorm{silu}{end}") for end in ("", "_backward"))
    return Case(
        {"x": shape, "w": shape[-1:], "b": shape[-1:]},
        lambda a, tape: forward(a.x, a, groups, tape, tol),
        backward,
    )


def plain(name, **shapes):
    """An operation without parameters, over its inputs in order."""
    forward, backward = getattr(OPS, name), getattr(OPS, name + "_backward")
    return Case(
        shapes,
        lambda a, tape: forward(*vars(a).values(), tape),
        lambda dy, g, tape: backward(dy, tape),
    )


def attention(heads):
    return Case(
        dict.fromkeys("qkv", (3, 5, 6)),
        lambda a, tape: OPS.attention(a.q, a.k, a.v, heads, tape),
        lambda dy, g, tape: OPS.attention_backward(dy, tape),
    )


def dropout(mask):
    def forward(a, tape):
        return OPS.dropout(a.x, None if mask is None else mask.astype(a.x.dtype), tape)

    return Case({"x": (3, 5, 7)}, forward, lambda dy, g, tape: OPS.dropout_backward(dy, tape))


def mse(weight):
    def forward(a, tape):
        target = normals(3, 4, 2, seed=9).astype(a.x.dtype)
        return OPS.mse(a.x, target, np.asarray(weight, a.x.dtype)[()], tape)

    return Case({"x": (3, 4, 2)}, forward, lambda dy, g, tape: OPS.mse_backward(dy, tape))


def linear(*rows):
    return Case(
        {"x": (*rows, 6), "w": (6, 5), "b": (5,)},
        lambda a, tape: OPS.linear(a.x, a, tape),
        OPS.linear_backward,
    )


def summed(silu="", inputs=6, outputs=5):
    """A linear layer with all that it can add; without SiLU, its gradient is added to ones."""
    forward, backward = (getattr(OPS, f"{silu}linear{end}") for end in ("", "_backward"))

    def ran(dy, g, tape):
        if silu:
            return backward(dy, g, tape), dy, dy
        ones = OPS.xp.ones((len(dy), inputs), dy.dtype)
        return backward(dy, g, tape, onto=ones) - 1, dy, dy

    shapes = {"x": (5, inputs), "w": (inputs, outputs), "b": (outputs,)}
    return Case(
        {**shapes, "s": (5, outputs), "o": (5, outputs)},
        lambda a, tape: forward(a.x, a, tape, shift=a.s, onto=a.o),
        ran,
    )


MASK = (normals(3, 5, 7, seed=8) > 0) / 0.6
# k, stride, pad and, where they matter, the image's size and the channels
CONVS = {
    "3x3": (3, 1, (1, 1)),
    "3x3, even": (3, 1, (1, 1), (4, 6)),
    "3x3 without pad": (3, 1, (0, 0)),
    "3x3 to the right": (3, 1, (0, 1)),
    "3x3 of a pixel": (3, 1, (1, 1), (1, 1)),
    "3x3 of one channel": (3, 1, (1, 1), (5, 7), (1, 1)),
    "3x3 by 2, both": (3, 2, (1, 1)),
    "3x3 by 2, both, even": (3, 2, (1, 1), (4, 6)),
    "3x3 by 2, right": (3, 2, (0, 1)),
    "3x3 by 2, right, even": (3, 2, (0, 1), (6, 4)),
    "1x1": (1, 1, (0, 0)),
    "1x1 by 2": (1, 2, (0, 0)),
    "1x1 of one channel": (1, 1, (0, 0), (5, 7), (1, 2)),
}
CASES = {
    "linear of rows": linear(4),
    "linear of tokens": linear(3, 4),
    "linear of images": linear(2, 3, 4),
    "linear onto sums": summed(),
    "linear onto sums, by fours": summed("", 8, 12),
    "silu_linear": summed("silu_"),
    "silu_linear, by fours": summed("silu_", 12, 8),
    "silu": plain("silu", x=(3, 5, 7)),
    **{f"conv {name}": conv(*options) for name, options in CONVS.items()},
    "groupnorm in 1": norm(1),
    "groupnorm in 2": norm(2),
    "groupnorm in 3": norm(3),
    "groupnorm in 6": norm(6),
    "groupnorm of tokens": norm(2, (3, 7, 6)),
    "groupnorm, large tol": norm(2, tol=0.5),
    "groupnorm_silu": norm(2, silu="_silu"),
    "softmax": plain("softmax", x=(3, 4, 5)),
    "attention": attention(1),
    "attention, 2 heads": attention(2),
    "attention, 6 heads": attention(6),
    "upsample": plain("upsample", x=(3, 2, 5, 4)),
    "concat": plain("concat", a=(3, 2, 4, 3), c=(3, 2, 4, 5)),
    "dropout": dropout(MASK),
    "dropout, none": dropout(None),
    "mse": mse(1.0),
    "mse, weight of a sample": mse(np.array([0.3, 2.0, 1.1]).reshape(3, 1, 1)),
}
