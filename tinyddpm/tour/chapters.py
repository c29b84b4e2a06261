"""tinyddpm tour: the nine chapters in the terminal, their figures, and one page that holds them and
the animations.
"""

import io
import pathlib
import sys
import textwrap

from PIL import Image

from ..errors import InputError
from ..plots import images as figures
from ..runs import threads
from ..runs.checkpoint import write_atomic
from . import code as tour_code
from . import forward as tour_figures
from . import learned as tour_learnt
from . import page
from . import scores as tour_scores
from .spirals import Setting, learn

COLUMNS = 78
COLOURS = 256  # in a figure's palette: plots need few, and it halves their bytes


def tour(out="tour", seed=0, backend="numpy", say=print, setting=None, progress=None):
    """Walk through the nine chapters: OUT/1-destroying-data.png .. OUT/9-gpu.png and
    OUT/index.html.

    Trains a small perceptron on points in the plane, on a backend; nothing is fetched. say: called
    with each paragraph; setting: a `Setting`, how much is computed; progress: called with each
    training step's record. Returns the chapters. Raises InputError where the folder cannot be made
    or the backend is not there, and TinyDDPMError where the disk refuses.
    """
    out, setting = pathlib.Path(out), setting or Setting()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from None
    chapters = []

    def tell(chapter):
        figures.save_png(out / f"{chapter.name}.png", reduced(chapter.figure))
        chapters.append(chapter)
        say(told(chapter))

    # On arrays this small BLAS's own threads would wait for each other; inside, it keeps to one.
    with threads.workers(2):
        for make in (
            tour_figures.destroying_data,
            tour_figures.bayes,
            tour_figures.bound,
            tour_code.gradients,
        ):
            tell(make(seed))
        say(
            f"Training a perceptron for {setting.steps} steps on points in the plane, by {backend} ...\n"
        )
        learnt = learn(setting, seed, backend, progress)
        tell(tour_learnt.training(learnt))
        tell(tour_learnt.sampling(learnt))
        tell(tour_scores.scores(seed))
        tell(tour_learnt.density(learnt))
        tell(tour_code.gpu(seed))
        arrays = page.motion(learnt)
    pictures = {chapter.name: png(chapter.figure) for chapter in chapters}
    write_atomic(out / "index.html", page.build(chapters, pictures, arrays, seed).encode())
    return chapters


def told(chapter):
    """A chapter as plain text of at most 80 columns, its heading bold on a terminal."""
    heading = f"{chapter.name[0]}  {chapter.title}"
    if sys.stdout.isatty():
        heading = f"\033[1m{heading}\033[0m"
    rows = [heading]
    for sentence in (*chapter.sentences(), f"Read: {chapter.read}"):
        rows += textwrap.wrap(
            sentence,
            COLUMNS,
            initial_indent="   ",
            subsequent_indent="     ",
            break_on_hyphens=False,
        )
    return "\n".join(rows) + "\n"


def reduced(figure):
    """A figure with a palette in place of full colours."""
    return figure.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def png(figure):
    """The bytes of the figure's file."""
    buffer = io.BytesIO()
    reduced(figure).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
