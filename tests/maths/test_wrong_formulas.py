"""The suite's own checks reject the wrong formulas that are seen in the wild, and accept the
package's.

Each case is (what is wrong, check, right, wrong): `check` takes an implementation, passes for
`right` and must raise AssertionError for `wrong`. Cases are numbered as the list of wrong formulas
is.
"""

from unittest import mock

import numpy as np
import pytest
from support import chains, checks

from tinyddpm import noise, process, samplers
from tinyddpm.nn import optim
from tinyddpm.samplers import Coefficients, ancestral_coefficients, ddim_coefficients, times
from tinyddpm.schedule import KINDS, Schedule, cosine, from_alpha_bar, linear, spaced
from tinyddpm.training import draw_times as draw_training_times

SHORT, LONG = linear(40), linear(1000)


def sampler_with(sampler, name, wrong=None, **options):
    """The package's sampler with some options set and one function that it calls replaced.

    Without a wrong one, the right one takes its place. Either must have been called.
    """

    def run(*arguments, **more):
        function = mock.Mock(side_effect=wrong or getattr(samplers, name))
        with mock.patch.object(samplers, name, function):
            x0 = sampler(*arguments, **options, **more)
        function.assert_called()
        return x0

    return run


def forward_over(kind):
    """One step, marginal and draw, the last two over the tables of another class of schedule."""
    return (
        process.q_step,
        lambda s, x0, t: process.q_marginal(kind(s.beta), x0, t),
        lambda s, x0, t, eps: process.q_sample(kind(s.beta), x0, t, eps),
    )


# --- 1: sqrt(alpha_bar_t) instead of sqrt(alpha_t) in the reverse mean


def product_in_reverse_mean(s, xt, t, eps_hat):
    return (xt - s.beta[t] / np.sqrt(1 - s.alpha_bar[t]) * eps_hat) / np.sqrt(s.alpha_bar[t])


def product_in_ancestral(s, t, t_prev, variance="beta_tilde"):
    """The same mean, on x0_hat and x_t, as the sampler takes it."""
    slope = s.beta[t] / (1 - s.alpha_bar[t])
    sigma = ancestral_coefficients(s, t, t_prev, variance).sigma
    return Coefficients(slope, (1 - slope) / np.sqrt(s.alpha_bar[t]), sigma)


# --- 2: DDIM's direction with a minus sign, or with sigma in its place


def ddim_with(direction):
    """Song21a eq. 12 with direction(alpha_bar_s, sigma) as the factor of eps_hat."""

    def coefficients(s, t, t_prev, eta=0.0):
        ab_t, ab_s = s.alpha_bar[t], s.alpha_bar[t_prev]
        sigma = ddim_coefficients(s, t, t_prev, eta).sigma
        c_xt = direction(ab_s, sigma) / np.sqrt(1 - ab_t)
        return Coefficients(np.sqrt(ab_s) - c_xt * np.sqrt(ab_t), c_xt, sigma)

    return coefficients


right_ddim = ddim_with(lambda ab_s, sigma: np.sqrt(1 - ab_s - sigma**2))
minus_in_ddim = ddim_with(lambda ab_s, sigma: -np.sqrt(1 - ab_s - sigma**2))
sigma_in_ddim = ddim_with(lambda ab_s, sigma: sigma)
all_of_it_in_ddim = ddim_with(lambda ab_s, sigma: np.sqrt(1 - ab_s))


# --- 3: strided steps from the low end; a loop that stops before t = 1


def from_the_low_end(s, steps):
    return list(range(1, s.T + 1, s.T // steps))[::-1]


def stops_early(s, steps):
    return spaced(s, steps)[:-1]


def leaves_out_the_last(s, steps):
    return times(s, steps)[:-1]


# --- 4: training on t in 1..T-1, or on 0..T-1, or on the same t at every step


def draw_times(T, step, batch):
    return draw_training_times(linear(T), 3, step, batch)


def draw_below_T(T, step, batch):
    return draw_times(max(T - 1, 1), step, batch)


# --- 5: z added at t = 1


def noise_at_one(s, t, t_prev, variance="beta_tilde"):
    c = ancestral_coefficients(s, t, t_prev, variance)
    return c if t > 1 else c._replace(sigma=np.sqrt(s.beta[1]))


def noise_at_one_in_ddim(s, t, t_prev, eta=0.0):
    c = ddim_coefficients(s, t, t_prev, eta)
    return c._replace(sigma=eta * np.sqrt(s.beta[t]))


# --- 6: cosine without the 0.999 clip, or clipped at 0.01 from below or above


def cosine_up_to(max_beta):
    def make(T):
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        return from_alpha_bar(f / f[0], max_beta)

    return make


def cosine_from_0_01(T):
    return Schedule([0.0, *cosine(T).beta[1:].clip(0.01, 0.999)])


# --- 7: alpha_bar off by one


class OneLate(Schedule):
    @property
    def alpha_bar(self):
        return np.concatenate([[1.0], np.cumprod(self.alpha)[:-1]])


class OneEarly(Schedule):
    """A 0-based table read with the papers' t."""

    @property
    def alpha_bar(self):
        return np.cumprod(np.append(self.alpha[1:], 1 - self.beta[-1]))


# --- 8: AdamW that multiplies the decay by lr twice, or that always corrects the bias as at step 1


def decay_by_lr_twice(theta, grad, m, v, step, lr, weight_decay=0.0, **options):
    optim.adamw(theta, grad, m, v, step, lr, weight_decay=lr * weight_decay, **options)


def bias_of_step_1(theta, grad, m, v, step, lr, **options):
    optim.adamw(theta, grad, m, v, 1, lr, **options)


def decay_in_gradient(theta, grad, m, v, step, lr, weight_decay=0.0, **options):
    optim.adamw(theta, grad + weight_decay * theta, m, v, step, lr, **options)


# --- 9: a variance where a standard deviation belongs, and the reverse


def variance_in_q_sample(s, x0, t, eps):
    mean, variance = process.q_marginal(s, x0, t)
    return mean + variance * eps


def variance_in_q_step(s, x, t, eps):
    return np.sqrt(s.alpha[t]) * x + s.beta[t] * eps


def deviation_in_posterior(s, x0, xt, t):
    mean, variance = process.q_posterior(s, x0, xt, t)
    return mean, np.sqrt(variance)


def variance_in(coefficients):
    def wrong(*arguments, **options):
        c = coefficients(*arguments, **options)
        return c._replace(sigma=c.sigma**2)

    return wrong


# --- the checks, each over one implementation


def forward(functions, s=SHORT):
    checks.check_forward(s, *functions)


def q_sample(function):
    forward((process.q_step, process.q_marginal, function))


def draws(function):
    checks.check_q_sample_statistics(function, noise.normal)


def bayes(function):
    checks.check_bayes(SHORT, process.q_step, process.q_marginal, function, 0.5, -0.3, 0.8)


def peer_tables(kind):
    checks.check_peer_tables(lambda name, T: kind(KINDS[name](T).beta))


def ancestral_step(coefficients):
    checks.check_ancestral_coefficients(
        SHORT, lambda s, t, variance: coefficients(s, t, t - 1, variance)[:3]
    )


def ddim_step(coefficients):
    checks.check_ddim_coefficients(SHORT, lambda *arguments: coefficients(*arguments)[:3])


def times_of_50(function):
    checks.check_timesteps(lambda T, steps: function(linear(T), steps), 1000, 50)


def on(check, s, *arguments):
    return lambda implementation: check(s, implementation, *arguments)


reverse_mean = on(checks.check_reverse_mean, SHORT, 0.7, -1.1)
posterior = on(checks.check_posterior, SHORT)
unit_gaussian, point_mass = on(chains.check_unit_gaussian, LONG), on(chains.check_point_mass, SHORT)
visits, quiet_at_one = on(checks.check_visits, LONG), on(checks.check_no_noise_at_one, SHORT)

big, small = ((samplers.ancestral, {"variance": name}) for name in ("beta", "beta_tilde"))
jumps = samplers.ddim, {"steps": 50, "eta": 1.0}
counted = samplers.ancestral, {"steps": SHORT.T}


def sampling(check, sampler, name, wrong):
    """A check of a whole sampler, and that sampler without and with the wrong function inside."""
    function, options = sampler
    right = sampler_with(function, name, **options)
    return check, right, sampler_with(function, name, wrong, **options)


CASES = [
    ("1: mean", reverse_mean, process.reverse_mean, product_in_reverse_mean),
    ("1: coefficients", ancestral_step, ancestral_coefficients, product_in_ancestral),
    (
        "1: a chain of 1000",
        *sampling(unit_gaussian, big, "ancestral_coefficients", product_in_ancestral),
    ),
    ("1: converse, closed form", q_sample, process.q_sample, process.q_step),
    ("1: converse, draws", draws, process.q_sample, process.q_step),
    ("2: minus", ddim_step, right_ddim, minus_in_ddim),
    ("2: sigma", ddim_step, ddim_coefficients, sigma_in_ddim),
    ("2: sigma^2 not taken off", ddim_step, ddim_coefficients, all_of_it_in_ddim),
    ("3: times from the low end", times_of_50, spaced, from_the_low_end),
    ("3: times stop early", times_of_50, spaced, stops_early),
    ("3: DDIM from the low end", *sampling(visits, jumps, "spaced", from_the_low_end)),
    ("3: DDIM stops early", *sampling(visits, jumps, "spaced", stops_early)),
    ("3: ancestral stops early", *sampling(point_mass, counted, "times", leaves_out_the_last)),
    ("4: never T", checks.check_draw_times, draw_times, draw_below_T),
    ("4: from 0", checks.check_draw_times, draw_times, lambda *a: draw_times(*a) - 1),
    (
        "4: the same t",
        checks.check_draw_times,
        draw_times,
        lambda T, step, batch: draw_times(T, 0, batch),
    ),
    ("5: coefficients", ancestral_step, ancestral_coefficients, noise_at_one),
    ("5: sigma^2 = beta", *sampling(quiet_at_one, big, "ancestral_coefficients", noise_at_one)),
    (
        "5: sigma^2 = beta_tilde",
        *sampling(quiet_at_one, small, "ancestral_coefficients", noise_at_one),
    ),
    ("5: point mass", *sampling(point_mass, small, "ancestral_coefficients", noise_at_one)),
    ("5: unit Gaussian", *sampling(unit_gaussian, big, "ancestral_coefficients", noise_at_one)),
    ("5: DDIM", *sampling(quiet_at_one, jumps, "ddim_coefficients", noise_at_one_in_ddim)),
    ("6: no clip", checks.check_cosine, cosine, cosine_up_to(1.0)),
    ("6: clipped down to 0.01", checks.check_cosine, cosine, cosine_up_to(0.01)),
    ("6: clipped up to 0.01", checks.check_cosine, cosine_up_to(0.999), cosine_from_0_01),
    ("7: one late, closed form", forward, forward_over(Schedule), forward_over(OneLate)),
    ("7: one early, closed form", forward, forward_over(Schedule), forward_over(OneEarly)),
    ("7: one late, peer", peer_tables, Schedule, OneLate),
    ("7: one early, peer", peer_tables, Schedule, OneEarly),
    (
        "7: one late, posterior",
        posterior,
        process.q_posterior,
        lambda s, x0, xt, t: process.q_posterior(OneLate(s.beta), x0, xt, t),
    ),
    (
        "7: one early, posterior",
        posterior,
        process.q_posterior,
        lambda s, x0, xt, t: process.q_posterior(OneEarly(s.beta), x0, xt, t),
    ),
    (
        "7: one early, ancestral",
        ancestral_step,
        ancestral_coefficients,
        lambda s, *options: ancestral_coefficients(OneEarly(s.beta), *options),
    ),
    (
        "7: one early, DDIM",
        ddim_step,
        ddim_coefficients,
        lambda s, *options: ddim_coefficients(OneEarly(s.beta), *options),
    ),
    ("8: decay times lr twice", checks.check_adamw, optim.adamw, decay_by_lr_twice),
    ("8: bias of step 1", checks.check_adamw, optim.adamw, bias_of_step_1),
    ("8: decay in the gradient", checks.check_adamw, optim.adamw, decay_in_gradient),
    ("9: q_sample", q_sample, process.q_sample, variance_in_q_sample),
    ("9: draws", draws, process.q_sample, variance_in_q_sample),
    (
        "9: q_step",
        lambda f: forward((f, *forward_over(Schedule)[1:])),
        process.q_step,
        variance_in_q_step,
    ),
    ("9: posterior", posterior, process.q_posterior, deviation_in_posterior),
    ("9: Bayes", bayes, process.q_posterior, deviation_in_posterior),
    ("9: ancestral", ancestral_step, ancestral_coefficients, variance_in(ancestral_coefficients)),
    ("9: DDIM", ddim_step, ddim_coefficients, variance_in(ddim_coefficients)),
    (
        "9: unit Gaussian",
        *sampling(
            unit_gaussian, big, "ancestral_coefficients", variance_in(ancestral_coefficients)
        ),
    ),
    (
        "9: point mass",
        *sampling(point_mass, small, "ancestral_coefficients", variance_in(ancestral_coefficients)),
    ),
]


@pytest.mark.parametrize(
    "check, right, wrong", [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_check_tells_wrong_from_right(check, right, wrong):
    check(right)
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        check(wrong)
