"""Time against size: from which size on a backend is the faster one, as figures and as a picture."""

import math

from PIL import Image, ImageDraw, ImageFont

from tinyddpm.plots.curves import log_ticks

from . import clock
from .bench import checked
from .cases import steps

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM, ZOOM = 560, 380, 74, 40, 20, 50, 2
COLOURS = {
    "numpy": (31, 90, 160),
    "numba": (214, 96, 30),
    "cupy": (40, 140, 70),
    "cuda": (130, 60, 150),
}
TEXT, PALE = (80, 80, 80), (228, 228, 228)
ROW = 64  # elements of a sample: an 8 x 8 image


def measure(found, seconds, powers):
    """{step: {backend: [(elements, median seconds)]}} for 2^p elements, p in powers; each answer
    compared first.
    """
    curves = {}
    waits = {name: bench.wait for name, bench in found.items()}
    for power in powers:
        for case in steps(max(1, 2**power // ROW), min(ROW, 2**power)):
            contenders, _ = checked(case, found)
            rows = clock.summary(clock.interleave(contenders, seconds, waits))
            for name, row in rows.items():
                curves.setdefault(case.name, {}).setdefault(name, []).append(
                    (2**power, row["median_ms"] / 1e3)
                )
    return curves


def crossings(curves, base):
    """{step: {backend: the smallest size from which on it beats `base`, or None}}."""
    found = {}
    for step, lines in curves.items():
        found[step] = {}
        for name, points in lines.items():
            if name != base and base in lines:
                wins = [n for (n, mine), (_, its) in zip(points, lines[base]) if mine < its]
                losses = [n for (n, mine), (_, its) in zip(points, lines[base]) if mine >= its]
                late = [n for n in wins if n > max(losses, default=0)]
                found[step][name] = min(late, default=None)
    return found


def draw(curves, path):
    """Save the curves as an image, one panel a step, both axes logarithmic. Raises OSError,
    ValueError.
    """
    columns = 2
    rows = math.ceil(len(curves) / columns)
    image = Image.new("RGB", (columns * WIDTH * ZOOM, rows * HEIGHT * ZOOM), "white")
    for i, (step, lines) in enumerate(curves.items()):
        image.paste(_panel(step, lines), (i % columns * WIDTH * ZOOM, i // columns * HEIGHT * ZOOM))
    image.resize((columns * WIDTH, rows * HEIGHT), Image.Resampling.LANCZOS).save(path)


def _panel(step, lines):
    image = Image.new("RGB", (WIDTH * ZOOM, HEIGHT * ZOOM), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=12 * ZOOM)
    sizes, times = ([point[i] for points in lines.values() for point in points] for i in (0, 1))
    low, high = min(times) / 1.5, max(times) * 1.5
    left, right = min(sizes) / 1.5, max(sizes) * 1.5

    def place(n, t):
        across = LEFT + (WIDTH - LEFT - RIGHT) * math.log(n / left) / math.log(right / left)
        down = TOP + (HEIGHT - TOP - BOTTOM) * math.log(high / t) / math.log(high / low)
        return across * ZOOM, down * ZOOM

    for tick in log_ticks(low, high):
        pen.line([place(left, tick), place(right, tick)], fill=PALE, width=ZOOM)
        pen.text(place(left / 1.1, tick), f"{1e3 * tick:g} ms", font=font, fill=TEXT, anchor="rm")
    for tick in sorted(set(sizes))[::2]:
        x, y = place(tick, low)
        pen.text((x, y + 8 * ZOOM), f"2^{math.log2(tick):.0f}", font=font, fill=TEXT, anchor="mt")
    pen.line([place(left, high), place(left, low), place(right, low)], fill=TEXT, width=ZOOM)
    pen.text((LEFT * ZOOM, 10 * ZOOM), f"{step}: time against elements", font=font, fill=TEXT)
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS.get(name, TEXT)
        pen.line([place(*point) for point in points], fill=colour, width=2 * ZOOM, joint="curve")
        pen.text(
            ((WIDTH - RIGHT - 60 * i) * ZOOM, 10 * ZOOM), name, font=font, fill=colour, anchor="ra"
        )
    return image
