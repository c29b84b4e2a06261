"""Chapter 9 of the tour: what limits the fused kernels on a GPU, and counter-based noise."""

import numpy as np

from .. import noise
from ..plots import figures
from ..plots.figures import INK, PALETTE, RED
from .spirals import Chapter

# An H100 SXM's data sheet: bytes a second, processors of 128 lanes, and the clock that
# benchmarks/roofline.py takes.
BANDWIDTH, LANES, CLOCK = 3.35e12, 132 * 128, 1.70e9
# (bytes, instructions) an element of the CUDA kernels: counted by `python -m benchmarks roofline`,
# for sm_90; the first two from SASS, the others from PTX. Nothing here was timed.
KERNELS = {
    "noising, noise drawn inside": (12, 57.8),
    "reverse step, noise drawn inside": (12, 63.2),
    "noise alone": (4, 66.2),
    "noising, noise read": (12, 14.5),
    "AdamW and EMA": (36, 66.8),
    "GroupNorm with SiLU": (8, 25.0),
}
CUTS = (50, 57)  # where a batch of SAMPLES is split
SAMPLES = 96


def gpu(seed: int = 0) -> Chapter:
    """Chapter 9: what limits the kernels on an H100, and noise that no split of a batch changes."""
    whole, parts = _split_noise(seed)
    differ = int((whole != parts).sum())
    (size, count), fused = KERNELS["noising, noise drawn inside"], BANDWIDTH / 12 / 1e9
    lines = [
        f"An H100 reads {BANDWIDTH / 1e12} TB/s and issues {LANES * CLOCK / 1e12:.1f} 10^12 "
        f"instructions a second: {LANES * CLOCK / BANDWIDTH:.1f} a byte.",
        f"Our noising kernel, its Philox normals drawn inside, takes {count} for {size} bytes: "
        f"{count / size:.1f} a byte.",
        f"So it waits for memory alone, and drawing is free: at most {fused:.0f} 10^9 elements a "
        "second.",
        "Noise written first and read again would move 8 bytes more an element: "
        f"{BANDWIDTH / 20 / 1e9:.0f} at most.",
        "Counted from the compiler's output (benchmarks/roofline.py); no GPU was timed.",
        f"Noise is a function of (seed, purpose, step, sample, element): {whole.size:,} normals "
        "drawn in one",
        f"batch and in three parts differ in {differ} places.",
    ]
    return Chapter(
        "9-gpu",
        "The GPU: what a fused kernel saves",
        _draw_gpu(whole, parts),
        "Left: the roofline of an H100 with six kernels on it; all but the one that only draws "
        "noise lie on the sloping part, where memory is the limit. Right: noise drawn as one batch "
        "and in three parts, and their difference, which is blank.",
        lines,
        "noise.normal, formulas.numpy_formulas, backend.get",
    )


@figures.styled
def _draw_gpu(whole, parts):
    sheet = figures.figure(1000, 400)
    roof, *panels = sheet.subplots(1, 4, width_ratios=(3.6, 1, 1, 1))
    roof.set(title="An H100's roof, and our kernels (counted, not timed)", xscale="log")
    roof.set(xlabel="instructions a byte", ylabel="$10^{12}$ instructions a second", yscale="log")
    roof.set(xlim=(0.5, 50), ylim=(0.5, 50))
    at = np.geomspace(0.5, 50, 200)
    roof.plot(at, _reachable(at), color=INK, linewidth=2.5, label="the card can do")
    for (name, (size, count)), colour in zip(KERNELS.items(), PALETTE):
        density = count / size
        roof.plot(density, _reachable(density), "o", color=colour, markersize=8, label=name)
    roof.legend(loc="lower right")
    for axis in (roof.xaxis, roof.yaxis):
        figures.few_decades(axis)
    shown = {
        f"{SAMPLES} samples": (whole, -3, 3),
        "in three parts": (parts, -3, 3),
        "their difference": (np.abs(whole - parts), 0, 3),
    }
    for axes, (title, (values, low, high)) in zip(panels, shown.items()):
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=figures.FAINT)
        axes.imshow(values, figures.SHADES, vmin=low, vmax=high, aspect="auto")
    for cut in CUTS:
        panels[1].axhline(cut - 0.5, color=RED, linewidth=1.2)
    return sheet


def _reachable(density):
    """10^12 instructions a second that the card can do, at so many instructions a byte."""
    return np.minimum(density * BANDWIDTH, LANES * CLOCK) / 1e12


def _split_noise(seed):
    """Normals (SAMPLES, 24) drawn at once, and in three parts."""

    def draw(first, last):
        return noise.normal((last - first, 24), seed, noise.EPS, 1, first)

    parts = [draw(*ends) for ends in zip((0, *CUTS), (*CUTS, SAMPLES))]
    return draw(0, SAMPLES), np.concatenate(parts)
