"""Chapter 4 of the tour: gradients by hand against finite differences."""

from types import SimpleNamespace

import numpy as np

from .. import noise
from ..nn.ops import Ops
from ..plots import figures
from ..plots.figures import BLUE, INK, RED
from .spirals import Chapter

OPS = Ops()
STEPS = np.geomspace(1e-10, 1.0, 41)  # h
SMALLEST = 1e-14  # smaller gaps are drawn here


def gradients(seed: int = 0) -> Chapter:
    """Chapter 4: each operation's backward against central differences of step h: a V each."""
    cases = _operations(seed)
    gaps = {name: _gaps(case, seed) for name, case in cases.items()}
    arrays, forward, _ = cases["convolution"]
    wrong = _gaps((arrays, forward, _unturned), seed)
    near = np.abs(STEPS - 1e-6).argmin()
    lines = [
        "A backward is right when it agrees with the difference quotient of its forward.",
        "The quotient errs by h squared (Taylor) and by rounding / h: a V, deepest in between.",
        "At h = 1e-6 the gap is "
        + ", ".join(f"{each[near]:.0e} ({name})" for name, each in gaps.items())
        + ".",
        "A wrong backward shows no V: with w not turned by 180 degrees in dx,",
        f"the gap stays at {wrong[0]:.1f}.",
    ]
    return Chapter(
        "4-gradient-by-hand",
        "A gradient by hand",
        _draw_gradients(gaps, wrong),
        "The relative gap between the hand-written gradient and a central difference, over the "
        "step h, for four operations: each a V on logarithmic axes, with slopes of -1 and 2. "
        "Right: a wrong gradient's gap does not fall.",
        lines,
        "nn.ops.Ops",
    )


@figures.styled
def _draw_gradients(gaps, wrong):
    sheet = figures.figure(1000, 400)
    left, right = sheet.subplots(1, 2, width_ratios=(8, 5))
    left.set_title("Relative gap between backward and $(f(x + h\\,u) - f(x - h\\,u)) / 2h$")
    left.set(ylim=(SMALLEST, 1e-1))
    for (name, each), colour in zip(gaps.items(), figures.PALETTE):
        left.plot(STEPS, np.maximum(each, SMALLEST), color=colour, label=name)
    guide = {"color": INK, "linewidth": 1, "linestyle": (0, (3, 3))}
    left.plot(STEPS, 1e-16 / STEPS, **guide)
    left.plot(STEPS, 0.3 * STEPS**2, **guide)
    left.text(3e-4, 2e-14, "rounding $/\\ h$", ha="right", va="bottom")
    left.text(3e-3, 5e-8, "$h^2$")
    left.legend(loc="upper left")

    right.set(title="A kernel that was not turned", ylim=(SMALLEST, 10))
    for each, colour, label in (
        (gaps["convolution"], BLUE, "convolution"),
        (wrong, RED, "$dx$ with $w$ as it is"),
    ):
        right.plot(STEPS, np.maximum(each, SMALLEST), color=colour, label=label)
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.set(xlabel="$h$", xscale="log", yscale="log", xlim=(STEPS[0], STEPS[-1]))
    return sheet


def _operations(seed):
    """name -> (arrays, forward(arrays, tape), backward(dy, g, tape) -> dx); x is the input."""

    def draw(step, *shape):
        return noise.normal(shape, seed, noise.PROBE, step).astype(np.float64)

    def given(x, w, *b):
        return {"x": x, "w": w, **({"b": b[0]} if b else {})}

    return {
        "linear": (
            given(draw(1, 4, 6), draw(2, 6, 5), draw(3, 5)),
            OPS.linear,
            OPS.linear_backward,
        ),
        "convolution": (
            given(draw(4, 2, 5, 6, 3), draw(5, 3, 3, 3, 4) / 3, draw(6, 4)),
            OPS.conv2d,
            OPS.conv2d_backward,
        ),
        "GroupNorm": (
            given(draw(7, 2, 4, 4, 6), draw(8, 6), draw(9, 6)),
            lambda x, p, tape: OPS.groupnorm(x, p, 2, tape),
            OPS.groupnorm_backward,
        ),
        "attention": (
            {"x": draw(10, 2, 5, 6)},
            lambda x, p, tape: OPS.attention(x, x, x, 2, tape),
            lambda dy, g, tape: sum(OPS.attention_backward(dy, tape)),
        ),
    }


def _gaps(case, seed):
    """`_gap` at each of STEPS."""
    return np.array([_gap(*case, h, seed) for h in STEPS])


def _gap(arrays, forward, backward, h, seed):
    """|numeric / analytic - 1| of L = sum of sin(y), along one direction u of all the arrays."""
    u = {
        name: noise.normal(array.shape, seed, noise.PROBE, 20 + i).astype(np.float64)
        for i, (name, array) in enumerate(arrays.items())
    }

    def output(shift, tape):
        moved = {name: array + shift * u[name] for name, array in arrays.items()}
        return forward(moved["x"], SimpleNamespace(**moved), tape)

    tape, grads = [], {name: np.zeros_like(array) for name, array in arrays.items()}
    dy = np.cos(output(0.0, tape))
    grads["x"] = backward(dy, SimpleNamespace(**grads), tape)
    analytic = sum((grads[name] * u[name]).sum() for name in arrays)
    numeric = np.sin(output(h, [])) - np.sin(output(-h, []))
    return abs(numeric.sum() / (2 * h) / analytic - 1)


def _unturned(dy, g, tape):
    """A wrong backward: the convolution's, with a kernel that was turned once too often."""
    padded, w, *rest = tape.pop()
    tape.append((padded, w[::-1, ::-1], *rest))
    return OPS.conv2d_backward(dy, g, tape)
