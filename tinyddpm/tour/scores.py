"""Chapter 7 of the tour: the score field of the exact mixture, and the probability-flow ODE through
it.
"""

import numpy as np

from ..noise import PRIOR, normal
from ..plots import panels as plots
from ..plots.panels import INK, RED
from ..process import score_from_eps
from ..schedule import cosine
from ..solvers import heun
from .spirals import Chapter, T, spirals

TIMES = (600, 250, 60)
REACH = {600: 2.4, 250: 1.9, 60: 1.4}  # half a panel's width: x_t shrinks as t falls


def scores(seed=0):
    """Chapter 7: the score (Song21b section 2) at three t over log q(x_t), with trajectories of the
    ODE (eq. 13).
    """
    s = cosine(T)
    truth = spirals(s)
    path = [(T, normal((60, 2), seed, PRIOR).astype(np.float64))]
    heun(truth, s, path[0][1], steps=125, watch=lambda t, xt, x0: path.append((t, xt)))
    figure, steepest = plots.Figure(1000, 375), {}
    for i, t in enumerate(TIMES):
        reach = REACH[t]
        panel = figure.panel(
            (20 + 325 * i, 50, 305, 305),
            f"t = {t}: score, log q(x_t), trajectories so far",
            x=(-reach, reach),
            y=(-reach, reach),
            axes=False,
        )
        fine = np.linspace(-reach, reach, 90)
        log_q = truth.log_density(
            np.stack(np.meshgrid(fine, fine[::-1]), -1).reshape(-1, 2), t
        ).reshape(90, 90)
        # the dark end is left to lines and arrows
        panel.heat(log_q, log_q.max() - 6, log_q.max() + 4)
        coarse = (np.arange(13) + 0.5) / 13 * 2 * reach - reach
        at = np.stack(np.meshgrid(coarse, coarse), -1).reshape(-1, 2)
        field = score_from_eps(s, t, truth(at, t))
        size = np.hypot(*field.T)[:, None]
        steepest[t] = np.sqrt(
            np.mean(np.sum(truth.score(truth.sample(500, seed, t), t) ** 2, axis=1))
        )
        step = (
            0.75 * (coarse[1] - coarse[0]) * field / size * np.minimum(1, size / steepest[t]) ** 0.5
        )
        so_far = np.stack([x for time, x in path if time >= t])
        for k in range(0, 60, 2):
            panel.line(so_far[:, k, 0], so_far[:, k, 1], RED, width=0.8)
        panel.arrows(*at.T, *step.T, colour=INK)
        panel.dots(*so_far[-1].T, colour=RED, radius=3, opacity=1)
    same = truth.sample(400, seed, 250)
    tweedie = np.abs(
        truth.x0_hat(same, 250)
        - (same + (1 - s.alpha_bar[250]) * truth.score(same, 250)) / np.sqrt(s.alpha_bar[250])
    ).max()
    end = truth.log_density(path[-1][1], 0).mean()
    lines = [
        "The score, grad log q(x_t), points to where data is dense; it is -eps_hat / sqrt(1 - alpha_bar_t).",
        "Its root mean square size: "
        + ", ".join(f"{steepest[t]:.1f} (t = {t})" for t in TIMES)
        + ".",
        f"Tweedie: x_0_hat = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t), here to {tweedie:.0e}.",
        "The probability-flow ODE dx = -1/2 beta (x + score) dt has the chain's marginals and no noise:",
        f"60 trajectories end at a mean log density of {end:.2f}, "
        f"drawn data at {truth.log_density(truth.sample(4000, seed), 0).mean():.2f} (Song21b eq. 13).",
    ]
    return Chapter(
        "7-scores",
        "Scores, and the ODE through them",
        figure.image(),
        "At t = 600, 250 and 60: arrows of the score field over the log density of the noised spirals, with "
        "sixty points on their trajectories from noise towards the data; at first the arrows point to one "
        "centre, at last to the two arms.",
        lines,
        "process.score_from_eps, solvers.heun, solvers.euler",
    )
