"""Chains whose end is known in closed form, run through the real samplers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.chains import (
    SAMPLERS,
    check_point_mass,
    check_unit_gaussian,
    on_times,
    point_mass_eps,
    push_gaussian,
    unit_gaussian_eps,
    with_options,
    without_noise,
)
from support.checks import FALSE_ALARM, ROOT_TOL, TOL, close, schedules

from tinyddpm import exact, noise, process
from tinyddpm.samplers import (
    Noise,
    PredictorCorrector,
    ancestral,
    ancestral_coefficients,
    ddim,
    ddim_coefficients,
    langevin,
)
from tinyddpm.schedule import cosine, linear, spaced
from tinyddpm.settings import SPACINGS
from tinyddpm.solvers import dpmpp_2m, euler, heun


@given(schedules(terminal=False))
def test_unit_gaussian_with_beta_keeps_variance_1(s):
    check_unit_gaussian(s, SAMPLERS["ancestral, beta"])


@given(schedules(terminal=False))
def test_point_mass_with_beta_tilde_ends_there(s):
    check_point_mass(s, SAMPLERS["ancestral, beta_tilde"])


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_point_mass_with_noise_drawn(dtype, rtol):
    # The last step is one x0_hat: a few roundings of c, of x_1 and of beta_1 / (1 - alpha_bar_1) =
    # 1.
    s, c = linear(1000), np.array([0.6, -1.0, 0.0, 3.0])
    xT = noise.normal((5, 4), 1, noise.PRIOR).astype(dtype)
    x0 = ancestral(point_mass_eps(s, c), s, xT, variance="beta_tilde")
    close(x0, np.tile(c, (5, 1)), rtol=rtol, atol=rtol)


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
MIX = np.array([0.0, 0.3, 1.2])
COVARIANCE = np.array([[0.5, 0.2, -0.05], [0.2, 0.3, 0.0], [-0.05, 0.0, 0.02]])


def eps_slope(s, t):
    """E of eps_hat = E (x_t - sqrt(ab) m) for N(m, C): sqrt(1 - ab) (ab C + (1 - ab) I)^-1."""
    alpha_bar = s.alpha_bar[t]
    variance = alpha_bar * COVARIANCE + (1 - alpha_bar) * np.eye(3)
    return np.sqrt(1 - alpha_bar) * np.linalg.inv(variance)


# Maps x -> M x + c are 4 x 4 matrices on (x, 1), so that products chain them and sums of slopes are
# sums.


def affine(matrix, offset):
    return np.block([[matrix, offset[:, None]], [np.zeros((1, 3)), np.zeros((1, 1))]])


IDENTITY = affine(np.eye(3), np.zeros(3)) + np.diag([0.0, 0.0, 0.0, 1.0])


def eps_map(s, t):
    return affine(eps_slope(s, t), -np.sqrt(s.alpha_bar[t]) * eps_slope(s, t) @ MEAN)


def x0_map(s, t):
    """Ho20 eq. 15."""
    x = affine(np.eye(3), np.zeros(3))
    return (x - np.sqrt(1 - s.alpha_bar[t]) * eps_map(s, t)) / np.sqrt(s.alpha_bar[t])


def flow_map(s, t):
    """Song21b eq. 13's (x + score) / 2."""
    return (affine(np.eye(3), np.zeros(3)) - eps_map(s, t) / np.sqrt(1 - s.alpha_bar[t])) / 2


def ancestral_moves(s, t, t_prev, variance):
    """Ho20 eq. 11 on the chain of these times alone, its alpha a product: the move (map, sigma^2)
    to t_prev.
    """
    alpha = np.prod(1 - s.beta[t_prev + 1 : t + 1])
    high = 1 - alpha
    low = high * (1 - s.alpha_bar[t_prev]) / (1 - s.alpha_bar[t])
    mean = np.diag([alpha**-0.5] * 3 + [1.0]) @ (
        IDENTITY - high / np.sqrt(1 - s.alpha_bar[t]) * eps_map(s, t)
    )
    if t_prev == 0:
        return [(mean, 0.0)]
    variances = {
        "beta": high,
        "beta_tilde": low,
        "learned": np.exp(MIX * np.log(high) + (1 - MIX) * np.log(low)),
    }
    return [(mean, variances[variance])]


def langevin_moves(s, t, t_prev, variance):
    """Song21b Algorithm 3 and 5: that move, then two corrections, none at data."""
    moves = ancestral_moves(s, t, t_prev, variance)
    if t_prev > 0:
        size = 2 * s.alpha[t_prev] * 0.3**2 * (1 - s.alpha_bar[t_prev])
        score = -eps_map(s, t_prev) / np.sqrt(1 - s.alpha_bar[t_prev])
        moves += [(IDENTITY + size * score, 2 * size)] * 2
    return moves


def ddim_moves(s, t, t_prev, eta):
    """Song21a eq. 12, 16: the move to t_prev."""
    now, then = s.alpha_bar[t], s.alpha_bar[t_prev]
    sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
    scale = np.diag([np.sqrt(then / now)] * 3 + [1.0])
    towards = np.sqrt(1 - then - sigma**2) - np.sqrt(then / now) * np.sqrt(1 - now)
    return [(scale + towards * eps_map(s, t), sigma**2)]


def euler_moves(s, t, t_prev, _):
    h = -np.log(1 - s.beta[t_prev + 1 : t + 1]).sum()
    return [(IDENTITY + h * flow_map(s, t), 0.0)]


def heun_moves(s, t, t_prev, _):
    h = -np.log(1 - s.beta[t_prev + 1 : t + 1]).sum()
    if t_prev == 0:
        return euler_moves(s, t, t_prev, _)
    here = flow_map(s, t)
    return [(IDENTITY + h / 2 * (here + flow_map(s, t_prev) @ (IDENTITY + h * here)), 0.0)]


def recursion(s, times, moves, option):
    """(t_prev, mean, covariance) after each step, from N(0, I)."""
    mean, covariance = np.array([0.0, 0, 0, 1]), np.diag([1.0, 1, 1, 0])
    for t, t_prev in zip(times, [*times[1:], 0], strict=True):
        for matrix, variance in moves(s, t, t_prev, option):
            mean, covariance = matrix @ mean, matrix @ covariance @ matrix.T
            covariance[:3, :3] += variance * np.eye(3)
        yield t_prev, mean[:3], covariance[:3, :3]


def multistep(s, times, *_):
    """The same for Lu22 Algorithm 2, whose steps look back: each x as a map of x_T."""
    alpha, sigma = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    lam = {t: np.log(alpha[t]) - np.log(sigma[t]) for t in times}
    x, data = IDENTITY, []
    for i, (t, t_prev) in enumerate(zip(times, [*times[1:], 0], strict=True)):
        data.append(x0_map(s, t) @ x)
        ahead, decay = data[-1], sigma[t_prev] / sigma[t]
        if i > 0 and t_prev > 0:
            r = (lam[t] - lam[times[i - 1]]) / (lam[t_prev] - lam[t])
            ahead = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        grown = np.exp(lam[t] - lam[t_prev]) if t_prev > 0 else 0.0
        x = decay * x - alpha[t_prev] * (grown - 1) * ahead
        x[3] = IDENTITY[3]
        yield t_prev, x[:3, 3], x[:3, :3] @ x[:3, :3].T


class Learned(exact.Gaussian):
    """The Gaussian's denoiser with a variance that it has learned, another one for each element."""

    def x0_and_mix(self, xt, t):
        return self.x0_hat(xt, t), np.tile(MIX, (len(xt), 1))


CASES = {
    "ancestral, beta": (ancestral, {"variance": "beta"}, ancestral_moves, "beta"),
    "ancestral, beta_tilde": (ancestral, {}, ancestral_moves, "beta_tilde"),
    "ancestral, learned": (ancestral, {"variance": "learned"}, ancestral_moves, "learned"),
    "langevin": (
        langevin,
        {"method": PredictorCorrector(corrections=2, snr=0.3)},
        langevin_moves,
        "beta_tilde",
    ),
    "langevin, learned": (
        langevin,
        {"method": PredictorCorrector("learned", corrections=2, snr=0.3)},
        langevin_moves,
        "learned",
    ),
    "ddim": (ddim, {}, ddim_moves, 0.0),
    "ddim, eta 0.5": (ddim, {"eta": 0.5}, ddim_moves, 0.5),
    "ddim, eta 1": (ddim, {"eta": 1.0}, ddim_moves, 1.0),
    "euler": (without_noise(euler), {}, euler_moves, None),
    "heun": (without_noise(heun), {}, heun_moves, None),
    "dpmpp_2m": (without_noise(dpmpp_2m), {}, None, None),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    "make, T, steps", [(linear, 60, 13), (cosine, 60, 13), (linear, 20, 20), (linear, 60, 1)]
)
def test_any_gaussian_follows_the_recursion_of_mean_and_covariance(name, spacing, make, T, steps):
    sampler, options, moves, option = CASES[name]
    s = make(T)
    sampler = on_times(with_options(sampler, **options), steps, spacing)
    found = push_gaussian(sampler, Learned(MEAN, COVARIANCE, s), s, d=3)
    times = spaced(s, steps, spacing)
    expected = list(recursion(s, times, moves, option) if moves else multistep(s, times))
    assert len(found) == len(expected) == steps
    for t_prev, mean, covariance in expected:
        close(found[t_prev][0], mean, atol=TOL)
        close(found[t_prev][1], covariance, atol=TOL)


@pytest.mark.parametrize("mix, variance", [(0.0, "beta_tilde"), (1.0, "beta")])
@pytest.mark.parametrize("steps", [None, 7])
def test_the_learned_variance_reaches_from_beta_tilde_to_beta(mix, variance, steps):
    s, xT = linear(20), noise.normal((3, 2), 1).astype(np.float64)

    class Known:
        def x0_and_mix(self, xt, t):
            return self.x0_hat(xt, t), np.full_like(xt, mix)

        def x0_hat(self, xt, t):
            return np.tanh(xt + 0.01 * t)

    options = {"steps": steps, "clip": 0.5, "noise": Noise(4, 2)}
    learned, fixed = (
        ancestral(Known(), s, xT, variance=v, **options) for v in ("learned", variance)
    )
    close(learned, fixed, atol=TOL)
    methods = PredictorCorrector("learned"), PredictorCorrector(variance)
    learned, fixed = (langevin(Known(), s, xT, method=method, **options) for method in methods)
    close(learned, fixed, atol=TOL)


@given(schedules(terminal=False, max_T=40), st.data())
def test_ddim_with_eta_1_is_ancestral_on_the_same_times(s, data):
    # Nichol21 eq. 19 and Song21a eq. 16 are one formula; a root of a difference keeps sqrt(eps)
    # where it vanishes.
    times = sorted(data.draw(st.sets(st.integers(0, s.T), min_size=2)))
    for t_prev, t in pairwise(times):
        implicit = ddim_coefficients(s, t, t_prev, 1.0)
        close(implicit[:3], ancestral_coefficients(s, t, t_prev, "beta_tilde")[:3], atol=ROOT_TOL)


@pytest.mark.parametrize(
    "name", ["ancestral, beta", "ancestral, beta_tilde", "ddim, all steps, eta 1"]
)
def test_a_gaussian_comes_back(name):
    # Exact eps leaves two errors: x_T starts from mean 0, not sqrt(alpha_bar_T) m = 0.006 m, which
    # fades on the way; and the step size's, 0.011 at T = 500 for beta_tilde and 0.0013 for beta,
    # which falls as 1 / T.
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
    # The optimal denoiser of a set of points: their mean under the softmax of -|x_t - sqrt(ab) c|^2
    # / (2 (1 - ab)). The four corners of a square are alike by symmetry, so each is the end of a
    # quarter of the chains.
    points, s, n = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype), cosine(200), 2000

    def denoise(xt, t):
        away = xt[:, None] - np.sqrt(s.alpha_bar[t]) * points
        logit = -np.sum(away**2, axis=-1) / (2 * (1 - s.alpha_bar[t]))
        weight = np.exp(logit - logit.max(axis=1, keepdims=True))
        x0_hat = (weight / weight.sum(axis=1, keepdims=True)) @ points
        return process.eps_from_x0(s, xt, t, x0_hat.astype(xt.dtype))

    xT = noise.normal((n, 2), 3, noise.PRIOR).astype(dtype)
    x0 = ancestral(denoise, s, xT, variance=variance, noise=3)
    away = np.linalg.norm(x0[:, None] - points, axis=-1)
    assert np.all(away.min(axis=1) < (1e-5 if dtype == np.float32 else 1e-9))
    counts = np.bincount(away.argmin(axis=1), minlength=4)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
