"""The ODE's log-likelihood against densities that are known, and the two ways of taking a
divergence.
"""

import math

import numpy as np
import pytest
from scipy import stats
from support import strict_cupy
from support.checks import FALSE_ALARM, close

from tinyddpm import exact, noise
from tinyddpm.density import dequantise, log_likelihood, ode_bits_per_dim
from tinyddpm.errors import InputError
from tinyddpm.samplers import Noise
from tinyddpm.schedule import Schedule, linear, spaced

COV = np.array([[0.5, 0.1, 0.0], [0.1, 0.3, 0.05], [0.0, 0.05, 0.8]])


def gaussian(s):
    return exact.Gaussian([0.3, -0.2, 0.1], COV, s)


def mixture(s):
    return exact.GaussianMixture([0.6, 0.4], [[0.4, -0.3], [-0.6, 0.45]], [0.25, [0.2, 0.3]], s)


def long_linear(T):
    """alpha_bar_T = 1e-13, so that q(x_T) is N(0, I) to 1e-6 and what is left is the solver's error
    alone.
    """
    return linear(T, last=0.06)


def error(data, steps=None, spacing="uniform"):
    """The largest error of the ODE's log p over a few samples, in nats."""
    x0, times = data.sample(6, 3), spaced(data.s, steps or data.s.T, spacing)
    found = log_likelihood(data, data.s, x0, steps=times)
    return np.abs(found.log_p - data.log_density(x0, 0)).max()


# --- the truth


@pytest.mark.parametrize("data", [gaussian, mixture])
def test_the_likelihood_of_closed_forms_is_theirs(data):
    assert error(data(long_linear(4000)), 640, "quadratic") < 1e-4


@pytest.mark.parametrize(
    "data,spacing", [(gaussian, "uniform"), (gaussian, "quadratic"), (mixture, "quadratic")]
)
def test_the_error_falls_with_the_square_of_the_steps(data, spacing):
    """Heun's order is 2; from 40 to 160 steps its next term still bends the slope by less than a
    tenth.

    The first interval is the same for all: its own error, of order beta_1^2 = (0.1 / 4000)^2, is
    below all of these.
    """
    steps = np.array([40, 80, 160])
    errors = [error(data(long_linear(4000)), int(n), spacing) for n in steps]
    assert -2.2 < np.polyfit(np.log(steps), np.log(errors), 1)[0] < -1.8


def test_the_error_falls_with_the_square_of_T_over_all_steps():
    """Here the first interval counts as well: beta_1 falls as 1 / T, and its error as beta_1^2."""
    T = np.array([50, 100, 200])
    errors = [error(gaussian(long_linear(n))) for n in T]
    assert -2.2 < np.polyfit(np.log(T), np.log(errors), 1)[0] < -1.8


def test_the_first_interval_alone_is_of_second_order():
    """T = 1 makes one Euler step of it: halving beta_1 quarters what it misses of the exact flow's
    log p.
    """
    x0, missed = np.array([[0.7, -0.4, 0.3]]), []
    for beta in (0.02, 0.01, 0.005):
        data = exact.Gaussian([0.3, -0.2, 0.1], [0.5, 0.3, 0.8], Schedule([0.0, beta]))
        (mean0, cov0), (mean1, cov1) = data.marginal(0), data.marginal(1)
        # the flow carries each coordinate's normal to the next
        stretch = np.sqrt(np.diag(cov1) / np.diag(cov0))
        xT = mean1 + stretch * (x0 - mean0)
        truth = stats.norm.logpdf(xT).sum(axis=1) + np.log(stretch).sum()
        missed.append(float(np.abs(log_likelihood(data, data.s, x0).log_p - truth)[0]))
    assert -2.1 < np.polyfit([2, 1, 0], np.log2(missed), 1)[0] * -1 < -1.9


# --- Hutchinson's estimate


def test_hutchinson_is_unbiased_and_its_error_honest():
    """400 copies of one x0, each with 8 probes of its own: 400 independent estimates and stated
    errors.

    Their mean is the exact divergence's within a false alarm of FALSE_ALARM. An estimate is a mean
    of 8 bounded numbers, its kurtosis at most about 3: the variance of 400 scatters by sqrt(2 /
    399) = 7%, the mean of error^2 by sqrt(2 / 7 / 400) = 3%; 4.9 of both are 37%.
    """
    s, mix = long_linear(40), noise.normal((6, 6), 5).astype(np.float64)
    data = exact.Gaussian(np.zeros(6), 0.2 * np.eye(6) + 0.1 * mix @ mix.T, s)
    x0 = np.repeat(data.sample(1, 1), 400, axis=0)
    truth = log_likelihood(data, s, x0[:1]).log_p[0]
    found = log_likelihood(data, s, x0, divergence="hutchinson", probes=8, noise=2)
    z = (found.log_p.mean() - truth) / (found.log_p.std(ddof=1) / math.sqrt(400))
    assert abs(z) < stats.norm.isf(FALSE_ALARM / 2)
    assert found.log_p.std() > 0.01
    assert 0.63 < found.log_p.var(ddof=1) / np.mean(found.error**2) < 1.37


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    """v J v = sum J_dd v_d^2, and a random sign's square is 1: no other probe of unit variance does
    that.
    """
    s = long_linear(40)
    data = exact.Gaussian([0.1, 0.2, 0.3], [0.5, 0.1, 2.0], s)
    x0 = data.sample(5, 1)
    found = log_likelihood(data, s, x0, divergence="hutchinson", probes=3)
    close(found.log_p, log_likelihood(data, s, x0).log_p, rtol=1e-12)
    assert found.error.max() < 1e-12


class Watched:
    """A denoiser that remembers the cotangents and times it was asked for."""

    def __init__(self, data):
        self.data, self.asked = data, []

    def vjp(self, xt, t, u):
        self.asked.append((t, u.copy()))
        return self.data.vjp(xt, t, u)


def test_a_probe_is_the_same_along_the_whole_path():
    s = long_linear(20)
    watched = Watched(gaussian(s))
    x0 = watched.data.sample(4, 1)
    log_likelihood(watched, s, x0, steps=5, divergence="hutchinson", probes=2, noise=3)
    assert [t for t, _ in watched.asked] == [
        t for t in (1, 1, 6, 6, 10, 10, 15, 15, 20) for _ in range(2)
    ]
    for k in range(2):
        for _, u in watched.asked[k::2]:
            np.testing.assert_array_equal(u, watched.asked[k][1])
    first, second = (watched.asked[k][1] for k in range(2))
    assert set(np.unique(first)) == {-1, 1}
    assert np.any(first != second) and np.any(first[0] != first[1])


def test_one_probe_states_no_error_and_the_exact_divergence_none_but_0():
    s = long_linear(10)
    data = gaussian(s)
    x0 = data.sample(3, 1)
    assert np.isnan(log_likelihood(data, s, x0, divergence="hutchinson").error).all()
    np.testing.assert_array_equal(log_likelihood(data, s, x0).error, np.zeros(3))


# --- shapes, seeds, devices


def test_shapes_seeds_and_split_batches():
    s = long_linear(20)
    data = exact.Gaussian(np.zeros(12), 0.3 * np.eye(12) + 0.1, s)
    x0 = data.sample(5, 1)
    images, options = x0.reshape(5, 2, 3, 2), {"divergence": "hutchinson", "probes": 2, "noise": 4}
    whole = log_likelihood(data, s, images, **options).log_p
    assert whole.shape == (5,) and whole.dtype == np.float64
    part = log_likelihood(data, s, images[3:], **{**options, "noise": Noise(4, first_sample=3)})
    close(part.log_p, whole[3:], rtol=1e-12)
    close(log_likelihood(data, s, images).log_p, log_likelihood(data, s, x0).log_p, rtol=1e-12)
    assert np.all(log_likelihood(data, s, images, **{**options, "noise": 5}).log_p != whole)
    # float32 rounds x, of size 1, by 6e-8 at each of 40 evaluations, and log p is a sum of 12
    # squares of it.
    narrow = log_likelihood(data, s, images.astype(np.float32), **options)
    close(narrow.log_p, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_ode_runs_where_its_arrays_live(divergence):
    s, xp = long_linear(10), strict_cupy.strict()

    class Linear:
        def vjp(self, xt, t, u):
            return 0.3 * xt, 0.3 * u

    class OnDevice(Linear):
        def normal(self, *arguments):
            return xp.asarray(noise.normal(*arguments))

    x0 = noise.normal((4, 3), 0)
    ours = log_likelihood(OnDevice(), s, xp.asarray(x0), divergence=divergence, probes=2)
    here = log_likelihood(Linear(), s, x0, divergence=divergence, probes=2)
    close(ours.log_p.get(), here.log_p, rtol=1e-6)


# --- grey levels


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantise_fills_each_levels_bin_evenly(levels):
    x0 = (np.arange(20_000) % levels * (2 / (levels - 1)) - 1).reshape(-1, 4).astype(np.float64)
    x = dequantise(x0, levels, seed=1)
    inside = (x - x0) * (levels - 1) / 2
    assert stats.kstest(inside.ravel(), "uniform", (-0.5, 1)).pvalue > FALSE_ALARM
    np.testing.assert_array_equal(
        np.rint((x + 1) * (levels - 1) / 2), np.rint((x0 + 1) * (levels - 1) / 2)
    )
    np.testing.assert_array_equal(dequantise(x0[7:], levels, 1, first_sample=7), x[7:])
    assert np.any(dequantise(x0, levels, 2) != x)
    assert dequantise(x0.astype(np.float32), levels).dtype == np.float32


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_uniform_density_costs_log2_levels_bits(levels):
    """All bins together are 2 levels / (levels - 1) wide, and each is as likely: log2(levels) bits
    per dimension.
    """
    dims, width = 3, 2 / (levels - 1)
    close(
        ode_bits_per_dim(np.full(2, -dims * math.log(levels * width)), dims, levels),
        math.log2(levels),
        rtol=1e-12,
    )


def test_bits_of_dequantised_values_bound_those_of_their_bins():
    """Theis16 eq. 5, by quadrature: E log2(p width) <= log2 of the bin's probability, the gap of
    order width^2.
    """
    s, levels = long_linear(10), 17
    model, width = exact.Gaussian([0.1], 0.05, s), 2 / (levels - 1)
    centers = np.linspace(-1, 1, levels)
    within = centers[:, None] + width * ((np.arange(200) + 0.5) / 200 - 0.5)
    log_p = model.log_density(within.reshape(-1, 1), 0).reshape(levels, 200).mean(axis=1)
    spread = math.sqrt(0.05)
    bins = -np.log2(
        np.diff(
            stats.norm.cdf(np.append(centers - width / 2, centers[-1] + width / 2), 0.1, spread)
        )
    )
    cost = ode_bits_per_dim(log_p, 1, levels)
    assert np.all(cost > bins)
    assert np.average(cost - bins, weights=2.0**-bins) < (width / spread) ** 2


# --- what is refused

ZERO_SNR = linear(10).zero_terminal_snr()


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda data, x: log_likelihood(lambda xt, t: xt, data.s, x), "no vjp"),
        (lambda data, x: log_likelihood(gaussian(ZERO_SNR), ZERO_SNR, x), "alpha_bar_T = 0"),
        (lambda data, x: log_likelihood(data, ZERO_SNR, x), "another schedule"),
        (lambda data, x: log_likelihood(data, data.s, x, divergence="guess"), "divergence must be"),
        (lambda data, x: log_likelihood(data, data.s, x, probes=0), "probes must be"),
        (lambda data, x: log_likelihood(data, data.s, x, steps=0), "steps must be"),
        (lambda data, x: log_likelihood(data, data.s, x, steps=[11, 1]), "must fall strictly"),
        (lambda data, x: log_likelihood(data, data.s, x, steps=[1, 5, 10]), "must fall strictly"),
        (lambda data, x: log_likelihood(data, data.s, x.astype(int)), "x0 must be"),
        (lambda data, x: dequantise(x, 1), "levels must be"),
        (lambda data, x: ode_bits_per_dim(1.0, 3, 256.0), "levels must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(gaussian(linear(10)), np.ones((2, 3)))
    assert "\n" not in str(caught.value)
