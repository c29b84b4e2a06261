"""Chapters 1 to 3 of the tour: destroying data, Bayes' rule, the bound. Nothing is trained in them."""

import numpy as np

from .. import noise
from ..exact import Gaussian
from ..likelihood import prior_term, vb_term
from ..plots import panels as plots
from ..plots.panels import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY
from ..process import posterior_weights, q_marginal, q_posterior, q_sample, reverse_mean
from ..schedule import KINDS, cosine, linear
from .spirals import Chapter, T, spirals

PLANE = {"x": (-2.2, 2.2), "y": (-2.2, 2.2), "axes": False}
LABELS = {"crude": "a Gaussian's eps_hat", "exact": "the exact eps_hat"}
COLOURS = {"linear": BLUE, "cosine": RED, "sigmoid": GREEN}


def destroying_data(seed=0):
    """Chapter 1: points on their way to noise (Ho20 eq. 4), and three schedules."""
    s, times = cosine(T), (1, 150, 350, 600, 1000)
    x0 = spirals(s).sample(700, seed)
    eps = noise.normal(x0.shape, seed, noise.EPS).astype(np.float64)
    figure = plots.Figure(1000, 560)
    for i, t in enumerate(times):
        panel = figure.panel(
            (20 + 196 * i, 36, 176, 176), f"t = {t}, alpha_bar {s.alpha_bar[t]:.3f}", **PLANE
        )
        panel.dots(*q_sample(s, x0, t, eps).T, colour=BLUE, radius=1.5)
    left = figure.panel(
        (70, 280, 390, 220),
        "How much of x_0 is left",
        xlabel="t",
        ylabel="alpha_bar",
        y=(0, 1.02),
        x=(0, T),
    )
    right = figure.panel(
        (570, 280, 390, 220), "Signal against noise", xlabel="t", ylabel="log SNR", x=(0, T)
    )
    for name, make in KINDS.items():
        schedule = make(T)
        left.line(np.arange(T + 1), schedule.alpha_bar, COLOURS[name], label=name)
        right.line(np.arange(1, T), np.log(schedule.snr[1:T]), COLOURS[name], label=name)
    half = {
        name: int(np.argmin(np.abs(np.log(make(T).snr[1:])))) + 1 for name, make in KINDS.items()
    }
    spread = np.abs(np.cov(q_sample(s, x0, T, eps).T) - np.eye(2)).max()
    lines = [
        "A forward process adds noise, a little at each step, until nothing else is left.",
        "No loop is needed: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.   (Ho20 eq. 4)",
        f"cosine, T = {T}: alpha_bar_1 = {s.alpha_bar[1]:.6f}, alpha_bar_T = {s.alpha_bar[T]:.2g};",
        f"the covariance of x_T is I up to {spread:.2f} with these 700 points.",
        "Signal and noise are as strong (log SNR = 0) at "
        + ", ".join(f"t = {t} ({name})" for name, t in half.items())
        + ".",
    ]
    return Chapter(
        "1-destroying-data",
        "Destroying data",
        figure.image(),
        "Five pictures of two spiral arms that turn into a round cloud as t grows; below, alpha_bar and the "
        "log signal-to-noise ratio of the linear, cosine and sigmoid schedules over t.",
        lines,
        "schedule.cosine, process.q_sample",
    )


def bayes(seed=0):
    """Chapter 2: the posterior of a step (Ho20 eq. 6, 7) as a product of Gaussians; the trap of the
    two alphas.
    """
    s, t, x0, xt = linear(10), 4, np.array([-0.8]), np.array([0.9])
    figure = plots.Figure(1000, 385)
    x, prior, likelihood, product, closed = _product(s, t, x0, xt)
    panel = figure.panel(
        (50, 50, 270, 270),
        f"Where was x_{t - 1}? (T = {s.T})",
        xlabel=f"x_{t - 1}",
        legend="tl",
        y=(0, 1.6 * closed.max()),
    )
    panel.line(x, prior, GREEN, label=f"q(x_{t - 1} | x_0), x_0 = {x0[0]:g}")
    panel.line(x, likelihood, ORANGE, label=f"q(x_{t} | x_{t - 1}), x_{t} = {xt[0]:g}", dash=(6, 4))
    panel.band(x, 0, product, SKY, label="their product, scaled to 1")
    panel.line(x, closed, BLUE, label="eq. 7", dash=(2, 4))

    long = linear(T)
    on_x0, on_xt = posterior_weights(long)
    panel = figure.panel(
        (390, 50, 230, 270),
        "The posterior mean's weights",
        x=(1, T),
        y=(-0.05, 1.09),
        xlabel="t",
        log="x",
        legend="bl",
    )
    for weights, colour, label in ((on_x0, GREEN, "of x_0"), (on_xt, ORANGE, "of x_t")):
        panel.line(np.arange(1, T + 1), weights[1:], colour, label=label)
    right, wrong = (_chain(long, mean, seed) for mean in (reverse_mean, _wrong_mean))
    end = int(np.argmax(wrong[1] > 1e300)) or len(wrong[1])
    panel = figure.panel(
        (720, 50, 250, 270),
        "The trap of the two alphas",
        x=(T, 0),
        y=(1e-20, 1e300),
        xlabel="t",
        ylabel="size of x_t",
        log="y",
    )
    panel.line(right[0], right[1], BLUE, label="/ sqrt(alpha_t)")
    panel.line(wrong[0][:end], wrong[1][:end], RED, label="/ sqrt(alpha_bar_t)")
    lines = [
        "Where was x_{t-1}, given x_t and x_0? Bayes: a product of two Gaussians, again one.",
        f"T = 10, t = 4: the product on a grid and eq. 7 differ by {np.abs(product - closed).max():.0e}.",
        f"Its mean weighs x_0 by {on_x0[1]:.3f} at t = 1 and by {on_x0[T]:.6f} at t = {T} (Ho20 eq. 7).",
        "The trap: alpha_t belongs in the reverse mean, alpha_bar_t in the marginal.",
        f"With 1/sqrt(alpha_t) the chain ends at a size of {right[1][-1]:.3f} (the data's is 1);",
        f"with 1/sqrt(alpha_bar_t) it passes 1e300 at t = {int(wrong[0][end - 1])}.",
        f"With alpha_t in the marginal, x_T would still hold {np.sqrt(long.alpha[T]):.2f} x_0.",
    ]
    return Chapter(
        "2-bayes",
        "Bayes, and the trap of the two alphas",
        figure.image(),
        "Left: two bell curves and the narrower one that is their product. Middle: the weights of x_0 and "
        "x_t in the posterior mean over t. Right: a chain with the right alpha stays at 1, one with the "
        "product alpha_bar in the reverse mean leaves the range of numbers.",
        lines,
        "process.q_posterior, process.reverse_mean",
    )


def _product(s, t, x0, xt):
    """x, then over it q(x_{t-1} | x_0), q(x_t | x_{t-1}), their product over its integral, and Ho20
    eq. 7's bell.
    """
    x = np.linspace(-2.6, 3.2, 2901)

    def bell(away, variance):
        return np.exp(-(away**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    mean, variance = q_marginal(s, x0, t - 1)
    prior, likelihood = bell(x - mean, variance), bell(xt - np.sqrt(s.alpha[t]) * x, s.beta[t])
    product = prior * likelihood
    mean, variance = q_posterior(s, x0, xt, t)
    return x, prior, likelihood, product / (product.sum() * (x[1] - x[0])), bell(x - mean, variance)


def _chain(s, mean, seed):
    """t and the size (root mean square) of x_t down Ho20 Algorithm 2, for x_0 ~ N(0, 1) and its
    exact eps_hat.
    """
    truth, sizes = Gaussian([0.0], 1.0, s), []
    x = noise.normal((256, 1), seed, noise.PRIOR).astype(np.float64)
    for t in range(s.T, 0, -1):
        z = noise.normal(x.shape, seed, noise.REVERSE, t) if t > 1 else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            x = mean(s, x, t, truth(x, t)) + np.sqrt(s.beta[t]) * z
            # taken out, for its square may be no number any more
            largest = np.abs(x).max()
            sizes.append(largest * np.sqrt(np.mean((x / largest) ** 2)))
    return np.arange(s.T - 1, -1, -1), np.nan_to_num(np.array(sizes), nan=np.inf, posinf=np.inf)


def _wrong_mean(s, xt, t, eps_hat):
    """Ho20 eq. 11 with the product alpha_bar_t where the step's own alpha_t belongs."""
    return reverse_mean(s, xt, t, eps_hat) * np.sqrt(s.alpha[t] / s.alpha_bar[t])


def bound(seed=0):
    """Chapter 3: the variational bound's terms over t (Ho20 eq. 5), and what eq. 12 weighs the eps
    error by.
    """
    s = cosine(T)
    truth = spirals(s)
    x0 = truth.sample(1024, seed)
    crude = Gaussian(x0.mean(axis=0), np.cov(x0.T), s)
    times = np.unique(np.rint(np.geomspace(1, T, 70)).astype(int))
    terms = {"exact": _terms(truth, s, x0, times, seed), "crude": _terms(crude, s, x0, times, seed)}
    every = np.arange(2, T + 1)
    # Between the times that were asked about, a power of t: the terms fall like one.
    filled = {
        name: np.exp(np.interp(np.log(every), np.log(times[1:]), np.log(value[1:])))
        for name, value in terms.items()
    }
    total = {
        name: value[0] + filled[name].sum() + prior_term(s, x0).mean()
        for name, value in terms.items()
    }
    least = -truth.log_density(x0, 0).mean() / (2 * np.log(2))
    figure = plots.Figure(1000, 385)
    panel = figure.panel(
        (80, 50, 250, 270), "Terms L_{t-1}, bits per dimension", xlabel="t", log="xy", x=(2, T)
    )
    for name, colour in (("crude", ORANGE), ("exact", BLUE)):
        panel.line(times[1:], terms[name][1:], colour, label=LABELS[name])
    panel = figure.panel(
        (410, 50, 230, 270), "Bits below t, L_0 apart", xlabel="t", log="x", x=(2, T), legend="tl"
    )
    for name, colour in (("crude", ORANGE), ("exact", BLUE)):
        panel.line(every, np.cumsum(filled[name]), colour, label=LABELS[name])
    weight = s.beta[2:] / (2 * s.alpha[2:] * (1 - s.alpha_bar[2:]))  # sigma_t^2 = beta_t
    panel = figure.panel(
        (720, 50, 250, 270),
        "Weight of the squared eps error",
        x=(2, T),
        y=(1e-3, 10),
        xlabel="t",
        log="xy",
    )
    panel.line(every, weight, PURPLE, label="the bound's (eq. 12)")
    panel.line(every, np.ones(len(every)), INK, dash=(6, 4), label="L_simple's (eq. 14)")
    lines = [
        "-log p(x_0) is at most L_T + sum of L_{t-1} + L_0: divergences of Gaussians. (Ho20 eq. 5)",
        f"On the spirals, in bits per dimension, the exact eps_hat costs {total['exact']:.3f},",
        f"a Gaussian's {total['crude']:.3f}; the data's own -log p is {least:.3f}.",
        f"L_T is {prior_term(s, x0).mean():.1e}: at t = T nothing of x_0 is left.",
        f"Eq. 12 weighs the eps error by {weight[0]:.2f} at t = 2 and {weight[T // 2 - 2]:.4f} at t = {T // 2};",
        "L_simple (eq. 14) by 1 throughout: it gives the small t, dear in bits, less to say.",
    ]
    return Chapter(
        "3-the-bound",
        "The bound, and why it becomes a mean square",
        figure.image(),
        "The terms of the variational bound over t, for the exact denoiser and a cruder one; their running "
        "sum; and the weight of eq. 12, which falls with t, against the constant weight of L_simple.",
        lines,
        "likelihood.vb_term, likelihood.bits_per_dim",
    )


def _terms(denoise, s, x0, times, seed):
    """The bound's term at each of the times, bits per dimension, averaged over x0."""
    return np.array(
        [
            vb_term(
                denoise,
                s,
                x0,
                int(t),
                noise.normal(x0.shape, seed, noise.BOUND, int(t)).astype(x0.dtype),
                variance="beta",
                half_width=None,
            ).mean()
            for t in times
        ]
    )
