"""The schedule's tables: their definitions, their bounds, and improved-diffusion's numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import strict_cupy
from support.checks import check_cosine, check_peer_tables, close, schedules

from tinyddpm import process, schedule
from tinyddpm.errors import InputError
from tinyddpm.schedule import KINDS, Schedule, cosine, from_alpha_bar, linear, sigmoid


@given(schedules())
def test_tables_follow_from_beta(s):
    product = 1.0
    assert s.beta[0] == 0
    assert s.alpha_bar[0] == 1
    assert s.snr[0] == np.inf
    for t in range(1, s.T + 1):
        product *= 1 - s.beta[t]
        close(s.alpha[t], 1 - s.beta[t])
        close(s.alpha_bar[t], product)
        close(s.snr[t], product / (1 - product))


@given(schedules())
def test_snr_falls_strictly(s):
    assert np.all(np.diff(s.snr) < 0)
    assert np.all(np.diff(s.alpha_bar) < 0)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("T", [1, 2, 3, 10, 999, 1000, 4000])
def test_every_kind_at_every_length(make, T):
    s = make(T)
    assert s.T == T
    assert s.beta.shape == s.alpha.shape == s.alpha_bar.shape == s.snr.shape == (T + 1,)
    assert np.all(s.beta[1:] > 0)
    assert np.all(s.beta <= 0.999)
    assert np.all(np.diff(s.snr) < 0)


@given(schedules())
def test_tables_are_float64_and_read_only(s):
    for table in (s.beta, s.alpha, s.alpha_bar, s.snr):
        assert table.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0.5


TABLES = ("beta", "alpha", "alpha_bar", "snr")


@given(schedules(), st.sampled_from([(), ("alpha_bar",), TABLES]))
def test_a_schedule_on_a_device_keeps_its_values_and_its_type(s, read):
    class Own(Schedule):
        pass

    xp = strict_cupy.strict()
    for kind in (Schedule, Own):
        here = kind(s.beta)
        for name in read:  # tables that were worked out before the move
            getattr(here, name)
        there = here.on(xp.asarray)
        assert type(there) is kind and there.T == s.T
        for name in TABLES:
            table = getattr(there, name)
            assert type(table) is strict_cupy.ndarray and table.dtype == np.float64
            np.testing.assert_array_equal(table.get(), getattr(s, name))
            assert type(getattr(here, name)) is np.ndarray  # the schedule itself stays


def test_a_schedule_on_a_device_serves_times_there():
    s, xp = linear(10), strict_cupy.strict()
    t, x0, eps = np.array([1, 4, 10]), np.ones((3, 2)), np.full((3, 2), 0.5)
    with strict_cupy.Counted() as counted:
        found = process.q_sample(s.on(xp.asarray), *map(xp.asarray, (x0, t, eps)))
    assert counted.all["downloads"] == 0
    np.testing.assert_array_equal(found.get(), process.q_sample(s, x0, t, eps))


def test_a_schedule_does_not_share_its_callers_array():
    beta = np.array([0.0, 0.1, 0.2])
    s = Schedule(beta)
    beta[1] = 0.9
    assert s.beta[1] == 0.1


def test_linear_is_ho20s():
    s = linear(1000)
    close(s.beta[1:], np.linspace(1e-4, 0.02, 1000))
    close(linear(100).beta[[1, 100]], [1e-3, 0.2])  # both ends times 1000 / T


def test_linear_keeps_the_total_noise_at_any_length():
    # log alpha_bar_T = -sum of beta to first order, which the factor 1000 / T keeps: 10.05 for the
    # default ends.
    for T in (200, 1000, 4000):
        assert linear(T).beta.sum() == pytest.approx(10.05, rel=1e-9)


def test_cosine_is_nichol21s():
    check_cosine(cosine)


@given(st.integers(1, 500))
def test_sigmoid_is_jabri22s(T):
    logistic = 1 / (1 + np.exp(-np.linspace(-3, 3, T + 1)))
    expected = (logistic[-1] - logistic) / (logistic[-1] - logistic[0])
    s = sigmoid(T)
    close(s.alpha_bar[:-1], expected[:-1])
    assert s.beta[T] == 0.999  # alpha_bar_T would be 0


@given(schedules(terminal=False))
def test_from_alpha_bar_inverts_the_product(s):
    close(from_alpha_bar(s.alpha_bar).beta, s.beta)


@given(schedules(terminal=False))
def test_zero_terminal_snr(s):
    if s.T == 1:
        with pytest.raises(InputError, match="T >= 2"):
            s.zero_terminal_snr()
        return
    z, root = s.zero_terminal_snr(), np.sqrt(s.alpha_bar)
    assert z.beta[-1] == 1
    assert z.alpha_bar[-1] == z.snr[-1] == 0
    close(z.alpha_bar[1], s.alpha_bar[1])
    shifted = np.sqrt(z.alpha_bar[1:])
    close(shifted, (root[1:] - root[-1]) * root[1] / (root[1] - root[-1]), atol=1e-12)


@pytest.mark.parametrize(
    "beta",
    [
        [],
        [0.0],
        [0.1, 0.2],
        [0.0, 0.0],
        [0.0, -0.1],
        [0.0, 1.1],
        [0.0, 1.0, 0.5],
        [0.0, float("nan")],
        [0.0, 0.1, float("inf")],
        [[0.0, 0.1]],
        0.5,
        "linear",
        None,
        [0.0, "x"],
        [0.0, [0.1]],
    ],
    ids=str,
)
def test_bad_beta_is_refused(beta):
    with pytest.raises(InputError, match="beta") as caught:
        Schedule(beta)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("T", [0, -1, 1.5, 10.0, True, "10", None], ids=repr)
def test_bad_T_is_refused(make, T):
    with pytest.raises(InputError, match="T must be"):
        make(T)


def test_tables_agree_with_improved_diffusion():
    check_peer_tables(lambda kind, T: KINDS[kind](T))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("T", [100, 1000])
def test_posterior_agrees_with_improved_diffusion(golden, kind, T):
    peer, s = golden("improved_diffusion"), schedule.KINDS[kind](T)
    c, variance = process.posterior_tables(s), process.beta_tilde(s)
    np.testing.assert_array_equal(c.beta_tilde, variance)
    close(variance[1:], peer[f"{kind}/{T}/posterior_variance"], rtol=1e-6)
    close(c.c_x0[1:], peer[f"{kind}/{T}/posterior_mean_coef_x0"], rtol=1e-6)
    close(c.c_xt[1:], peer[f"{kind}/{T}/posterior_mean_coef_xt"], rtol=1e-6)
    # The peer's logarithm replaces the posterior's variance at t = 1, which is 0, by the one at t =
    # 2.
    clipped = np.log(np.concatenate([variance[2:3], variance[2:]]))
    close(clipped, peer[f"{kind}/{T}/posterior_log_variance_clipped"], rtol=1e-6)


@pytest.mark.parametrize(
    "spacing, steps, offset, times",
    [
        # Lin24 Table 2 (T = 1000, 10 steps), whose times are these
        ("leading", 10, 1, [*range(901, 0, -100)]),
        ("trailing", 10, 0, [*range(1000, 0, -100)]),
        ("linspace", 10, 0, [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]),
        ("trailing", 3, 0, [1000, 667, 333]),
        ("linspace", 1, 0, [1]),
        ("leading", 1000, 1, [*range(1000, 0, -1)]),
    ],
)
def test_published_times(spacing, steps, offset, times):
    """Lin24 counts 1..T, and so do we; its leading is diffusers' with steps_offset 0."""
    less = offset if steps < 1000 else 0
    found = schedule.published_times(schedule.linear(1000), steps, spacing, offset)
    assert [t - less for t in found] == times


def test_published_times_that_cannot_be_are_refused():
    s = schedule.linear(10)
    for bad in ((11, "leading"), (0, "trailing"), (3, "uniform"), (3, "leading", 4)):
        with pytest.raises(InputError):
            schedule.published_times(s, *bad)


def test_a_schedule_until_t_is_its_first_steps():
    s = schedule.linear(10).until(4)
    assert s.T == 4 and np.array_equal(s.alpha_bar, schedule.linear(10).alpha_bar[:5])
