"""The checks of a closed form, as functions of the data and its denoiser: what any exact denoiser
must satisfy.

What is expected is worked out from the data's own definition (weights, means, covariances), with
scipy's densities, numerical integration and finite differences; nothing here reads the package's
formulas. Each of these rejects a correct implementation with a chance of FALSE_ALARM at most where
it draws random numbers; all seeds are fixed.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from support.checks import FALSE_ALARM, tables
from tinyddpm import exact, noise, process


@dataclass
class Case:
    """Data as a mixture sum_k weights[k] N(means[k], covs[k]), covs (K, D, D), and the denoiser
    under test.
    """

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray
    model: object

    def at(self, t):
        """Means and covariances of the components of q(x_t) (Ho20 eq. 4)."""
        alpha_bar = tables(self.model.s)[2][t]
        return np.sqrt(alpha_bar) * self.means, alpha_bar * self.covs + (1 - alpha_bar) * np.eye(
            self.means.shape[1]
        )

    def density(self, x, t):
        """q(x_t), by scipy: x (B, D) -> (B,)."""
        return sum(
            w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(self.weights, *self.at(t))
        )

    def log_density(self, x, t):
        logs = [
            np.log(w) + np.reshape(stats.multivariate_normal(m, c).logpdf(x), len(x))
            for w, m, c in zip(self.weights, *self.at(t))
        ]
        return np.logaddexp.reduce(logs)


FULL = np.array([[1.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.25]])
TURN = np.array([[0.6, -0.8], [0.8, 0.6]])
POINTS = np.array([[0.9, 0.1], [-0.4, 0.8], [-0.7, -0.6], [0.2, -0.5], [0.35, -0.3]])


def gaussian(s, cov=FULL):
    """A Gaussian in 3-D; cov may be singular."""
    mean = np.array([0.4, -0.7, 0.2])
    return Case(np.ones(1), mean[None], cov[None], exact.Gaussian(mean, cov, s))


def mixture(s):
    """Three components in 2-D, one isotropic, one along the axes, one turned: each kind of
    covariance.
    """
    weights, means = np.array([0.5, 0.3, 0.2]), np.array([[0.8, 0.2], [-0.6, 0.5], [0.1, -0.9]])
    turned = TURN * [0.3, 0.05] @ TURN.T
    covs = np.stack([0.1 * np.eye(2), np.diag([0.02, 0.2]), turned])
    return Case(
        weights, means, covs, exact.GaussianMixture(weights, means, [0.1, [0.02, 0.2], turned], s)
    )


def points(s):
    """Five points in 2-D."""
    n = len(POINTS)
    return Case(np.full(n, 1 / n), POINTS, np.zeros((n, 2, 2)), exact.PointSet(POINTS, s))


KINDS = {
    "gaussian": gaussian,
    "singular": lambda s: gaussian(s, np.outer([1, 2, -1], [1, 2, -1]) / 4),
    "mixture": mixture,
    "points": points,
}


def grid(case, t, n=40, seed=3, spread=1.5):
    """n points where q(x_t) has mass and somewhat beyond, without the package's own sampler."""
    alpha_bar = tables(case.model.s)[2][t]
    rng = np.random.Generator(np.random.PCG64(seed))
    centres = case.means[rng.integers(len(case.means), size=n)]
    return np.sqrt(alpha_bar) * centres + spread * np.sqrt(1 - alpha_bar) * rng.standard_normal(
        centres.shape
    )


def answers(model, x, t):
    """All the answers of a closed form about x at t."""
    u = np.cos(np.arange(x.size)).reshape(x.shape)
    return [
        model(x, t),
        model.x0_hat(x, t),
        model.score(x, t),
        model.log_density(x, t),
        model.vjp(x, t, u)[1],
    ]


def check_density(case, x, t, log_density):
    """log q(x_t) is scipy's; a relative rounding of the quadratic form is all that may differ."""
    # The scale of the terms that cancel is |x|^2 / (1 - alpha_bar): up to 1e5 here, times 1e-16,
    # times 30 operations.
    np.testing.assert_allclose(log_density(x, t), case.log_density(x, t), rtol=1e-9, atol=1e-9)


def check_score(case, x, t, score):
    """The score is the central difference of scipy's log density, up to h^4 and 1e-16 / h."""
    h = 1e-3 * np.sqrt(1 - tables(case.model.s)[2][t])
    found = score(x, t)
    for i, step in enumerate(h * np.eye(x.shape[1])):
        slope = (
            8 * (case.log_density(x + step, t) - case.log_density(x - step, t))
            - (case.log_density(x + 2 * step, t) - case.log_density(x - 2 * step, t))
        ) / (12 * h)
        # Error: h^4 times the fifth derivative, 1e-12 in units of the noise's width; rounding 1e-15
        # |log q| / 1e-3.
        np.testing.assert_allclose(
            found[:, i], slope, rtol=1e-8, atol=1e-8 / np.sqrt(1 - tables(case.model.s)[2][t])
        )


def check_line_integral(case, a, b, t, score, log_density):
    """The integral of the score from a to b is log q(b) - log q(a): Gauss-Legendre on 512 pieces of
    16 nodes.

    Between points the score turns within (1 - alpha_bar) / their distance, 2e-3 here at t = 1:
    about a piece's length.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    pieces = 512
    r = ((np.arange(pieces)[:, None] + (nodes + 1) / 2) / pieces).ravel()
    weights = np.tile(weights / (2 * pieces), pieces)
    for start, end in zip(a, b):
        along = score(start + r[:, None] * (end - start), t) @ (end - start)
        rise = np.diff(log_density(np.stack([start, end]), t))[0]
        np.testing.assert_allclose(weights @ along, rise, rtol=1e-9, atol=1e-9)


def check_tweedie(case, x, t, denoise):
    """sqrt(alpha_bar) x0_hat = x + (1 - alpha_bar) score, eps_hat = -sqrt(1 - alpha_bar) score
    (Song21b, Efron11).
    """
    alpha_bar = tables(case.model.s)[2][t]
    x0_hat, score, eps_hat = denoise.x0_hat(x, t), denoise.score(x, t), denoise(x, t)
    np.testing.assert_allclose(
        np.sqrt(alpha_bar) * x0_hat, x + (1 - alpha_bar) * score, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(eps_hat, -np.sqrt(1 - alpha_bar) * score, rtol=1e-12, atol=1e-13)
    # In the terms of Ho20 eq. 4: the two estimates add up to the x_t they were made from.
    again = np.sqrt(alpha_bar) * x0_hat + np.sqrt(1 - alpha_bar) * eps_hat
    np.testing.assert_allclose(again, x, rtol=1e-12, atol=1e-12)


def check_vjp(case, x, t, denoise, rounding):
    """u^T J r, J the Jacobian of eps_hat, is the difference of u . eps_hat along r; vjp's eps_hat
    is the call's.
    """
    rng = np.random.Generator(np.random.PCG64(5))
    u, r = rng.standard_normal((2, *x.shape))
    width = np.sqrt(1 - tables(case.model.s)[2][t])
    h = 1e-3 * width
    eps_hat, product = denoise.vjp(x, t, u)
    np.testing.assert_array_equal(eps_hat, denoise(x, t))

    def ahead(k):
        return np.sum(u * denoise(x + k * h * r, t), axis=1)

    slope = (8 * (ahead(1) - ahead(-1)) - (ahead(2) - ahead(-2))) / (12 * h)
    # In units of the width: h^4 = 1e-12 times a fifth derivative below 1e3; rounding 1e-16 / 1e-3,
    # larger where 1 - alpha_bar is small and eps_hat a difference.
    np.testing.assert_allclose(
        np.sum(product * r, axis=1) * width, slope * width, rtol=0, atol=rounding
    )


def z_limit(tests):
    """How far from 0 a standard normal may lie, for `tests` two-sided tests that together alarm
    with FALSE_ALARM.
    """
    return stats.norm.isf(FALSE_ALARM / tests / 2)


def check_mean_zero(values):
    """Every column of values (n, k) has mean 0: z tests, n large, together a false alarm with
    chance FALSE_ALARM.
    """
    values = values.reshape(len(values), -1)
    z = np.sqrt(len(values)) * values.mean(0) / values.std(0)
    assert np.all(np.abs(z) < z_limit(z.size)), z


def check_stein(x, t, denoise):
    """E[score f^T + grad f] = 0 for f = sin(2 x) and x_j^2, and E|score|^2 = -E tr H (f = score),
    over x ~ q(x_t).

    d f_j / d x_i is diagonal; tr H = -sum_i e_i^T J e_i / sqrt(1 - alpha_bar), from vjp.
    """
    score, D = denoise.score(x, t), x.shape[1]
    for f, slope in ((np.sin(2 * x), 2 * np.cos(2 * x)), (x**2, 2 * x)):
        check_mean_zero(score[:, :, None] * f[:, None, :] + slope[:, :, None] * np.eye(D))
    rows = [denoise.vjp(x, t, np.tile(e, (len(x), 1)))[1][:, i] for i, e in enumerate(np.eye(D))]
    trace = -sum(rows) / np.sqrt(1 - tables(denoise.s)[2][t])
    check_mean_zero(np.sum(score**2, axis=1) + trace)


def check_regression(x0, t, denoise):
    """eps_hat = E[eps | x_t] and x0_hat = E[x_0 | x_t]: the errors are orthogonal to every function
    of x_t.
    """
    eps = noise.normal(x0.shape, 8, noise.EPS, t).astype(np.float64)
    xt = process.q_sample(denoise.s, x0, t, eps)
    functions = np.concatenate(
        [np.ones((len(xt), 1)), xt, xt**2, np.cos(2 * xt), np.sin(4 * xt)], axis=1
    )
    for error in (eps - denoise(xt, t), x0 - denoise.x0_hat(xt, t)):
        check_mean_zero(error[:, :, None] * functions[:, None, :])


def check_bayes(case, x, t, denoise, reach=6.0, n=20_001):
    """1-D: E[x_0 | x_t] and E[eps | x_t] by Bayes' rule, integrated over a grid of x_0.

    The trapezium rule on a smooth integrand that dies out inside the grid is exact to rounding.
    """
    alpha_bar = tables(case.model.s)[2][t]
    x0 = np.linspace(-reach, reach, n)
    prior = case.density(x0[:, None], 0)
    likelihood = stats.norm.pdf(x[:, None], np.sqrt(alpha_bar) * x0, np.sqrt(1 - alpha_bar))
    posterior = prior * likelihood
    evidence = posterior.sum(1)
    eps = (x[:, None] - np.sqrt(alpha_bar) * x0) / np.sqrt(1 - alpha_bar)
    # rtol: 1e-16 for each of 2e4 terms, all positive in the evidence; eps and x0 are at most 6 /
    # width there.
    np.testing.assert_allclose(
        denoise.x0_hat(x, t), posterior @ x0 / evidence, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        denoise(x, t), (posterior * eps).sum(1) / evidence, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        denoise.log_density(x, t), np.log(evidence * (x0[1] - x0[0])), rtol=1e-9, atol=1e-9
    )


def check_law(case, x, t, directions=5):
    """x ~ q(x_t): along several directions the exact distribution function makes x uniform
    (Kolmogorov-Smirnov).
    """
    rng = np.random.Generator(np.random.PCG64(6))
    means, covs = case.at(t)
    for along in rng.standard_normal((directions, x.shape[1])):
        scale = np.sqrt(np.einsum("i,kij,j->k", along, covs, along))
        uniform = stats.norm.cdf((x @ along)[:, None], means @ along, scale) @ case.weights
        assert stats.kstest(uniform, "uniform").pvalue > FALSE_ALARM / directions
