"""The loss curve, drawn with Pillow at twice its size, then halved, so that its lines come out
smooth.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError

WIDTH, HEIGHT, ZOOM = 900, 500, 2
LEFT, TOP, RIGHT, BOTTOM = 80, 54, 30, 62  # margins
INK, PALE, LINE, TEXT = (31, 90, 160), (180, 206, 236), (228, 228, 228), (80, 80, 80)
PAD = 0.04  # empty share of the loss axis above and below the curve


def loss_curve(steps, losses):
    """Plot losses over steps: raw values light, their exponential moving average dark; -> RGB, 900
    x 500.

    steps, losses: (N,) numbers; losses that are not finite are left out. The loss axis is
    logarithmic where the losses are positive and span a decade. Raises InputError where nothing is
    left to plot.
    """
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if steps.ndim != 1 or steps.shape != losses.shape:
        raise InputError(
            f"a loss curve needs a step for each loss, got {steps.shape} and {losses.shape}"
        )
    steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
    if not losses.size:
        raise InputError("a loss curve needs at least one finite loss")
    log = losses.min() > 0 and losses.max() >= 10 * losses.min()
    warp, unwarp = (np.log, np.exp) if log else (np.asarray, np.asarray)
    left, right = min(steps.min(), 0), max(steps.max(), 1)
    low, high = warp(losses.min()), warp(losses.max())
    pad = PAD * (high - low) or 0.5
    low, high = low - pad, high + pad

    def place(x, y):
        """Pixels of data points, as the list of tuples that Pillow draws."""
        across = LEFT + (WIDTH - LEFT - RIGHT) * (np.asarray(x) - left) / (right - left)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - warp(y)) / (high - low)
        return [(a * ZOOM, d * ZOOM) for a, d in np.broadcast(across, down)]

    image = Image.new("RGB", (WIDTH * ZOOM, HEIGHT * ZOOM), "white")
    draw = ImageDraw.Draw(image)
    y_ticks = (log_ticks if log else linear_ticks)(unwarp(low), unwarp(high))
    _axes(
        draw,
        [(t, place(t, losses[0])[0][0]) for t in linear_ticks(left, right)],
        [(t, place(left, t)[0][1]) for t in y_ticks],
    )
    for values, colour, width in (
        (losses, PALE, 1),
        (smooth(losses, max(len(losses) / 60, 5)), INK, 2),
    ):
        draw.line(place(steps, values), fill=colour, width=width * ZOOM, joint="curve")
    if len(steps) == 1:
        draw.circle(place(steps, losses)[0], 3 * ZOOM, fill=INK)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def smooth(values, window):
    """Mean of the exponential moving averages from the left and from the right: the curve does not
    lag.

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


def linear_ticks(low, high, most=8):
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], as few as `most` or fewer."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [k * gap for k in range(math.ceil(low / gap), math.floor(high / gap) + 1)]


def log_ticks(low, high):
    """1, 2 and 5 times the powers of ten inside [low, high]; only the powers over more than three
    decades.
    """
    multiples = (1, 2, 5) if high / low <= 1e3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**k for k in powers for m in multiples if low <= m * 10.0**k <= high]


def _axes(draw, x_ticks, y_ticks):
    """Gridlines, tick labels, names and title; ticks come as (value, pixel)."""
    small, large = ImageFont.load_default(size=13 * ZOOM), ImageFont.load_default(size=18 * ZOOM)
    left, right, top, bottom = (
        LEFT * ZOOM,
        (WIDTH - RIGHT) * ZOOM,
        TOP * ZOOM,
        (HEIGHT - BOTTOM) * ZOOM,
    )
    for value, x in x_ticks:
        draw.line([(x, bottom), (x, bottom + 5 * ZOOM)], fill=TEXT, width=ZOOM)
        draw.text((x, bottom + 9 * ZOOM), f"{value:,.6g}", font=small, fill=TEXT, anchor="mt")
    for value, y in y_ticks:
        draw.line([(left, y), (right, y)], fill=LINE, width=ZOOM)
        draw.text((left - 9 * ZOOM, y), f"{value:.4g}", font=small, fill=TEXT, anchor="rm")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=TEXT, width=ZOOM)
    draw.text(
        ((left + right) / 2, HEIGHT * ZOOM - 10 * ZOOM), "step", font=small, fill=TEXT, anchor="ms"
    )
    draw.text((left, top - 14 * ZOOM), "Training loss", font=large, fill=TEXT, anchor="ls")
    for i, (name, colour) in enumerate((("smoothed", INK), ("each step", PALE))):
        x, y = right - (i * 95 + 5) * ZOOM, top - 19 * ZOOM
        draw.text((x, y), name, font=small, fill=TEXT, anchor="rm")
        start = x - draw.textlength(name, font=small) - 6 * ZOOM
        draw.line([(start - 18 * ZOOM, y), (start, y)], fill=colour, width=2 * ZOOM)
