"""Chains whose end is known in closed form, run through a sampler without drawing a number."""

import numpy as np

from support.checks import close, tables
from tinyddpm.samplers import PredictorCorrector, ancestral, ddim, langevin
from tinyddpm.schedule import spaced
from tinyddpm.solvers import dpmpp_2m, euler, heun


def with_options(sampler, **options):
    """The sampler with some options set, as push_gaussian and the checks call it."""
    return lambda *arguments, **more: sampler(*arguments, **options, **more)


def on_times(sampler, steps, spacing):
    """The sampler on `steps` times of a spacing, or on all of a schedule that has less."""

    def run(denoise, s, xT, **more):
        return sampler(denoise, s, xT, steps=spaced(s, min(steps, s.T), spacing), **more)

    return run


def without_noise(sampler):
    """A deterministic sampler, called as one that draws: it has no use for noise."""

    def run(*arguments, noise=0, **more):
        return sampler(*arguments, **more)

    return run


DETERMINISTIC = {
    "ddim, 1 step": with_options(ddim, steps=1),
    "ddim, 7 steps": with_options(ddim, steps=7),
    "euler": without_noise(euler),
    "heun, 7 steps": without_noise(on_times(heun, 7, "quadratic")),
    "dpmpp_2m, 7 steps": without_noise(on_times(dpmpp_2m, 7, "logsnr")),
}
SAMPLERS = DETERMINISTIC | {
    "ancestral, beta": with_options(ancestral, variance="beta"),
    "ancestral, beta_tilde": with_options(ancestral, variance="beta_tilde"),
    "ancestral, 7 steps": on_times(ancestral, 7, "logsnr"),
    "ddim, 7 steps, eta 0.5": with_options(ddim, steps=7, eta=0.5),
    "ddim, all steps, eta 1": with_options(ddim, steps=10**6, eta=1.0),
    "langevin, 7 steps": with_options(langevin, steps=7, method=PredictorCorrector("beta", 2)),
}
# how many z a sampler may ask for at one t: the predictor's, and two of the corrector's
DRAWS = 3


def push_gaussian(sampler, denoise, s, d=1):
    """Mean (d,) and covariance (d, d) of each x_t, by t, when x_T and all z are N(0, I) and denoise
    is affine.

    No draw is made: a batch holds the origin and one unit vector for each component of x_T and of
    every z, so that the sampler's own affine map is read off its outputs.
    """
    xT = np.zeros((1 + d + d * DRAWS * (s.T + 1), d))
    xT[1 : 1 + d] = np.eye(d)
    found, asked = {}, set()

    def noise(t, j=0):
        assert (t, j) not in asked, "the same z twice"
        asked.add((t, j))
        z, place = np.zeros_like(xT), 1 + d + d * (DRAWS * t + j)
        z[place : place + d] = np.eye(d)
        return z

    def watch(t, xt, x0_hat):
        columns = xt[1:] - xt[0]
        found[t] = xt[0], columns.T @ columns

    sampler(denoise, s, xT, noise=noise, watch=watch)
    return found


def unit_gaussian_eps(s):
    """The optimal eps_hat for x_0 ~ N(0, I): x_t is N(0, I), so eps_hat = sqrt(1 - alpha_bar_t)
    x_t.
    """
    alpha_bar = tables(s)[2]
    return lambda xt, t: np.sqrt(1 - alpha_bar[t]) * xt


def point_mass_eps(s, c):
    """The optimal eps_hat for x_0 = c: (x_t - sqrt(alpha_bar_t) c) / sqrt(1 - alpha_bar_t), in xt's
    dtype.
    """
    alpha_bar = tables(s)[2]
    return lambda xt, t: ((xt - np.sqrt(alpha_bar[t]) * c) / np.sqrt(1 - alpha_bar[t])).astype(
        xt.dtype
    )


def check_unit_gaussian(s, sampler):
    """Ho20 s3.2: x_0 ~ N(0, I) and sigma^2 = beta keep variance 1 at every t; the last step leaves
    alpha_1.
    """
    found = push_gaussian(sampler, unit_gaussian_eps(s), s)
    for t in range(1, s.T):
        close(found[t][1], 1.0)
    close(found[0][1], 1 - s.beta[1])


def check_point_mass(s, sampler):
    """Ho20 s3.2: a point mass at c and sigma^2 = beta_tilde end at c, and pass through q(x_t | x_0
    = c).
    """
    c, alpha_bar = 0.6, tables(s)[2]
    found = push_gaussian(sampler, point_mass_eps(s, c), s)
    assert sorted(found) == list(range(s.T))
    close(found[0][0], c)
    assert found[0][1] < 1e-20
    # x_T came from N(0, I), not from q(x_T | c)
    away, decay = -np.sqrt(alpha_bar[s.T]) * c, 1.0
    weight = 1 - alpha_bar
    excess = alpha_bar[s.T]
    for t in range(s.T, 1, -1):
        decay *= np.sqrt(1 - s.beta[t]) * weight[t - 1] / weight[t]
        mean, covariance = found[t - 1]
        close(mean, np.sqrt(alpha_bar[t - 1]) * c + decay * away)
        close(covariance, weight[t - 1] + decay**2 * excess)


def check_asked(s, sampler, times, twice=0):
    """The sampler asks its denoiser at each of `times` and then at data's own x_0 never, and tells
    of each x it made.

    twice: how often it asks once more at the t it has just reached (Heun's other end, Langevin's
    corrections).
    """
    asked, made = [], []
    sampler(
        lambda xt, t: asked.append(t) or 0 * xt,
        s,
        np.ones((2, 3)),
        watch=lambda t, xt, x0: made.append(t),
    )
    then = [*times[1:], 0]
    assert asked[0] == s.T
    assert asked == [
        t
        for here, there in zip(times, then, strict=True)
        for t in [here] + [there] * twice
        if t > 0
    ]
    assert made == then
