"""Chapter 7 of the tour: the score field of the exact mixture, and the ODE through it."""

import numpy as np

from ..noise import PRIOR, normal
from ..plots import figures
from ..plots.figures import INK, RED
from ..process import score_from_eps
from ..schedule import cosine
from ..solvers import heun
from .spirals import Chapter, T, grid, spirals

REACH = {600: 2.4, 250: 1.9, 60: 1.4}  # t: half a panel's width, since x_t shrinks as t falls
ARROWS = 13  # in a row of a panel
SHADED = 10  # nats that the heat map spans; the darkest 4 are left to lines and arrows


def scores(seed: int = 0) -> Chapter:
    """Chapter 7: the score (Song21b section 2) over log q(x_t), and the ODE's paths (eq. 13)."""
    s = cosine(T)
    truth = spirals(s)
    path = [(T, normal((60, 2), seed, PRIOR).astype(np.float64))]
    heun(truth, s, path[0][1], steps=125, watch=lambda t, xt, x0_hat: path.append((t, xt)))
    # The root mean square size of the score where the data is.
    size = {}
    for t in REACH:
        score = truth.score(truth.sample(500, seed, t), t)
        size[t] = np.sqrt(np.mean(np.sum(score**2, axis=1)))
    same, ab = truth.sample(400, seed, 250), s.alpha_bar[250]
    by_score = (same + (1 - ab) * truth.score(same, 250)) / np.sqrt(ab)
    tweedie = np.abs(truth.x0_hat(same, 250) - by_score).max()
    end = truth.log_density(path[-1][1], 0).mean()
    lines = [
        "The score, grad log q(x_t), points to where data is dense; it is -eps_hat / "
        "sqrt(1 - alpha_bar_t).",
        "Its root mean square size: "
        + ", ".join(f"{each:.1f} (t = {t})" for t, each in size.items())
        + ".",
        "Tweedie: x_0_hat = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t), "
        f"here to {tweedie:.0e}.",
        "The probability-flow ODE dx = -1/2 beta (x + score) dt has the chain's marginals and no "
        "noise:",
        f"60 trajectories end at a mean log density of {end:.2f}, drawn data at "
        f"{truth.log_density(truth.sample(4000, seed), 0).mean():.2f} (Song21b eq. 13).",
    ]
    return Chapter(
        "7-scores",
        "Scores, and the ODE through them",
        _draw_scores(s, truth, path, size),
        "At t = 600, 250 and 60: arrows of the score field over the log density of the noised "
        "spirals, with sixty points on their trajectories from noise towards the data; at first "
        "the arrows point to one centre, at last to the two arms.",
        lines,
        "process.score_from_eps, solvers.heun, solvers.euler",
    )


@figures.styled
def _draw_scores(s, truth, path, size):
    sheet = figures.figure(1000, 360)
    for axes, (t, reach) in zip(sheet.subplots(1, 3), REACH.items()):
        title = rf"$t = {t}$: score, $\log\,q(x_t)$, paths so far"
        figures.plane(axes, reach, title)
        fine = np.linspace(-reach, reach, 90)
        log_q = truth.log_density(grid(fine), t).reshape(90, 90)
        top = log_q.max() + 4
        figures.heat(axes, log_q, reach, low=top - SHADED, high=top)
        so_far = np.stack([x for time, x in path if time >= t])
        axes.plot(*so_far[:, ::2].transpose(2, 0, 1), color=RED, linewidth=0.8)
        axes.scatter(*so_far[-1].T, s=20, c=RED, zorder=3)
        at, steps = _arrows(s, truth, t, size[t])
        axes.quiver(*at.T, *steps.T, color=INK, angles="xy", scale_units="xy", scale=1, zorder=2.5)
    return sheet


def _arrows(s, truth, t, size):
    """Where arrows start, and what they point over: along the score, its length compressed."""
    reach = REACH[t]
    gap = 2 * reach / ARROWS
    row = (np.arange(ARROWS) + 0.5) * gap - reach
    at = grid(row)
    field = score_from_eps(s, t, truth(at, t))
    length = np.hypot(*field.T)[:, None]
    return at, 0.75 * gap * field / length * np.minimum(1, length / size) ** 0.5
