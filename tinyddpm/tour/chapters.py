"""What `tinyddpm tour` does: nine chapters in the terminal, their figures, and one page."""

import os
import pathlib
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from PIL import Image

from ..errors import InputError
from ..plots import figures, images
from ..runs import threads
from ..runs.files import check_writable, write_atomic
from . import page
from .forward import bayes, bound, destroying_data
from .gpu import gpu
from .gradients import gradients
from .learned import density, sampling, training
from .scores import scores
from .spirals import Chapter, Setting, learn

COLUMNS = 78
COLOURS = 256  # in a figure's palette: plots need few, and it halves their bytes


def tour(
    out: str | pathlib.Path = "tour",
    seed: int = 0,
    backend: str = "numpy",
    show: Callable[[str], object] = print,
    setting: Setting | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> list[Chapter]:
    """The nine chapters: OUT/1-destroying-data.png .. OUT/9-gpu.png and OUT/index.html.

    A small perceptron is trained on points in the plane; nothing is fetched. Returns the chapters.

    Args:
        out: the folder.
        seed: of every random number.
        backend: where to train.
        show: called with each paragraph of text.
        setting: how much to compute.
        progress: called with the record of each training step.

    Raises:
        InputError: the folder cannot be made, or the backend is not there.
        TinyDDPMError: a file cannot be written.
    """
    folder, setting = _folder(out), setting or Setting()
    check_writable(folder / "index.html")
    chapters: list[Chapter] = []
    pictures: dict[str, Image.Image] = {}

    def finish(chapter):
        pictures[chapter.name] = picture(chapter)
        images.save_png(folder / f"{chapter.name}.png", pictures[chapter.name])
        chapters.append(chapter)
        show(as_text(chapter))

    # On arrays this small BLAS's own threads would wait for each other; inside, it keeps to one.
    with threads.workers(2):
        for make in (destroying_data, bayes, bound, gradients):
            finish(make(seed))
        steps = f"{setting.steps} steps on points in the plane, by {backend}"
        show(f"Training a perceptron for {steps} ...\n")
        learned = learn(setting, seed, backend, progress)
        finish(training(learned))
        finish(sampling(learned))
        finish(scores(seed))
        finish(density(learned))
        finish(gpu(seed))
        built = page.build(chapters, pictures, page.motion(learned), seed, folder).encode()
    write_atomic(folder / "index.html", built)
    return chapters


def _folder(out):
    """The folder, made where it is missing."""
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from None
    return out


def picture(chapter: Chapter) -> Image.Image:
    """A chapter's figure as an image, with a palette in place of full colours."""
    full, method = figures.to_image(chapter.figure), Image.Quantize.MAXCOVERAGE
    return full.quantize(COLOURS, method, kmeans=3, dither=Image.Dither.NONE)


def as_text(chapter: Chapter) -> str:
    """A chapter as plain text of at most 80 columns, its heading bold on a terminal."""
    heading = f"{chapter.name[0]}  {chapter.title}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        heading = f"\033[1m{heading}\033[0m"
    rows = [heading]
    first, other = " " * 3, " " * 5
    for sentence in (*chapter.sentences(), f"Read: {chapter.read}"):
        rows += textwrap.wrap(
            sentence, COLUMNS, initial_indent=first, subsequent_indent=other, break_on_hyphens=False
        )
    return "\n".join(rows) + "\n"
