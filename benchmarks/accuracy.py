"""How near each sampler comes to the truth, for how many evaluations: on a mixture whose denoiser
is a closed form.

Nothing is trained, so what is left is the sampler's own error. "transport" is the distance of its
end from where the finely solved ODE carries the same x_T, root mean square, for the samplers that
draw no noise; "sliced W" the sliced Wasserstein distance of all its ends to data.
"""

import numpy as np

from tinyddpm import from_alpha_bar, linear, noise, solvers
from tinyddpm.exact import GaussianMixture
from tinyddpm.plots import panels as plots

# steps of the schedule; the reference solution takes FINE times as many
T, FINE = 1000, 4
STEPS, POINTS, ANGLES = (5, 10, 20, 50, 100, 200), 2048, 64
MEANS = [[-0.6, -0.4], [-0.1, 0.6], [0.5, 0.2], [0.4, -0.6]]
COVS = [[[0.02, 0.012], [0.012, 0.02]], 0.005, [0.03, 0.004], 0.01]
WEIGHTS = [0.3, 0.2, 0.3, 0.2]
WAYS = {
    **{name: (name, {"spacing": "uniform"}) for name in ("ddim", "euler", "heun", "dpmpp_2m")},
    **{f"{name}, logsnr": (name, {"spacing": "logsnr"}) for name in ("ddim", "heun", "dpmpp_2m")},
    "ddim, eta 1": ("ddim", {"eta": 1.0}),
    "ancestral": ("ancestral", {}),
    "langevin": ("langevin", {}),
}


def measure(quick):
    """{"floor": W of two draws of data, sampler: [{"steps", "evaluations", "sliced", "transport" or
    None}]}.
    """
    s, n = linear(T), POINTS // 8 if quick else POINTS
    denoise, xT = (
        GaussianMixture(WEIGHTS, MEANS, COVS, s),
        noise.normal((n, 2), 0, noise.PRIOR).astype(np.float64),
    )
    data, true = denoise.sample(n, seed=1), _carried(s, xT)
    rows = {"floor": sliced(denoise.sample(n, seed=2), data)}
    for way, (name, options) in WAYS.items():
        rows[way] = []
        for steps in STEPS[:4] if quick else STEPS:
            x = solvers.sample_with(name, denoise, s, xT, steps, **options)
            still = name not in ("ancestral", "langevin") and not options.get("eta")
            apart = float(np.sqrt(((x - true) ** 2).sum(axis=1).mean())) if still else None
            rows[way].append(
                {
                    "steps": steps,
                    "evaluations": solvers.evaluations(name, steps),
                    "sliced": sliced(x, data),
                    "transport": apart,
                }
            )
    return rows


def _carried(s, xT):
    """Where the ODE carries xT: DPM-Solver++(2M) on a schedule FINE times as fine through the same
    alpha_bar.
    """
    log = np.interp(np.arange(FINE * s.T + 1) / FINE, np.arange(s.T + 1), np.log(s.alpha_bar))
    fine = from_alpha_bar(np.exp(log))
    return solvers.dpmpp_2m(GaussianMixture(WEIGHTS, MEANS, COVS, fine), fine, xT, fine.T)


def sliced(a, b):
    """Sliced Wasserstein-2 distance of two sets of as many points in the plane, over ANGLES even
    directions.

    sqrt of the mean over directions of the mean squared distance of the sorted projections
    (Bonneel15 section 2).
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
            lines.append(
                f"    {way:20}{row['steps']:7}{row['evaluations']:13}{apart:>12}{row['sliced']:11.4f}"
            )
    return "\n".join(lines)


def draw(rows):
    """The table as a picture, a PIL image: both errors against evaluations, both axes logarithmic."""
    figure = plots.Figure(1000, 400)
    transported, spread = (
        ("ddim", "euler", "heun, logsnr", "dpmpp_2m", "dpmpp_2m, logsnr"),
        ("ddim", "dpmpp_2m, logsnr", "ancestral", "langevin"),
    )
    for left, what, title, ways in (
        (70, "transport", "distance from where the ODE truly ends", transported),
        (570, "sliced", "sliced Wasserstein distance to data", spread),
    ):
        panel = figure.panel((left, 40, 400, 300), title, xlabel="network evaluations", log="xy")
        for colour, way in zip(plots.PALETTE, ways):
            panel.line(
                *zip(*[(row["evaluations"], row[what]) for row in rows[way]]),
                colour=colour,
                label=way,
            )
        if what == "sliced":
            panel.line(
                [5, 400],
                [rows["floor"]] * 2,
                colour=plots.GREY,
                label="two draws of data",
                dash=(6, 4),
            )
    return figure.image()
