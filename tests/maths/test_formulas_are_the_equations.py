"""The fused formulas are the equations that process, samplers and nn.ops state, in float64.

formulas.py repeats them as arithmetic, so that every backend compiles the same text. A result is
right within some roundings of the sum of its terms' sizes.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm import process, samplers
from tinyddpm.formulas import make_norm, numpy_formulas
from tinyddpm.nn import optim
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Forget, Ops

U = 2.0**-53
ROUNDINGS = 16  # of a formula, and as many of the equation that it is compared with
OPS = Ops()
NORM = make_norm(jit=lambda f: f, exp=np.exp, reciprocal=np.reciprocal)
SCHEDULES = {"linear": td.linear(1000), "cosine": td.cosine(50)}
TARGETS = ("eps", "x0", "v")


def random(*shape, seed=1):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def equal(got, want, *terms):
    """Equal within ROUNDINGS of the sizes of the terms that make the result."""
    size = np.abs(want) + sum(np.abs(term) for term in terms)
    assert got.shape == want.shape and got.dtype == want.dtype == np.float64
    assert np.all(np.abs(got - want) <= ROUNDINGS * U * size), np.max(np.abs(got - want) / size) / U


@pytest.fixture(params=SCHEDULES)
def s(request):
    return SCHEDULES[request.param]


@pytest.fixture(params=["first", "second", "middle", "last"])
def t(request, s):
    return {"first": 1, "second": 2, "middle": s.T // 2, "last": s.T - 1}[request.param]


# The forward process.


def test_noised_is_q_sample(s, t):
    x0, eps = random(3, 4, 5), random(3, 4, 5, seed=2)
    c_x0, c_eps = math.sqrt(s.alpha_bar[t]), math.sqrt(1 - s.alpha_bar[t])
    want = process.q_sample(s, x0, t, eps)
    equal(numpy_formulas.noised(x0, eps, c_x0, c_eps), want, c_x0 * x0, c_eps * eps)


def test_noised_of_a_batch_is_q_sample_at_each_samples_t(s):
    x0, eps, t = random(4, 3, 5), random(4, 3, 5, seed=2), np.array([1, 2, s.T // 2, s.T])
    c_x0, c_eps = np.sqrt(s.alpha_bar[t]), np.sqrt(1 - s.alpha_bar[t])
    equal(OPS.noised(x0, eps, c_x0, c_eps), process.q_sample(s, x0, t, eps), x0, eps)


def test_noised_is_q_step(s, t):
    x, eps = random(3, 4, 5), random(3, 4, 5, seed=2)
    c_x, c_eps = math.sqrt(s.alpha[t]), math.sqrt(s.beta[t])
    want = process.q_step(s, x, t, eps)
    equal(numpy_formulas.noised(x, eps, c_x, c_eps), want, c_x * x, c_eps * eps)


# The reverse step.


def fused(s, t, target, bound, c):
    """The reverse step by `formulas.reverse`, its arrays, the clipped x0_hat, and its terms."""
    xt, prediction, z = (random(3, 4, 5, seed=seed) for seed in (3, 4, 5))
    step = FusedStep(*process.x0_weights(s, t, target), bound, *c)
    got = numpy_formulas.reverse(xt, prediction, z, step)
    x0_hat = process.x0_from_prediction(s, xt, t, prediction, target)
    sizes = abs(step.a_xt * xt) + abs(step.a_prediction * prediction)
    terms = step.c_x0 * sizes, step.c_xt * xt, step.sigma * z
    return got, (xt, prediction, z), np.clip(x0_hat, -bound, bound), terms


@pytest.mark.parametrize("bound", [math.inf, 1.0])
@pytest.mark.parametrize("target", TARGETS)
def test_reverse_is_a_draw_from_the_posterior_of_x0_hat(s, t, target, bound):
    """Ho20 eq. 6-7, with x0_hat in the place of x_0, and Algorithm 2's noise."""
    c = samplers.ancestral_coefficients(s, t, t - 1)
    got, (xt, _, z), x0_hat, terms = fused(s, t, target, bound, (c.c_x0, c.c_xt, c.sigma))
    mean, variance = process.q_posterior(s, x0_hat, xt, t)
    equal(got, mean + np.sqrt(variance) * z, *terms)


def test_reverse_of_eps_is_ho20_equation_11(s, t):
    c = samplers.ancestral_coefficients(s, t, t - 1)
    got, (xt, eps_hat, z), _, terms = fused(s, t, "eps", math.inf, (c.c_x0, c.c_xt, c.sigma))
    # eq. 11 is eq. 7 only as far as 1 - alpha_bar_t, a difference, has kept its digits
    lost = terms[0] / (1 - s.alpha_bar[t])
    equal(got, process.reverse_mean(s, xt, t, eps_hat) + c.sigma * z, *terms, lost)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bound", [math.inf, 1.0])
@pytest.mark.parametrize("target", TARGETS)
def test_reverse_is_ddims_step(s, target, bound, eta):
    """Song21a eq. 12: the predicted x0, the direction that points to x_t, and noise."""
    t, t_prev = s.T // 2, s.T // 4
    c = samplers.ddim_coefficients(s, t, t_prev, eta)
    got, (xt, _, z), x0_hat, terms = fused(s, t, target, bound, (c.c_x0, c.c_xt, c.sigma))
    ab_t, ab_s = s.alpha_bar[t], s.alpha_bar[t_prev]
    sigma = eta * math.sqrt((1 - ab_s) / (1 - ab_t)) * math.sqrt(1 - ab_t / ab_s)  # eq. 16
    towards = math.sqrt(1 - ab_s - sigma**2) * process.eps_from_x0(s, xt, t, x0_hat)
    equal(got, math.sqrt(ab_s) * x0_hat + towards + sigma * z, *terms, x0_hat, towards)


@pytest.mark.parametrize("bound", [math.inf, 1.0])
def test_reverse_is_the_step_that_samplers_take(s, t, bound):
    """samplers.reverse_step without a fused denoiser is the same arithmetic."""
    c = samplers.ancestral_coefficients(s, t, t - 1)
    got, (xt, eps_hat, z), _, terms = fused(s, t, "eps", bound, (c.c_x0, c.c_xt, c.sigma))
    clip = None if bound == math.inf else bound
    want, _ = samplers.reverse_step(lambda x, t: eps_hat, s, xt, t, c, clip, lambda t: z)
    equal(got, want, *terms)


def test_no_noise_is_looked_at_where_sigma_is_zero(s):
    xt, prediction = random(3, 4), random(3, 4, seed=2)
    step = FusedStep(1.5, -0.8, 1.0, c_x0=0.4, c_xt=0.6, sigma=0.0)
    want = numpy_formulas.reverse(xt, prediction, np.zeros((3, 4)), step)
    assert np.array_equal(OPS.reverse(xt, prediction, None, step), want)


# The optimiser's step.


def test_adamw_is_its_algorithm():
    """Loshchilov19 Algorithm 2, lines 6 to 12, its beta_1 and beta_2 being decay_m and decay_v."""
    lr, weight_decay, decay_m, decay_v, tol = 0.03, 0.2, 0.9, 0.99, 1e-8
    theta, m, v = random(40), np.zeros(40), np.zeros(40)
    ours = theta.copy(), m.copy(), v.copy()
    for step in range(1, 6):
        g = random(40, seed=10 + step)
        m = decay_m * m + (1 - decay_m) * g
        v = decay_v * v + (1 - decay_v) * g**2
        m_hat, v_hat = m / (1 - decay_m**step), v / (1 - decay_v**step)
        theta = theta - lr * (m_hat / (np.sqrt(v_hat) + tol) + weight_decay * theta)
        factors = optim.adamw_factors(step, lr, weight_decay, decay_m, decay_v, tol)
        ours = numpy_formulas.adamw(ours[0], g, *ours[1:], factors)
        for got, want in zip(ours, (theta, m, v)):
            equal(got, want, np.full(40, float(step)))  # m and v may cancel: of terms of size 1


def test_average_is_the_exponential_moving_average():
    ema, theta, decay = random(40), random(40, seed=2), 0.995
    for step in (1, 10, 10_000):
        d = min(decay, (1 + step) / (10 + step))
        got = numpy_formulas.average(ema, theta, optim.ema_weight(step, decay))
        equal(got, d * ema + (1 - d) * theta, ema, theta)


# GroupNorm and SiLU.


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_normalised_and_its_backward_are_groupnorms(groups):
    B, pixels, C, tol = 3, 10, 6, 1e-6
    x, dy, w, b = random(B, pixels, C), random(B, pixels, C, seed=2), random(C), random(C, seed=3)
    tape, p, g = [], SimpleNamespace(w=w, b=b), SimpleNamespace(w=np.zeros(C), b=np.zeros(C))
    y = OPS.groupnorm(x, p, groups, tape, tol)
    dx = OPS.groupnorm_backward(dy, g, tape)

    def mean(a):
        """The mean over a group's pixels and channels, at each of its channels."""
        means = a.reshape(B, pixels, groups, -1).mean(axis=(1, 3))
        return means.repeat(C // groups, axis=1)[:, None]

    centre = mean(x)
    inv = 1 / np.sqrt(mean((x - centre) ** 2) + tol)
    n, dn = (x - centre) * inv, dy * w
    sums = pixels * C // groups  # the roundings of a sum in another order
    equal(NORM.normalised(x, centre, inv, w, b), y, w * n, b, np.full(y.shape, sums))
    got = NORM.normalised_backward(dn, n, inv, mean(dn), mean(dn * n))
    equal(got, dx, inv * (abs(dn) + abs(n)), np.full(y.shape, sums))


def test_silu_and_its_slope_are_the_operations():
    x, dy = 8 * random(5, 7), random(5, 7, seed=2)
    tape = []
    equal(NORM.silu(x), OPS.silu(x, tape), x)
    equal(dy * NORM.silu_slope(x), OPS.silu_backward(dy, tape), dy * (1 + abs(x)))
    equal(NORM.silu(x), OPS.silu(x, Forget()), x)
