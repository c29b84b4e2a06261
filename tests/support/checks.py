"""The checks of the mathematics, as functions of the implementation under test.

test_<module>.py hands them the package's own functions; test_wrong_formulas.py hands them wrong
ones and expects an AssertionError. What is right is worked out here from beta alone, with the
papers' numbers.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy import stats

from tinyddpm import schedule

# 1 - alpha_bar is a difference: it keeps eps / beta_1 of relative accuracy, 2e-12 for the smallest
# beta here, times the T roundings of the product. A root of such a difference keeps sqrt(eps) where
# it should vanish.
TOL, ROOT_TOL = 1e-9, 5e-8
# The chance that one statistical check rejects a correct implementation (all of them run with fixed
# seeds).
FALSE_ALARM = 1e-6


def load_golden(name):
    """The arrays of tests/golden/name.npz, by key."""
    return np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz", allow_pickle=False)


def close(actual, expected, rtol=TOL, atol=0.0):
    """|actual - expected| <= atol + rtol |expected|, and no NaN."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=False)


@st.composite
def schedules(draw, min_T=1, max_T=60, terminal=True):
    """Any valid schedule: random beta or a named one; where `terminal`, alpha_bar_T may be 0."""
    kind = draw(st.sampled_from(["random", *schedule.KINDS]))
    if kind == "random":
        beta = draw(st.lists(st.floats(1e-4, 0.999), min_size=min_T, max_size=max_T))
        s = schedule.Schedule([0.0, *beta])
    else:
        s = schedule.KINDS[kind](draw(st.integers(min_T, max_T)))
    if terminal and s.T > 1 and draw(st.booleans()):
        s = schedule.Schedule([*s.beta[:-1], 1.0]) if draw(st.booleans()) else s.zero_terminal_snr()
    return s


def tables(s):
    """(beta, alpha, alpha_bar) by their definitions, from beta alone."""
    return s.beta, 1 - s.beta, np.cumprod(1 - s.beta)


def beta_tilde(s):
    """The posterior's variance at t = 1..T (Ho20 eq. 7)."""
    beta, _, alpha_bar = tables(s)
    return (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta[1:]


def log_normal(x, mean, variance):
    """log N(x; mean, variance)."""
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


# --- schedule
# ---------------------------------------------------------------------------------------------


def check_cosine(cosine):
    """Nichol21 eq. 17: alpha_bar_t = f(t) / f(0), and beta clipped at 0.999 and nowhere else."""
    for T in (1, 10, 100, 1000):
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        s = cosine(T)
        close(s.beta[1:-1], (1 - f[1:] / f[:-1])[:-1])
        close(s.alpha_bar[:-1], (f / f[0])[:-1])
        assert s.beta[T] == 0.999
        assert s.alpha_bar[T] > 0


def check_peer_tables(make):
    """make(kind, T) agrees with improved-diffusion's tables to 1e-6; its 0-based t is our t - 1."""
    peer = load_golden("improved_diffusion")
    for kind in ("linear", "cosine"):
        for T in (100, 1000):
            s = make(kind, T)
            close(s.beta[1:], peer[f"{kind}/{T}/beta"], rtol=1e-6)
            close(s.alpha_bar[1:], peer[f"{kind}/{T}/alpha_bar"], rtol=1e-6)


# --- process
# ----------------------------------------------------------------------------------------------


def check_forward(s, q_step, q_marginal, q_sample):
    """The chain of steps (Ho20 eq. 2) has the closed form's mean and variance (eq. 4), at all t."""
    t, one, zero = np.arange(1, s.T + 1), np.ones(s.T), np.zeros(s.T)
    keep, add = q_step(s, one, t, zero), q_step(s, zero, t, one)
    mean, variance = np.cumprod(keep), np.empty(s.T)
    before = 0.0
    for i in range(s.T):
        before = variance[i] = keep[i] ** 2 * before + add[i] ** 2
    close(keep, np.sqrt(1 - s.beta[1:]))
    close(add, np.sqrt(s.beta[1:]))
    for actual, expected in zip(q_marginal(s, one, t), (mean, variance), strict=True):
        close(actual, expected)
    close(q_sample(s, one, t, zero), mean)
    close(q_sample(s, zero, t, one), np.sqrt(variance))


def check_posterior(s, q_posterior):
    """q(x_{t-1} | x_t, x_0) (Ho20 eq. 7) over x_t ~ q(x_t | x_0) is q(x_{t-1} | x_0)."""
    alpha_bar = tables(s)[2]
    t, one, zero = np.arange(1, s.T + 1), np.ones(s.T), np.zeros(s.T)
    on_x0, variance = q_posterior(s, one, zero, t)
    on_xt, _ = q_posterior(s, zero, one, t)
    close(on_x0 + on_xt * np.sqrt(alpha_bar[1:]), np.sqrt(alpha_bar[:-1]))
    close(on_xt**2 * (1 - alpha_bar[1:]) + variance, 1 - alpha_bar[:-1])


def check_bayes(s, q_step, q_marginal, q_posterior, x0, before, xt):
    """q(x_t | x_{t-1}) q(x_{t-1} | x_0) / q(x_t | x_0) = q(x_{t-1} | x_t, x_0), in logs."""
    t, zero = np.arange(2, s.T + 1), np.zeros(s.T - 1)
    x0, before, xt = x0 + zero, before + zero, xt + zero
    likelihood = log_normal(xt, q_step(s, before, t, zero), q_step(s, zero, t, zero + 1) ** 2)
    prior = log_normal(before, *q_marginal(s, x0, t - 1))
    evidence = log_normal(xt, *q_marginal(s, x0, t))
    posterior = log_normal(before, *q_posterior(s, x0, xt, t))
    size = sum(np.abs(part) for part in (likelihood, prior, evidence, posterior))
    assert np.all(np.abs(likelihood + prior - evidence - posterior) <= TOL * (1 + size))


def check_reverse_mean(s, reverse_mean, xt, eps_hat):
    """Ho20 eq. 11 = eq. 7 with eq. 15 put in for x_0, at every t with alpha_bar_t > 0."""
    beta, alpha, alpha_bar = tables(s)
    t = np.arange(1, s.T + 1)[alpha_bar[1:] > 0]
    xt, eps_hat = xt + np.zeros(t.size), eps_hat + np.zeros(t.size)
    rest = 1 - alpha_bar[t]
    x0_hat = (xt - np.sqrt(rest) * eps_hat) / np.sqrt(alpha_bar[t])
    from_x0 = np.sqrt(alpha_bar[t - 1]) * beta[t] / rest * x0_hat
    from_xt = np.sqrt(alpha[t]) * (1 - alpha_bar[t - 1]) / rest * xt
    size = (np.abs(xt) + np.abs(eps_hat)) / np.sqrt(alpha[t])
    close(
        reverse_mean(s, xt, t, eps_hat) / (1 + size),
        (from_x0 + from_xt) / (1 + size),
        rtol=0,
        atol=TOL,
    )


def check_q_sample_statistics(q_sample, normal):
    """Draws of q(x_t | x_0) are normal, with eq. 4's mean and variance."""
    s, n, x0 = schedule.linear(1000), 100_000, 0.7
    z_limit = stats.norm.isf(FALSE_ALARM / 2)
    for t in (1, 250, 1000):
        xt = q_sample(s, np.full(n, x0), t, normal((n,), seed=11, step=t).astype(np.float64))
        alpha_bar = np.prod(1 - s.beta[: t + 1])
        z = (xt - np.sqrt(alpha_bar) * x0) / np.sqrt(1 - alpha_bar)
        assert abs(z.mean()) * np.sqrt(n) < z_limit
        assert abs(np.mean(z**2) - 1) * np.sqrt(n / 2) < z_limit
        assert stats.kstest(z, "norm").pvalue > FALSE_ALARM


def check_draw_times(draw):
    """draw(T, step, batch) gives t uniform on 1..T (Ho20 eq. 14), anew at each step."""
    for T in (1, 2, 7, 10):
        t = np.concatenate([draw(T, step, 1000) for step in range(10)])
        assert t.dtype.kind in "iu"
        assert t.shape == (10_000,)
        assert t.min() == 1
        assert t.max() == T
        if T > 1:
            assert stats.chisquare(np.bincount(t, minlength=T + 1)[1:]).pvalue > FALSE_ALARM
            assert np.any(t[:1000] != t[1000:2000])


# --- samplers
# ---------------------------------------------------------------------------------------------


def check_ancestral_coefficients(s, coefficients):
    """Ho20 eq. 7's weights, and sigma: the root of beta_t or beta_tilde_t, 0 at t = 1."""
    beta, alpha, alpha_bar = tables(s)
    for name, variance in (("beta", beta[1:]), ("beta_tilde", beta_tilde(s))):
        c_x0, c_xt, sigma = np.array([coefficients(s, t, name) for t in range(1, s.T + 1)]).T
        close(c_x0, np.sqrt(alpha_bar[:-1]) * beta[1:] / (1 - alpha_bar[1:]))
        close(c_xt, np.sqrt(alpha[1:]) * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]))
        close(sigma[1:], np.sqrt(variance[1:]))
        assert sigma[0] == 0


def check_ddim_coefficients(s, coefficients):
    """Song21a eq. 12, 16 on x_t, a weighted sum of x_0 and eps (Ho20 eq. 4), for many s < t."""
    alpha_bar = tables(s)[2]
    pairs = {(t, t_prev) for t in range(1, s.T + 1) for t_prev in (0, t // 3, t // 2, t - 1)}
    for t, t_prev in pairs:
        for eta in (0.0, 0.3, 1.0):
            c_x0, c_xt, sigma = coefficients(s, t, t_prev, eta)
            ab_t, ab_s = alpha_bar[t], alpha_bar[t_prev]
            expected = eta * np.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))
            close(sigma, expected)
            close(c_x0 + c_xt * np.sqrt(ab_t), np.sqrt(ab_s), atol=1e-15)
            direction = np.sqrt(max(1 - ab_s - expected**2, 0.0))
            close(c_xt * np.sqrt(1 - ab_t), direction, atol=ROOT_TOL)


def check_timesteps(timesteps, T, steps):
    """`steps` whole numbers from T strictly down to 1."""
    times = timesteps(T, steps)
    assert len(times) == steps
    assert all(type(t) is int for t in times)
    assert times[0] == T
    assert times[-1] == (1 if steps > 1 else T)
    assert all(t > t_next for t, t_next in pairwise(times))


def check_visits(s, sampler):
    """The sampler calls its denoiser at T first and at 1 last, with the x_t it has just made."""
    asked, made = [], []
    sampler(
        lambda xt, t: asked.append(t) or 0 * xt,
        s,
        np.ones((2, 3)),
        watch=lambda t, xt, x0: made.append(t),
    )
    assert asked[0] == s.T
    assert asked[-1] == 1
    assert made == asked[1:] + [0]
    assert all(np.diff(asked) < 0)


def check_no_noise_at_one(s, sampler):
    """Ho20 Algorithm 2: z = 0 at t = 1, whatever a noise source would give there."""
    xT = np.linspace(-1, 1, 6).reshape(2, 3)
    quiet = sampler(lambda xt, t: 0.1 * xt, s, xT, noise=lambda t: np.full_like(xT, 0.5))
    loud = sampler(
        lambda xt, t: 0.1 * xt, s, xT, noise=lambda t: np.full_like(xT, 0.5 if t > 1 else 1e3)
    )
    np.testing.assert_array_equal(loud, quiet)


# --- optimiser
# --------------------------------------------------------------------------------------------


def check_adamw(adamw):
    """Loshchilov19 Algorithm 2: decay times lr once, bias corrected by step; lr changes."""
    rng = np.random.Generator(np.random.PCG64(0))
    theta, m, v = rng.standard_normal(7), np.zeros(7), np.zeros(7)
    mine, mine_m, mine_v = theta.copy(), m.copy(), v.copy()
    for step in range(1, 21):
        grad, lr = rng.standard_normal(7), 0.1 / step
        mine_m = 0.9 * mine_m + 0.1 * grad
        mine_v = 0.99 * mine_v + 0.01 * grad**2
        m_hat, v_hat = mine_m / (1 - 0.9**step), mine_v / (1 - 0.99**step)
        mine = mine - lr * 0.3 * mine - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        adamw(
            theta,
            grad.copy(),
            m,
            v,
            step,
            lr,
            weight_decay=0.3,
            decay_m=0.9,
            decay_v=0.99,
            tol=1e-8,
        )
        close(theta, mine, atol=TOL)
    # Without a gradient nothing but the decay is left.
    theta, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    adamw(theta, np.zeros(3), m, v, 1, 0.01, weight_decay=0.1)
    close(theta, 1 - 0.01 * 0.1)
