"""The samplers: their coefficients, their loop, and diffusers' single steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chains import DETERMINISTIC, SAMPLERS
from support.checks import (
    ROOT_TOL,
    TOL,
    check_ancestral_coefficients,
    check_ddim_coefficients,
    check_no_noise_at_one,
    check_timesteps,
    check_visits,
    close,
    schedules,
)

from tinyddpm import noise, process
from tinyddpm.errors import InputError
from tinyddpm.samplers import (
    Coefficients,
    Noise,
    PredictorCorrector,
    ancestral,
    ancestral_coefficients,
    ddim,
    ddim_coefficients,
    estimate_x0,
    langevin,
    reverse_step,
)
from tinyddpm.schedule import cosine, linear, spaced
from tinyddpm.settings import SPACINGS

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def tanh_eps(xt, t):
    """A denoiser that is no closed form's and not linear."""
    return np.tanh(xt + 0.01 * t)


def philox(shape, seed, first_sample=0):
    """The noise that a sampler draws by itself: a z for each step, and for two of Langevin's
    corrections after it.
    """

    def draw(t, j=0):
        purpose, step = (noise.LANGEVIN, 2 * t + j - 1) if j else (noise.REVERSE, t)
        return noise.normal(shape, seed, purpose, step, first_sample)

    return draw


# --- coefficients and times


def evenly(T, steps):
    """The times that a sampler takes for a number of steps."""
    return spaced(linear(T), steps)


@given(schedules())
def test_ancestral_coefficients_are_the_posteriors(s):
    check_ancestral_coefficients(s, lambda s, t, v: ancestral_coefficients(s, t, t - 1, v)[:3])


@given(schedules(max_T=12))
def test_ddim_coefficients_are_song21as(s):
    check_ddim_coefficients(s, lambda *arguments: ddim_coefficients(*arguments)[:3])


@given(schedules())
def test_ddim_with_eta_1_on_all_steps_is_ancestral_by_coefficient(s):
    for t in range(1, s.T + 1):
        ours, theirs = ddim_coefficients(s, t, t - 1, 1.0), ancestral_coefficients(s, t, t - 1)
        close(ours[:3], theirs[:3], atol=ROOT_TOL)


@given(schedules(terminal=False, max_T=30), st.integers(0, 2**64 - 1))
def test_ddim_with_eta_1_on_all_steps_is_ancestral_on_whole_chains(s, seed):
    xT = noise.normal((3, 2), seed, noise.PRIOR).astype(np.float64)
    ours = ddim(tanh_eps, s, xT, steps=s.T, eta=1.0, clip=1.0, noise=seed)
    theirs = ancestral(tanh_eps, s, xT, variance="beta_tilde", clip=1.0, noise=seed)
    close(ours, theirs, atol=TOL)


@given(st.data(), st.integers(1, 1200))
def test_timesteps_go_from_T_down_to_1(data, T):
    check_timesteps(evenly, T, data.draw(st.integers(1, T)))


def test_timesteps_for_every_number_of_steps():
    for T in (1, 2, 3, 50, 101):
        for steps in range(1, T + 1):
            check_timesteps(evenly, T, steps)
    assert evenly(1000, 1000) == list(range(1000, 0, -1))
    # Evenly: no two gaps differ by more than the rounding of their two ends.
    assert np.ptp(np.diff(evenly(1000, 50))) <= 1


@given(schedules(min_T=2, max_T=200), st.data())
def test_every_spacing_goes_from_T_down_to_1(s, data):
    steps = data.draw(st.integers(1, s.T))
    for spacing in SPACINGS:
        check_timesteps(lambda T, steps, spacing=spacing: spaced(s, steps, spacing), s.T, steps)
    assert spaced(s, steps) == np.rint(np.linspace(s.T, 1, steps)).tolist()


@pytest.mark.parametrize("make", [linear, cosine])
def test_spacings_are_even_in_their_own_measure(make):
    # The exact time, whose measure is the even one, is rounded: its measure lies between those of
    # the two neighbours. Times beside another one may have been pushed apart: they are left out.
    s, t = make(1000), np.arange(1.0, 1001)
    for spacing, measure in (
        ("quadratic", np.sqrt(t)),
        ("logsnr", -np.log(s.snr[1:])),
        ("uniform", t),
    ):
        times = np.array(spaced(s, 20, spacing))[::-1]
        gaps = np.diff(times)
        alone = np.flatnonzero((gaps[:-1] > 1) & (gaps[1:] > 1)) + 1
        assert alone.size >= 11
        exact = np.linspace(measure[0], measure[-1], 20)[alone]
        assert np.all(measure[times[alone] - 2] < exact)
        assert np.all(exact < measure[times[alone]])


def test_log_snr_spacing_looks_away_from_an_infinite_end():
    # With alpha_bar_T = 0 the table's last number is its neighbour's: the times between stay in
    # log-SNR's even steps.
    s = cosine(1000).zero_terminal_snr()
    times, log_snr = np.array(spaced(s, 20, "logsnr")), np.log(s.snr[1:-1])
    gaps = np.diff(log_snr[np.minimum(times, 999) - 1])
    assert times[0] == 1000
    assert np.all(np.abs(gaps[2:12] / np.ptp(log_snr) * 19 - 1) < 0.2)


# --- the loop


@pytest.mark.parametrize("T", [1, 2, 20])
@pytest.mark.parametrize(
    "name",
    [
        "ancestral, beta",
        "ancestral, 7 steps",
        "ddim, 7 steps",
        "ddim, all steps, eta 1",
        "euler",
        "dpmpp_2m, 7 steps",
    ],
)
def test_a_sampler_starts_at_T_and_ends_at_1(name, T):
    check_visits(linear(T), SAMPLERS[name])


def test_one_step_of_ddim_jumps_from_T_to_data():
    asked, s, xT = [], linear(20), np.array([[0.5, -1.0]])
    x0 = ddim(lambda xt, t: asked.append(t) or 0.3 * xt, s, xT, steps=1)
    assert asked == [20]
    close(x0, process.x0_from_eps(s, xT, 20, 0.3 * xT))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "langevin, 7 steps"])
def test_no_noise_is_added_at_t_1(name):
    check_no_noise_at_one(linear(20), SAMPLERS[name])


@every_sampler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sampler_keeps_dtype_and_shape_and_its_input(sampler, dtype):
    xT = noise.normal((3, 2, 2, 1), 1).astype(dtype)
    before, seen = xT.copy(), []
    x0 = sampler(tanh_eps, linear(20), xT, watch=lambda t, xt, x0_hat: seen.extend([xt, x0_hat]))
    assert x0.shape == xT.shape
    assert {x.dtype for x in [x0, *seen]} == {np.dtype(dtype)}
    np.testing.assert_array_equal(xT, before)


@every_sampler
def test_a_sampler_is_a_function_of_its_seed(sampler):
    xT = noise.normal((3, 4), 1)
    one, again, other = (sampler(tanh_eps, linear(20), xT, noise=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert np.array_equal(one, other) == (sampler in DETERMINISTIC.values())
    by_hand = sampler(tanh_eps, linear(20), xT, noise=philox((3, 4), 5))
    np.testing.assert_array_equal(one, by_hand)


@every_sampler
def test_a_batch_may_be_split(sampler):
    xT = noise.normal((5, 4), 1)

    def part(first, last):
        return sampler(tanh_eps, linear(20), xT[first:last], noise=Noise(5, first))

    np.testing.assert_array_equal(np.concatenate([part(0, 2), part(2, 5)]), part(0, 5))
    np.testing.assert_array_equal(
        part(2, 5), sampler(tanh_eps, linear(20), xT[2:5], noise=philox((3, 4), 5, 2))
    )


@every_sampler
def test_clip_bounds_every_x0_hat(sampler):
    def furthest(clip):
        seen = []
        sampler(
            tanh_eps,
            linear(20),
            3 * noise.normal((3, 4), 1),
            clip=clip,
            watch=lambda t, xt, x0_hat: seen.append(np.abs(x0_hat).max()),
        )
        return max(seen)

    assert furthest(None) > 1
    assert furthest(0.5) == 0.5


def test_a_denoiser_that_knows_x0_is_asked_for_it():
    class Knows:
        def x0_hat(self, xt, t):
            return np.full_like(xt, 0.25 * t)

        def __call__(self, xt, t):
            raise NotImplementedError("eps_hat holds nothing of x_0 here")

    s, xt = linear(10).zero_terminal_snr(), np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(estimate_x0(Knows(), s, xt, 10), np.full((2, 3), 2.5))
    np.testing.assert_array_equal(estimate_x0(Knows(), s, xt, 10, clip=1.0), np.ones((2, 3)))
    for name, sampler in SAMPLERS.items():
        if name not in ("euler", "heun, 7 steps"):
            assert np.all(np.isfinite(sampler(Knows(), s, xt)))
    close(SAMPLERS["ancestral, beta"](Knows(), s, xt), 0.25, rtol=1e-6)


def test_reverse_step_needs_no_z_where_sigma_is_0():
    class Two:
        def x0_hat(self, xt, t):
            return 2 * xt

    def step(sigma, noise):
        xt, c = np.ones((1, 3), np.float32), Coefficients(0.5, 0.25, sigma)
        found, x0_hat = reverse_step(Two(), linear(10), xt, 7, c, None, noise)
        np.testing.assert_array_equal(x0_hat, 2 * xt)
        return found

    np.testing.assert_array_equal(step(0.0, lambda t: None), [[1.25] * 3])
    np.testing.assert_array_equal(step(2.0, lambda t: np.full((1, 3), t / 7)), [[3.25] * 3])


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: ancestral(tanh_eps, s, x, variance="learned"),
        lambda s, x: ddim(tanh_eps, s, x, eta=-0.1),
        lambda s, x: ddim(tanh_eps, s, x, eta=1.1),
        lambda s, x: ddim(tanh_eps, s, x, eta=float("nan")),
        lambda s, x: ddim(tanh_eps, s, x, steps=0),
        lambda s, x: ddim(tanh_eps, s, x, steps=-5),
        lambda s, x: ancestral(tanh_eps, s, x, variance="gamma"),
        lambda s, x: ancestral(tanh_eps, s, x, steps=0),
        lambda s, x: langevin(tanh_eps, s, x, method=PredictorCorrector("gamma")),
        lambda s, x: PredictorCorrector(corrections=-1),
        lambda s, x: PredictorCorrector(corrections=1.5),
        lambda s, x: PredictorCorrector(snr=0.0),
        lambda s, x: PredictorCorrector(snr=float("nan")),
        lambda s, x: spaced(s, 5, "cubic"),
        lambda s, x: spaced(s, 11),
        lambda s, x: spaced(s, 0),
        lambda s, x: spaced(s, 2.5, "logsnr"),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(InputError, match="must be") as caught:
        call(linear(10), np.ones((2, 2)))
    assert "\n" not in str(caught.value)


# --- the peer's single steps

PEER_SCHEDULES = {"linear": linear(1000), "squaredcos_cap_v2": cosine(1000)}
EPS32 = float(np.finfo(np.float32).eps)


def peer_step(s, t, c, a):
    """x_{t_prev} of one of the peer's steps, from its x, eps and z."""
    return reverse_step(lambda xt, t: a["eps"], s, a["x"], t, c, None, lambda t: a["z"])[0]


def peer_cases(golden, sampler):
    """(schedule, t, option, arrays) of each single step that diffusers took; its 0-based t is our t
    - 1.
    """
    peer = golden("diffusers_steps")
    for key in sorted({k.rpartition("/")[0] for k in peer.files if k.startswith(sampler)}):
        _, kind, *middle, last = key.split("/")
        option, t = (middle[0], int(last)) if sampler == "ddpm" else (float(last), int(middle[1]))
        arrays = {
            name: peer[f"{key}/{name}"]
            for name in ("x", "eps", "z", "prev", "x0", "t_prev")
            if f"{key}/{name}" in peer.files
        }
        yield PEER_SCHEDULES[kind], t + 1, option, arrays


def test_ddim_steps_agree_with_diffusers(golden):
    # Relative to the largest value at hand, because x0_hat is 60,000 at the noisy end of the cosine
    # schedule. After its last step (t_prev < 0) the peer, too, takes alpha_bar = 1.
    cases = list(peer_cases(golden, "ddim"))
    assert len(cases) == 72
    for s, t, eta, a in cases:
        x0_hat = process.x0_from_eps(s, a["x"], t, a["eps"])
        c = ddim_coefficients(s, t, max(int(a["t_prev"]) + 1, 0), eta)
        error = np.abs(peer_step(s, t, c, a) - a["prev"])
        assert np.all(error <= 1e-5 * np.maximum(1, np.abs(x0_hat)))


def test_ancestral_steps_agree_with_diffusers(golden):
    # The peer holds alpha_bar in float32 and takes beta_t = 1 - alpha_bar_t / alpha_bar_{t-1} and
    # 1 - alpha_bar_{t-1} from it, so its coefficients are only good to eps32 over those: 1e-3 at t
    # = 2.
    cases = list(peer_cases(golden, "ddpm"))
    assert len(cases) == 28
    for s, t, size, a in cases:
        x0_hat = process.x0_from_eps(s, a["x"], t, a["eps"])
        assert np.all(np.abs(x0_hat - a["x0"]) <= 1e-5 * np.maximum(1, np.abs(x0_hat)))
        variance = {"fixed_small": "beta_tilde", "fixed_large": "beta"}[size]
        c = ancestral_coefficients(s, t, t - 1, variance)
        error = np.abs(peer_step(s, t, c, a) - a["prev"])
        lost = EPS32 / min(s.beta[t], 1 - s.alpha_bar[t - 1]) if t > 1 else 0.0
        weighed = zip(c[:3], (x0_hat, a["x"], a["z"]), strict=True)
        parts = sum(np.abs(weight * x) for weight, x in weighed)
        assert np.all(error <= 1e-5 * np.maximum(1, np.abs(x0_hat)) + lost * parts)
        if t > 1:
            # The three coefficients that the peer used, by least squares: its sigma^2 agrees to
            # 1e-3.
            columns = np.stack([x0_hat.ravel(), a["x"].ravel(), a["z"].ravel()], axis=1)
            sigma = np.linalg.lstsq(columns, a["prev"].ravel(), rcond=None)[0][2]
            close(sigma**2, c.sigma**2, rtol=1e-3 if t < 20 else 1e-5)
