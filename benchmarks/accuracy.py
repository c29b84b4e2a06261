"""How near each sampler comes to the truth: on a mixture whose denoiser is a closed form.

Nothing is trained, so what is left is the sampler's own error. "transport" is the distance of its
end from where the finely solved ODE carries the same x_T, root mean square, for the samplers that
draw no noise; "sliced W" the sliced Wasserstein distance of all its ends to data.
"""

import dataclasses

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tinyddpm import from_alpha_bar, linear, noise, solvers
from tinyddpm.exact import GaussianMixture
from tinyddpm.plots import figures
from tinyddpm.settings import Sampling

from . import report

# steps of the schedule; the reference solution takes FINE times as many
T, FINE = 1000, 4
STEPS, POINTS, ANGLES = (5, 10, 20, 50, 100, 200), 2048, 64
MEANS = [[-0.6, -0.4], [-0.1, 0.6], [0.5, 0.2], [0.4, -0.6]]
COVS = [[[0.02, 0.012], [0.012, 0.02]], 0.005, [0.03, 0.004], 0.01]
WEIGHTS = [0.3, 0.2, 0.3, 0.2]
WAYS = {
    "ddim": Sampling("ddim", spacing="uniform", clip=None),
    "euler": Sampling("euler", spacing="uniform", clip=None),
    "heun": Sampling("heun", spacing="uniform", clip=None),
    "dpmpp_2m": Sampling("dpmpp_2m", spacing="uniform", clip=None),
    "ddim, logsnr": Sampling("ddim", spacing="logsnr", clip=None),
    "heun, logsnr": Sampling("heun", spacing="logsnr", clip=None),
    "dpmpp_2m, logsnr": Sampling("dpmpp_2m", spacing="logsnr", clip=None),
    "ddim, eta 1": Sampling("ddim", eta=1.0, clip=None),
    "ancestral": Sampling("ancestral", clip=None),
    "langevin": Sampling("langevin", clip=None),
}
# (which error, title, the ways shown) of each panel of the picture
PANELS = (
    (
        "transport",
        "Distance from where the ODE truly ends",
        ("ddim", "euler", "heun, logsnr", "dpmpp_2m", "dpmpp_2m, logsnr"),
    ),
    (
        "sliced",
        "Sliced Wasserstein distance to data",
        ("ddim", "dpmpp_2m, logsnr", "ancestral", "langevin"),
    ),
)


def measure(quick):
    """{"floor": W of two draws of data, way: [a row for each number of steps]}.

    A row is {"steps", "evaluations", "sliced", "transport"}, transport None where noise is drawn.
    """
    s, n = linear(T), POINTS // 8 if quick else POINTS
    denoise = GaussianMixture(WEIGHTS, MEANS, COVS, s)
    xT = noise.normal((n, 2), 0, noise.PRIOR).astype(np.float64)
    data, true = denoise.sample(n, seed=1), _carried(s, xT)
    rows = {"floor": sliced(denoise.sample(n, seed=2), data)}
    for way, how in report.each(WAYS.items(), "accuracy"):
        rows[way] = []
        still = how.sampler not in ("ancestral", "langevin") and not how.eta
        for steps in STEPS[:4] if quick else STEPS:
            x = solvers.sample_with(denoise, s, xT, dataclasses.replace(how, steps=steps))
            rows[way].append(
                {
                    "steps": steps,
                    "evaluations": solvers.evaluations(how.sampler, steps),
                    "sliced": sliced(x, data),
                    "transport": _distance(x, true) if still else None,
                }
            )
    return rows


def _carried(s, xT):
    """Where the ODE carries xT: DPM-Solver++(2M) in FINE times as many steps."""
    log = np.interp(np.arange(FINE * s.T + 1) / FINE, np.arange(s.T + 1), np.log(s.alpha_bar))
    fine = from_alpha_bar(np.exp(log))
    denoise = GaussianMixture(WEIGHTS, MEANS, COVS, fine)
    return solvers.dpmpp_2m(denoise, fine, xT, steps=fine.T)


def _distance(a, b):
    """The root mean square distance of the points of a from those of b."""
    return float(np.sqrt(((a - b) ** 2).sum(axis=1).mean()))


def sliced(a, b):
    """Sliced Wasserstein-2 distance of two sets of as many points in the plane.

    sqrt of the mean, over ANGLES even directions, of the mean squared distance of the sorted
    projections (Bonneel15 section 2).
    """
    angle = np.pi * (np.arange(ANGLES) + 0.5) / ANGLES
    turned = np.stack([np.cos(angle), np.sin(angle)])
    return float(np.sqrt(((np.sort(a @ turned, axis=0) - np.sort(b @ turned, axis=0)) ** 2).mean()))


def table(rows):
    """The figures as text: a line for each sampler and number of steps."""
    lines = [
        f"\nsamplers on an exact mixture (two draws of data are {rows['floor']:.4f} apart)",
        f"{'':24}{'steps':>7}{'evaluations':>13}{'transport':>12}{'sliced W':>11}",
    ]
    for way, found in rows.items():
        for row in found if way != "floor" else ():
            apart = "" if row["transport"] is None else f"{row['transport']:.5f}"
            counts = f"{row['steps']:7}{row['evaluations']:13}"
            lines.append(f"    {way:20}{counts}{apart:>12}{row['sliced']:11.4f}")
    return "\n".join(lines)


def draw(rows) -> Image.Image:
    """The table as a picture."""
    return figures.to_image(plot(rows))


@figures.styled
def plot(rows) -> Figure:
    """The table as curves: both errors against evaluations, all axes logarithmic."""
    sheet = figures.figure(1000, 400)
    for axes, (what, title, ways) in zip(sheet.subplots(1, 2), PANELS):
        axes.set(title=title, xlabel="network evaluations", xscale="log", yscale="log")
        for colour, way in zip(figures.PALETTE, ways):
            found = [(row["evaluations"], row[what]) for row in rows[way]]
            axes.plot(*zip(*found), "o-", color=colour, markersize=4, label=way)
        if what == "sliced":
            axes.axhline(
                rows["floor"], color=figures.GREY, linestyle="--", label="two draws of data"
            )
            figures.few_decades(axes.yaxis)
        figures.few_decades(axes.xaxis)
        axes.legend(loc="upper right")
    return sheet
