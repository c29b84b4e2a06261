"""How far several ranks scale: a model, alpha seconds a message and beta a byte, fitted here.

A reduction of `parallel.Ranks` is an exchange of slices and a gathering of sums, piece after piece.
Each of these rounds sends N - 1 messages out of a rank, of 1 / N of the piece's bytes each.
"""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tinyddpm.parallel import PIECE, plan
from tinyddpm.plots import figures

RATES = (10, 25, 100)  # Gb/s
RANKS = (1, 2, 4, 8, 16, 32, 64)
LATENCY = 20e-6  # seconds a message takes on a network besides: assumed, not measured
SHARDS = 2  # of each rank


class Link(NamedTuple):
    """What a message costs."""

    alpha: float  # seconds each
    beta: float  # seconds a byte


def rounds(shards: int, ranks: int, reduce: str = "tree") -> int:
    """How often 1 / N of the bytes goes to each other rank, at most: partial sums, and the total.

    An MPI's own sum is taken for a ring's, whose two rounds are as many messages and bytes.
    """
    return 2 if reduce == "sum" else 1 + max(map(len, plan(shards, ranks).heads))


def messages(shards: int, ranks: int, nbytes: float, reduce: str = "tree") -> int:
    """How many messages leave a rank in a step."""
    pieces = 1 if reduce == "sum" else math.ceil(nbytes / (4 * PIECE * ranks))
    return pieces * rounds(shards, ranks, reduce) * (ranks - 1)


def sent(shards: int, ranks: int, nbytes: float, reduce: str = "tree") -> float:
    """The bytes that a rank sends in a step, for a gradient of nbytes."""
    return rounds(shards, ranks, reduce) * (ranks - 1) / ranks * nbytes


def seconds(link: Link, shards: int, ranks: int, nbytes: float, reduce: str = "tree") -> float:
    """What a step's reduction takes: every message alpha, every byte beta."""
    count = messages(shards, ranks, nbytes, reduce)
    return link.alpha * count + link.beta * sent(shards, ranks, nbytes, reduce)


def fit(measured: dict[int, float]) -> Link:
    """The link from {bytes of a gradient: seconds of its reduction by two ranks}.

    Least squares of the relative errors, of ranks with two shards each; not below 0.
    """
    sizes, times = (np.array(list(x), float) for x in (measured, measured.values()))
    counts, moved = (np.array([f(2 * SHARDS, 2, n) for n in sizes]) for f in (messages, sent))
    columns = np.stack([counts, moved], 1) / times[:, None]
    alpha, beta = np.linalg.lstsq(columns, np.ones(len(times)), rcond=None)[0]
    return Link(max(0.0, float(alpha)), max(0.0, float(beta)))


def error(link: Link, measured: dict[int, float]) -> float:
    """The largest relative error of what the link predicts for {bytes: seconds}, two ranks."""
    return max(abs(seconds(link, 2 * SHARDS, 2, n) / took - 1) for n, took in measured.items())


def network(link: Link, rate: float, latency: float = LATENCY) -> Link:
    """The link over a network of `rate` Gb/s: what a message costs here, and its way besides."""
    return Link(link.alpha + latency, link.beta + 8e-9 / rate)


def efficiency(link: Link, ranks: int, compute: float, nbytes: float) -> float:
    """The part of a step that is not reduction, each rank computing for as long as here."""
    return compute / (compute + seconds(link, SHARDS * ranks, ranks, nbytes))


def curves(link: Link, compute: float, nbytes: float) -> dict[str, dict[int, float]]:
    """{"10 Gb/s": {ranks: efficiency}, ...}."""
    return {
        f"{rate} Gb/s": {n: efficiency(network(link, rate), n, compute, nbytes) for n in RANKS}
        for rate in RATES
    }


@figures.styled
def plot(found: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """Ranks against efficiency, a panel for each network, a line for each rate."""
    sheet = figures.figure(1120, 420)
    for axes, (title, lines) in zip(sheet.subplots(1, len(found), squeeze=False)[0], found.items()):
        axes.set(title=title, xlabel="ranks", ylabel="efficiency (model)", ylim=(0, 1.05))
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANKS, list(map(str, RANKS)))
        for name, points in lines.items():
            axes.plot(list(points), list(points.values()), "o-", label=name)
        axes.legend(loc="lower left")
    return sheet
