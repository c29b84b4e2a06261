"""Time against size: from which size on a backend is the faster one, as numbers and as curves."""

import math
import pathlib

from matplotlib.figure import Figure
from tinyddpm.kernels.gpu.roofline import BYTES

from tinyddpm.plots import figures

from . import clock, report
from .bench import checked
from .cases import steps

COLOURS = {
    "numpy": figures.BLUE,
    "numba": figures.RED,
    "cupy": figures.GREEN,
    "cuda": figures.PURPLE,
}
ROW = 64  # elements of a sample: an 8 x 8 image
Curves = dict[str, dict[str, list[tuple[int, float]]]]  # {step: {backend: [(elements, seconds)]}}


def measure(found, seconds, powers) -> Curves:
    """Median seconds of each step for 2^p elements, p in powers; each answer is compared first."""
    curves: Curves = {}
    waits = {name: bench.wait for name, bench in found.items()}
    for power in report.each(powers, "curves"):
        for case in steps(max(1, 2**power // ROW), min(ROW, 2**power)):
            contenders, _ = checked(case, found)
            rows = clock.summary(clock.interleave(contenders, seconds, waits))
            for name, row in rows.items():
                line = curves.setdefault(case.name, {}).setdefault(name, [])
                line.append((2**power, row["median_ms"] / 1e3))
    return curves


def crossings(curves: Curves, base: str) -> dict[str, dict[str, int | None]]:
    """{step: {backend: the smallest size from which on it beats `base`, or None}}."""
    found: dict[str, dict[str, int | None]] = {}
    for step, lines in curves.items():
        found[step] = {}
        for name, points in lines.items():
            if name != base and base in lines:
                wins = [n for (n, mine), (_, its) in zip(points, lines[base]) if mine < its]
                losses = [n for (n, mine), (_, its) in zip(points, lines[base]) if mine >= its]
                late = [n for n in wins if n > max(losses, default=0)]
                found[step][name] = min(late, default=None)
    return found


def draw(curves: Curves, path: str | pathlib.Path, copy: float | None = None) -> None:
    """Save the curves as an image file; copy: as `plot` takes it. Raises TinyDDPMError."""
    report.write_picture(path, figures.to_image(plot(curves, copy)))


@figures.styled
def plot(curves: Curves, copy: float | None = None) -> Figure:
    """The curves, a panel for each step, both axes logarithmic.

    Args:
        curves: as `measure` gives them.
        copy: of a device, GB/s: the time of a step's bytes is drawn too. Above the line, where a
            curve is level, a backend waits for its launches; along it, for memory.
    """
    rows = math.ceil(len(curves) / 2)
    sheet = figures.figure(1120, 380 * rows)
    panels = sheet.subplots(rows, 2, squeeze=False).ravel()
    for axes, (step, lines) in zip(panels, curves.items()):
        axes.set(title=step, xlabel="elements", ylabel="milliseconds", yscale="log")
        axes.set_xscale("log", base=2)
        for name, points in lines.items():
            sizes, times = zip(*points)
            ms = [1e3 * time for time in times]
            axes.plot(sizes, ms, "o-", color=COLOURS.get(name, figures.INK), label=name)
        if copy:
            sizes = sorted({n for points in lines.values() for n, _ in points})
            ms = [1e-6 * BYTES[step] * n / copy for n in sizes]
            axes.plot(sizes, ms, "--", color=figures.INK, label="the bytes, at the device's copy")
        axes.legend(loc="upper left")
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    return sheet
