"""Plots drawn with Pillow alone: panels with axes, and in them lines, dots, arrows, bands, bars,
heat maps, images.

A panel keeps what it is given and draws it once its range is known. All is drawn at twice its size
and halved, so that lines come out smooth. The colours are Okabe and Ito's, told apart by
colour-blind readers too; Pillow's own font has no Greek, so labels spell the letters out as the
code does.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from . import marks
from .curves import linear_ticks, log_ticks
from .marks import INK, ZOOM

BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)
RED, PURPLE, SKY = (213, 94, 0), (204, 121, 167), (86, 180, 233)
GREY, FAINT = (150, 150, 150), (228, 228, 228)
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
# Light to dark in equal steps of lightness: the heat maps' scale. Its light end is the paper.
SHADES = np.array(
    [(255, 255, 255), (214, 230, 242), (150, 196, 223), (74, 143, 196), (23, 88, 152), (8, 37, 86)]
)
SMALL, LARGE = 13, 15  # sizes of type, in pixels of the finished picture
PAD = 0.05  # empty share of an axis beyond the data, where no range is given
FAR = 1e5  # pixels: what lies further out is drawn there


class Figure:
    """A white sheet of width x height pixels that panels are placed on; `image()` draws it."""

    def __init__(self, width, height):
        self.size, self.panels = (width, height), []

    def panel(self, box, title="", **options):
        """A new `Panel` whose plotting area is box = (left, top, width, height) in pixels; returns
        it.
        """
        self.panels.append(Panel(box, title, **options))
        return self.panels[-1]

    def image(self):
        """The sheet as a PIL image, RGB."""
        sheet = Image.new("RGB", tuple(ZOOM * side for side in self.size), "white")
        for panel in self.panels:
            panel.draw(sheet)
        return sheet.resize(self.size, Image.Resampling.LANCZOS)


class Panel:
    """One pair of axes. x, y: the ranges (first, last), falling ones too, or None to fit the data;
    log: which axes.

    axes: False leaves out ticks and frame labels, for pictures in the plane; legend: where it
    stands, a corner "tl", "tr", "bl" or "br". Raises InputError for a range that is empty, or not
    positive on a logarithmic axis.
    """

    def __init__(
        self, box, title="", x=None, y=None, xlabel="", ylabel="", log="", axes=True, legend="tr"
    ):
        self.box, self.title, self.given, self.labels = box, title, [x, y], (xlabel, ylabel)
        self.log, self.axes, self.legend = [axis in log for axis in "xy"], axes, legend
        self.items, self.names, self.scale = [], [], None
        for first, last in (given for given in (x, y) if given is not None):
            if not abs(last - first) > 0:
                raise InputError(
                    f"a plot's range needs two different numbers, got {first:g} and {last:g}"
                )

    # What a panel can hold. x and y are sequences of numbers, in the units of the axes.

    def line(self, x, y, colour=INK, width=2, label=None, dash=None):
        """A line through the points; it breaks where a value is not finite; dash: pixels on and
        off, or None.
        """
        return self._add(marks.Line(x, y, colour, width, dash), label)

    def dots(self, x, y, colour=BLUE, radius=2.0, label=None, opacity=0.6):
        """A disc at each point."""
        return self._add(marks.Dots(x, y, colour, radius, opacity), label)

    def arrows(self, x, y, dx, dy, colour=INK, width=1):
        """An arrow from each (x, y) to (x + dx, y + dy)."""
        return self._add(marks.Arrows(x, y, dx, dy, colour, width), None)

    def band(self, x, low, high, colour=SKY, label=None, opacity=0.35):
        """The area between two curves."""
        return self._add(marks.Band(x, low, high, colour, opacity), label)

    def bars(self, x, heights, colour=BLUE, width=0.8, label=None):
        """A bar from 0 to each height, `width` wide."""
        return self._add(marks.Bars(x, heights, colour, width), label)

    def heat(self, values, low=None, high=None, scale=None):
        """A heat map (rows, columns), row 0 at the top, over the whole panel: white at `low`, dark
        at `high`.

        scale: the words at the colour bar that then stands right of the panel, or None.
        """
        values = np.asarray(values, np.float64)
        low, high = (
            (np.nanmin(values) if low is None else low),
            (np.nanmax(values) if high is None else high),
        )
        self.scale = None if scale is None else (low, high, scale)
        return self._add(marks.Picture(shade((values - low) / ((high - low) or 1))), None)

    def picture(self, image):
        """A PIL image over the whole panel."""
        return self._add(marks.Picture(image), None)

    def words(self, x, y, text, colour=INK, anchor="lm"):
        """Words at a point; anchor as Pillow names them."""
        return self._add(marks.Words(x, y, text, colour, anchor, font(SMALL)), None)

    def _add(self, item, label):
        self.items.append(item)
        if label:
            self.names.append((label, item))
        return self

    # Drawing.

    def draw(self, sheet):
        """Draw all of it on the sheet, an image of ZOOM times the figure's size."""
        left, top, width, height = (ZOOM * side for side in self.box)
        ranges = [self._range(axis) for axis in (0, 1)]
        area = Image.new("RGB", (width, height), "white")
        place = _place(ranges, self.log, (width, height))
        ticks = [
            _ticks(*ranges[axis], self.log[axis], self.box[2 + axis]) if self.axes else []
            for axis in (0, 1)
        ]
        pen = ImageDraw.Draw(area, "RGBA")
        for value in ticks[1]:
            at = place(ranges[0][0], value)[0][1]
            pen.line([(0, at), (width, at)], fill=FAINT, width=ZOOM)
        for item in self.items:
            item.draw(area, pen, place)
        self._draw_legend(pen, width, height)
        sheet.paste(area, (left, top))
        self._draw_frame(sheet, ticks, place)

    def _range(self, axis):
        """The axis's (low, high): as given, or what the data needs and a little more."""
        if self.given[axis] is not None:
            low, high = self.given[axis]
        else:
            values = [
                np.asarray(part, np.float64).ravel()
                for item in self.items
                for part in item.extent()[axis]
            ]
            values = np.concatenate([*values, np.empty(0)])
            values = values[np.isfinite(values) & (values > 0 if self.log[axis] else True)]
            if not values.size:
                raise InputError("a plot needs a range, or a finite number to find one by")
            low, high = values.min(), values.max()
            ends = np.log([low, high]) if self.log[axis] else np.array([low, high])
            ends += np.array([-1, 1]) * (PAD * (ends[1] - ends[0]) or 0.5)
            low, high = np.exp(ends) if self.log[axis] else ends
        if self.log[axis] and min(low, high) <= 0:
            raise InputError(f"a logarithmic axis needs a positive range, got {low:g} to {high:g}")
        return float(low), float(high)

    def _draw_legend(self, pen, width, height):
        letters, row = font(SMALL), 18 * ZOOM
        wide = (
            max((pen.textlength(label, font=letters) for label, _ in self.names), default=0)
            + 34 * ZOOM
        )
        x = 6 * ZOOM if "l" in self.legend else width - wide - 6 * ZOOM
        y = 6 * ZOOM if "t" in self.legend else height - row * len(self.names) - 6 * ZOOM
        if self.names:
            pen.rectangle([x, y, x + wide, y + row * len(self.names)], fill=(255, 255, 255, 215))
        for i, (label, item) in enumerate(self.names):
            middle = y + row * (i + 0.5)
            item.sample(pen, x + 4 * ZOOM, middle)
            pen.text((x + 30 * ZOOM, middle), label, font=letters, fill=INK, anchor="lm")

    def _draw_frame(self, sheet, ticks, place):
        left, top, width, height = (ZOOM * side for side in self.box)
        right, bottom, letters, pen = left + width, top + height, font(SMALL), ImageDraw.Draw(sheet)
        pen.rectangle([left, top, right, bottom], outline=GREY if self.axes else FAINT, width=ZOOM)
        for value in ticks[0]:
            at = left + place(value, 1.0)[0][0]
            pen.line([(at, bottom), (at, bottom + 4 * ZOOM)], fill=GREY, width=ZOOM)
            pen.text((at, bottom + 7 * ZOOM), said(value), font=letters, fill=INK, anchor="mt")
        widest = 0
        for value in ticks[1]:
            pen.text(
                (left - 7 * ZOOM, top + place(1.0, value)[0][1]),
                said(value),
                font=letters,
                fill=INK,
                anchor="rm",
            )
            widest = max(widest, pen.textlength(said(value), font=letters))
        pen.text((left, top - 8 * ZOOM), self.title, font=font(LARGE), fill=INK, anchor="ls")
        pen.text(
            ((left + right) / 2, bottom + 24 * ZOOM),
            self.labels[0],
            font=letters,
            fill=INK,
            anchor="mt",
        )
        _upright(sheet, self.labels[1], left - widest - 14 * ZOOM, (top + bottom) / 2, letters)
        if self.scale:
            low, high, words = self.scale
            strip = shade(np.linspace(1, 0, 64)[:, None]).resize(
                (10 * ZOOM, height), Image.Resampling.BILINEAR
            )
            sheet.paste(strip, (right + 8 * ZOOM, top))
            pen.rectangle(
                [right + 8 * ZOOM, top, right + 18 * ZOOM, bottom], outline=GREY, width=ZOOM
            )
            for value, y, anchor in ((high, top, "la"), (low, bottom, "ls")):
                pen.text((right + 22 * ZOOM, y), said(value), font=letters, fill=INK, anchor=anchor)
            pen.text(
                (right + 22 * ZOOM, (top + bottom) / 2), words, font=letters, fill=INK, anchor="lm"
            )


def shade(share):
    """Numbers in [0, 1], clipped, as colours from white to dark blue: (rows, columns) -> PIL image,
    RGB.
    """
    share = np.nan_to_num(np.clip(share, 0, 1)) * (len(SHADES) - 1)
    channels = [np.interp(share, np.arange(len(SHADES)), SHADES[:, k]) for k in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))


def font(size):
    """Pillow's own font at a size, for a sheet ZOOM times as large."""
    return ImageFont.load_default(size=size * ZOOM)


def said(value):
    """A tick's number in few letters: 0.25, 1,000, 1e-5."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:,.6g}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"


def _ticks(first, last, log, pixels):
    """Where an axis of so many pixels has its ticks: of powers of ten, only every second, third,
    ... if many.
    """
    (low, high), most = sorted((first, last)), max(3, pixels // 45)
    if not log:
        return linear_ticks(low, high, most)
    if high / low < 100:
        return log_ticks(low, high)
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    apart = next(gap for gap in (1, 2, 3, 5, 10, 20, 50, 100, 200) if len(powers) <= most * gap)
    return [10.0**power for power in powers if power % apart == 0]


def _place(ranges, log, size):
    """A function of data points that gives their pixels, a list of pairs; y points up."""

    def share(values, axis):
        low, high = ranges[axis]
        if log[axis]:
            # 0 has no place on a logarithmic axis; the smallest number there is lies below any
            # range.
            values = np.log(np.maximum(values, np.finfo(np.float64).tiny))
            low, high = math.log(low), math.log(high)
        return (np.asarray(values, np.float64) - low) / (high - low)

    def place(x, y):
        across, down = np.broadcast_arrays(
            np.atleast_1d(share(x, 0)), np.atleast_1d(1 - share(y, 1))
        )
        across, down = (np.clip(part * side, -FAR, FAR) for part, side in zip((across, down), size))
        return list(zip(across.tolist(), down.tolist()))

    return place


def _upright(sheet, words, x, y, letters):
    """Words that run upwards, their foot at x, centred on y."""
    if words:
        left, top, right, bottom = letters.getbbox(words)
        label = Image.new("RGB", (math.ceil(right), math.ceil(bottom) + ZOOM), "white")
        ImageDraw.Draw(label).text((0, 0), words, font=letters, fill=INK)
        label = label.rotate(90, expand=True)
        sheet.paste(label, (round(x - label.width), round(y - label.height / 2)))
