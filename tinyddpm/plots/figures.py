"""Plots by matplotlib: the loss curve, scatter plots, and the style that the tour shares.

Figures are drawn by Agg, without pyplot, and in one style whatever the user's own settings are: the
same numbers give the same bytes. The colours are Okabe and Ito's, which colour-blind readers can
tell apart too.
"""

from collections.abc import Iterable

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import StepPatch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import InputError

BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, SKY = "#d55e00", "#cc79a7", "#56b4e9"
INK, GREY, FAINT = "#2d2d2d", "#969696", "#e4e4e4"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
# The heat maps' scale: white to dark blue in equal steps of lightness.
SHADES = LinearSegmentedColormap.from_list(
    "shades", ["#ffffff", "#d6e6f2", "#96c4df", "#4a8fc4", "#175898", "#082556"]
)
DPI = 100  # so that a figure's inches are hundreds of pixels
DOT = 3.5  # a dot's area in points^2: a diameter of 2.6 pixels
FARTHEST = 1e100  # matplotlib's own arithmetic overflows near 1e308
STYLE = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "lines.linewidth": 1.6,
    "scatter.edgecolors": "none",
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.framealpha": 0.85,
    "legend.handlelength": 1.7,
    "legend.labelspacing": 0.3,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
}
# A decorator: what a function draws under it has this style, and the user's own settings stay.
styled = matplotlib.style.context(STYLE, after_reset=True)


@styled
def figure(width: int, height: int) -> Figure:
    """A white sheet of width x height pixels, whose axes make room for their own labels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


@styled
def to_image(figure: Figure) -> Image.Image:
    """The figure's pixels, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # laid out again, the axes would move by parts of a pixel
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def plane(axes: Axes, reach: float, title: str = "") -> None:
    """Make axes the square [-reach, reach]^2 of the plane: a faint frame and no ticks."""
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.set_title(title)
    axes.grid(False)
    axes.spines[:].set(visible=True, color=FAINT)


def heat(axes: Axes, values: ArrayLike, reach: float, *, low: float, high: float) -> AxesImage:
    """A heat map over the plane [-reach, reach]^2: white at low, dark blue at high.

    Args:
        axes: made by `plane`.
        values: (n, n), at n even steps from -reach to reach; y grows with the row.
        reach: half the side of the square.
        low, high: the ends of the scale.
    """
    edge = reach * (1 + 1 / (np.shape(values)[0] - 1))  # a value stands in the middle of its cell
    values = np.maximum(
        values, low
    )  # so that nothing far below is interpolated into its neighbours
    return axes.imshow(
        values,
        SHADES,
        vmin=low,
        vmax=high,
        interpolation="bilinear",
        origin="lower",
        extent=(-edge, edge, -edge, edge),
    )


def few_decades(axis: Axis) -> None:
    """Label a logarithmic axis of up to three decades at 1, 2 and 5 times the powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


@styled
def loss_curve(steps: ArrayLike, losses: ArrayLike) -> Figure:
    """Losses over the steps, 900 x 500 pixels: raw values light, smoothed ones dark.

    steps, losses: (N,) numbers; losses that are not finite are left out, and those beyond 1e100 are
    drawn there. The loss axis is logarithmic where the losses are positive and span a decade.
    Raises InputError where nothing is left to plot.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"a loss curve needs a step for each loss, got {x.shape} and {y.shape}")
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if not y.size:
        raise InputError("a loss curve needs at least one finite loss")
    y = y.clip(-FARTHEST, FARTHEST)
    sheet = figure(900, 500)
    axes = sheet.subplots()
    axes.set(title="Training loss", xlabel="step", xlim=(min(x.min(), 0), max(x.max(), 1)))
    axes.plot(x, y, color=SKY, alpha=0.6, linewidth=0.8, label="each logged step")
    marker = "o" if len(x) == 1 else None  # a line needs two points
    smoothed = smooth(y, max(len(y) / 60, 5))
    axes.plot(x, smoothed, color=BLUE, marker=marker, clip_on=marker is None, label="smoothed")
    if y.min() > 0 and y.max() >= 10 * y.min():
        axes.set_yscale("log")
        if y.max() <= 1000 * y.min():
            few_decades(axes.yaxis)
    axes.legend(loc="upper right")
    return sheet


def smooth(values: NDArray[np.float64], window: float) -> NDArray[np.float64]:
    """Mean of the exponential moving averages from the left and from the right: without a lag.

    m_i / (1 - r^i), m_i = r m_{i-1} + (1 - r) v_i, r = 1 - 1/window; window >= 1. (N,) -> (N,)
    float64.
    """
    decay, sides = 1 - 1 / window, []
    for side in (values, values[::-1]):
        mean, out = 0.0, np.empty(len(side))
        for i, value in enumerate(side):
            mean = decay * mean + (1 - decay) * value
            out[i] = mean / (1 - decay ** (i + 1))
        sides.append(out)
    return (sides[0] + sides[1][::-1]) / 2


@styled
def scatter(
    points: ArrayLike, size: int = 512, reference: ArrayLike | None = None, extent: float = 1.15
) -> Figure:
    """Points in [-extent, extent]^2 as blue dots, over those of `reference` in grey.

    Args:
        points: (N, D). D > 2 shows the first two coordinates, D = 1 a histogram.
        size: the side of the figure, in pixels.
        reference: (M, D), or None.
        extent: half the side of the window of the plane.

    Raises:
        InputError: points or reference have another shape.
    """
    sheet = Figure(figsize=(size / DPI, size / DPI), dpi=DPI)
    line = 1 / size  # a pixel: the frame is drawn half outside of the axes
    axes = sheet.add_axes((line, line, 1 - 2 * line, 1 - 2 * line))
    plane(axes, extent)
    histogram = np.ndim(points) == 2 and np.shape(points)[1] == 1
    if histogram:
        axes.set(ylim=(0, 1), aspect="auto")
    for cloud, colour in ((reference, GREY), (points, BLUE)):
        if cloud is not None and histogram:
            edges = np.linspace(-extent, extent, 1 + size // 8)
            bars = axes.stairs(0 * edges[1:], edges, fill=True, color=colour, alpha=0.6)
            _show(bars, cloud)
        elif cloud is not None:
            _show(axes.scatter([], [], s=DOT, c=colour, alpha=0.6), cloud)
    return sheet


def scatter_frames(
    frames: Iterable[ArrayLike],
    size: int = 512,
    reference: ArrayLike | None = None,
    extent: float = 1.15,
) -> list[Image.Image]:
    """`scatter` of each of the frames, as images: one figure, in which only the points change.

    Args:
        frames: (K, N, D), or K arrays of points.
        size, reference, extent: as in `scatter`.
    """
    first, *others = frames
    sheet = scatter(first, size, reference, extent)
    marks = (sheet.axes[0].collections or sheet.axes[0].patches)[-1]
    images = [to_image(sheet)]
    for points in others:
        _show(marks, points)
        images.append(to_image(sheet))
    return images


def _show(marks, points):
    """Give dots or bars the points (N, D) to show; the tallest bar has 0.9 of the height."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.size == 0:
        raise InputError(f"a scatter plot needs points (N, D), got {points.shape}")
    if isinstance(marks, StepPatch):
        counts = np.histogram(points[:, 0], marks.get_data().edges)[0]
        marks.set_data(0.9 * counts / max(counts.max(), 1))
    else:
        marks.set_offsets(points[np.isfinite(points).all(axis=1), :2])
