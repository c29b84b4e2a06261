"""AdamW, EMA, clipping and the learning rate: the peer's answers, formulas, the blocks' seams."""

import math

import numpy as np
import pytest
from support import checks
from support.gradients import near

from tinyddpm.nn import optim


def vectors(size, count, dtype=np.float64):
    rng = np.random.Generator(np.random.PCG64(size))
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


# The peer's six steps: lr 0.01, decays 0.9 and 0.999, 1e-8; adamw's weight decay is 0.1 (all found
# by trial).
@pytest.mark.parametrize("name, weight_decay", [("adam", 0.0), ("adamw", 0.1)])
def test_the_peer_agrees_at_every_step(name, weight_decay, golden):
    peer = golden("torch_layers")
    theta = peer[f"{name}/p0"].copy()
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for step, (grad, expected) in enumerate(
        zip(peer[f"{name}/grads"], peer[f"{name}/p"], strict=True), start=1
    ):
        optim.adamw(theta, grad, m, v, step, lr=0.01, weight_decay=weight_decay)
        near(theta, expected, rtol=1e-10)


def test_adamw_is_its_definition():
    checks.check_adamw(optim.adamw)


def test_the_first_step_is_lr_times_the_sign():
    """m_hat = grad and v_hat = grad^2 at step 1, whatever the gradient's size."""
    theta, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    optim.adamw(theta, np.array([1e4, -1.0, 1e-3]), m, v, 1, lr=0.1)
    # tol / grad = 1e-5 in the last
    np.testing.assert_allclose(theta, [-0.1, 0.1, -0.1], rtol=2e-5)


@pytest.mark.parametrize(
    "size", [1, optim.BLOCK - 1, optim.BLOCK, optim.BLOCK + 1, 2 * optim.BLOCK + 17]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_leave_no_seam(size, dtype, monkeypatch):
    def run():
        theta, grad, m, v, ema = vectors(size, 5, dtype)
        v = v * v
        optim.adamw(theta, grad, m, v, 3, 0.01, weight_decay=0.1)
        optim.ema_update(ema, theta, 5, 0.99)
        return theta, m, v, ema

    blocked = run()
    monkeypatch.setattr(optim, "BLOCK", 1 << 30)
    before = vectors(size, 5, dtype)
    for ours, whole, old in zip(
        blocked, run(), (before[0], before[2], before[3], before[4]), strict=True
    ):
        assert ours.dtype == dtype
        assert np.array_equal(ours, whole)
        assert np.mean(ours != old) > 0.99, "a part was left out"


def test_the_gradient_is_left_alone():
    theta, grad, m, v = vectors(50, 4)
    before = grad.copy()
    optim.adamw(theta, grad, m, v * v, 1, 0.01, weight_decay=0.1)
    assert np.array_equal(grad, before)


@pytest.mark.parametrize(
    "step, decay, d",
    [
        (1, 0.995, 2 / 11),
        (2, 0.995, 3 / 12),
        (90, 0.995, 91 / 100),
        (1790, 0.995, 1791 / 1800),
        (1791, 0.995, 0.995),
        (10**6, 0.995, 0.995),
        (1, 0.1, 0.1),
        (5, 0.0, 0.0),
    ],
)
def test_ema_warms_up(step, decay, d):
    ema, theta = vectors(20, 2)
    expected = d * ema + (1 - d) * theta
    optim.ema_update(ema, theta, step, decay)
    near(ema, expected)


def test_clipping_keeps_the_direction():
    grad = vectors(1000, 1)[0]
    norm = math.sqrt((grad**2).sum())
    for limit in (norm / 7, 1e-3):
        clipped = grad.copy()
        near(optim.clip_by_norm(clipped, limit), norm)
        near(clipped, grad * (limit / norm))
    for limit in (norm * 1.001, 1e9, 0, None):
        same = grad.copy()
        near(optim.clip_by_norm(same, limit), norm)
        assert np.array_equal(same, grad)
    assert optim.clip_by_norm(np.zeros(3), 1.0) == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_norm_that_is_not_finite_scales_nothing(bad):
    grad = np.array([1.0, bad, 2.0])
    before = grad.copy()
    assert not math.isfinite(optim.clip_by_norm(grad, 1.0))
    np.testing.assert_array_equal(grad, before)


def test_clipping_keeps_float32():
    grad = vectors(100, 1, np.float32)[0]
    norm = optim.clip_by_norm(grad, 1.0)
    assert grad.dtype == np.float32 and isinstance(norm, float)
    assert abs(float(np.linalg.norm(grad)) - 1) < 1e-6


@pytest.mark.parametrize(
    "steps, warmup", [(1, 0), (10, 0), (10, 3), (2000, 100), (10, 10), (10, 20)]
)
@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_learning_rate_rises_straight_and_falls_as_a_half_cosine(steps, warmup, decay):
    rates = [optim.learning_rate(step, steps, 0.3, warmup, decay) for step in range(1, steps + 1)]
    for step, rate in enumerate(rates, start=1):
        if step <= warmup:
            expected = 0.3 * step / warmup
        elif decay == "constant":
            expected = 0.3
        else:
            expected = 0.3 * math.cos(math.pi / 2 * (step - 1 - warmup) / (steps - warmup)) ** 2
        assert math.isclose(rate, expected, rel_tol=1e-9)
    assert min(rates) > 0 and max(rates) <= 0.3
    if warmup < steps:
        assert rates[warmup] == 0.3
    if decay == "cosine" and steps - warmup > 5:
        assert rates[-1] < 0.3 * 3 / (steps - warmup) ** 2
