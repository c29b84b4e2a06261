"""What `tinyddpm eval` computes and prints: its time beforehand, the scores, the reference."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import likelihood, metrics
from ..datasets import sets
from ..errors import InputError, TinyDDPMError, counted
from ..model import Model
from ..process import Array
from ..runs import threads
from ..runs.progress import Bar
from ..shards import ALONE, Alone

# of the T terms of the variational bound, drawn anew for each group of samples
BOUND_TIMES = 32
PROBE = 16  # samples that the forecast times an evaluation of
PATIENCE = 0.5  # seconds after which it times no more
LONG = 300.0  # seconds from which on fewer samples are advised
FEWER = 1000
# Where the scores are better; those that are not named are parts of others.
BETTER = {
    "frechet": "down",
    "precision": "up",
    "recall": "up",
    "density": "up",
    "coverage": "up",
    "one_nn": "0.5",
    "copy_ratio": "1",
    "label_agreement": "up",
    "bits_per_dim": "down",
}
ARROWS = {"down": "\u2193", "up": "\u2191"}


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def evaluation_time(model: Model, team: Alone = ALONE) -> float:
    """Seconds that one evaluation of the network takes for one sample, on all of the threads."""
    xt = model.ops.normal((PROBE, *model.shape), 0, 0, 0, 0)
    seconds: list[float] = []
    begun = time.perf_counter()
    # the first one warms up, and another program's work slows down one or another
    while len(seconds) < 2 or len(seconds) < 8 and time.perf_counter() - begun < PATIENCE:
        start = time.perf_counter()
        model.ops.to_host(model(xt, model.schedule.T))
        seconds.append(time.perf_counter() - start)
    taken = min(seconds[1:])
    count = team.size * min(model.ops.shards, threads.share_of_cores(team.neighbours))
    return taken / PROBE / count


def forecast(model: Model, n: int, steps: int, held: int, team: Alone = ALONE) -> str:
    """One line: what `eval` computes and about how long it will take.

    Args:
        model: the model.
        n: how many samples it draws.
        steps: evaluations for each of them.
        held: how many images are held out.
        team: the processes that share the work.
    """
    terms, each = min(BOUND_TIMES, model.schedule.T), evaluation_time(model, team)

    def seconds(n):
        return each * (n * steps + held * terms)

    line = f"{n} samples in {steps} steps, the bound of {held} held out in {terms}: "
    line += f"about {clock(seconds(n))}"
    if seconds(n) > LONG and n > FEWER:
        line += f"; with --n {FEWER} about {clock(seconds(FEWER))}"
    return line


def check(n: int, fit: sets.Data, held: sets.Data) -> None:
    """Raise InputError where there are too few samples in one of the sets to judge by.

    Args:
        n: how many samples are to be drawn.
        fit: the part that was fitted.
        held: the part held out.
    """
    labels = [] if fit.labels is None or len(held.x) else fit.labels.tolist()
    alone = labels and len(set(labels)) == len(labels)
    more = "each class has one, which is fitted" if alone else "train with more --holdout"
    sizes = {f"held out ({more})": len(held.x), "fitted": len(fit.x), "drawn (--n)": n}
    for name, count in sizes.items():
        if count < metrics.FEWEST:
            raise InputError(
                f"to judge takes at least {counted(metrics.FEWEST, 'sample')} in each set, and "
                f"{count} would be {name}"
            )


def both(
    x: Array, fit: sets.Data, held: sets.Data, asked: Array | None, quiet: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """`scores` of the samples and `reference` of the fitted data, under a line of progress."""
    with Bar(2 * metrics.MEASURES, "judge", "measure", show=not quiet) as bar:
        return scores(x, fit, held, asked, bar), reference(len(x), fit, held, bar)


def scores(
    x: Array,
    fit: sets.Data,
    held: sets.Data,
    asked: Array | None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """The measures of `metrics` for samples; label agreement too where labels were asked for."""
    samples, fitted, real = (sets.to_unit(part) for part in (x, fit.x, held.x))
    found = metrics.evaluate(samples, fitted, real, progress)
    if asked is not None and fit.labels is not None and held.labels is not None:
        sides = {"label_agreement": (x, asked), "label_agreement_fit": (fit.x, fit.labels)}
        for name, (images, labels) in sides.items():
            found[name] = metrics.label_agreement(sets.to_unit(images), labels, real, held.labels)
    return found


def reference(
    n: int, fit: sets.Data, held: sets.Data, progress: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """What n of the fitted images score, which no sampler that does not copy can hope to beat."""
    chosen = sets.to_unit(fit.x[:n])
    found = metrics.evaluate(chosen, chosen, sets.to_unit(held.x), progress)
    del found["copy_ratio"]  # 0: they are the fitted images
    return found


def bound(
    model: Model, held: Array, seed: int, chain: likelihood.Chain, quiet: bool, team: Alone = ALONE
) -> dict[str, float]:
    """The variational bound on the held-out data, in bits per dimension, and its parts, by name.

    Args:
        model: the model.
        held: the data.
        seed: of the noise and the times.
        chain: the reverse chain whose bound it is.
        quiet: whether to show no progress.
        team: the processes that share the work.

    Raises:
        TinyDDPMError: it is not finite.
    """
    times = min(BOUND_TIMES, model.schedule.T)
    groups = likelihood.Groups(model.schedule, model.ops.asarray(held), seed, times)
    count = groups.drawn.size // team.size
    with (
        threads.workers(model.ops.shards, team.neighbours) as share,
        Bar(count, "bound", "evaluation", show=not quiet) as bar,
    ):
        found = groups.average(
            list(team.spread(share)(lambda g: groups.bound(model, chain, g, bar), groups.numbers))
        )
    if not math.isfinite(found.total):
        raise TinyDDPMError(f"the variational bound is not finite: {found.total}")
    return {
        "bits_per_dim": found.total,
        "bits_error": found.error,
        "bits_L_T": found.prior,
        "bits_L_between": float(found.terms[1:].sum()),
        "bits_L_0": float(found.terms[0]),
    }


def table(
    scores: Mapping[str, float], reference: Mapping[str, float], can: Callable[[str], bool]
) -> list[str]:
    """The lines of the table: name, where it is better, the samples' score, the fitted data's.

    can: whether a text can be printed; words stand for the arrows where it cannot.
    """
    arrows: dict[str, Any] = {} if not can("".join(ARROWS.values())) else ARROWS
    side = {"label_agreement": scores.get("label_agreement_fit"), **reference}
    lines = [f"{'':16} {'better':>6} {'samples':>10} {'fit data':>10}"]
    for name, value in scores.items():
        if name == "label_agreement_fit":  # it stands beside the samples'
            continue
        better = BETTER.get(name, "")
        other = "" if side.get(name) is None else f"{side[name]:10.4f}"
        lines.append(f"{name:16} {arrows.get(better, better):>6} {value:10.4f} {other}".rstrip())
    return lines


def finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    """The scores as JSON has them, which knows no infinity: None stands for it."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}
