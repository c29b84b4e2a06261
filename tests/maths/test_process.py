"""The forward process and its closed forms, for any schedule."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.checks import (
    TOL,
    check_bayes,
    check_forward,
    check_posterior,
    check_q_sample_statistics,
    check_reverse_mean,
    close,
    schedules,
)

import tinyddpm as td
from tinyddpm import noise, process, samplers
from tinyddpm.errors import InputError
from tinyddpm.process import ancestral_coefficients
from tinyddpm.schedule import linear
from tinyddpm.settings import TARGETS

VALUES = st.floats(-3, 3)

# Every function of (s, two arrays, t), with its arguments in one order.
TWO_ARRAYS = {
    "q_step": lambda s, a, b, t: process.q_step(s, a, t, b),
    "q_sample": lambda s, a, b, t: process.q_sample(s, a, t, b),
    "q_marginal": lambda s, a, b, t: process.q_marginal(s, a, t)[0],
    "q_posterior": lambda s, a, b, t: process.q_posterior(s, a, b, t)[0],
    "reverse_mean": lambda s, a, b, t: process.reverse_mean(s, a, t, b),
    "x0_from_eps": lambda s, a, b, t: process.x0_from_eps(s, a, t, b),
    "eps_from_x0": lambda s, a, b, t: process.eps_from_x0(s, a, t, b),
    "v_from_x0_eps": lambda s, a, b, t: process.v_from_x0_eps(s, a, t, b),
    "x0_from_v": lambda s, a, b, t: process.x0_from_v(s, a, t, b),
    "eps_from_v": lambda s, a, b, t: process.eps_from_v(s, a, t, b),
    "score_from_eps": lambda s, a, b, t: process.score_from_eps(s, t, a),
    "eps_from_score": lambda s, a, b, t: process.eps_from_score(s, t, a),
}
every_function = pytest.mark.parametrize("f", TWO_ARRAYS.values(), ids=TWO_ARRAYS)
every_target = pytest.mark.parametrize("target", TARGETS)


@given(schedules())
def test_chain_of_steps_is_the_closed_form(s):
    check_forward(s, process.q_step, process.q_marginal, process.q_sample)


@given(schedules(), st.integers(0, 2**32 - 1))
def test_a_whole_chain_of_draws_is_one_closed_form_draw(s, seed):
    # x_T = sqrt(alpha_bar_T) x_0 + sum_t sqrt(beta_t alpha_bar_T / alpha_bar_t) eps_t, summed from
    # the other end.
    x0, *eps = noise.normal((s.T + 1, 4), seed).astype(np.float64)
    xt, expected, factor = x0, 0.0, 1.0
    for t in range(1, s.T + 1):
        xt = process.q_step(s, xt, t, eps[t - 1])
    for t in range(s.T, 0, -1):
        expected = expected + factor * np.sqrt(s.beta[t]) * eps[t - 1]
        factor *= np.sqrt(1 - s.beta[t])
    close(xt, expected + factor * x0, atol=TOL)


@given(schedules())
def test_posterior_of_the_marginal_is_the_marginal_before(s):
    check_posterior(s, process.q_posterior)


@given(schedules(min_T=2), VALUES, VALUES, VALUES)
def test_bayes_rule_holds_pointwise(s, x0, before, xt):
    check_bayes(s, process.q_step, process.q_marginal, process.q_posterior, x0, before, xt)


@given(schedules(), VALUES, VALUES)
def test_reverse_mean_is_the_posterior_mean_at_x0_hat(s, xt, eps_hat):
    check_reverse_mean(s, process.reverse_mean, xt, eps_hat)
    # The same through the package's own two functions.
    t = np.arange(1, s.T + 1)[s.alpha_bar[1:] > 0]
    xt, eps_hat = xt + np.zeros(t.size), eps_hat + np.zeros(t.size)
    mean, _ = process.q_posterior(s, process.x0_from_eps(s, xt, t, eps_hat), xt, t)
    size = 1 + (np.abs(xt) + np.abs(eps_hat)) / np.sqrt(s.alpha[t])
    close(process.reverse_mean(s, xt, t, eps_hat) / size, mean / size, atol=TOL)


@given(schedules(terminal=False), VALUES, VALUES)
def test_eps_x0_v_and_score_say_the_same(s, x0, eps):
    t = np.arange(1, s.T + 1)
    x0, eps = x0 + np.zeros(s.T), eps + np.zeros(s.T)
    root, rest = np.sqrt(s.alpha_bar[t]), np.sqrt(1 - s.alpha_bar[t])
    xt = process.q_sample(s, x0, t, eps)
    v = process.v_from_x0_eps(s, x0, t, eps)
    close(v, root * eps - rest * x0, atol=TOL)
    # x0 from eps divides by sqrt(alpha_bar_t), eps from x0 by sqrt(1 - alpha_bar_t): so do their
    # errors.
    close(root * process.x0_from_eps(s, xt, t, eps), root * x0, atol=TOL)
    close(rest * process.eps_from_x0(s, xt, t, x0), rest * eps, atol=TOL)
    close(process.x0_from_v(s, xt, t, v), x0, atol=TOL)
    close(process.eps_from_v(s, xt, t, v), eps, atol=TOL)
    score = process.score_from_eps(s, t, eps)
    close(score, -(xt - root * x0) / (1 - s.alpha_bar[t]), atol=TOL / rest.min() ** 2)
    close(process.eps_from_score(s, t, score), eps, atol=TOL)


@given(schedules(terminal=False), VALUES, VALUES)
def test_score_is_the_slope_of_the_log_marginal(s, x0, eps):
    # log q(x_t | x_0) is a parabola in x_t, of which the central difference is the exact slope.
    t, h = np.arange(1, s.T + 1), 1e-3
    x0, eps = x0 + np.zeros(s.T), eps + np.zeros(s.T)
    xt = process.q_sample(s, x0, t, eps)
    mean, variance = process.q_marginal(s, x0, t)
    slope = ((xt - h - mean) ** 2 - (xt + h - mean) ** 2) / (4 * h * variance)
    close(process.score_from_eps(s, t, eps), slope, atol=TOL / variance.min())


@every_target
@given(s=schedules(terminal=False), x0=VALUES, eps=VALUES)
def test_every_training_target_gives_back_x0_and_eps(target, s, x0, eps):
    t = np.arange(1, s.T + 1)
    x0, eps = x0 + np.zeros(s.T), eps + np.zeros(s.T)
    xt = process.q_sample(s, x0, t, eps)
    aim = process.target_from(s, x0, t, eps, target)
    root, rest = np.sqrt(s.alpha_bar[t]), np.sqrt(1 - s.alpha_bar[t])
    close(root * process.x0_from_prediction(s, xt, t, aim, target), root * x0, atol=TOL)
    close(rest * process.eps_from_prediction(s, xt, t, aim, target), rest * eps, atol=TOL)


@every_target
@given(s=schedules(terminal=False), gamma=st.floats(0.1, 20))
def test_min_snr_weights_the_x0_error_alike_for_every_target(target, s, gamma):
    # Hang23: the weighted squared error is min(SNR, gamma) times that of x0_hat, whatever the
    # network predicts.
    t, zero = np.arange(1, s.T + 1), np.zeros(s.T)
    error = process.x0_from_prediction(s, zero, t, zero + 1, target)
    weight = process.min_snr_weight(s, zero, t, target, gamma)
    close(weight, np.minimum(s.snr[t], gamma) * error**2)


def test_min_snr_weights_at_zero_terminal_snr():
    s = linear(10).zero_terminal_snr()
    found = [process.min_snr_weight(s, np.zeros(1), 10, target, 5.0) for target in TARGETS]
    assert TARGETS == ("eps", "x0", "v") and found == [1, 0, 0]


def test_v_and_x0_survive_zero_terminal_snr():
    s = linear(50).zero_terminal_snr()
    x0, eps = np.array([0.3, -2.0]), np.array([1.5, 0.2])
    xt = process.q_sample(s, x0, s.T, eps)
    v = process.v_from_x0_eps(s, x0, s.T, eps)
    np.testing.assert_array_equal(xt, eps)
    close(process.x0_from_v(s, xt, s.T, v), x0)
    close(process.eps_from_v(s, xt, s.T, v), eps)
    # x_T holds nothing of x_0: the posterior is the marginal
    mean, variance = process.q_posterior(s, x0, xt, s.T)
    close(mean, np.sqrt(s.alpha_bar[-2]) * x0)
    close(variance, 1 - s.alpha_bar[-2])


@every_target
@given(s=schedules(), xt=VALUES, prediction=VALUES)
@example(s=td.Schedule([0.0, 0.1]), xt=0.0, prediction=4.345847379904e-311)
@example(s=td.Schedule([0.0, 0.999]), xt=0.0, prediction=2.2250738585e-313)
def test_the_weights_are_those_of_the_maps_from_a_prediction(target, s, xt, prediction):
    one, zero = np.ones(1), np.zeros(1)
    for weights, from_prediction in (
        (process.x0_weights, process.x0_from_prediction),
        (process.eps_weights, process.eps_from_prediction),
    ):
        for t in range(1, s.T + 1):
            if s.alpha_bar[t] == 0 and target == "eps" and weights is process.x0_weights:
                with pytest.raises(InputError, match="alpha_bar is 0"):
                    weights(s, t, target)
                continue
            a_xt, a_prediction = weights(s, t, target)
            assert type(a_xt) is type(a_prediction) is float
            assert a_xt == from_prediction(s, one, t, zero, target)
            assert a_prediction == from_prediction(s, zero, t, one, target)
            found = from_prediction(s, xt * one, t, prediction * one, target)
            # Each side rounds a product, a quotient and a sum of the same two terms.
            size = abs(a_xt * xt) + abs(a_prediction * prediction)
            expected = a_xt * xt + a_prediction * prediction
            info = np.finfo(np.float64)
            # Below the smallest normal number, products are rounded to multiples of the smallest of
            # all, and then divided by what x_t is divided by.
            limit = 8 * (info.eps * size + info.smallest_subnormal * (1 + abs(a_xt)))
            assert abs(found[0] - expected) <= limit


# Posterior coefficients.


@given(schedules(), st.integers(0, 2**32 - 1))
def test_posterior_coefficients_of_arrays_are_those_of_numbers(s, seed):
    t = np.arange(1, s.T + 1)
    jumps = (t * noise.uniform((s.T, 1), seed)[:, 0]).astype(int)
    for t_prev in (t - 1, jumps, 0 * t):
        together = process.ancestral_coefficients(s, t, t_prev)
        for i in range(s.T):
            alone = process.ancestral_coefficients(s, int(t[i]), int(t_prev[i]))
            assert alone == tuple(table if table is None else table[i] for table in together)


@given(schedules(), st.integers(0, 2**32 - 1))
def test_posterior_and_ancestral_step_have_the_posteriors_coefficients(s, seed):
    t, one, zero = np.arange(1, s.T + 1), np.ones(s.T), np.zeros(s.T)
    c = process.ancestral_coefficients(s, t, t - 1)
    np.testing.assert_array_equal(process.q_posterior(s, one, zero, t)[0], c.c_x0)
    np.testing.assert_array_equal(process.q_posterior(s, zero, one, t)[0], c.c_xt)
    np.testing.assert_array_equal(process.q_posterior(s, one, one, t)[1], c.beta_tilde)
    tables = process.posterior_tables(s)
    for name, first in (("c_x0", 1), ("c_xt", 0), ("sigma", 0), ("beta_tilde", 0)):
        np.testing.assert_array_equal(getattr(tables, name), [first, *getattr(c, name)])
    jumps = (t * noise.uniform((s.T, 1), seed)[:, 0]).astype(int)
    for t_i, t_prev in zip([*t.tolist()] * 2, [*(t - 1).tolist(), *jumps.tolist()]):
        c = ancestral_coefficients(s, t_i, t_prev)
        jump = 1 - s.alpha_bar[t_i] / s.alpha_bar[t_prev]
        beta = s.beta[t_i] if t_prev == t_i - 1 else jump
        low, high = (math.sqrt(v) if t_prev else 0.0 for v in (c.beta_tilde, beta))
        mean = c.c_x0, c.c_xt
        assert c == (*mean, low, None, c.beta_tilde)
        assert ancestral_coefficients(s, t_i, t_prev, "beta") == (*mean, high, None, c.beta_tilde)
        learned = ancestral_coefficients(s, t_i, t_prev, "learned")
        assert learned == (*mean, low, math.sqrt(beta), c.beta_tilde)
        assert {type(number) for number in learned} == {float}


def test_equation_7_stands_in_one_place(monkeypatch):
    """Another function in its place changes the posterior and the sampler alike."""

    def other(s, t, t_prev, variance="beta_tilde"):
        c_x0, c_xt, beta_tilde = (np.multiply(t, k) for k in (2.0, 3.0, 9.0))
        return process.Coefficients(c_x0, c_xt, 0 * c_x0, None, beta_tilde)

    for module in (process, samplers):
        monkeypatch.setattr(module, "ancestral_coefficients", other)
    s, x = linear(10), np.ones(1)
    mean, variance = process.q_posterior(s, x, 10 * x, 5)
    assert (mean[0], variance) == (2 * 5 + 3 * 5 * 10, 9 * 5)
    assert process.beta_tilde(s)[5] == 9 * 5
    # One step, t = 1: x0_hat = x / sqrt(alpha_bar_1).
    x0 = samplers.ancestral(lambda xt, t: 0 * xt, td.Schedule([0, 0.75]), x)
    assert x0[0] == 2 * 2 + 3


def test_q_sample_draws_from_the_marginal():
    check_q_sample_statistics(process.q_sample, noise.normal)


@every_function
@settings(max_examples=25)
@given(
    s=schedules(terminal=False), shape=st.sampled_from([(3,), (3, 2), (3, 2, 2, 1)]), data=st.data()
)
def test_t_as_an_int_and_as_an_array_agree(f, s, shape, data):
    a, b = noise.normal(shape, 1), noise.normal(shape, 2)
    t = np.array(data.draw(st.lists(st.integers(1, s.T), min_size=3, max_size=3)))
    for dtype in (np.float32, np.float64):
        a, b = a.astype(dtype), b.astype(dtype)
        together = f(s, a, b, t)
        assert together.shape == shape
        assert together.dtype == dtype
        for i, t_i in enumerate(t):
            for t_like in (int(t_i), t_i, t[i : i + 1].astype(np.int32), np.uint8(t_i)):
                alone = f(s, a[i : i + 1], b[i : i + 1], t_like)
                assert alone.dtype == dtype
                np.testing.assert_array_equal(alone[0], together[i])


@every_function
def test_float32_is_float64_rounded(f):
    # A handful of float32 roundings, of terms no larger than the coefficients make them.
    s = linear(1000)
    a, b = noise.normal((200, 8), 1), noise.normal((200, 8), 2)
    t = np.linspace(1, 1000, 200).astype(int)
    wide = f(s, a.astype(np.float64), b.astype(np.float64), t)
    size = 10 / np.sqrt(s.alpha_bar[t] * (1 - s.alpha_bar[t]))
    assert np.all(np.abs(f(s, a, b, t) - wide) <= 4 * np.finfo(np.float32).eps * size[:, None])


@pytest.mark.parametrize("wrong", [np.uint8, np.int64], ids=str)
def test_whole_number_images_are_taken_as_float64(wrong):
    s, x0 = linear(10), np.arange(6, dtype=wrong).reshape(2, 3)
    close(process.q_sample(s, x0, 5, np.zeros((2, 3))), np.sqrt(s.alpha_bar[5]) * x0)


@every_function
@pytest.mark.parametrize(
    "t",
    [
        0,
        11,
        -1,
        1.0,
        5.5,
        True,
        None,
        "5",
        [0, 1, 2],
        [1, 2, 11],
        [1, 2],
        [1, 2, 3, 4],
        [],
        [1.0, 2.0, 3.0],
        [[1, 2, 3]],
        np.array([True, True, False]),
    ],
    ids=repr,
)
def test_bad_t_is_refused(f, t):
    x = np.ones((3, 2))
    with pytest.raises(InputError, match=r"^t ") as caught:
        f(linear(10), x, x, t)
    assert "\n" not in str(caught.value)
