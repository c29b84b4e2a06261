"""The tour's page: one HTML file that asks for nothing from elsewhere, with its figures and
animations inside.

The template, page.html, has the words, the style and the script; what is filled in here are the
figures, the numbers of this run, and the animations' arrays, as base64 of little-endian int16 and
float32.
"""

import base64
import html
import json
import pathlib
import re

import numpy as np

from .. import noise
from ..samplers import ddim
from .spirals import start

TEMPLATE = pathlib.Path(__file__).parent / "page.html"
WHOLE = 32767  # what the largest coordinate becomes


def build(chapters, pictures, arrays, seed=0):
    """The page as a string. pictures: each chapter's PNG, bytes by its name; arrays: `motion`'s.

    Raises KeyError for a chapter that the template speaks of and that is not there.
    """
    chapters = {chapter.name: chapter for chapter in chapters}

    def figure(match):
        chapter = chapters[match[1]]
        source = base64.b64encode(pictures[chapter.name]).decode()
        width, height = chapter.figure.size
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in chapter.sentences())
        return (
            f'<figure>\n<div class="scroll" tabindex="0" role="region" aria-label="Figure: '
            f'{html.escape(chapter.title)}">\n<img src="data:image/png;base64,{source}" width="{width}" '
            f'height="{height}" alt="{html.escape(chapter.alt)}"></div>\n<figcaption><p>In this run:</p>'
            f'<ul>{said}</ul><p class="read">Read: <code>{html.escape(chapter.read)}</code></p></figcaption>'
            f"\n</figure>"
        )

    filled = re.sub(r"<!-- figure ([\w-]+) -->", figure, TEMPLATE.read_text(encoding="utf-8"))
    return filled.replace("/* arrays */", json.dumps(arrays)).replace(
        "<!-- seed -->", str(int(seed))
    )


def motion(learnt):
    """What the animations show, ready for JSON: x_0 and eps for the forward process, frames for the
    reverse one.

    The page computes x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho20 eq. 4) itself;
    the reverse process is the trained net's, by DDIM (Song21a eq. 12).
    """
    s, n = learnt.s, learnt.setting.cloud
    x0 = learnt.truth.sample(n, learnt.seed + 5)
    eps = noise.normal((n, 2), learnt.seed + 5, noise.EPS)
    xT = start(learnt, n)
    frames, times = [xT], [s.T]

    def watch(t, xt, x0_hat):
        frames.append(xt)
        times.append(t)

    ddim(learnt.ema, s, xT, learnt.setting.frames, watch=watch)
    return {
        "T": s.T,
        "alpha_bar": packed(s.alpha_bar.astype("<f4")),
        "points": n,
        "times": times,
        "x0": scaled(x0),
        "eps": scaled(eps),
        "reverse": scaled(np.stack(frames)),
    }


def scaled(array):
    """An array as {"unit": what one stands for, "data": base64 of int16}."""
    unit = float(np.abs(array).max()) / WHOLE or 1.0
    return {"unit": unit, "data": packed(np.rint(array / unit).astype("<i2"))}


def packed(array):
    """An array's bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
