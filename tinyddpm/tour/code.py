"""Chapters 4 and 9 of the tour: gradients by hand against finite differences; the roofline and
counter-based noise.
"""

from types import SimpleNamespace

import numpy as np

from .. import noise
from ..nn.ops import Ops
from ..plots import panels as plots
from ..plots.panels import BLUE, INK, RED
from .spirals import Chapter

OPS = Ops()
# An H100 SXM's data sheet: bytes a second, processors of 128 lanes, and the clock that
# benchmarks/roofline.py takes.
BANDWIDTH, LANES, CLOCK = 3.35e12, 132 * 128, 1.70e9
# (bytes, instructions) an element of the CUDA kernels: counted by `python -m benchmarks roofline`,
# for sm_90; the first two from SASS, the others from PTX. Nothing here was timed.
KERNELS = {
    "noising, noise drawn inside": (12, 55.5),
    "reverse step, noise drawn inside": (12, 59.8),
    "noise alone": (4, 66.2),
    "noising, noise read": (12, 14.5),
    "AdamW and EMA": (36, 66.8),
    "GroupNorm with SiLU": (8, 48.0),
}


def gradients(seed=0):
    """Chapter 4: each operation's backward against central differences of step h: the V with its
    two slopes.
    """
    steps = np.geomspace(1e-10, 1.0, 41)
    figure = plots.Figure(1000, 410)
    panel = figure.panel(
        (70, 50, 480, 290),
        "Gap between backward and (f(x + h u) - f(x - h u)) / 2h, relative",
        xlabel="h",
        log="xy",
        x=(1e-10, 1),
        y=(1e-14, 1e-1),
        legend="tl",
    )
    near = {}
    for (name, case), colour in zip(_operations(seed).items(), plots.PALETTE):
        gaps = np.array([_gap(*case, h, seed) for h in steps])
        near[name] = gaps[np.abs(steps - 1e-6).argmin()]
        panel.line(steps, np.maximum(gaps, 1e-14), colour, label=name)
    panel.line(steps, 1e-16 / steps, INK, width=1, dash=(3, 3)).words(2e-10, 3e-11, "rounding / h")
    panel.line(steps, 0.3 * steps**2, INK, width=1, dash=(3, 3)).words(3e-3, 5e-8, "h squared")
    panel = figure.panel(
        (680, 50, 300, 290),
        "A kernel that was not turned",
        xlabel="h",
        log="xy",
        x=(1e-10, 1),
        y=(1e-14, 10),
        legend="bl",
    )
    arrays, forward, _ = case = _operations(seed)["convolution"]
    for (backward, label), colour in zip(
        ((case[2], "convolution"), (_unturned, "dx with w as it is")), (BLUE, RED)
    ):
        gaps = np.array([_gap(arrays, forward, backward, h, seed) for h in steps])
        panel.line(steps, np.maximum(gaps, 1e-14), colour, label=label)
    lines = [
        "A backward is right when it agrees with the difference quotient of its forward.",
        "The quotient errs by h squared (Taylor) and by rounding / h: a V, deepest in between.",
        "At h = 1e-6 the gap is "
        + ", ".join(f"{gap:.0e} ({name})" for name, gap in near.items())
        + ".",
        "A wrong backward shows no V: with w not turned by 180 degrees in dx,",
        f"the gap stays at {gaps[0]:.1f}.",
    ]
    return Chapter(
        "4-gradient-by-hand",
        "A gradient by hand",
        figure.image(),
        "The relative gap between the hand-written gradient and a central difference, over the step h, for "
        "four operations: each a V on logarithmic axes, with slopes of -1 and 2. Right: a wrong gradient's "
        "gap does not fall.",
        lines,
        "nn.ops.Ops",
    )


def _operations(seed):
    """name -> (arrays, forward(arrays, tape), backward(dy, g, tape) -> dx): the first array is the
    input.
    """

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


def _gap(arrays, forward, backward, h, seed):
    """The gap for L = sum of sin(y), along one direction u through all of the arrays: |numeric /
    analytic - 1|.
    """
    u = {
        name: noise.normal(array.shape, seed, noise.PROBE, 20 + i).astype(np.float64)
        for i, (name, array) in enumerate(arrays.items())
    }

    def loss(shift, tape):
        moved = {name: array + shift * u[name] for name, array in arrays.items()}
        return forward(moved["x"], SimpleNamespace(**moved), tape)

    tape, grads = [], {name: np.zeros_like(array) for name, array in arrays.items()}
    dy = np.cos(loss(0.0, tape))
    grads["x"] = backward(dy, SimpleNamespace(**grads), tape)
    analytic = sum((grads[name] * u[name]).sum() for name in arrays)
    numeric = np.sin(loss(h, [])) - np.sin(loss(-h, []))
    return abs(numeric.sum() / (2 * h) / analytic - 1)


def _unturned(dy, g, tape):
    """A wrong backward: the convolution's, with a kernel that was turned once too often."""
    padded, w, *rest = tape.pop()
    tape.append((padded, w[::-1, ::-1], *rest))
    return OPS.conv2d_backward(dy, g, tape)


def gpu(seed=0):
    """Chapter 9: what bounds the fused kernels on an H100, and noise that does not care how a batch
    is split.
    """
    figure = plots.Figure(1000, 420)
    panel = figure.panel(
        (80, 50, 420, 300),
        "An H100's roof, and our kernels (counted, not timed)",
        log="xy",
        x=(0.5, 50),
        y=(0.5, 50),
        xlabel="instructions a byte",
        ylabel="10^12 instructions a second",
        legend="br",
    )
    at = np.geomspace(0.5, 50, 200)
    panel.line(
        at, np.minimum(at * BANDWIDTH, LANES * CLOCK) / 1e12, INK, width=3, label="the card can do"
    )
    for (name, (size, count)), colour in zip(KERNELS.items(), plots.PALETTE):
        density = count / size
        panel.dots(
            [density],
            [min(density * BANDWIDTH, LANES * CLOCK) / 1e12],
            colour,
            radius=6,
            label=name,
            opacity=1,
        )
    whole, parts, low = _split_noise(seed)
    for i, (values, title) in enumerate(
        ((whole, "96 samples, one batch"), (parts, "the same, split 50 + 7 + 39"))
    ):
        box = figure.panel(
            (560 + 150 * i, 50, 130, 300),
            title.split(", ")[0] if i == 0 else "in three parts",
            x=(0, 1),
            y=(0, 1),
            axes=False,
        )
        box.heat(values, low, -low)
        for cut in () if i == 0 else (50, 57):
            box.line([0, 1], [1 - cut / 96] * 2, RED, width=1.5)
    box = figure.panel((860, 50, 130, 300), "their difference", x=(0, 1), y=(0, 1), axes=False)
    box.heat(np.abs(whole - parts), 0, -low)
    differ = int((whole != parts).sum())
    (size, count), fused = KERNELS["noising, noise drawn inside"], BANDWIDTH / 12 / 1e9
    lines = [
        f"An H100 reads {BANDWIDTH / 1e12} TB/s and issues {LANES * CLOCK / 1e12:.1f} 10^12 instructions "
        f"a second: {LANES * CLOCK / BANDWIDTH:.1f} a byte.",
        f"Our noising kernel, its Philox normals drawn inside, takes {count} for {size} bytes: "
        f"{count / size:.1f} a byte.",
        f"So it waits for memory alone, and drawing is free: at most {fused:.0f} 10^9 elements a second.",
        "Noise written first and read again would move 8 bytes more an element: "
        f"{BANDWIDTH / 20 / 1e9:.0f} at most.",
        "Counted from the compiler's output (benchmarks/roofline.py); no GPU was timed.",
        f"Noise is a function of (seed, purpose, step, sample, element): {whole.size:,} normals drawn in one",
        f"batch and in three parts differ in {differ} places.",
    ]
    return Chapter(
        "9-gpu",
        "The GPU: what a fused kernel saves",
        figure.image(),
        "Left: the roofline of an H100 with six kernels on it; all but the one that only draws noise lie on "
        "the sloping part, where memory is the limit. Right: noise drawn as one batch and in three parts, "
        "and their difference, which is blank.",
        lines,
        "noise.normal, formulas.numpy_formulas, backend.get",
    )


def _split_noise(seed):
    """Normals (96, 24) drawn at once, and in parts of 50, 7 and 39 samples; and the heat map's
    lower end.
    """

    def draw(first, last):
        return noise.normal((last - first, 24), seed, noise.EPS, 1, first)

    return draw(0, 96), np.concatenate([draw(0, 50), draw(50, 57), draw(57, 96)]), -3.0
