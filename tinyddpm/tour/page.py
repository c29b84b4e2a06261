"""The tour's page: one HTML file that loads nothing else, with its figures and animations inside.

The template, page.html, has the words, the style and the script. Filled in here are the figures,
the numbers of this run, and the animations' arrays, as base64 of little-endian int16 and float32.
"""

import base64
import html
import json
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

from .. import noise
from ..plots.images import png
from ..process import Array
from ..samplers import ddim
from .spirals import Chapter, Learned, start

TEMPLATE = pathlib.Path(__file__).parent / "page.html"
WHOLE = 32767  # what the largest coordinate becomes


def build(
    chapters: list[Chapter],
    pictures: dict[str, Image.Image],
    arrays: dict[str, Any],
    seed: int = 0,
    folder: pathlib.Path | None = None,
) -> str:
    """The page as a string.

    Args:
        chapters: all that the template names.
        pictures: the figure of each chapter, by its name.
        arrays: `motion`'s.
        seed: the tour's, which the page mentions.
        folder: the page's: where the chapters of docs/ stand above it, they are linked.

    Raises:
        KeyError: a chapter of the template is missing.
    """
    by_name = {chapter.name: chapter for chapter in chapters}

    def figure(match):
        return _figure(by_name[match[1]], pictures[match[1]])

    def chapter(match):
        name = f"{match[1]}.md"
        there = folder is not None and (folder.resolve().parent / name).is_file()
        link = f'<a href="../{name}">docs/{name}</a>' if there else f"<code>docs/{name}</code>"
        return f"<p>The whole chapter, with its derivations and code: {link}</p>"

    filled = re.sub(r"<!-- figure ([\w-]+) -->", figure, TEMPLATE.read_text(encoding="utf-8"))
    filled = re.sub(r"<!-- chapter ([\w-]+) -->", chapter, filled)
    filled = filled.replace("/* arrays */", json.dumps(arrays))
    return filled.replace("<!-- seed -->", str(int(seed)))


def _figure(chapter, picture):
    """A chapter's figure with its sentences, as HTML."""
    source = base64.b64encode(png(picture)).decode()
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in chapter.sentences())
    return (
        '<figure>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Figure: {html.escape(chapter.title)}">\n'
        f'<img src="data:image/png;base64,{source}" width="{picture.width}" '
        f'height="{picture.height}" alt="{html.escape(chapter.alt)}"></div>\n'
        f"<figcaption><p>In this run:</p><ul>{items}</ul>"
        f'<p class="read">Read: <code>{html.escape(chapter.read)}</code></p></figcaption>\n'
        "</figure>"
    )


def motion(learned: Learned) -> dict[str, Any]:
    """What the animations show, ready for JSON: x_0 and eps forwards, frames in reverse.

    The page computes x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho20 eq. 4) itself;
    the reverse process is the trained net's, by DDIM (Song21a eq. 12).
    """
    s, n = learned.s, learned.setting.cloud
    x0 = learned.truth.sample(n, learned.seed + 5)
    eps = noise.normal((n, 2), learned.seed + 5, noise.EPS)
    xT = start(learned, n)
    frames, times = [xT], [s.T]

    def watch(t, xt, x0_hat):
        frames.append(xt)
        times.append(t)

    ddim(learned.ema, s, xT, steps=learned.setting.frames, watch=watch)
    return {
        "T": s.T,
        "alpha_bar": packed(s.alpha_bar.astype("<f4")),
        "points": n,
        "times": times,
        "x0": scaled(x0),
        "eps": scaled(eps),
        "reverse": scaled(np.stack(frames)),
    }


def scaled(array: Array) -> dict[str, Any]:
    """An array as {"unit": what one stands for, "data": base64 of int16}."""
    unit = float(np.abs(array).max()) / WHOLE or 1.0
    return {"unit": unit, "data": packed(np.rint(array / unit).astype("<i2"))}


def packed(array: Array) -> str:
    """An array's bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
