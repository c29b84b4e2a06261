"""The closed forms: each against its definition, and the optimal denoiser of the digits through a
whole chain.
"""

import numpy as np
import pytest
from scipy import stats
from support.checks import FALSE_ALARM, close, tables
from support.exact_checks import (
    KINDS,
    POINTS,
    Case,
    answers,
    check_bayes,
    check_density,
    check_law,
    check_line_integral,
    check_regression,
    check_score,
    check_stein,
    check_tweedie,
    check_vjp,
    gaussian,
    grid,
    mixture,
    points,
)

import tinyddpm as td
from tinyddpm import metrics, noise, process
from tinyddpm.datasets import sets as data
from tinyddpm.exact import Gaussian, GaussianMixture, PointSet
from tinyddpm.samplers import ancestral

S = td.linear(50)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_time = pytest.mark.parametrize("t", [1, 5, 20, 50])


# --- density, score, the two estimates, the Jacobian


@every_kind
@every_time
def test_log_density_is_scipys(kind, t):
    case = kind(S)
    check_density(case, grid(case, t), t, case.model.log_density)


@pytest.mark.parametrize("kind", [gaussian, mixture])
def test_log_density_and_score_of_clean_data(kind):
    case = kind(S)
    x = grid(case, 20)
    check_density(case, x, 0, case.model.log_density)
    check_line_integral(case, x[:5], x[5:10], 0, case.model.score, case.model.log_density)


@every_kind
@every_time
def test_score_is_the_gradient_of_the_log_density(kind, t):
    case = kind(S)
    check_score(case, grid(case, t), t, case.model.score)


@every_kind
@every_time
def test_integrated_score_is_the_difference_of_log_densities(kind, t):
    """Across the data, between points where q is small and where it is large."""
    case = kind(S)
    x = grid(case, t, n=12)
    check_line_integral(case, x[:6], x[6:], t, case.model.score, case.log_density)


@every_kind
@every_time
def test_score_eps_hat_and_x0_hat_say_the_same(kind, t):
    case = kind(S)
    check_tweedie(case, grid(case, t), t, case.model)


@every_kind
@every_time
def test_vjp_is_the_directional_difference(kind, t):
    case = kind(S)
    check_vjp(case, grid(case, t), t, case.model, rounding=1e-7)


@every_kind
@pytest.mark.parametrize("t", [5, 20, 50])
def test_steins_identity_and_the_squared_score(kind, t):
    """Per kind and t three checks by Monte Carlo: false alarms below 4e-5 in all."""
    case = kind(S)
    check_stein(case.model.sample(20_000, 4, t), t, case.model)


@every_kind
@pytest.mark.parametrize("t", [1, 20, 50])
def test_eps_hat_and_x0_hat_are_the_regressions_of_eps_and_x0(kind, t):
    """Per kind and t two checks by Monte Carlo: false alarms below 3e-5 in all."""
    case = kind(S)
    check_regression(case.model.sample(20_000, 5), t, case.model)


@every_time
def test_bayes_rule_by_quadrature_gives_the_estimates(t):
    """The posterior of x_0 in one dimension, integrated numerically."""
    weights, means, covs = (
        np.array([0.6, 0.4]),
        np.array([[-1.0], [0.8]]),
        np.array([[[0.3]], [[0.05]]]),
    )
    case = Case(weights, means, covs, GaussianMixture(weights, means, covs, S))
    check_bayes(case, np.linspace(-3, 3, 25), t, case.model)
    case = Case(np.ones(1), means[:1], covs[:1], Gaussian(means[0], 0.3, S))
    check_bayes(case, np.linspace(-3, 3, 25), t, case.model)


# --- marginals and samples


@pytest.mark.parametrize(
    "s", [S, td.cosine(30), td.linear(20).zero_terminal_snr()], ids=["linear", "cosine", "zero"]
)
def test_one_forward_step_carries_the_marginal_on_exactly(s):
    """Chapman-Kolmogorov: q_step's own factors turn the mean and covariance at t - 1 into those at
    t.
    """
    case = gaussian(s)
    mean, cov = case.means[0], case.covs[0]
    for found, expected in zip(case.model.marginal(0), (mean, cov)):
        close(found, expected, atol=1e-15)
    for t in range(1, s.T + 1):
        keep = process.q_step(s, np.ones(1), t, np.zeros(1))[0]
        add = process.q_step(s, np.zeros(1), t, np.ones(1))[0]
        mean, cov = keep * mean, keep**2 * cov + add**2 * np.eye(3)
        for found, expected in zip(case.model.marginal(t), (mean, cov)):
            close(found, expected, rtol=1e-9, atol=1e-13)


@every_kind
@pytest.mark.parametrize("t", [1, 20, 50])
def test_samples_at_t_and_noised_samples_have_the_same_exact_law(kind, t):
    """24 checks by Kolmogorov-Smirnov: false alarms below 3e-5 in all."""
    case = kind(S)
    check_law(case, case.model.sample(20_000, 6, t), t)
    x0 = case.model.sample(20_000, 7)
    check_law(
        case, process.q_sample(S, x0, t, noise.normal(x0.shape, 9, noise.EPS).astype(np.float64)), t
    )


@pytest.mark.parametrize("kind", [gaussian, mixture])
def test_samples_of_clean_data_have_its_law(kind):
    check_law(kind(S), kind(S).model.sample(20_000, 8), 0)


def test_samples_of_points_are_the_points_each_as_often():
    found, counts = np.unique(points(S).model.sample(5000, 1), axis=0, return_counts=True)
    np.testing.assert_allclose(found, np.unique(POINTS, axis=0), atol=1e-15)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


@every_kind
def test_a_sample_depends_on_its_seed_time_and_place_alone(kind):
    model = kind(S).model
    # To the last place: how a matrix product adds up may depend on its number of rows.
    close(model.sample(7, 3, 2), model.sample(20, 3, 2)[:7], rtol=1e-13, atol=1e-15)
    assert np.all(model.sample(7, 3, 2) != model.sample(7, 4, 2))
    if kind is points:  # which point, and not only the noise on it
        assert np.any(model.sample(50, 3) != model.sample(50, 4))
    # Draws at two times are independent: no correlation is left, to 5 standard errors (two-sided
    # 6e-7).
    now, then = model.sample(4000, 3, 2)[:, 0], model.sample(4000, 3, 3)[:, 0]
    assert abs(np.corrcoef(now, then)[0, 1]) < 5 / np.sqrt(4000)


# --- one kind as a limit of another


@every_time
def test_a_mixture_of_one_and_of_equals_is_a_gaussian(t):
    one = gaussian(S)
    x = grid(one, t)
    for weights in ([1.0], [0.25, 0.75], [0.0, 1.0]):
        k = len(weights)
        many = GaussianMixture(weights, np.repeat(one.means, k, 0), np.repeat(one.covs, k, 0), S)
        for found, expected in zip(answers(many, x, t), answers(one.model, x, t)):
            close(found, expected, rtol=1e-12, atol=1e-12)


@every_time
def test_points_are_the_mixture_whose_covariances_vanish(t):
    case, n = points(S), len(POINTS)
    x = grid(case, t)
    width = 1 - tables(S)[2][t]
    for variance, tol in ((0.0, 1e-12), (1e-10, 1e-10)):
        soft = GaussianMixture(np.full(n, 1 / n), POINTS, np.full(n, variance), S)
        for found, expected in zip(answers(case.model, x, t), answers(soft, x, t)):
            # A variance v moves q's width by v / (1 - alpha_bar), and its answers by that times
            # their scale.
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=(tol / width) * 100 / width**1.5
            )


def test_the_three_ways_to_write_one_covariance():
    x = grid(gaussian(S), 5)
    first, *others = (
        answers(Gaussian([0.1, 0.2, 0.3], cov, S), x, 5)
        for cov in (0.4, [0.4] * 3, 0.4 * np.eye(3))
    )
    for other in others:
        for found, expected in zip(other, first):
            close(found, expected, rtol=1e-13, atol=1e-14)


# --- the optimal denoiser of a data set, end to end


def nearest(samples, candidates):
    """Distance to the nearest candidate and which it is, subtracting directly: samples (n, D) ->
    (n,), (n,).
    """
    distance = np.stack([np.sqrt(np.sum((samples - point) ** 2, axis=1)) for point in candidates])
    return distance.min(0), distance.argmin(0)


def test_ancestral_sampling_lands_on_the_points_and_visits_them_evenly():
    """Eight points, one listed twice and so drawn twice as often: chi-square with a false alarm of
    1e-6.
    """
    places = np.array(
        [[0.9, 0.1], [0.2, 0.8], [-0.4, 0.8], [-0.9, 0.0], [-0.7, -0.6], [0.2, -0.5], [0.6, -0.9]]
    )
    s = td.linear(1000)
    model = PointSet(np.concatenate([places, places[2:3]]), s)
    xT = noise.normal((4000, 2), 1, noise.PRIOR).astype(np.float64)
    distance, which = nearest(ancestral(model, s, xT, noise=2), places)
    assert distance.max() < 1e-6
    expected = np.array([1, 1, 2, 1, 1, 1, 1]) * 4000 / 8
    assert stats.chisquare(np.bincount(which, minlength=7), expected).pvalue > FALSE_ALARM


def test_ancestral_sampling_from_the_digits_optimal_denoiser_returns_digits():
    """All 1,797: each sample is one of them, to 1e-6, the samples differ, and the copy ratio names
    the memoriser.
    """
    fit, held = data.split(data.load("digits"), 0.2)
    s = td.linear(1000)
    xT = noise.normal((64, *fit.x.shape[1:]), 1, noise.PRIOR).astype(np.float64)
    samples = ancestral(PointSet(fit.x, s), s, xT, noise=3)
    distance, which = nearest(samples.reshape(64, -1), fit.x.reshape(len(fit.x), -1))
    assert distance.max() < 1e-6
    # 64 fair draws from 1,437: the chance of 12 or more repeats is below 1e-6 (a Poisson count of
    # mean 1.4).
    assert len(np.unique(which)) > 64 - 12
    assert metrics.copy_ratio(samples, fit.x, held.x) < 1e-6


def test_a_trained_networks_samples_are_no_copies_but_its_datas_optimal_denoisers_are():
    """The copy ratio near 0 for the closed form of the training points, near 1 for a network
    trained on them.
    """
    fit, held = data.split(data.Data(data.load("moons").x[:400]), 0.5)
    # The points lie about 0.01 apart: a last step that is to choose one must begin well below that,
    # at 7e-4.
    s = td.linear(200, first=1e-7)
    model = td.train(fit.x, steps=300, seed=1, schedule=s, batch=128)
    xT = noise.normal((200, 2), 1, noise.PRIOR)
    honest = metrics.copy_ratio(ancestral(model, s, xT), fit.x, held.x)
    copies = metrics.copy_ratio(
        ancestral(PointSet(fit.x, s), s, xT.astype(np.float64)), fit.x, held.x
    )
    assert copies < 1e-4
    assert 0.5 < honest < 2
