"""Chapters 5, 6 and 8 of the tour: training, sampling, likelihood, with the trained perceptron."""

import numpy as np

from .. import noise
from ..density import log_likelihood
from ..likelihood import Chain, prior_term, vb_term
from ..plots import figures
from ..plots.figures import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, RED, SKY
from ..process import q_sample
from ..samplers import ancestral, ddim
from ..schedule import cosine, spaced
from ..settings import Sampling
from ..solvers import evaluations, sample_with
from .spirals import Chapter, Learned, grid, spirals, start

SOLVERS = {"ddim": BLUE, "euler": ORANGE, "heun": GREEN, "dpmpp_2m": PURPLE}
WINDOW = 1.2  # half the side of the density's window


# Chapter 5.


def training(learned: Learned) -> Chapter:
    """Chapter 5: the loss (Ho20 eq. 14) over steps and over t; averaged against raw weights."""
    losses, checks = learned.losses, learned.checks
    times = np.rint(np.linspace(1, learned.s.T, 41)).astype(int)
    nets = {"before": learned.fresh, "after": learned.ema, "exact": learned.truth}
    by_t = {name: _loss_by_t(net, learned, times) for name, net in nets.items()}
    step, raw, averaged = checks[len(checks) * 3 // 4]
    lines = [
        "Training draws x_0, t, eps and follows the gradient of a squared error. "
        "(Ho20 Algorithm 1)",
        f"{len(losses)} steps of {learned.setting.batch} points took the loss from "
        f"{losses[0]:.2f} to {losses[-max(1, len(losses) // 20) :].mean():.2f}.",
        "It cannot reach 0: eps is not known from x_t. Averaged over t, the squared error of "
        "eps_hat is",
        f"{by_t['after'].mean():.3f}; the exact denoiser's, on the same numbers, "
        f"{by_t['exact'].mean():.3f}.",
        f"Averaged weights (EMA) are nearer the truth while the rate is high: at step {step:.0f},",
        f"{averaged:.4f} against {raw:.4f}.",
    ]
    return Chapter(
        "5-training",
        "Training",
        _draw_training(losses, times, by_t, checks),
        "The loss falls over the steps to a floor; the squared error of eps_hat over t before and "
        "after training, the latter close to the exact denoiser's; the averaged weights' distance "
        "to the exact denoiser lies below the raw weights' until the learning rate has fallen.",
        lines,
        "training.Trainer.step, training.loss_and_grad, nn.optim.update",
    )


@figures.styled
def _draw_training(losses, times, by_t, checks):
    sheet = figures.figure(1000, 385)
    loss, error, distance = sheet.subplots(1, 3)
    step = np.arange(1, len(losses) + 1)
    loss.set(title="Training loss ($v$)", xlabel="step", xlim=(0, len(losses)))
    loss.plot(step, losses, color=SKY, linewidth=0.4, label="each step")
    smoothed = figures.smooth(losses, max(len(losses) / 60, 5))
    loss.plot(step, smoothed, color=BLUE, label="smoothed")

    error.set(title=r"Squared error of $\hat\epsilon$", xlabel="$t$")
    error.set(xlim=(0, times[-1]), ylim=(0, 1.1))
    for name, (style, colour, label) in {
        "before": ("-", GREY, "before"),
        "after": ("-", BLUE, "after"),
        "exact": ("--", RED, r"the exact $\hat\epsilon$"),
    }.items():
        error.plot(times, by_t[name], style, color=colour, label=label)

    distance.set(title="Distance to the exact denoiser", xlabel="step", xscale="log", yscale="log")
    step, raw, averaged = checks.T
    distance.plot(step, raw, color=ORANGE, linewidth=1.3, label="raw weights")
    distance.plot(step, averaged, color=BLUE, label="their average (EMA)")
    for axes, place in ((loss, "upper right"), (error, "upper right"), (distance, "lower left")):
        axes.legend(loc=place)
    return sheet


def _loss_by_t(denoise, learned, times):
    """The mean squared error of eps_hat at each of the times, on points not trained on."""
    x0, out = learned.truth.sample(1024, learned.seed + 2), []
    for t in times.tolist():
        eps = noise.normal(x0.shape, learned.seed + 2, noise.EPS, t).astype(np.float64)
        out.append(np.mean((denoise(q_sample(learned.s, x0, t, eps), t) - eps) ** 2))
    return np.array(out)


# Chapter 6.


def sampling(learned: Learned) -> Chapter:
    """Chapter 6: paths of two samplers, samples by few steps, and error against evaluations."""
    s, xT = learned.s, start(learned, learned.setting.cloud)
    clouds = {str(steps): ddim(learned.ema, s, xT, steps=steps) for steps in (5, 10, 50)}
    clouds["data"] = learned.truth.sample(learned.setting.cloud, learned.seed + 3)
    log_p = {steps: learned.truth.log_density(x, 0).mean() for steps, x in clouds.items()}
    paths = {
        "DDIM: no noise": _path(ddim, learned),
        "Ancestral: noise at each step": _path(ancestral, learned),
    }
    errors = _solver_errors(learned)
    at_20 = {name: dict(rows.tolist()).get(20) for name, rows in errors.items()}
    lines = [
        "A sampler goes from x_T to x_0. They differ in three coefficients, not in their loop.",
        "Ancestral adds noise at each step; DDIM need not,",
        "for its marginals are the same (Song21a eq. 12).",
        "Mean log density of the net's samples under the truth, in nats: "
        + ", ".join(f"{log_p[steps]:.2f} ({steps} steps)" for steps in ("5", "10", "50"))
        + f"; the data's own is {log_p['data']:.2f}.",
        "Distance to where the finely solved ODE goes, exact denoiser, 20 evaluations: "
        + ", ".join(f"{name} {at_20[name]:.3f}" for name in ("ddim", "dpmpp_2m"))
        + ".",
    ]
    return Chapter(
        "6-sampling",
        "Sampling",
        _draw_sampling(paths, errors, clouds),
        "Paths from noise to the spirals, smooth for DDIM and ragged for ancestral sampling; the "
        "error of four solvers over the number of evaluations; samples by 5, 10 and 50 steps "
        "beside the data.",
        lines,
        "samplers.ddim, samplers.ancestral, solvers.dpmpp_2m",
    )


@figures.styled
def _draw_sampling(paths, errors, clouds):
    sheet = figures.figure(1000, 655)
    above, below = sheet.subfigures(2, 1, height_ratios=(38, 27.5))
    *planes, error = above.subplots(1, 3, width_ratios=(5, 5, 5.5))
    for axes, (title, path) in zip(planes, paths.items()):
        figures.plane(axes, max(2.5, 1.05 * float(np.abs(list(paths.values())).max())), title)
        axes.scatter(*clouds["data"].T, s=3, c=GREY, alpha=0.35)
        for k in range(path.shape[1]):
            colour = PALETTE[k % len(PALETTE)]
            axes.plot(*path[:, k].T, color=colour, linewidth=1.2)
            axes.scatter(*path[-1, k], s=36, c=colour, zorder=3)
    error.set(title="Error on the exact mixture", xscale="log", yscale="log")
    error.set(xlabel="evaluations of the denoiser", ylabel="distance")
    for name, rows in errors.items():
        error.plot(*rows.T, "o-", color=SOLVERS[name], markersize=4.5, label=name)
    figures.few_decades(error.xaxis)
    error.legend(loc="lower left")
    for axes, (steps, x) in zip(below.subplots(1, 4), clouds.items()):
        data = steps == "data"
        figures.plane(axes, 1.1, "the data" if data else f"{steps} steps of DDIM")
        axes.scatter(*x.T, s=7, c=GREY if data else BLUE, alpha=0.6)
    return sheet


def _path(sampler, learned):
    """Where six points go, x_T and the 100 steps to x_0: (101, 6, 2)."""
    path = [start(learned, 6)]
    watch = lambda t, xt, x0_hat: path.append(xt)  # noqa: E731
    sampler(learned.ema, learned.s, path[0], steps=100, watch=watch)
    return np.stack(path)


def _solver_errors(learned):
    """{solver: (k, 2) evaluations, root mean square distance to the finely solved ODE}."""
    s, xT = learned.s, start(learned, learned.setting.solved, 10**6)

    def solve(name, steps):
        how = Sampling(name, steps=steps, spacing="logsnr", clip=None)
        return sample_with(learned.truth, s, xT, how)

    fine, out = solve("heun", learned.setting.fine), {}
    for name in SOLVERS:
        rows = []
        for steps in (5, 10, 20, 40, 80):
            squares = np.sum((solve(name, steps) - fine) ** 2, axis=1)
            rows.append((evaluations(name, steps), np.sqrt(squares.mean())))
        out[name] = np.array(rows, np.float64)
    return out


# Chapter 8.


def density(learned: Learned) -> Chapter:
    """Chapter 8: log density along the ODE (Song21b eq. 39), and the bound's gap over T."""
    setting, steps = learned.setting, spaced(learned.s, learned.setting.ode_steps, "logsnr")

    def by_net(x):
        return log_likelihood(learned.ema, learned.s, x, steps=steps).log_p

    row = np.linspace(-WINDOW, WINDOW, setting.grid)
    x, cell = grid(row), (row[1] - row[0]) ** 2
    maps = {"net": by_net(x), "truth": learned.truth.log_density(x, 0)}
    mass = {name: np.exp(log_p).sum() * cell for name, log_p in maps.items()}
    gaps = _gaps(setting.bounded, setting.longest, learned.seed)
    held = learned.truth.sample(256, learned.seed + 4)
    lines = [
        "Along the probability-flow ODE density changes by the divergence:",
        "log p itself. (Song21b eq. 39)",
        f"Summed over the grid the net's density gives {mass['net']:.3f}, the truth's "
        f"{mass['truth']:.3f}.",
        f"On 256 new points: {by_net(held).mean():.3f} nats by the net, "
        f"{learned.truth.log_density(held, 0).mean():.3f} in truth.",
        "The bound lies above -log p even for the exact eps_hat, and comes closer as T grows:",
        "by "
        + ", ".join(f"{gap:.2f} (T = {T:.0f})" for T, gap in gaps["beta"])
        + " bits per dimension for sigma^2 = beta.",
        f"With beta_tilde {gaps['beta_tilde'][-1, 1]:.2f} remain: near t = 1, x_{{t-1}} given x_t "
        "spreads by beta;",
        "beta_tilde is its spread given x_0 as well (Ho20 section 3.2).",
    ]
    return Chapter(
        "8-likelihood",
        "Likelihood",
        _draw_density(maps, gaps),
        "Two heat maps of log density, by the trained net along the ODE and in truth: both show "
        "two spiral arms. Right: the bound's distance to -log p falls as T grows, less far for "
        "beta_tilde.",
        lines,
        "density.log_likelihood, likelihood.bits_per_dim",
    )


@figures.styled
def _draw_density(maps, gaps):
    sheet = figures.figure(1000, 335)
    net, truth, bound = sheet.subplots(1, 3)
    side = round(len(maps["net"]) ** 0.5)
    for axes, log_p, whose in (
        (net, maps["net"], "the net's, along the ODE"),
        (truth, maps["truth"], "the truth"),
    ):
        figures.plane(axes, WINDOW, rf"$\log\,p(x)$: {whose}")
        image = figures.heat(axes, log_p.reshape(side, side), WINDOW, low=-8, high=2)
    bar = sheet.colorbar(image, ax=[net, truth], label="nats", ticks=range(-8, 3, 2), aspect=25)
    bar.outline.set_edgecolor(figures.FAINT)
    bound.set(title=r"The bound above $-\log\,p$, exact $\hat\epsilon$", xscale="log", yscale="log")
    bound.set(xlabel="$T$", ylabel="bits per dimension", ylim=(0.06, 2))
    labels = {"beta": r"$\sigma^2 = \beta$", "beta_tilde": r"$\sigma^2 = \tilde\beta$"}
    for (name, rows), colour in zip(gaps.items(), (BLUE, RED)):
        bound.plot(*rows.T, "o-", color=colour, markersize=4.5, label=labels[name])
    for axis in (bound.xaxis, bound.yaxis):
        figures.few_decades(axis)
    bound.legend(loc="lower left")
    return sheet


def _gaps(n, longest, seed):
    """{variance: (k, 2) T, the exact denoiser's bound above -log p in bits per dimension}."""
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
                vb_term(truth, s, x0, t, eps[t], Chain(variance, half_width=None)).mean()
                for t in range(1, T + 1)
            ]
            rows.append((T, prior_term(s, x0).mean() + sum(terms) - least))
    return {name: np.array(rows) for name, rows in out.items()}
