"""Chapters 5, 6 and 8 of the tour: training, sampling, likelihood. They need the trained
perceptron.
"""

import numpy as np

from .. import noise
from ..density import log_likelihood
from ..likelihood import prior_term, vb_term
from ..plots import panels as plots
from ..plots.curves import smooth
from ..plots.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from ..process import q_sample
from ..samplers import ancestral, ddim
from ..schedule import cosine
from ..solvers import evaluations, sample_with
from .spirals import Chapter, spirals, start

ARMS = {"x": (-1.1, 1.1), "y": (-1.1, 1.1), "axes": False}
SOLVERS = {"ddim": BLUE, "euler": ORANGE, "heun": GREEN, "dpmpp_2m": PURPLE}


def training(learnt):
    """Chapter 5: the loss (Ho20 eq. 14) over the steps and over t, and the averaged weights against
    the raw ones.
    """
    s, losses = learnt.s, learnt.losses
    step = np.arange(1, len(losses) + 1)
    figure = plots.Figure(1000, 385)
    panel = figure.panel(
        (60, 50, 250, 270),
        "Training loss (v)",
        xlabel="step",
        x=(0, len(step)),
        y=(0.9 * losses.min(), 1.02 * losses.max()),
    )
    panel.line(step, losses, SKY, width=0.5, label="each step")
    panel.line(step, smooth(losses, max(len(losses) / 60, 5)), BLUE, label="smoothed")

    times = np.rint(np.linspace(1, s.T, 41)).astype(int)
    nets = {
        "before": (learnt.fresh, GREY),
        "after": (learnt.ema, BLUE),
        "exact": (learnt.truth, RED),
    }
    by_t = {name: _loss_by_t(net, learnt, times) for name, (net, _) in nets.items()}
    panel = figure.panel(
        (390, 50, 250, 270), "Squared error of eps_hat", xlabel="t", x=(0, s.T), y=(0, 1.1)
    )
    for name, (_, colour) in nets.items():
        dash = (6, 4) if name == "exact" else None
        panel.line(
            times,
            by_t[name],
            colour,
            label={"exact": "the exact eps_hat"}.get(name, name),
            dash=dash,
        )

    panel = figure.panel(
        (720, 50, 250, 270), "Distance to the exact denoiser", xlabel="step", log="xy", legend="bl"
    )
    panel.line(learnt.checks[:, 0], learnt.checks[:, 1], ORANGE, width=1.5, label="raw weights")
    panel.line(learnt.checks[:, 0], learnt.checks[:, 2], BLUE, label="their average (EMA)")
    middle = len(learnt.checks) * 3 // 4
    lines = [
        "Training draws x_0, t, eps and follows the gradient of a squared error. (Ho20 Algorithm 1)",
        f"{len(losses)} steps of {learnt.setting.batch} points took the loss from {losses[0]:.2f} to "
        f"{losses[-max(1, len(losses) // 20) :].mean():.2f}.",
        "It cannot reach 0: eps is not known from x_t. Averaged over t, the squared error of eps_hat is",
        f"{by_t['after'].mean():.3f}; the exact denoiser's, on the same numbers, {by_t['exact'].mean():.3f}.",
        f"Averaged weights (EMA) are nearer the truth while the rate is high: at step "
        f"{learnt.checks[middle, 0]:.0f},",
        f"{learnt.checks[middle, 2]:.4f} against {learnt.checks[middle, 1]:.4f}.",
    ]
    return Chapter(
        "5-training",
        "Training",
        figure.image(),
        "The loss falls over the steps to a floor; the squared error of eps_hat over t before and after "
        "training, the latter close to the exact denoiser's; the averaged weights' distance to the exact "
        "denoiser lies below the raw weights' until the learning rate has fallen.",
        lines,
        "training.Trainer.step, training.loss_and_grad, nn.optim.update",
    )


def _loss_by_t(denoise, learnt, times):
    """The mean squared error of eps_hat at each of the times, on points that training has not seen."""
    x0, out = learnt.truth.sample(1024, learnt.seed + 2), []
    for t in times.tolist():
        eps = noise.normal(x0.shape, learnt.seed + 2, noise.EPS, t).astype(np.float64)
        out.append(np.mean((denoise(q_sample(learnt.s, x0, t, eps), t) - eps) ** 2))
    return np.array(out)


def sampling(learnt):
    """Chapter 6: paths of DDIM and of ancestral sampling, samples by few steps, and error against
    evaluations.
    """
    s, figure = learnt.s, plots.Figure(1000, 650)
    truth = learnt.truth.sample(learnt.setting.cloud, learnt.seed + 3)
    xT = start(learnt, 6)
    for i, (sampler, title) in enumerate(
        ((ddim, "DDIM: no noise"), (ancestral, "Ancestral: noise at each step"))
    ):
        path = [xT]
        sampler(learnt.ema, s, xT, steps=100, watch=lambda t, xt, x0, path=path: path.append(xt))
        path = np.stack(path)
        panel = figure.panel(
            (20 + 300 * i, 40, 270, 270), title, x=(-2.5, 2.5), y=(-2.5, 2.5), axes=False
        )
        panel.dots(*truth.T, colour=GREY, radius=1.2, opacity=0.35)
        for k, colour in zip(range(path.shape[1]), plots.PALETTE * 2):
            panel.line(path[:, k, 0], path[:, k, 1], colour, width=1.4)
            panel.dots(*path[-1, k : k + 1].T, colour=colour, radius=4, opacity=1)
    errors = _solver_errors(learnt)
    panel = figure.panel(
        (690, 40, 290, 250),
        "Error on the exact mixture",
        xlabel="evaluations of the denoiser",
        log="xy",
        legend="bl",
        ylabel="distance",
    )
    for name, colour in SOLVERS.items():
        panel.line(*errors[name].T, colour, label=name).dots(
            *errors[name].T, colour=colour, radius=3, opacity=1
        )
    xT, score = start(learnt, learnt.setting.cloud), {}
    for i, steps in enumerate((5, 10, 50, 0)):
        panel = figure.panel(
            (20 + 245 * i, 395, 225, 225), f"{steps} steps of DDIM" if steps else "the data", **ARMS
        )
        x = ddim(learnt.ema, s, xT, steps) if steps else truth
        panel.dots(*x.T, colour=BLUE if steps else GREY, radius=1.8)
        score[steps] = learnt.truth.log_density(x, 0).mean()
    at = {name: dict(errors[name].tolist()) for name in SOLVERS}
    lines = [
        "A sampler walks from x_T to x_0. They differ in three coefficients, not in their loop.",
        "Ancestral adds noise at each step; DDIM need not, for its marginals are the same (Song21a eq. 12).",
        "Mean log density of the net's samples under the truth, in nats: "
        + ", ".join(f"{score[k]:.2f} ({k} steps)" for k in (5, 10, 50))
        + f"; the data's own is {score[0]:.2f}.",
        "Distance to where the finely solved ODE goes, exact denoiser, 20 evaluations: "
        + ", ".join(f"{name} {at[name][20]:.3f}" for name in ("ddim", "dpmpp_2m"))
        + ".",
    ]
    return Chapter(
        "6-sampling",
        "Sampling",
        figure.image(),
        "Paths from noise to the spirals, smooth for DDIM and ragged for ancestral sampling; the error of "
        "four solvers over the number of evaluations; samples by 5, 10 and 50 steps beside the data.",
        lines,
        "samplers.ddim, samplers.ancestral, solvers.dpmpp_2m",
    )


def _solver_errors(learnt):
    """{solver: (k, 2) evaluations, root mean square distance to the finely solved ODE}, from the
    same x_T.
    """
    s, xT = learnt.s, start(learnt, learnt.setting.solved, 10**6)
    fine = sample_with("heun", learnt.truth, s, xT, steps=learnt.setting.fine, spacing="logsnr")
    out = {}
    for name in SOLVERS:
        rows = []
        for steps in (5, 10, 20, 40, 80):
            x = sample_with(name, learnt.truth, s, xT, steps=steps, spacing="logsnr")
            rows.append(
                (evaluations(name, steps), np.sqrt(np.mean(np.sum((x - fine) ** 2, axis=1))))
            )
        out[name] = np.array(rows, np.float64)
    return out


def density(learnt):
    """Chapter 8: the net's log density along the ODE (Song21b eq. 39) beside the truth; the bound's
    gap over T.
    """
    side, figure = learnt.setting.grid, plots.Figure(1000, 370)
    across = np.linspace(-1.2, 1.2, side)
    x = np.stack(np.meshgrid(across, across[::-1]), axis=-1).reshape(-1, 2)
    said = log_likelihood(learnt.ema, learnt.s, x, learnt.setting.walk, "logsnr").log_p
    maps = {"the net's, along the ODE": said, "the truth": learnt.truth.log_density(x, 0)}
    for i, (title, log_p) in enumerate(maps.items()):
        panel = figure.panel(
            (20 + 290 * i, 50, 270, 270),
            f"log p(x): {title}",
            x=(-1.2, 1.2),
            y=(-1.2, 1.2),
            axes=False,
        )
        panel.heat(log_p.reshape(side, side), -8, 2, scale="nats" if i else None)
    gaps = _gaps(learnt.setting.bounded, learnt.setting.longest, learnt.seed)
    panel = figure.panel(
        (720, 50, 250, 250),
        "The bound above -log p, exact eps_hat",
        xlabel="T",
        log="xy",
        ylabel="bits per dimension",
        legend="bl",
        y=(0.06, 2),
    )
    for (name, row), colour in zip(gaps.items(), (BLUE, RED)):
        panel.line(*row.T, colour, label=f"sigma^2 = {name}").dots(
            *row.T, colour=colour, radius=3, opacity=1
        )
    cell = (across[1] - across[0]) ** 2
    held = learnt.truth.sample(256, learnt.seed + 4)
    own = log_likelihood(learnt.ema, learnt.s, held, learnt.setting.walk, "logsnr").log_p
    lines = [
        "Along the probability-flow ODE density changes by the divergence: log p itself. (Song21b eq. 39)",
        f"Summed over the grid the net's density gives {np.exp(said).sum() * cell:.3f}, the truth's "
        f"{np.exp(maps['the truth']).sum() * cell:.3f}.",
        f"On 256 new points: {own.mean():.3f} nats by the net, {learnt.truth.log_density(held, 0).mean():.3f} in "
        "truth.",
        "The bound lies above -log p even for the exact eps_hat, and comes closer as T grows:",
        "by "
        + ", ".join(f"{gap:.2f} (T = {T:.0f})" for T, gap in gaps["beta"])
        + " bits per dimension for sigma^2 = beta.",
        f"With beta_tilde {gaps['beta_tilde'][-1, 1]:.2f} remain: near t = 1, x_{{t-1}} spreads by beta around",
        "what x_t says of it; beta_tilde is its spread for those who know x_0 as well (Ho20 section 3.2).",
    ]
    return Chapter(
        "8-likelihood",
        "Likelihood",
        figure.image(),
        "Two heat maps of log density, by the trained net along the ODE and in truth: both show two spiral "
        "arms. Right: the bound's distance to -log p falls as T grows, less far for beta_tilde.",
        lines,
        "density.log_likelihood, likelihood.bits_per_dim",
    )


def _gaps(n, longest, seed):
    """{variance: (k, 2) T, the bound's distance to -log p in bits per dimension} for the exact
    denoiser.
    """
    out = {"beta": [], "beta_tilde": []}
    for T in (T for T in (5, 10, 25, 60, 150) if longest >= T):
        s = cosine(T)
        truth = spirals(s)
        x0 = truth.sample(n, seed)
        least = -truth.log_density(x0, 0).mean() / (2 * np.log(2))
        eps = [
            noise.normal(x0.shape, seed, noise.BOUND, t).astype(np.float64) for t in range(T + 1)
        ]
        for variance, rows in out.items():
            terms = [
                vb_term(truth, s, x0, t, eps[t], variance, half_width=None).mean()
                for t in range(1, T + 1)
            ]
            rows.append((T, prior_term(s, x0).mean() + sum(terms) - least))
    return {name: np.array(rows) for name, rows in out.items()}
