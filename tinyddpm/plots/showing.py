"""Showing pictures where the program runs: in a notebook, in a window, or in a file."""

import os
import sys
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from ..runs.progress import in_notebook


def show(images: ArrayLike, reference: ArrayLike | None = None) -> Path | None:
    """Show images (N, H, W, C) as a grid, or points (N, D) as a scatter plot.

    In a notebook below its cell; else in a window of the system's viewer; without one in a new file
    of the current folder. reference: points to draw in grey under the others. Returns the file's
    path, or None. Raises InputError on other shapes.
    """
    from .images import picture, save_png  # here: Pillow is loaded where it is used

    image = picture(images, reference)
    if in_notebook():
        sys.modules["IPython"].display.display(image)
        return None
    if _in_window(image):
        return None
    names = (Path(f"shown-{i}.png") for i in range(1, 10**6))
    path = next(path for path in names if not path.exists())
    save_png(path, image)
    print(path)
    return path


def _in_window(image: Any) -> bool:
    """Whether there is a screen, and a viewer that shows the image on it."""
    from PIL import ImageShow

    screen = sys.platform in ("win32", "darwin")
    screen = screen or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return screen and bool(ImageShow.show(image, "tinyddpm"))
