"""Pictures drawn with Pillow alone: grids of images, scatter plots, the loss curve, animations.

Every file is written beside its place and renamed, so that a reader never sees half a picture.
"""

import contextlib
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..datasets.sets import to_uint8
from ..errors import InputError, TinyDDPMError
from . import curves

WIDTH = 768  # a grid is enlarged by the whole factor that comes nearest to this width
GAP = 40  # grey level between the images of a grid
INK, GREY, FAINT = (31, 90, 160), (165, 165, 165), (225, 225, 225)
GREYS = 32  # in a grey animation's palette
RADIUS, OPACITY = 1.3, 0.6  # of a scatter plot's dots; the radius in pixels


def grid(images, columns=None, scale=None):
    """Lay images out row by row: (N, H, W, C) in [-1, 1] -> PIL image of mode L (C = 1) or RGB.

    C = 2 and C = 4 carry alpha in their last channel and are laid on white. columns defaults to a
    square layout, scale to a width near 768 pixels; pixels are repeated, not blurred. Raises
    InputError on other shapes.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or not 1 <= images.shape[3] <= 4:
        raise InputError(f"a grid needs images (N, H, W, C) with C in 1..4, got {images.shape}")
    n, h, w, c = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // columns)
    scale = scale or max(1, round(WIDTH / (columns * (w + 1))))
    gap = max(1, scale // 2)
    pixels = to_uint8(images)
    if c in (2, 4):
        alpha = pixels[..., -1:] / 255
        pixels = np.rint(pixels[..., :-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    # One cell is an image and the gap to its right and below; the gap above and to the left is
    # added last.
    cells = np.full(
        (rows * columns, h * scale + gap, w * scale + gap, pixels.shape[3]), GAP, np.uint8
    )
    cells[:n, :-gap, :-gap] = pixels
    sheet = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = sheet.reshape(rows * cells.shape[1], columns * cells.shape[2], -1)
    sheet = np.pad(sheet, ((gap, 0), (gap, 0), (0, 0)), constant_values=GAP)
    return Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)


def scatter(points, size=512, reference=None, extent=1.15):
    """Plot points (N, D) in [-extent, extent]^2 as blue dots, over `reference` in grey: RGB of size
    x size.

    D > 2 shows the first two coordinates, D = 1 a histogram. Raises InputError on other shapes.
    """
    layers = [
        (np.asarray(cloud, np.float64), colour)
        for cloud, colour in ((reference, GREY), (points, INK))
        if cloud is not None
    ]
    for cloud, _ in layers:
        if cloud.ndim != 2 or cloud.size == 0:
            raise InputError(f"a scatter plot needs points (N, D), got {cloud.shape}")
    draw = _dots if layers[-1][0].shape[1] > 1 else _bars
    canvas = np.full((size, size, 3), 255.0)
    for cloud, colour in layers:
        canvas += draw(cloud, size, extent)[..., None] * (np.array(colour) - canvas)
    canvas[[0, -1]] = canvas[:, [0, -1]] = FAINT
    return Image.fromarray(np.rint(canvas).astype(np.uint8))


def picture(x, reference=None):
    """Draw samples as what they are: a grid for images (N, H, W, C), a scatter plot for points (N,
    D).
    """
    return grid(x) if np.ndim(x) == 4 else scatter(x, reference=reference)


def save_png(path, image):
    """Write a PIL image as PNG; raises TinyDDPMError where the file cannot be written."""
    with _replacing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def save_gif(path, frames, ms=60, hold=1500):
    """Write PIL images as a GIF that loops: `ms` milliseconds a frame, the last held for `hold`.

    One palette serves all frames. Raises InputError without frames, TinyDDPMError where the file
    cannot be written.
    """
    if not frames:
        raise InputError("an animation needs at least one frame")
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette(frames))
    frames = [
        frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
    ]
    with _replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            loop=0,
            duration=[ms] * (len(frames) - 1) + [hold],
        )


def _palette(frames):
    """Even greys where all frames are grey, else the colours of a few frames: a flat list, r g b r
    g b ...
    """
    if all(frame.mode == "L" for frame in frames):
        return np.linspace(0, 255, GREYS).round().astype(np.uint8).repeat(3).tolist()
    # Several frames, for noise needs other colours than the end does.
    chosen = [
        np.asarray(frames[i * (len(frames) - 1) // 4].convert("RGB")).reshape(-1, 3)
        for i in range(5)
    ]
    colours = np.array(Image.fromarray(np.stack(chosen)).quantize(colors=256).getpalette()).reshape(
        -1, 3
    )
    colours[(colours > 247).all(axis=1)] = 255  # averaging tints a white background
    return colours.ravel().tolist()


def loss_curve(steps, losses, path):
    """Write `curves.loss_curve` as a PNG: raw losses light, smoothed dark, over the steps."""
    save_png(path, curves.loss_curve(steps, losses))


def _dots(points, size, extent):
    """How much of each pixel the dots cover, (size, size) in [0, 1]: 1 - prod_dots (1 - opacity
    area).
    """
    points = points[np.isfinite(points).all(axis=1)]
    x = (points[:, 0] / extent + 1) * size / 2
    y = (1 - points[:, 1] / extent) * size / 2
    reach = math.ceil(RADIUS + 0.5)
    transparency = np.zeros(size * size)  # its logarithm: products become sums
    for i, j in np.ndindex(2 * reach + 1, 2 * reach + 1):
        column, row = np.floor(x) + i - reach, np.floor(y) + j - reach
        # A disc covers a pixel by about the distance from the pixel's centre to its edge:
        # antialiasing.
        area = np.clip(RADIUS + 0.5 - np.hypot(column + 0.5 - x, row + 0.5 - y), 0, 1)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        place = (row * size + column)[inside].astype(np.int64)
        transparency += np.bincount(place, np.log1p(-OPACITY * area[inside]), size * size)
    return -np.expm1(transparency).reshape(size, size)


def _bars(values, size, extent):
    """A histogram of the first column, as covered area (size, size); the tallest bar has 0.9 of it."""
    edges = np.linspace(-extent, extent, 1 + size // 8)
    counts = np.histogram(values[:, 0], edges)[0]
    heights = np.repeat(counts, -(-size // len(counts)))[:size] * (
        0.9 * size / max(counts.max(), 1)
    )
    return OPACITY * np.clip(heights - np.arange(size)[::-1, None], 0, 1)


@contextlib.contextmanager
def _replacing(path):
    """Give a temporary name beside `path`, and rename it to `path` when all was written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise TinyDDPMError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
