"""The whole bound against data whose entropy is known, its estimates from a few times, and what it
refuses.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support import strict_cupy
from support.bound_checks import entropy, even_log_snr, expectation, expected_terms, normal_data
from support.checks import FALSE_ALARM, close, log_normal

from tinyddpm import exact, noise, process
from tinyddpm.errors import InputError
from tinyddpm.likelihood import Chain, bits_per_dim, prior_term, strata, vb_loss_and_slope, vb_term
from tinyddpm.schedule import Schedule, cosine, linear

LOG2 = math.log(2)
both_variances = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])


# --- Gaussian data, whose entropy is known


def check_gap(s, var, variance):
    """The bound less the entropy, in nats, by the closed form; vb_term's exact expectation is that,
    term by term.
    """
    model, (prior, terms) = normal_data(s, var), expected_terms(s, var, variance)
    every = range(1, s.T + 1) if s.T <= 100 else (*range(1, 30), 100, s.T // 2, s.T)

    def term(t):
        def at_t(x0, eps):
            return vb_term(model, s, x0, t, eps, Chain(variance, half_width=None))

        return expectation(at_t, 0, var)

    # A term is what is left of numbers near 1, and its slightest values are near 1e-6: 1e-13 of
    # rounding is 1e-7.
    found = np.array([term(t) for t in every]) * LOG2
    close(found, terms[np.array(every) - 1], rtol=1e-7, atol=1e-11)
    found = expectation(lambda x0, eps: prior_term(s, x0), 0, var) * LOG2
    close(found, prior, rtol=1e-7, atol=1e-13)
    return prior + terms.sum() - entropy(var)


@both_variances
@pytest.mark.parametrize("var", [0.2, 3.0])
def test_the_bound_of_gaussian_data_lies_above_its_entropy_and_closes_in(variance, var):
    """In exact expectation, by quadrature of vb_term itself: no draw, and no margin but rounding.

    The gap is the sum of T reverse steps' departures from the Gaussian step that would be right, of
    order T^-2 each: it falls as 1 / T, where T is the fineness alone. Under linear(T) the first
    steps get no finer against their own noise (beta_t / (1 - alpha_bar_t) is near 1 / t), and there
    beta_tilde keeps a gap; it falls all the same.
    """
    T = np.array([10, 100, 1000])
    fine, plain = (
        np.array([check_gap(kind(n), var, variance) for n in T]) for kind in (even_log_snr, linear)
    )
    assert np.all(plain > 0) and np.all(np.diff(plain) < 0)
    assert np.all(fine > 0) and np.all(np.diff(fine) < 0)
    assert -1.1 < np.log10(fine[2] / fine[1]) < -0.9


def test_the_bound_of_unit_gaussian_data_is_tight_with_beta():
    """The reverse steps are then exactly N(mean, beta_t) (Ho20 section 3.2), and L_T is 0."""
    for s in (linear(10), linear(100), cosine(50)):
        assert abs(check_gap(s, 1.0, "beta")) < 1e-10
        assert check_gap(s, 1.0, "beta_tilde") > 0.1


@both_variances
def test_bits_per_dim_sums_every_term(variance):
    s, var, D = linear(20, last=0.005), 0.4, 2  # alpha_bar_T = 0.08: L_T counts
    model = normal_data(s, var, D)
    x0 = model.sample(40, 1)
    bound = bits_per_dim(model, s, x0, seed=5, chain=Chain(variance, half_width=None))
    by_hand = []
    for t in range(1, 21):
        eps = noise.normal(x0.shape, 5, noise.BOUND, t).astype(np.float64)
        by_hand.append(vb_term(model, s, x0, t, eps, Chain(variance, half_width=None)).mean())
    np.testing.assert_array_equal(bound.first, np.arange(1, 21))
    close(bound.terms, by_hand, rtol=1e-12)
    close(bound.prior, prior_term(s, x0).mean(), rtol=1e-12)
    close(bound.total, bound.prior + np.sum(by_hand), rtol=1e-12)


def test_drawn_times_leave_the_expectation_and_the_error_is_honest():
    """150 repeats with data, noise and times anew: their mean is the closed form's, their variance
    error^2's mean.

    The mean by the central limit theorem, its false alarms below FALSE_ALARM; a variance of 150
    near-normal numbers scatters by sqrt(2 / 149) = 12%, the mean of error^2 (15 degrees of freedom
    each) by 3%: 4.9 of both are 59%.
    """
    s, var, repeats = linear(60, last=0.03), 0.4, 150
    model = normal_data(s, var)
    prior, terms = expected_terms(s, var, "beta_tilde")
    options = {"chain": Chain("beta_tilde", half_width=None), "times": 4}
    bounds = [
        bits_per_dim(model, s, model.sample(32, seed), seed=seed, **options)
        for seed in range(repeats)
    ]
    totals = np.array([bound.total for bound in bounds])
    z = (totals.mean() - (prior + terms.sum()) / LOG2) / (totals.std(ddof=1) / math.sqrt(repeats))
    assert abs(z) < stats.norm.isf(FALSE_ALARM / 2)
    assert 0.41 < totals.var(ddof=1) / np.mean([bound.error**2 for bound in bounds]) < 1.59
    first = [*bounds[0].first, s.T + 1]
    for j, (start, end) in enumerate(zip(first, first[1:])):
        found = np.array([bound.terms[j] for bound in bounds])
        z = (found.mean() - terms[start - 1 : end - 1].sum() / LOG2) / (
            found.std(ddof=1) / math.sqrt(repeats)
        )
        assert abs(z) < stats.norm.isf(FALSE_ALARM / 2)


@pytest.mark.parametrize("data,best", [("N(0, I)", 1.0), ("a point", 0.0)])
def test_each_fixed_variance_is_the_best_for_its_extreme_of_data(data, best):
    """Ho20 section 3.2, in exact expectation: the slope in mix is 0 there, and every other mix
    costs more.
    """
    s, var = linear(50), 1.0 if data == "N(0, I)" else 0.0
    model = exact.Gaussian([0.3 * (var == 0)], var, s)
    for t in (2, 10, 50):

        def ask(mix, t=t):
            def f(x0, eps):
                x0_hat = model.x0_hat(process.q_sample(s, x0, t, eps), t)
                vb, slope = vb_loss_and_slope(
                    s, x0, np.full(len(x0), t), x0_hat, np.full_like(x0, mix)
                )
                return np.stack([vb, slope[:, 0]], axis=1)

            return expectation(f, float(model.mean[0]), var)

        found = {mix: ask(mix) for mix in (-0.5, 0.0, 0.5, 1.0, 1.5)}
        close(found[best][1], 0.0, atol=1e-10)
        assert all(found[best][0] < found[mix][0] for mix in found if mix != best)


# --- the whole, and what it refuses


@given(st.data(), st.integers(2, 1200))
def test_strata_cut_the_times_into_runs(data, T):
    times = data.draw(st.none() | st.integers(2, T))
    first = strata(T, times)
    assert first[0] == 1 and first[1] == 2 and first[-1] == T + 1
    assert np.all(np.diff(first) >= 1)
    assert len(first) == (times or T) + 1


def test_a_batch_of_more_than_a_chunk_and_its_progress():
    s, calls = linear(5), []
    x0 = noise.normal((128 * 17, 1), 0).clip(-1, 1)
    bound = bits_per_dim(lambda xt, t: 0.1 * xt, s, x0, progress=lambda *call: calls.append(call))
    assert calls == [(i + 1, 17 * 5) for i in range(17 * 5)]
    again = bits_per_dim(lambda xt, t: 0.1 * xt, s, x0)
    assert again[:3] == bound[:3]
    assert bound.error > 0
    assert math.isnan(bits_per_dim(lambda xt, t: 0.1 * xt, s, x0[:1]).error)
    # T = 1: no beta_tilde_2, so the decoder's variance is beta_1
    one = Schedule([0.0, 0.5])
    close(
        vb_term(normal_data(one), one, x0[:1], 1, x0[:1], Chain(half_width=None)),
        -log_normal(x0[0], math.sqrt(0.5) * (math.sqrt(0.5) * x0[0] + math.sqrt(0.5) * x0[0]), 0.5)
        / LOG2,
        rtol=1e-5,
    )


def test_bits_per_dim_runs_where_its_arrays_live():
    s, xp = linear(10), strict_cupy.strict()
    x0 = noise.normal((5, 4), 0).clip(-1, 1)

    class OnDevice:
        def __init__(self):
            self.xp = xp

        def __call__(self, xt, t):
            assert isinstance(xt, strict_cupy.ndarray)
            return 0.3 * xt

        def normal(self, *arguments):
            return xp.asarray(noise.normal(*arguments))

    ours = bits_per_dim(OnDevice(), s, xp.asarray(x0))
    close(ours.total, bits_per_dim(lambda xt, t: 0.3 * xt, s, x0).total, rtol=1e-6)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda s, x: vb_term(lambda xt, t: xt, s, x, 1, x, Chain("gamma")),
            "variance must be one of beta, beta_tilde, learned",
        ),
        (lambda s, x: vb_term(lambda xt, t: xt, s, x, 1, x, Chain("learned")), "has learned none"),
        (lambda s, x: vb_term(lambda xt, t: xt, s, x, 0, x), "t must lie in"),
        (
            lambda s, x: vb_term(lambda xt, t: xt, s, x, 1, x, Chain(half_width=0)),
            "half_width must be",
        ),
        (lambda s, x: vb_term(lambda xt, t: xt, s, x.astype(np.uint8), 1, x), "x0 must be"),
        (lambda s, x: bits_per_dim(lambda xt, t: xt, s, x[:0]), "x0 must be"),
        (lambda s, x: bits_per_dim(lambda xt, t: xt, s, x, times=1), "times must be"),
        (lambda s, x: bits_per_dim(lambda xt, t: xt, s, x, times=11), "times must be"),
        (
            lambda s, x: bits_per_dim(lambda xt, t: xt, s, x, chain=Chain(half_width=2.0)),
            "half_width must be",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(linear(10), np.ones((2, 2)))
    assert "\n" not in str(caught.value)
