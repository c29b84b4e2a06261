"""What a plot's panel can hold: each mark knows its extent, how to draw itself, and its sample in a
legend.
"""

import math

import numpy as np
from PIL import Image

ZOOM = 2  # everything is drawn at this multiple of its size
INK = (45, 45, 45)


class Mark:
    """A mark over points: x and y are flat float64 arrays of one length."""

    def __init__(self, x, y, colour):
        self.x, self.y = (np.array(part, np.float64).ravel() for part in np.broadcast_arrays(x, y))
        self.colour = tuple(colour)

    def extent(self):
        """The arrays that an axis has to hold: (those along x, those along y)."""
        return [self.x], [self.y]


class Line(Mark):
    """A line through points, broken where a value is not finite."""

    def __init__(self, x, y, colour, width, dash):
        super().__init__(x, y, colour)
        self.width, self.dash = width, dash

    def draw(self, area, pen, place):
        """Each finite stretch on its own."""
        fine = np.isfinite(self.x) & np.isfinite(self.y)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], fine, [0]])))
        for start, end in zip(edges[::2], edges[1::2]):
            self._stroke(pen, place(self.x[start:end], self.y[start:end]))

    def sample(self, pen, x, y):
        """A short piece of it."""
        self._stroke(pen, [(x, y), (x + 22 * ZOOM, y)])

    def _stroke(self, pen, points):
        for piece in dashes(points, [ZOOM * part for part in self.dash]) if self.dash else [points]:
            if len(piece) > 1:
                pen.line(piece, fill=self.colour, width=round(self.width * ZOOM), joint="curve")


class Dots(Mark):
    """A disc at each finite point."""

    def __init__(self, x, y, colour, radius, opacity):
        super().__init__(x, y, colour)
        self.radius, self.fill = radius * ZOOM, (*self.colour, round(255 * opacity))

    def draw(self, area, pen, place):
        """Those further out than the panel are left out."""
        fine = np.isfinite(self.x) & np.isfinite(self.y)
        for x, y in place(self.x[fine], self.y[fine]):
            if (
                -self.radius < x < area.width + self.radius
                and -self.radius < y < area.height + self.radius
            ):
                pen.circle((x, y), self.radius, fill=self.fill)

    def sample(self, pen, x, y):
        """One, opaque and not too small."""
        pen.circle((x + 11 * ZOOM, y), max(self.radius, 3 * ZOOM), fill=self.colour)


class Arrows(Mark):
    """An arrow at each point."""

    def __init__(self, x, y, dx, dy, colour, width):
        super().__init__(x, y, colour)
        self.dx, self.dy, self.width = np.ravel(dx), np.ravel(dy), width

    def draw(self, area, pen, place):
        """A shaft, and a head of a third of its length, 8 pixels at most."""
        for (x, y), (u, v) in zip(place(self.x, self.y), place(self.x + self.dx, self.y + self.dy)):
            length, angle = math.hypot(u - x, v - y), math.atan2(v - y, u - x)
            pen.line([(x, y), (u, v)], fill=self.colour, width=round(self.width * ZOOM))
            head = min(length / 3, 8 * ZOOM)
            sides = [
                (u - head * math.cos(angle + turn), v - head * math.sin(angle + turn))
                for turn in (-0.45, 0.45)
            ]
            pen.polygon([(u, v), *sides], fill=self.colour)


class Band(Mark):
    """The area between two curves."""

    def __init__(self, x, low, high, colour, opacity):
        super().__init__(x, low, colour)
        self.high, self.fill = (
            np.broadcast_to(np.asarray(high, np.float64), self.x.shape),
            round(255 * opacity),
        )

    def extent(self):
        """Both curves."""
        return [self.x], [self.y, self.high]

    def draw(self, area, pen, place):
        """One polygon, there and back."""
        pen.polygon(
            place(self.x, self.y) + place(self.x, self.high)[::-1], fill=(*self.colour, self.fill)
        )

    def sample(self, pen, x, y):
        """A block of the colour."""
        pen.rectangle(
            [x, y - 5 * ZOOM, x + 22 * ZOOM, y + 5 * ZOOM], fill=(*self.colour, max(self.fill, 90))
        )


class Bars(Band):
    """A bar from 0 to each height."""

    def __init__(self, x, heights, colour, width):
        super().__init__(x, heights, 0.0, colour, 1.0)
        self.half = width / 2

    def extent(self):
        """The bars' sides, and their feet."""
        return [self.x - self.half, self.x + self.half], [self.y, self.high]

    def draw(self, area, pen, place):
        """A rectangle each."""
        corners = place(self.x - self.half, self.y), place(self.x + self.half, self.high)
        for (left, a), (right, b) in zip(*corners):
            pen.rectangle([left, min(a, b), right, max(a, b)], fill=self.colour)


class Picture:
    """An image over the whole panel, which has no say in its range."""

    def __init__(self, image):
        self.image = image

    def extent(self):
        """Nothing."""
        return [], []

    def draw(self, area, pen, place):
        """Smooth when it shrinks, in hard pixels when it grows."""
        grows = self.image.width < area.width
        method = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
        area.paste(self.image.convert("RGB").resize(area.size, method))


class Words(Mark):
    """Words at a point."""

    def __init__(self, x, y, text, colour, anchor, letters):
        super().__init__(x, y, colour)
        self.text, self.anchor, self.letters = text, anchor, letters

    def draw(self, area, pen, place):
        """In the small type, on a light ground so that lines do not cross them."""
        at = place(self.x, self.y)[0]
        left, top, right, bottom = pen.textbbox(
            at, self.text, font=self.letters, anchor=self.anchor
        )
        pen.rectangle(
            [left - ZOOM, top - ZOOM, right + ZOOM, bottom + ZOOM], fill=(255, 255, 255, 200)
        )
        pen.text(at, self.text, font=self.letters, fill=self.colour, anchor=self.anchor)


def dashes(points, pattern):
    """A polyline of pixels cut into dashes: pattern = (on, off) lengths; yields lists of points."""
    points = np.array(points)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    on, off = pattern
    for start in np.arange(0, along[-1], on + off):
        ends = [start, min(start + on, along[-1])]
        inner = points[(along > ends[0]) & (along < ends[1])]
        first, last = ([np.interp(end, along, points[:, k]) for k in (0, 1)] for end in ends)
        yield [tuple(first), *map(tuple, inner.tolist()), tuple(last)]
