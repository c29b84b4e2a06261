"""python -m benchmarks.fashion RUN: a run on labelled images beside a mixture of Gaussians.

The mixture has one Gaussian for each class: the mean and the whole covariance of the class's fitted
images, weighted by its share. Nothing in it is chosen or searched for, and `GaussianMixture` is its
exact denoiser at every t, so the same code judges both: the bound on the held-out images, the
error of eps_hat against t, and the measures of `metrics`, of as many samples.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

from tinyddpm import backend, exact, likelihood, load, metrics, noise, process
from tinyddpm.cli import judging
from tinyddpm.datasets import sets
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.plots import figures, images
from tinyddpm.runs.progress import Bar
from tinyddpm.runs.source import Source

from . import report

SHOWN = 64  # samples of a picture
TIMES = (1, 3, 10, 30, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000)
IMAGES = 512  # held-out images whose error is taken at each of the times
MEASURES = ("frechet", "precision", "recall", "density", "coverage", "one_nn", "copy_ratio")
BITS = ("bits_per_dim", "bits_L_T", "bits_L_between", "bits_L_0")


def mixture(fit, s):
    """The GaussianMixture of labelled data: a Gaussian for each class, of its mean and covariance.

    Raises InputError where the data has no labels, or a class has a single image.
    """
    if fit.labels is None:
        raise InputError(f"{fit.name}: a Gaussian for each class needs labels")
    rows = fit.x.reshape(len(fit.x), -1).astype(np.float64)
    classes = [rows[fit.labels == k] for k in np.unique(fit.labels)]
    if min(map(len, classes)) < 2:
        raise InputError(f"{fit.name}: a class of one image has no covariance")
    weights = [len(members) / len(rows) for members in classes]
    means = [members.mean(axis=0) for members in classes]
    return exact.GaussianMixture(weights, means, [np.cov(members.T) for members in classes], s)


def errors(denoise, s, x0):
    """{t: mean of (eps_hat - eps)^2 over images, Ho20 eq. 14} at TIMES up to T, float."""
    found = {}
    for t in (t for t in TIMES if t <= s.T):
        eps = noise.normal(x0.shape, 0, noise.EPS, t)
        eps_hat = np.asarray(denoise(process.q_sample(s, x0, t, eps), t))
        found[t] = float(np.square(eps_hat - eps, dtype=np.float64).mean())
    return found


def scored(x, fit, held, name):
    """The measures of samples x, as `tinyddpm eval` prints them."""
    unit = [sets.to_unit(part) for part in (x, fit.x, held)]
    with Bar(metrics.MEASURES, f"judge the {name}", "measure", show=True) as bar:
        return metrics.evaluate(*unit, bar)


def bound(denoise, s, held, levels):
    """The bound on held-out images and its parts, as `tinyddpm eval` prints them."""
    chain = likelihood.Chain("beta_tilde", 1.0, 1 / (levels - 1) if levels else None)
    times = min(judging.BOUND_TIMES, s.T)
    found = likelihood.bits_per_dim(denoise, s, held, chain=chain, times=times)
    parts = found.total, found.prior, float(found.terms[1:].sum()), float(found.terms[0])
    return dict(zip(BITS, parts)) | {"bits_error": found.error}


def run(folder, n):
    """The figures of a run and of the mixture on its data.

    Args:
        folder: of the run, whose data has labels.
        n: how many samples of each are judged, by how many of the held-out images.

    Returns:
        (figures, {"network" and "mixture": samples (SHOWN, H, W, C)}).

    Raises:
        InputError: there is no run, there are no labels, or no image was held out.
    """
    model = load(folder, "numba" if backend.reason("numba") is None else "numpy")
    s, (fit, held) = model.schedule, Source.of(model.meta, folder).read()
    if not len(held.x):
        raise InputError(f"{folder} held nothing out: train with --holdout to judge by it")
    gaussians, x0 = mixture(fit, s), held.x[:n]
    drawn = {
        "network": model.sample(n, progress=True),
        "mixture": gaussians.sample(n).reshape(n, *model.shape).astype(np.float32),
    }
    denoisers = {"network": model, "mixture": gaussians}
    found = {"step": model.meta["step"], "n": n, "errors": {}}
    for name in report.each(drawn, "models"):
        found[name] = scored(drawn[name], fit, x0, name)
        found[name] |= bound(denoisers[name], s, x0, fit.levels)
        found["errors"][name] = errors(denoisers[name], s, x0[:IMAGES])
    found["fitted images"] = judging.reference(n, fit, dataclasses.replace(held, x=x0))
    return found, {name: x[:SHOWN] for name, x in drawn.items()}


def table(found):
    """The figures as two tables in Markdown."""
    columns = ("network", "mixture", "fitted images")
    lines = [f"| | better | {' | '.join(columns)} |", "|---|---|---|---|---|"]
    for name in (*MEASURES, *BITS):
        better = judging.ARROWS.get(judging.BETTER.get(name, ""), judging.BETTER.get(name, ""))
        cells = [_cell(found[column], name) for column in columns]
        lines.append(f"| {name} | {better} | {' | '.join(cells)} |")
    rows = found["errors"]
    lines += ["", f"| t | {' | '.join(map(str, rows['network']))} |"]
    lines.append("|---" * (1 + len(rows["network"])) + "|")
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.3g}' for value in row.values())} |")
    return "\n".join(lines)


def _cell(scores, name):
    """A score to three places, the bound with its standard error."""
    if name not in scores:
        return ""
    error = f" ± {scores['bits_error']:.3f}" if name == "bits_per_dim" else ""
    return f"{scores[name]:.3f}{error}"


@figures.styled
def plot(found):
    """The errors of eps_hat against t, 900 x 500 pixels."""
    sheet = figures.figure(900, 500)
    axes = sheet.subplots()
    for (name, row), colour in zip(found["errors"].items(), figures.PALETTE):
        ts = [int(t) for t in row][:-1]  # at the last one nothing is left but noise
        axes.plot(ts, list(row.values())[:-1], color=colour, marker="o", label=name)
    axes.set(title="Error of eps_hat on held-out images", xlabel="t", yscale="log")
    axes.legend(loc="upper right")
    return sheet


def main(argv=None):
    """Judge the run, print the tables and draw the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fashion", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a run on labelled images")
    many = "samples that are judged, by as many held-out images (default: 1000)"
    parser.add_argument("--n", type=int, default=1000, metavar="N", help=many)
    parser.add_argument("--pictures", metavar="FOLDER", help="also draw fashion*.png into it")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args(argv)
    try:
        found, drawn = run(args.run, args.n)
        print(table(found))
        if args.json:
            report.write(args.json, found)
        if args.pictures:
            folder = pathlib.Path(args.pictures)
            report.write_picture(folder / "fashion.png", images.grid(drawn["network"]))
            report.write_picture(folder / "fashion-mixture.png", images.grid(drawn["mixture"]))
            report.write_picture(folder / "fashion-loss.png", figures.to_image(plot(found)))
    except (TinyDDPMError, OSError) as error:
        print(f"benchmarks.fashion: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
