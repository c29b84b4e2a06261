"""Chains whose end is known in closed form, run through the real samplers."""

import numpy as np
import pytest
from chains import (
    SAMPLERS,
    check_point_mass,
    check_unit_gaussian,
    point_mass_eps,
    push_gaussian,
    unit_gaussian_eps,
    with_options,
)
from checks import FALSE_ALARM, TOL, close, schedules
from hypothesis import given
from scipy import stats

from tinyddpm import noise, process
from tinyddpm.samplers import ancestral, ddim, timesteps
from tinyddpm.schedule import cosine, linear


@given(schedules(terminal=False))
def test_unit_gaussian_with_beta_keeps_variance_1(s):
    check_unit_gaussian(s, SAMPLERS["ancestral, beta"])


@given(schedules(terminal=False))
def test_point_mass_with_beta_tilde_ends_there(s):
    check_point_mass(s, SAMPLERS["ancestral, beta_tilde"])


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_point_mass_with_noise_drawn(dtype, rtol):
    # The last step is one x0_hat: a few roundings of c, of x_1 and of beta_1 / (1 - alpha_bar_1) = 1.
    s, c = linear(1000), np.array([0.6, -1.0, 0.0, 3.0])
    xT = noise.normal((5, 4), 1, noise.PRIOR).astype(dtype)
    close(ancestral(point_mass_eps(s, c), s, xT, "beta_tilde"), np.tile(c, (5, 1)), rtol=rtol, atol=rtol)


def test_unit_gaussian_on_the_papers_schedule():
    s = linear(1000)
    eps_hat = unit_gaussian_eps(s)
    check_unit_gaussian(s, SAMPLERS["ancestral, beta"])
    small = push_gaussian(SAMPLERS["ancestral, beta_tilde"], eps_hat, s)
    implicit = push_gaussian(SAMPLERS["ddim, all steps, eta 1"], eps_hat, s)
    assert small[0][1].item() == pytest.approx(0.99107, abs=5e-6)
    for t in range(1000):
        close(implicit[t][1], small[t][1])


MEAN = np.array([1.0, -0.5, 0.3])
COVARIANCE = np.array([[0.5, 0.2, -0.05], [0.2, 0.3, 0.0], [-0.05, 0.0, 0.02]])


def eps_slope(s, t):
    """eps_hat = E (x_t - sqrt(alpha_bar_t) m) for N(m, C): E = sqrt(1 - ab) (ab C + (1 - ab) I)^-1."""
    return np.sqrt(1 - s.alpha_bar[t]) * np.linalg.inv(s.alpha_bar[t] * COVARIANCE + (1 - s.alpha_bar[t]) * np.eye(3))


def ancestral_step(s, t, variance):
    """Ho20 eq. 11: the matrices on x_t and on eps_hat, and sigma, of the step to t - 1."""
    on_x, on_eps = 1 / np.sqrt(s.alpha[t]), -s.beta[t] / np.sqrt((1 - s.alpha_bar[t]) * s.alpha[t])
    before, now = 1 - s.alpha_bar[t - 1], 1 - s.alpha_bar[t]
    sigma = np.sqrt(s.beta[t] * (1 if variance == "beta" else before / now))
    return on_x, on_eps, sigma if t > 1 else 0.0


def ddim_step(s, t, t_prev, eta):
    """Song21a eq. 12, 16: the same for the step to t_prev."""
    now, then = s.alpha_bar[t], s.alpha_bar[t_prev]
    sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
    scale = np.sqrt(then / now)
    return scale, np.sqrt(1 - then - sigma**2) - scale * np.sqrt(1 - now), sigma


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize("name, option", [
    ("ancestral", "beta"), ("ancestral", "beta_tilde"), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0),
])
def test_any_gaussian_follows_the_recursion_of_mean_and_covariance(make, name, option):
    s = make(60)
    if name == "ancestral":
        times, sampler = list(range(60, 0, -1)), with_options(ancestral, variance=option)
    else:
        times, sampler = timesteps(60, 13), with_options(ddim, steps=13, eta=option)

    def denoise(xt, t):
        return (xt - np.sqrt(s.alpha_bar[t]) * MEAN) @ eps_slope(s, t)

    found = push_gaussian(sampler, denoise, s, d=3)
    mean, covariance = np.zeros(3), np.eye(3)
    for t, t_prev in zip(times, [*times[1:], 0], strict=True):
        step = ancestral_step(s, t, option) if name == "ancestral" else ddim_step(s, t, t_prev, option)
        on_x, on_eps, sigma = step
        matrix = on_x * np.eye(3) + on_eps * eps_slope(s, t)
        mean = matrix @ mean - on_eps * eps_slope(s, t) @ MEAN * np.sqrt(s.alpha_bar[t])
        covariance = matrix @ covariance @ matrix.T + sigma**2 * np.eye(3)
        close(found[t_prev][0], mean, atol=TOL)
        close(found[t_prev][1], covariance, atol=TOL)
    assert len(found) == len(times)


@pytest.mark.parametrize("name", ["ancestral, beta", "ancestral, beta_tilde", "ddim, all steps, eta 1"])
def test_a_gaussian_comes_back(name):
    # Exact eps leaves two errors: x_T starts from mean 0, not sqrt(alpha_bar_T) m = 0.006 m, which fades on the
    # way; and the step size's, 0.011 at T = 500 for beta_tilde and 0.0013 for beta, which falls as 1 / T.
    errors = []
    for T in (250, 500):
        s = linear(T)

        def denoise(xt, t, s=s):
            return (xt - np.sqrt(s.alpha_bar[t]) * MEAN) @ eps_slope(s, t)

        mean, covariance = push_gaussian(SAMPLERS[name], denoise, s, d=3)[0]
        close(mean, MEAN, atol=1e-4)
        errors.append(np.abs(covariance - COVARIANCE).max())
    assert errors[1] < 0.012
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_a_mixture_of_points_is_landed_on(dtype, variance):
    # The optimal denoiser of a set of points: their mean under the softmax of -|x_t - sqrt(ab) c|^2 / (2 (1 - ab)).
    # The four corners of a square are alike by symmetry, so each is the end of a quarter of the chains.
    points, s, n = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype), cosine(200), 2000

    def denoise(xt, t):
        away = xt[:, None] - np.sqrt(s.alpha_bar[t]) * points
        logit = -np.sum(away**2, axis=-1) / (2 * (1 - s.alpha_bar[t]))
        weight = np.exp(logit - logit.max(axis=1, keepdims=True))
        x0_hat = (weight / weight.sum(axis=1, keepdims=True)) @ points
        return process.predict_eps(s, xt, t, x0_hat.astype(xt.dtype))

    x0 = ancestral(denoise, s, noise.normal((n, 2), 3, noise.PRIOR).astype(dtype), variance, seed=3)
    away = np.linalg.norm(x0[:, None] - points, axis=-1)
    assert np.all(away.min(axis=1) < (1e-5 if dtype == np.float32 else 1e-9))
    counts = np.bincount(away.argmin(axis=1), minlength=4)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
