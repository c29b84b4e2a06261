"""The training loss and its gradient, and what a step draws: times and dropout masks."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support import checks
from support.checks import FALSE_ALARM
from support.gradients import OPS, check_gradient, near, random_theta, run_net

from tinyddpm import likelihood, noise, process, schedule
from tinyddpm.nn import params
from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.unet import UNet
from tinyddpm.training import Batch, Objective, draw_times, dropout_masks, loss_and_grad

S = schedule.linear(1000)
NET = UNet(base=4, groups=2, blocks=1, mults=(1, 2), attention=(False, True))
T = np.array([1, 250, 600, 999, 1000])


def data(dtype=np.float64, shape=(4, 4, 1)):
    """x0 and eps."""
    rng = np.random.Generator(np.random.PCG64(3))
    return [rng.standard_normal((len(T), *shape)).astype(dtype) for _ in range(2)]


def whole(dtype=np.float64, shape=(4, 4, 1), **fields):
    """The batch of every test here, with other fields on top."""
    x0, eps = data(dtype, shape)
    return Batch(**{"x0": x0, "t": T, "eps": eps, **fields})


def part_of(batch, part, **fields):
    """The part of a batch that one worker takes."""
    return replace(batch, x0=batch.x0[part], t=batch.t[part], eps=batch.eps[part], **fields)


def loss_of(theta, objective, grad=None, net=NET, s=S, batch=None):
    """The loss of a batch, by default `whole`; its gradient is added to grad."""
    grad = np.zeros_like(theta) if grad is None else grad
    p, g = (params.views(net.spec(), flat) for flat in (theta, grad))
    return loss_and_grad(OPS, net, p, g, s, batch or whole(theta.dtype), objective)


def by_hand(theta, target, gamma):
    """The weighted mean squared error from beta alone, sample by sample."""
    x0, eps = data()
    alpha_bar = np.cumprod(1 - S.beta)
    total = 0.0
    for i, t in enumerate(T):
        keep, add = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
        y = run_net(NET, theta, (keep * x0 + add * eps)[i : i + 1], np.array([t]), [])
        aim = {"eps": eps, "x0": x0, "v": keep * eps - add * x0}[target][i : i + 1]
        snr = alpha_bar[t] / (1 - alpha_bar[t])
        weight = min(snr, gamma) / {"eps": snr, "x0": 1, "v": snr + 1}[target] if gamma else 1
        total += weight * ((y - aim) ** 2).mean() / len(T)
    return total


every_target = pytest.mark.parametrize("target", ["eps", "x0", "v"])
every_gamma = pytest.mark.parametrize("gamma", [0.0, 5.0, 0.01])


@every_target
@every_gamma
def test_loss_is_its_definition(target, gamma):
    theta = random_theta(NET)
    # 1 - alpha_bar_1 = 1e-4 is a difference of numbers near 1: 1e-12 of it is rounding
    near(loss_of(theta, Objective(target, gamma)), by_hand(theta, target, gamma), rtol=1e-10)


@every_target
@every_gamma
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradient_of_the_whole_loss(target, gamma, rate):
    theta = random_theta(NET)

    def f(theta, grad=None, share=1.0):
        batch = whole(drop=dropout_masks(rate, 1, 2, 0), share=share)
        return loss_of(theta, Objective(target, gamma), grad, batch=batch)

    grad = np.zeros_like(theta)
    loss = f(theta, grad)
    check_gradient(f, theta, grad)
    added = grad.copy()
    assert f(theta, added, share=0.5) == loss, "the loss is to be unscaled"
    near(added, 1.5 * grad)


@every_target
@pytest.mark.parametrize("half_width", [1 / 255, 1 / 16, None])
@pytest.mark.parametrize("times", [[1, 1, 1, 1, 1], [1, 2, 500, 1000, 7]])
def test_hybrid_loss_and_its_gradient_with_the_mean_held_fixed(target, half_width, times):
    """Nichol21 eq. 16: L_simple of the first half, lambda T vb of the second, through which no
    gradient gets to x0_hat.

    The decoder's bins are narrow: its higher derivatives in log sigma allow the differences 1e-6,
    not 1e-7.
    """
    net, t = UNet(base=4, groups=2, blocks=1, out=2), np.array(times)
    x0, eps = data()
    # on the levels of both widths, or nearly: the decoder's own data
    x0 = np.rint(8 * np.tanh(x0)) / 8
    theta, xt = random_theta(net), process.q_sample(S, x0, t, eps)
    prediction = run_net(net, theta, xt, t, [])[..., :1]
    x0_hat = process.x0_from_prediction(S, xt, t, prediction, target)
    aim = process.target_from(S, x0, t, eps, target)

    def f(theta):
        y = run_net(net, theta, xt, t, [])
        mix = (y[..., 1:] + 1) / 2
        bits, _ = likelihood.vb_loss_and_slope(
            S, x0, t, x0_hat, mix, likelihood.bound_tables(S, half_width)
        )
        return ((y[..., :1] - aim) ** 2).mean() + 0.001 * S.T * bits.mean()

    tables = likelihood.bound_tables(S, half_width)
    objective, batch = Objective(target, vlb=0.001, tables=tables), Batch(x0, t, eps)
    grad = np.zeros_like(theta)
    near(loss_of(theta, objective, grad, net, batch=batch), f(theta))
    check_gradient(f, theta, grad, rtol=1e-6)
    added = grad.copy()
    loss_of(theta, objective, added, net, batch=replace(batch, share=0.5))
    near(added, 1.5 * grad)


def test_gradient_of_the_mlps_loss():
    net = MLP(hidden=8)
    theta, batch, objective = random_theta(net), whole(shape=(2,)), Objective("v", 5.0)
    grad = np.zeros_like(theta)
    loss_of(theta, objective, grad, net, batch=batch)
    check_gradient(lambda theta: loss_of(theta, objective, net=net, batch=batch), theta, grad)


@every_target
@pytest.mark.parametrize("cuts", [[0, 5], [0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_shards_add_up_to_the_whole(target, cuts):
    """Each shard has its own share of the scale and its own stretch of the dropout masks."""
    theta, objective = random_theta(NET), Objective(target, 5.0)
    grad, added = np.zeros_like(theta), np.zeros_like(theta)
    loss = loss_of(theta, objective, grad, batch=whole(drop=dropout_masks(0.3, 1, 2, 0)))
    total = 0.0
    for first, last in itertools.pairwise(cuts):
        share, drop = (last - first) / len(T), dropout_masks(0.3, 1, 2, first)
        batch = part_of(whole(), slice(first, last), drop=drop, share=share)
        total += share * loss_of(theta, objective, added, batch=batch)
    near(total, loss)
    near(added, grad)


@every_target
@every_gamma
def test_float32_stays_float32(target, gamma):
    """Rounding of 6e-8 grows by the net's conditioning: 1e-3 of the largest gradient is far above
    it.
    """
    theta = random_theta(NET)
    grad, small = np.zeros_like(theta), np.zeros(theta.size, np.float32)
    loss = loss_of(theta, Objective(target, gamma), grad)
    small_loss = loss_of(theta.astype(np.float32), Objective(target, gamma), small)
    assert small_loss.dtype == np.float32
    near(small_loss, loss, rtol=1e-4)
    near(small, grad, rtol=1e-3)


@every_target
def test_zero_terminal_snr_gives_finite_losses(target):
    theta = random_theta(NET)
    grad = np.zeros_like(theta)
    loss = loss_of(theta, Objective(target, 5.0), grad, s=S.zero_terminal_snr())
    assert math.isfinite(loss) and np.isfinite(grad).all()


# --- what a step draws


def test_times_are_uniform_and_new_at_every_step():
    checks.check_draw_times(lambda T, step, batch: draw_times(schedule.linear(T), 3, step, batch))


def test_times_depend_on_seed_step_and_sample_alone():
    t = draw_times(S, 3, 5, 100)
    assert np.array_equal(draw_times(S, 3, 5, 40), t[:40]), (
        "a smaller batch is not the start of a larger"
    )
    for other in (draw_times(S, 4, 5, 100), draw_times(S, 3, 6, 100)):
        # equal in a place with chance 1/1000: 20 or more of 100 are equal with chance below 1e-35
        assert np.mean(other == t) < 0.2


def test_dropout_masks_keep_their_share():
    """Kept entries are binomial; one test for each of three rates: false alarms below 3e-6."""
    assert dropout_masks(0, 1, 1, 0) is None
    for rate in (0.1, 0.5, 0.9):
        n, mask = 40 * 1000, dropout_masks(rate, 1, 1, 0)((40, 10, 100), np.dtype(np.float32))
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
        kept = np.count_nonzero(mask)
        assert abs(kept - n * (1 - rate)) < stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(
            n * rate * (1 - rate)
        )


def test_dropout_masks_are_new_at_every_place_and_step_and_split_with_the_batch():
    shape, dtype = (6, 5, 40), np.dtype(np.float64)
    drop = dropout_masks(0.5, 1, 2, 0)
    first, second = drop(shape, dtype), drop(shape, dtype)
    again, shard = dropout_masks(0.5, 1, 2, 0), dropout_masks(0.5, 1, 2, 4)
    for mask in (first, second):
        assert np.array_equal(again(shape, dtype), mask)
        assert np.array_equal(shard((2, 5, 40), dtype), mask[4:])
    others = [dropout_masks(0.5, seed, step, 0)(shape, dtype) for seed, step in ((1, 3), (2, 2))]
    # 1200 entries agree with chance 1/2 each: a share outside 0.4..0.6 has chance below 1e-11
    for a, b in itertools.combinations([first, second, *others], 2):
        assert 0.4 < np.mean(a == b) < 0.6


def test_dropout_shares_no_counter_with_other_noise():
    purposes = (
        noise.EPS,
        noise.REVERSE,
        noise.PRIOR,
        noise.TIME,
        noise.ORDER,
        noise.INIT,
        noise.DATA,
    )
    shape, drop = (50, 40), dropout_masks(0.5, 1, 2, 0)
    masks = [drop(shape, np.dtype(np.float64)) for _ in range(3)]
    for purpose in purposes:
        kept = noise.uniform(shape, 1, purpose, 2) >= 0.5
        for mask in masks:
            assert 0.4 < np.mean((mask > 0) == kept) < 0.6
