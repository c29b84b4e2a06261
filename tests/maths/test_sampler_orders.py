"""How fast each sampler's error falls as its steps double, against theory, and that wrong solvers
miss their order.

Gaussian data and x_T from the exact q(x_T): the sampler is an affine map, run on the mean and on
the columns of a root of the covariance, so nothing is drawn. T = 2**16, so that rounding the times
does not blur the order.
"""

from itertools import pairwise

import numpy as np
import pytest
from support.checks import close

from tinyddpm import exact
from tinyddpm.samplers import ddim
from tinyddpm.schedule import from_alpha_bar, linear, spaced
from tinyddpm.solvers import dpmpp_2m, euler, heun, log_half_snr

S = linear(2**16)
MEAN = np.array([1.0, -0.5, 0.3])
AXES = np.linalg.qr(np.array([[1.0, 2, 3], [1, -1, 0], [2, 0, 1]]))[0]
COVARIANCE = AXES * [2.0, 0.3, 0.05] @ AXES.T
# The last jump, from t = 1, leaves errors of the size of 1 - alpha_bar_1 = 1.5e-6, far below those
# at 512 steps (4e-5).
STEPS = (64, 128, 256, 512)
# what the next term of the error is still worth at 64 steps (it halves as they double): 0.17 at
# most
BAND = 0.2


def uneven(steps):
    """A schedule of that many steps in log-SNR, by turns long and half as long."""
    gaps = np.where(np.arange(steps - 1) % 2, 1.0, 2.0)
    lam = 6.7 - np.concatenate([[0.0], np.cumsum(gaps)]) * 11.7 / gaps.sum()
    return from_alpha_bar(np.concatenate([[1.0], 1 / (1 + np.exp(-2 * lam))]))


def errors(sampler, spacing):
    """The largest error of an entry of the mean or the covariance, for each number in STEPS.

    spacing: one of `spaced`, or "uneven".
    """
    found = []
    for steps in STEPS:
        s, name = (uneven(steps), "uniform") if spacing == "uneven" else (S, spacing)
        data = exact.Gaussian(MEAN, COVARIANCE, s)
        mean, covariance = data.marginal(s.T)
        xT = np.vstack([mean, mean + np.linalg.cholesky(covariance).T])
        x0 = sampler(data, s, xT, steps=spaced(s, steps, name))
        columns = (x0[1:] - x0[0]).T
        found.append(
            max(np.abs(x0[0] - MEAN).max(), np.abs(columns @ columns.T - COVARIANCE).max())
        )
    return found


def check_order(sampler, order, spacing):
    """The slope of log error against log steps is -order, within BAND."""
    slope = -np.polyfit(np.log(STEPS), np.log(errors(sampler, spacing)), 1)[0]
    assert abs(slope - order) < BAND, f"order {slope:.2f}"


def check_same(ours, theirs):
    """Both give the same x_0: they differ in the order of their roundings alone."""
    data, xT = exact.Gaussian(MEAN, COVARIANCE, S), np.array([[0.3, -1.0, 2.0]])
    times = spaced(S, 20, "quadratic")
    close(ours(data, S, xT, steps=times), theirs(data, S, xT, steps=times))


# The spacings in which h, in the solver's own time, is smooth and small from end to end. In uniform
# t the first steps near data are so long in log-SNR that dpmpp_2m reaches its order only with far
# more steps.
@pytest.mark.parametrize(
    "sampler, order, spacing",
    [
        (euler, 1, "uniform"),
        (euler, 1, "logsnr"),
        (euler, 1, "quadratic"),
        (ddim, 1, "uniform"),
        (ddim, 1, "logsnr"),
        (ddim, 1, "quadratic"),
        (heun, 2, "uniform"),
        (heun, 2, "logsnr"),
        (heun, 2, "quadratic"),
        (dpmpp_2m, 2, "logsnr"),
        (dpmpp_2m, 2, "quadratic"),
        (euler, 1, "uneven"),
        (ddim, 1, "uneven"),
        (heun, 2, "uneven"),
        (dpmpp_2m, 2, "uneven"),
    ],
)
def test_the_error_falls_at_the_theoretical_order(sampler, order, spacing):
    check_order(sampler, order, spacing)


# --- solvers with one line that may be wrong


def euler_with(line):
    """Euler's step by line(x, h, score)."""

    def run(denoise, s, xt, steps):
        for t, t_prev in pairwise([*steps, 0]):
            h = np.log(s.alpha_bar[t_prev] / s.alpha_bar[t])
            xt = line(xt, h, denoise.score(xt, t))
        return xt

    return run


def heun_with(line, time=lambda t, t_prev: t_prev):
    """Heun's step by line(x, there, h, f, f_there), the second slope asked at time(t, t_prev)."""

    def run(denoise, s, xt, steps):
        for t, t_prev in pairwise([*steps, 0]):
            h, f = np.log(s.alpha_bar[t_prev] / s.alpha_bar[t]), 0.5 * (xt + denoise.score(xt, t))
            there = xt + h * f
            if t_prev == 0:
                return there
            f_there = 0.5 * (there + denoise.score(there, time(t, t_prev)))
            xt = line(xt, there, h, f, f_there)

    return run


def two_m_with(weight):
    """Lu22 Algorithm 2 with weight(r) on x0_hat - x0_hat_last; r = h_last / h."""

    def run(denoise, s, xt, steps):
        last = None
        for t, t_prev in pairwise([*steps, 0]):
            x0_hat, h = denoise.x0_hat(xt, t), log_half_snr(s, t_prev) - log_half_snr(s, t)
            ahead = x0_hat
            if last is not None and t_prev > 0:
                ahead = x0_hat + weight(last[1] / h) * (x0_hat - last[0])
            last = x0_hat, h
            decay = np.sqrt((1 - s.alpha_bar[t_prev]) / (1 - s.alpha_bar[t]))
            xt = decay * xt - np.sqrt(s.alpha_bar[t_prev]) * np.expm1(-h) * ahead
        return xt

    return run


# Where all steps are about as long r is about 1, and a wrong power of it costs no order: 2M is
# tried on uneven steps.
RIGHT = {
    "euler": (euler_with(lambda x, h, score: x + h / 2 * (x + score)), 1, "uniform", euler),
    "heun": (
        heun_with(lambda x, there, h, f, f_there: x + h / 2 * (f + f_there)),
        2,
        "uniform",
        heun,
    ),
    "dpmpp_2m": (two_m_with(lambda r: 1 / (2 * r)), 2, "uneven", dpmpp_2m),
}
WRONG = {
    "euler, of the reverse SDE's drift": (
        "euler",
        euler_with(lambda x, h, score: x + h * (x / 2 + score)),
    ),
    "euler, without the 1/2": ("euler", euler_with(lambda x, h, score: x + h * (x + score))),
    "euler, score's sign": ("euler", euler_with(lambda x, h, score: x + h / 2 * (x - score))),
    "euler, forwards": ("euler", euler_with(lambda x, h, score: x - h / 2 * (x + score))),
    "heun, not averaged": ("heun", heun_with(lambda x, there, h, f, f_there: there)),
    "heun, second slope alone": (
        "heun",
        heun_with(lambda x, there, h, f, f_there: x + h * f_there),
    ),
    "heun, summed, not averaged": (
        "heun",
        heun_with(lambda x, there, h, f, f_there: x + h * (f + f_there)),
    ),
    "heun, from there": (
        "heun",
        heun_with(lambda x, there, h, f, f_there: there + h / 2 * (f + f_there)),
    ),
    "heun, second slope at t": (
        "heun",
        heun_with(
            lambda x, there, h, f, f_there: x + h / 2 * (f + f_there), time=lambda t, t_prev: t
        ),
    ),
    "dpmpp_2m, 1 / r": ("dpmpp_2m", two_m_with(lambda r: 1 / r)),
    "dpmpp_2m, minus": ("dpmpp_2m", two_m_with(lambda r: -1 / (2 * r))),
    "dpmpp_2m, equal steps": ("dpmpp_2m", two_m_with(lambda r: 0.5)),
    "dpmpp_2m, nothing drawn on": ("dpmpp_2m", two_m_with(lambda r: 0.0)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_solver_written_out_has_its_order_and_is_the_packages(name):
    sampler, order, spacing, ours = RIGHT[name]
    check_order(sampler, order, spacing)
    check_same(ours, sampler)


@pytest.mark.parametrize("name, wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_solver_misses_the_order(name, wrong):
    _, order, spacing, _ = RIGHT[name]
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match="order"):
        check_order(wrong, order, spacing)


def test_an_r_upside_down_costs_no_order_and_is_found_all_the_same():
    # A step's error is then worth (h^2 - h_last^2) / 2 times what the next one's takes back, so the
    # order stays.
    upside_down = two_m_with(lambda r: r / 2)
    check_order(upside_down, 2, "uneven")
    with pytest.raises(AssertionError, match="Not equal"):
        check_same(dpmpp_2m, upside_down)
