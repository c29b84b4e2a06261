"""The terms of the variational bound: each formula against its definition, its golden values and
its slope.
"""

import math

import numpy as np
import pytest
from scipy import stats
from support import strict_cupy
from support.bound_checks import Learned, normal_data
from support.checks import beta_tilde, close, log_normal, tables
from support.gradients import check_gradient

from tinyddpm import noise, process
from tinyddpm.likelihood import (
    Chain,
    bound_tables,
    discretised_nll,
    normal_kl,
    prior_term,
    vb_loss_and_slope,
    vb_term,
)
from tinyddpm.samplers import ancestral_coefficients
from tinyddpm.schedule import cosine, linear

LOG2 = math.log(2)
EPS64 = np.finfo(np.float64).eps
both_variances = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])


def grid(center, sigma):
    """Points for the trapezoid rule, which is exact to rounding for a normal density out to 12
    sigma.
    """
    x = center + sigma * np.linspace(-12, 12, 2001)
    return x, x[1] - x[0]


def points(T, n, D=3, seed=0):
    """x0, x0_hat, mix (n, D) and t (n,), t = 1 among them and both ends of the grey levels among
    x0.
    """
    z = noise.normal((n, 3, D), seed).astype(np.float64)
    x0 = np.rint(z[:, 0] * 60 + 128).clip(0, 255) / 127.5 - 1
    x0[0, :2] = -1, 1
    t = 1 + np.arange(n) * (T - 1) // (n - 1)
    t[:3] = 1
    return x0, x0 + 0.02 * z[:, 1], 0.5 + 0.4 * z[:, 2], t


# --- the two formulas


@pytest.mark.parametrize(
    "mean_q,var_q,mean_p,var_p", [(0, 1, 0, 1), (0.3, 0.2, -0.4, 0.5), (1, 2, 0, 0.1)]
)
def test_normal_kl_is_its_integral(mean_q, var_q, mean_p, var_p):
    x, dx = grid(mean_q, math.sqrt(var_q))
    log_q, log_p = log_normal(x, mean_q, var_q), log_normal(x, mean_p, var_p)
    integral = np.sum(np.exp(log_q) * (log_q - log_p)) * dx
    close(
        normal_kl(mean_q, math.log(var_q), mean_p, math.log(var_p)),
        integral,
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean,sigma", [(0.1, 0.3), (-0.99, 0.01), (3.0, 0.05), (0.0, 20.0)])
def test_the_decoder_is_a_distribution_over_the_levels(levels, mean, sigma):
    x0 = np.linspace(-1, 1, levels)
    nll = discretised_nll(
        x0, np.full(levels, mean), np.full(levels, math.log(sigma)), 1 / (levels - 1)
    )
    # Each p is exp of a sum of three logarithms, the largest of them rounded to EPS64 of itself.
    close(np.exp(-nll).sum(), 1.0, rtol=levels * EPS64 * (4 + nll.min() + 40))
    assert np.all(nll >= 0)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean,sigma", [(0.1, 0.3), (-0.99, 0.02), (0.4, 0.003)])
def test_the_decoder_is_the_normal_in_bins(levels, mean, sigma):
    x0 = np.linspace(-1, 1, levels)
    edges = np.concatenate([[-np.inf], (x0[1:] + x0[:-1]) / 2, [np.inf]])
    exact_p = np.diff(stats.norm.cdf(edges, mean, sigma))
    p = np.exp(-discretised_nll(x0, mean, math.log(sigma), 1 / (levels - 1)))
    # F is within 2e-4 of the normal's distribution function, and a bin is a difference of two.
    close(p, exact_p, rtol=0, atol=4e-4)
    # What coding with p costs beyond the normal itself, KL(normal || p): within 1e-3 bits.
    assert (
        abs(exact_p @ (np.log(np.maximum(exact_p, 1e-300)) - np.log(np.maximum(p, 1e-300))))
        < 1e-3 * LOG2
    )


def test_the_decoder_of_data_without_levels_is_the_density():
    x = np.array([-0.3, 0.0, 2.0])
    close(discretised_nll(x, 0.2, math.log(0.7), None), -stats.norm.logpdf(x, 0.2, 0.7), rtol=1e-13)


def test_the_decoder_is_finite_however_far_off():
    for dtype in (np.float32, np.float64):
        x0, mean = np.array([-1, 0.2, 1], dtype), np.array([5, -5, -5], dtype)
        nll = discretised_nll(x0, mean, np.full(3, -5, dtype), dtype(1 / 255))
        assert nll.dtype == dtype
        assert np.all(np.isfinite(nll)) and np.all(nll > 1e4)


# --- one term of the bound


@pytest.mark.parametrize(
    "kind,T", [("linear", 100), ("linear", 1000), ("cosine", 100), ("cosine", 1000)]
)
@pytest.mark.parametrize("size,variance", [("fixed_small", "beta_tilde"), ("fixed_large", "beta")])
def test_terms_agree_with_improved_diffusion(golden, kind, T, size, variance):
    """The peer's 0-based t is our t - 1; it did not clip x0_hat. Its tables are float32, 1e-6 of
    what is summed.
    """
    s, peer = {"linear": linear, "cosine": cosine}[kind](T), golden("improved_diffusion")
    a = {
        name: peer[f"bpd/{kind}/{T}/{size}/{name}"]
        for name in ("x0", "t", "xt", "eps_hat", "vb", "prior")
    }
    assert {1, 2, T} <= set(a["t"] + 1)
    for i, t in enumerate((a["t"] + 1).tolist()):
        x0, xt, eps_hat = (a[name][i : i + 1] for name in ("x0", "xt", "eps_hat"))
        eps = process.eps_from_x0(s, xt, t, x0)
        ours = vb_term(lambda xt, t, eps_hat=eps_hat: eps_hat, s, x0, t, eps, Chain(variance))
        close(ours, a["vb"][i : i + 1], rtol=1e-6, atol=1e-6)
    close(prior_term(s, a["x0"]), a["prior"], rtol=1e-6, atol=1e-9)


@both_variances
@pytest.mark.parametrize("t", [2, 3, 20, 40])
def test_a_term_is_the_kl_of_the_samplers_own_step(variance, t):
    """q(x_{t-1} | x_t, x_0) against N(c_x0 x0_hat + c_xt x_t, sigma^2), integrated numerically."""
    s, x0, eps = linear(40), np.array([[0.6]]), np.array([[-0.8]])
    xt = process.q_sample(s, x0, t, eps)
    c = ancestral_coefficients(s, t, t - 1, variance)
    mean_q, var_q = (
        float(part[0, 0]) if np.ndim(part) else float(part)
        for part in process.q_posterior(s, x0, xt, t)
    )
    x, dx = grid(mean_q, math.sqrt(var_q))
    log_q = log_normal(x, mean_q, var_q)
    log_p = log_normal(x, c.c_x0 * 0.5 + c.c_xt * xt[0, 0], c.sigma**2)
    integral = np.sum(np.exp(log_q) * (log_q - log_p)) * dx

    def denoise(xt, t):
        return process.eps_from_x0(s, xt, t, np.full_like(xt, 0.5))

    close(vb_term(denoise, s, x0, t, eps, Chain(variance)), integral / LOG2, rtol=1e-9, atol=1e-15)


def test_bits_are_counted_per_dimension():
    s, z = linear(40), noise.normal((2, 4, 2, 1), 3).astype(np.float64)
    for t in (1, 7):
        each = [
            vb_term(lambda xt, t: 0 * xt, s, x0.reshape(-1, 1), t, x0.reshape(-1, 1)) for x0 in z
        ]
        close(vb_term(lambda xt, t: 0 * xt, s, z, t, z), np.mean(each, axis=1), rtol=1e-12)


def test_the_prior_term_is_its_integral_and_0_without_signal():
    s, x0 = linear(20), 0.7
    alpha_bar = tables(s)[2][-1]
    x, dx = grid(math.sqrt(alpha_bar) * x0, 1.0)
    log_q, log_p = log_normal(x, math.sqrt(alpha_bar) * x0, 1 - alpha_bar), log_normal(x, 0, 1)
    # The integrand is a difference of two numbers near 1 (x^2 / 2), good to EPS64, for an answer
    # near 1e-5.
    close(
        prior_term(s, np.array([[x0]])),
        np.sum(np.exp(log_q) * (log_q - log_p)) * dx / LOG2,
        rtol=0,
        atol=1e-13,
    )
    assert prior_term(linear(20).zero_terminal_snr(), np.ones((1, 5))) == 0


def test_clip_bounds_x0_hat():
    s, x0 = linear(40), np.full((1, 3), 0.9)
    clipped = vb_term(lambda xt, t: 0 * xt - 5, s, x0, 30, x0, Chain(clip=1.0))
    at_the_bound = vb_term(
        lambda xt, t: process.eps_from_x0(s, xt, t, np.ones_like(xt)), s, x0, 30, x0
    )
    close(clipped, at_the_bound, rtol=1e-9)
    assert clipped < vb_term(lambda xt, t: 0 * xt - 5, s, x0, 30, x0)


# --- learned variance


@pytest.mark.parametrize("half_width", [1 / 255, 1 / 16, None])
@pytest.mark.parametrize("times", ["t = 1", "t > 1", "mixed"])
def test_the_slope_is_that_of_the_bound(half_width, times):
    s = linear(50)
    x0, x0_hat, mix, t = points(s.T, 12)
    t = {"t = 1": 0 * t + 1, "t > 1": np.maximum(t, 2), "mixed": t}[times]
    weight = 1 + np.arange(12.0)

    def f(mix):
        bits, _ = vb_loss_and_slope(s, x0, t, x0_hat, mix, bound_tables(s, half_width))
        return float(weight @ bits)

    slope = vb_loss_and_slope(s, x0, t, x0_hat, mix, bound_tables(s, half_width))[1]
    check_gradient(f, mix, weight[:, None] * slope, directions=6)


@pytest.mark.parametrize("mix,variance", [(0.0, "beta_tilde"), (1.0, "beta")])
def test_mix_0_and_1_are_the_fixed_variances(mix, variance):
    s, x0, eps = linear(50), points(50, 8)[0], noise.normal((8, 3), 4).astype(np.float64)
    model = normal_data(s, 0.3, 3)
    for t in (2, 3, 25, 50):
        fixed = vb_term(model, s, x0, t, eps, Chain(variance))
        close(vb_term(Learned(model, mix), s, x0, t, eps, Chain("learned")), fixed, rtol=1e-12)
        x0_hat = model.x0_hat(process.q_sample(s, x0, t, eps), t)
        close(
            vb_loss_and_slope(s, x0, np.full(8, t), x0_hat, np.full_like(x0, mix))[0],
            fixed,
            rtol=1e-12,
        )


def test_the_learned_decoder_lies_between_beta_tilde_2_and_beta_1():
    s, x0 = linear(50), np.array([[0.3]])
    for mix, var in (
        (0.0, beta_tilde(s)[1]),
        (1.0, s.beta[1]),
        (0.5, math.sqrt(s.beta[1] * beta_tilde(s)[1])),
    ):
        one, mixes = np.array([1]), np.full_like(x0, mix)
        ours, _ = vb_loss_and_slope(s, x0, one, x0 + 0.01, mixes, bound_tables(s, None))
        close(ours, -log_normal(0.01, 0.0, var) / LOG2, rtol=1e-9)
        learned = vb_term(
            Learned(normal_data(s), mix), s, x0, 1, x0, Chain("learned", half_width=None)
        )
        x0_hat = normal_data(s).x0_hat(process.q_sample(s, x0, 1, x0), 1)
        close(learned, -log_normal(x0, x0_hat, var)[0] / LOG2, rtol=1e-9)


def test_vb_loss_mixes_times_as_vb_term_takes_them_one_by_one():
    s = linear(50)
    x0, _, _, t = points(s.T, 12)
    eps, model = noise.normal(x0.shape, 9).astype(np.float64), Learned(normal_data(s, 0.3, 3), 0.7)
    one = [
        vb_term(model, s, x0[i : i + 1], int(k), eps[i : i + 1], Chain("learned"))[0]
        for i, k in enumerate(t)
    ]
    x0_hat = np.concatenate(
        [
            model.x0_and_mix(process.q_sample(s, x0[i : i + 1], k, eps[i : i + 1]), int(k))[0]
            for i, k in enumerate(t)
        ]
    )
    close(vb_loss_and_slope(s, x0, t, x0_hat, np.full_like(x0, 0.7))[0], one, rtol=1e-12)


def test_float32_stays_float32_and_right():
    s = cosine(1000)
    x0, x0_hat, mix, t = points(s.T, 40)
    wide = vb_loss_and_slope(s, x0, t, x0_hat, mix)
    narrow = vb_loss_and_slope(
        s, *(a.astype(np.float32) if a.dtype.kind == "f" else a for a in (x0, t, x0_hat, mix))
    )
    # x0 - x0_hat, near 0.02, keeps 6e-8 / 0.02 = 3e-6 of relative accuracy; it comes in by its
    # third power at most.
    for a, b in zip(narrow, wide):
        assert a.dtype == np.float32
        close(a, b, rtol=3e-5, atol=3e-6 * np.abs(b).max())


@pytest.mark.parametrize("half_width", [1 / 255, None])
def test_vb_loss_runs_where_its_arrays_live(half_width):
    s, xp = linear(50), strict_cupy.strict()
    x0, x0_hat, mix, t = points(s.T, 12)
    tables = bound_tables(s, half_width).on(xp.asarray)
    on_device = [xp.asarray(a) for a in (x0, t, x0_hat, mix)]
    with strict_cupy.Counted() as counted:
        answer = vb_loss_and_slope(s, *on_device, tables, xp)
    assert counted.all["downloads"] == counted.all["synchronisations"] == 0
    expected = vb_loss_and_slope(s, x0, t, x0_hat, mix, bound_tables(s, half_width))
    for device, host in zip(answer, expected):
        np.testing.assert_array_equal(device.get(), host)
