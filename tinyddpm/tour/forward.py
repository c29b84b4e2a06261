"""Chapters 1 to 3 of the tour: destroying data, Bayes' rule, the bound. They train nothing."""

import numpy as np

from .. import noise
from ..exact import Gaussian
from ..likelihood import Chain, prior_term, vb_term
from ..plots import figures
from ..plots.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY
from ..process import posterior_tables, q_marginal, q_posterior, q_sample, reverse_mean
from ..schedule import KINDS, cosine, linear
from .spirals import Chapter, T, spirals

HUGE = 1e300  # where a chain is taken to have left the range of numbers
COLOURS = {"linear": BLUE, "cosine": RED, "sigmoid": GREEN}
DENOISERS = {
    "crude": (r"a Gaussian's $\hat\epsilon$", ORANGE),
    "exact": (r"the exact $\hat\epsilon$", BLUE),
}


# Chapter 1.


def destroying_data(seed: int = 0) -> Chapter:
    """Chapter 1: points on their way to noise (Ho20 eq. 4), and three schedules."""
    s = cosine(T)
    x0 = spirals(s).sample(700, seed)
    eps = noise.normal(x0.shape, seed, noise.EPS).astype(np.float64)
    half = {
        name: int(np.argmin(np.abs(np.log(make(T).snr[1:])))) + 1 for name, make in KINDS.items()
    }
    spread = np.abs(np.cov(q_sample(s, x0, T, eps).T) - np.eye(2)).max()
    lines = [
        "A forward process adds noise, a little at each step, until nothing else is left.",
        "No loop is needed: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. (Ho20 eq. 4)",
        f"cosine, T = {T}: alpha_bar_1 = {s.alpha_bar[1]:.6f}, alpha_bar_T = {s.alpha_bar[T]:.2g};",
        f"the covariance of x_T is I up to {spread:.2f} with these 700 points.",
        "Signal and noise are as strong (log SNR = 0) at "
        + ", ".join(f"t = {t} ({name})" for name, t in half.items())
        + ".",
    ]
    return Chapter(
        "1-destroying-data",
        "Destroying data",
        _draw_destroying_data(s, x0, eps),
        "Five pictures of two spiral arms that turn into a round cloud as t grows; below, "
        "alpha_bar and the log signal-to-noise ratio of the linear, cosine and sigmoid schedules "
        "over t.",
        lines,
        "schedule.cosine, process.q_sample",
    )


@figures.styled
def _draw_destroying_data(s, x0, eps):
    sheet = figures.figure(1000, 530)
    clouds, schedules = sheet.subfigures(2, 1, height_ratios=(23, 30))
    for axes, t in zip(clouds.subplots(1, 5), (1, 150, 350, 600, 1000)):
        figures.plane(axes, 2.2, rf"$t = {t},\ \bar\alpha_t = {s.alpha_bar[t]:.3f}$")
        axes.scatter(*q_sample(s, x0, t, eps).T, s=5, c=BLUE, alpha=0.6)
    left, right = schedules.subplots(1, 2)
    left.set(title="How much of $x_0$ is left", ylabel=r"$\bar\alpha_t$", ylim=(0, 1.02))
    right.set(title="Signal against noise", ylabel=r"$\log\,\mathrm{SNR}$")
    for name, make in KINDS.items():
        each = make(T)
        left.plot(np.arange(T + 1), each.alpha_bar, color=COLOURS[name], label=name)
        right.plot(np.arange(1, T), np.log(each.snr[1:T]), color=COLOURS[name], label=name)
    for axes in (left, right):
        axes.set(xlabel="$t$", xlim=(0, T))
        axes.legend(loc="upper right")
    return sheet


# Chapter 2.


def bayes(seed: int = 0) -> Chapter:
    """Chapter 2: the posterior as a product of Gaussians (Ho20 eq. 6, 7); the two alphas."""
    s, t, x0, xt = linear(10), 4, np.array([-0.8]), np.array([0.9])
    bells = _product(s, t, x0, xt)
    long = linear(T)
    posterior = posterior_tables(long)
    right, wrong = (_chain(long, mean, seed) for mean in (reverse_mean, _wrong_mean))
    end = int(np.argmax(wrong[1] > HUGE)) or len(wrong[1])
    apart = np.abs(bells["product"] - bells["posterior"]).max()
    lines = [
        "Where was x_{t-1}, given x_t and x_0? Bayes: a product of two Gaussians, again one.",
        f"T = 10, t = 4: the product on a grid and eq. 7 differ by {apart:.0e}.",
        f"Its mean weighs x_0 by {posterior.c_x0[1]:.3f} at t = 1 and by {posterior.c_x0[T]:.6f} "
        f"at t = {T} (Ho20 eq. 7).",
        "The trap: alpha_t belongs in the reverse mean, alpha_bar_t in the marginal.",
        f"With 1/sqrt(alpha_t) the chain ends at a size of {right[1][-1]:.3f} (the data's is 1);",
        f"with 1/sqrt(alpha_bar_t) it passes 1e300 at t = {int(wrong[0][end - 1])}.",
        f"With alpha_t in the marginal, x_T would still hold {np.sqrt(long.alpha[T]):.2f} x_0.",
    ]
    return Chapter(
        "2-bayes",
        "Bayes, and the trap of the two alphas",
        _draw_bayes(bells, posterior, right, [part[:end] for part in wrong]),
        "Left: two bell curves and the narrower one that is their product. Middle: the weights of "
        "x_0 and x_t in the posterior mean over t. Right: a chain with the right alpha stays at 1, "
        "one with the product alpha_bar in the reverse mean leaves the range of numbers.",
        lines,
        "process.q_posterior, process.reverse_mean",
    )


@figures.styled
def _draw_bayes(bells, posterior, right, wrong):
    sheet = figures.figure(1000, 385)
    product, weights, trap = sheet.subplots(1, 3)
    x, highest = bells["x"], bells["posterior"].max()
    product.set(title="Where was $x_3$?  ($T = 10$)", xlabel="$x_3$", ylim=(0, 1.75 * highest))
    product.plot(x, bells["prior"], color=GREEN, label="$q(x_3 | x_0),\\ x_0 = -0.8$")
    product.plot(x, bells["likelihood"], "--", color=ORANGE, label="$q(x_4 | x_3),\\ x_4 = 0.9$")
    label = "their product, scaled to 1"
    product.fill_between(x, bells["product"], color=SKY, alpha=0.35, linewidth=0, label=label)
    product.plot(x, bells["posterior"], ":", color=BLUE, label="eq. 7")
    product.legend(loc="upper left")

    t = np.arange(1, T + 1)
    weights.set(title="The posterior mean's weights", xlabel="$t$", xscale="log", xlim=(1, T))
    weights.plot(t, posterior.c_x0[1:], color=GREEN, label="of $x_0$")
    weights.plot(t, posterior.c_xt[1:], color=ORANGE, label="of $x_t$")
    weights.legend(loc="center right")

    trap.set(title="The trap of the two alphas", xlabel="$t$", ylabel="size of $x_t$")
    trap.set(yscale="log", xlim=(T, 0), ylim=(1e-20, HUGE), yticks=[1, 1e100, 1e200, HUGE])
    trap.minorticks_off()
    trap.plot(*right, color=BLUE, label=r"$1 / \sqrt{\alpha_t}$")
    trap.plot(*wrong, color=RED, label=r"$1 / \sqrt{\bar\alpha_t}$")
    trap.legend(loc="upper right")
    return sheet


def _product(s, t, x0, xt):
    """q(x_{t-1} | x_0), q(x_t | x_{t-1}), their product over its integral, and Ho20 eq. 7, on x."""
    x = np.linspace(-2.6, 3.2, 2901)

    def bell(away, variance):
        return np.exp(-(away**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    mean, variance = q_marginal(s, x0, t - 1)
    prior, likelihood = bell(x - mean, variance), bell(xt - np.sqrt(s.alpha[t]) * x, s.beta[t])
    product = prior * likelihood
    mean, variance = q_posterior(s, x0, xt, t)
    return {
        "x": x,
        "prior": prior,
        "likelihood": likelihood,
        "product": product / (product.sum() * (x[1] - x[0])),
        "posterior": bell(x - mean, variance),
    }


def _chain(s, mean, seed):
    """t, and the root mean square of x_t down Ho20 Algorithm 2 for x_0 ~ N(0, 1), exact eps_hat."""
    truth, sizes = Gaussian([0.0], 1.0, s), []
    x = noise.normal((256, 1), seed, noise.PRIOR).astype(np.float64)
    for t in range(s.T, 0, -1):
        z = noise.normal(x.shape, seed, noise.REVERSE, t) if t > 1 else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            x = mean(s, x, t, truth(x, t)) + np.sqrt(s.beta[t]) * z
            largest = np.abs(x).max()  # taken out, since its square may overflow
            sizes.append(largest * np.sqrt(np.mean((x / largest) ** 2)))
    return np.arange(s.T - 1, -1, -1), np.nan_to_num(np.array(sizes), nan=np.inf, posinf=np.inf)


def _wrong_mean(s, xt, t, eps_hat):
    """Ho20 eq. 11 with the product alpha_bar_t where the step's own alpha_t belongs."""
    return reverse_mean(s, xt, t, eps_hat) * np.sqrt(s.alpha[t] / s.alpha_bar[t])


# Chapter 3.


def bound(seed: int = 0) -> Chapter:
    """Chapter 3: the variational bound's terms over t (Ho20 eq. 5), and eq. 12's weights."""
    s = cosine(T)
    truth = spirals(s)
    x0 = truth.sample(1024, seed)
    denoisers = {"crude": Gaussian(x0.mean(axis=0), np.cov(x0.T), s), "exact": truth}
    times = np.unique(np.rint(np.geomspace(1, T, 70)).astype(int))
    terms = {name: _terms(each, s, x0, times, seed) for name, each in denoisers.items()}
    every = np.arange(2, T + 1)
    # Between the times that were computed, a power of t: the terms fall like one.
    filled = {
        name: np.exp(np.interp(np.log(every), np.log(times[1:]), np.log(each[1:])))
        for name, each in terms.items()
    }
    last = prior_term(s, x0).mean()
    total = {name: terms[name][0] + filled[name].sum() + last for name in terms}
    least = -truth.log_density(x0, 0).mean() / (2 * np.log(2))
    weight = s.beta[2:] / (2 * s.alpha[2:] * (1 - s.alpha_bar[2:]))  # sigma_t^2 = beta_t
    lines = [
        "-log p(x_0) is at most L_T + sum of L_{t-1} + L_0: divergences of Gaussians. (Ho20 eq. 5)",
        f"On the spirals, in bits per dimension, the exact eps_hat costs {total['exact']:.3f},",
        f"a Gaussian's {total['crude']:.3f}; the data's own -log p is {least:.3f}.",
        f"L_T is {last:.1e}: at t = T nothing of x_0 is left.",
        f"Eq. 12 weighs the eps error by {weight[0]:.2f} at t = 2 and {weight[T // 2 - 2]:.4f} at "
        f"t = {T // 2};",
        "L_simple (eq. 14) by 1 throughout: the small t, which cost most bits, count for less.",
    ]
    return Chapter(
        "3-the-bound",
        "The bound, and why it becomes a mean square",
        _draw_bound((times, terms), (every, filled), weight),
        "The terms of the variational bound over t, for the exact denoiser and a cruder one; their "
        "running sum; and the weight of eq. 12, which falls with t, against the constant weight of "
        "L_simple.",
        lines,
        "likelihood.vb_term, likelihood.bits_per_dim",
    )


@figures.styled
def _draw_bound(computed, filled, weight):
    (times, terms), (every, terms_between) = computed, filled
    sheet = figures.figure(1000, 385)
    each, below, weights = sheet.subplots(1, 3)
    for name, (label, colour) in DENOISERS.items():
        each.plot(times[1:], terms[name][1:], color=colour, label=label)
        below.plot(every, np.cumsum(terms_between[name]), color=colour, label=label)
    each.set(title="Terms $L_{t-1}$, bits per dimension", yscale="log")
    below.set(title="Bits below $t$, without $L_0$")
    weights.set(title=r"Weight of the squared $\epsilon$ error", yscale="log", ylim=(1e-3, 10))
    weights.plot(every, weight, color=PURPLE, label="the bound's (eq. 12)")
    label = r"$L_{\mathrm{simple}}$'s (eq. 14)"
    weights.plot(every, np.ones(len(every)), "--", color=INK, label=label)
    for axes, place in ((each, "lower left"), (below, "upper left"), (weights, "upper left")):
        axes.set(xlabel="$t$", xscale="log", xlim=(2, T))
        axes.legend(loc=place)
    return sheet


def _terms(denoise, s, x0, times, seed):
    """The bound's term at each of the times, bits per dimension, averaged over x0."""
    means = []
    for t in times.tolist():
        eps = noise.normal(x0.shape, seed, noise.BOUND, t).astype(x0.dtype)
        term = vb_term(denoise, s, x0, t, eps, Chain("beta", half_width=None))
        means.append(term.mean())
    return np.array(means)
