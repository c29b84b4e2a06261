"""Grids of images and animations, drawn by Pillow. A file is seen whole or not at all."""

import io
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..datasets.sets import to_uint8
from ..errors import InputError
from ..runs.files import write_atomic

WIDTH = 768  # a grid is enlarged by the whole factor that comes nearest to this width
GAP = 40  # grey level between the images of a grid
NOISE = 3.0  # half a window that shows 199 of 200 standard normal points, and the data large enough
GREYS = 32  # in a grey animation's palette
ENOUGH = 600_000  # pixels for a palette: the frames of small images count in full


def grid(images: ArrayLike, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Images row by row: (N, H, W, C) in [-1, 1] -> a picture of mode L (C = 1) or RGB.

    C = 2 and C = 4 carry alpha in their last channel and are laid on white. columns defaults to a
    square layout, scale to a width near 768 pixels; pixels are repeated, not blurred. Raises
    InputError on other shapes.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.size == 0 or not 1 <= x.shape[3] <= 4:
        raise InputError(f"a grid needs images (N, H, W, C) with C in 1..4, got {x.shape}")
    n, h, w, c = x.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = -(-n // columns)
    scale = scale or max(1, round(WIDTH / (columns * (w + 1))))
    gap = max(1, scale // 2)
    pixels = to_uint8(x)
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


def picture(x: ArrayLike, reference: ArrayLike | None = None) -> Image.Image:
    """Samples as what they are: a grid of images (N, H, W, C), a scatter plot of points (N, D).

    reference: points (M, D) to draw in grey under those of x, or None. Raises InputError for
    numbers that are not finite.
    """
    if not np.isfinite(x).all():
        raise InputError("what is not finite is not drawn")
    if np.ndim(x) == 4:
        return grid(x)
    from . import figures  # here, for a grid needs no matplotlib

    return figures.to_image(figures.scatter(x, reference=reference))


def small(frames: NDArray[Any], reference: ArrayLike | None = None) -> list[Image.Image]:
    """A process as small pictures: noise does not compress, and large ones take megabytes.

    frames: (K, N, H, W, C) images or (K, N, D) points. reference: as in `picture`.
    """
    if frames.ndim == 3:
        from . import figures

        window = max(1.15, float(np.nanmax(np.abs(frames[..., :2]), initial=0) * 1.05))
        return figures.scatter_frames(frames, 320, reference, min(window, NOISE))
    columns = math.ceil(math.sqrt(frames.shape[1]))
    scale = max(1, round(288 / (columns * (frames.shape[3] + 1))))
    return [grid(frame, columns, scale) for frame in frames]


def png(image: Image.Image) -> bytes:
    """The bytes of the image's PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Write an image as PNG; raises TinyDDPMError where the file cannot be written."""
    write_atomic(path, png(image))


def save_gif(
    path: str | os.PathLike[str],
    frames: Sequence[Image.Image],
    ms: int = 60,
    hold: int = 1500,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write images as a GIF that loops; one palette serves all frames.

    Args:
        path: the file.
        frames: images of one size.
        ms: milliseconds that a frame is shown for.
        hold: milliseconds that the last one is shown for.
        progress: called after each frame.

    Raises:
        InputError: there are no frames.
        TinyDDPMError: the file cannot be written.
    """
    if not frames:
        raise InputError("an animation needs at least one frame")
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette(frames))

    def encoded():
        for frame in frames:
            yield frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
            progress()  # when Pillow asks for the next one

    buffer, each = io.BytesIO(), encoded()
    next(each).save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=each,
        loop=0,
        duration=[ms] * (len(frames) - 1) + [hold],
    )
    write_atomic(path, buffer.getvalue())


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
    pixels = np.stack(chosen)
    few = np.ascontiguousarray(pixels[:, :: -(-pixels.shape[0] * pixels.shape[1] // ENOUGH)])
    colours = np.array(Image.fromarray(few).quantize(colors=256).getpalette()).reshape(-1, 3)
    colours[(colours > 247).all(axis=1)] = 255  # averaging tints a white background
    return colours.ravel().tolist()
