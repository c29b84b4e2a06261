"""The ODE's solvers, inversion, and the table of all samplers."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from support import strict_cupy
from support.chains import check_asked
from support.checks import close

from tinyddpm import exact, noise, process
from tinyddpm.editing import RePaint, inpaint, interpolate
from tinyddpm.errors import InputError
from tinyddpm.samplers import Noise, PredictorCorrector, ancestral, ddim, langevin
from tinyddpm.schedule import cosine, linear, spaced
from tinyddpm.settings import SPACINGS, Sampling
from tinyddpm.solvers import (
    SAMPLERS,
    decode,
    dpmpp_2m,
    encode,
    euler,
    euler_coefficients,
    evaluations,
    heun,
    sample_with,
    steps_taken,
)

MEAN = np.array([0.5, -0.2])
COVARIANCE = np.array([[1.5, 0.4], [0.4, 0.3]])


def mixture(s):
    """Three clusters on a triangle, the last one wide."""
    return exact.GaussianMixture(
        [0.3, 0.3, 0.4], [[-1.0, -0.6], [1.0, -0.6], [0.0, 0.9]], [0.01, 0.01, 0.05], s
    )


def eps_alone(denoise):
    """The denoiser without its x0_hat."""
    return lambda xt, t: denoise(xt, t)


# --- every sampler, every spacing


@pytest.mark.parametrize(
    "T, steps", [(1, 1), (2, 2), (40, 1), (40, 2), (40, 9), (40, None), (40, 99)]
)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_starts_at_T_ends_at_data_and_asks_as_often_as_it_says(name, spacing, T, steps):
    s, asked, how = linear(T), [], Sampling(name, steps, spacing)

    def run(denoise, s, xT, watch):
        def counted(xt, t):
            asked.append(t)
            return denoise(xt, t)

        return sample_with(counted, s, xT, how, watch=watch)

    taken = steps_taken(name, s, steps)
    assert taken == (steps if steps and steps <= T else T)
    check_asked(s, run, spaced(s, taken, spacing), twice=name in ("heun", "langevin"))
    assert len(asked) == evaluations(name, taken)


def test_the_default_number_of_steps():
    assert [steps_taken(name, linear(1000)) for name in SAMPLERS] == [50, 1000, 1000, 50, 50, 50]
    assert [evaluations(name, 50) for name in SAMPLERS] == [50, 50, 99, 50, 99, 50]


@pytest.mark.parametrize(
    "name, own, options",
    [
        ("ddim", {"eta": 0.7}, {"eta": 0.7}),
        ("ancestral", {"variance": "beta"}, {"variance": "beta"}),
        ("langevin", {"variance": "beta"}, {"method": PredictorCorrector("beta")}),
        ("euler", {}, {}),
        ("heun", {}, {}),
        ("dpmpp_2m", {}, {}),
    ],
)
def test_sample_with_hands_each_sampler_its_own(name, own, options):
    s, xT, z = linear(40), noise.normal((3, 2), 1), Noise(4, 2)
    draws = {"noise": z} if name in ("ddim", "ancestral", "langevin") else {}
    function = {
        "ddim": ddim,
        "ancestral": ancestral,
        "langevin": langevin,
        "euler": euler,
        "heun": heun,
        "dpmpp_2m": dpmpp_2m,
    }[name]
    times = spaced(s, 9, "quadratic")
    expected = function(mixture(s), s, xT, steps=times, clip=0.8, **draws, **options)
    how = Sampling(name, 9, "quadratic", clip=0.8, **own)
    found = sample_with(mixture(s), s, xT, how, noise=z)
    np.testing.assert_array_equal(found, expected)
    if options:
        plain = Sampling(name, 9, "quadratic", clip=0.8)
        assert np.any(found != sample_with(mixture(s), s, xT, plain, noise=z))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: sample_with(mixture(s), s, x, Sampling("euler-maruyama")),
        lambda s, x: steps_taken("", s),
        lambda s, x: evaluations("DDIM", 5),
        lambda s, x: sample_with(mixture(s), s, x, Sampling("heun", spacing="cubic")),
        lambda s, x: sample_with(mixture(s), s, x, Sampling("heun", steps=0)),
        lambda s, x: sample_with(mixture(s), s, x, Sampling("ddim", eta=1.5)),
        lambda s, x: Sampling("ancestral", variance="gamma"),
        lambda s, x: encode(mixture(s), s, x, steps=0),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(InputError, match="must be") as caught:
        call(linear(10), np.ones((2, 2)))
    assert "\n" not in str(caught.value)


# --- the ODE


def test_eulers_step_is_the_odes():
    # By autonomy of the papers' forms: score = -eps_hat / sqrt(1 - ab) and the step x + h/2 (x +
    # score), put in by eps.
    s, xt = linear(100), np.array([[0.4, -1.2]])
    for t, t_prev in ((100, 99), (60, 20), (1, 0), (100, 0)):
        eps_hat = np.array([[0.9, 0.1]])
        h = -np.log(1 - s.beta[t_prev + 1 : t + 1]).sum()
        c = euler_coefficients(s, t, t_prev)
        close(
            c.c_x0 * process.x0_from_eps(s, xt, t, eps_hat) + c.c_xt * xt,
            xt + h / 2 * (xt - eps_hat / np.sqrt(1 - s.alpha_bar[t])),
        )
        assert c.sigma == 0


@pytest.mark.parametrize("sampler", [euler, heun])
def test_an_infinite_time_is_refused_and_ddim_named(sampler):
    s = linear(20).zero_terminal_snr()
    with pytest.raises(InputError, match="use ddim") as caught:
        sampler(exact.Gaussian(MEAN, COVARIANCE, s), s, np.ones((2, 2)))
    assert "\n" not in str(caught.value)


def test_dpmpp_2m_starts_from_pure_noise_as_ddim_does():
    # lambda_T = -inf: the first step is ddim's, and so is the second, which has an infinite step
    # behind it.
    s = cosine(60).zero_terminal_snr()
    data, xT, paths = exact.Gaussian(MEAN, COVARIANCE, s), np.array([[0.3, -2.0]]), []
    for sampler in (ddim, dpmpp_2m):
        path = []
        keep = partial(lambda path, t, xt, x0_hat: path.append(xt), path)
        sampler(data, s, xT, steps=spaced(s, 6), watch=keep)
        paths.append(path)
    for ours, theirs in zip(paths[1][:2], paths[0][:2], strict=True):
        close(ours, theirs)
    assert np.abs(paths[1][2] - paths[0][2]).max() > 1e-3
    assert np.all(np.isfinite(paths[1][-1]))


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m])
def test_a_denoiser_that_gives_eps_alone_is_the_same(sampler):
    s, xT = linear(200), noise.normal((4, 2), 2).astype(np.float64)
    close(
        sampler(mixture(s), s, xT, steps=12),
        sampler(eps_alone(mixture(s)), s, xT, steps=12),
        atol=1e-9,
    )


def test_clip_bounds_what_a_2m_step_is_drawn_on_from():
    # Both x0_hat lie beyond the bound, so both are clipped to it, nothing is drawn on, and each
    # step is ddim's.
    s, xT = linear(100), noise.normal((3, 2), 1).astype(np.float64)

    class Beyond:
        def x0_hat(self, xt, t):
            return np.full_like(xt, 2.0 + 0.01 * t)

    close(dpmpp_2m(Beyond(), s, xT, steps=8, clip=0.5), ddim(Beyond(), s, xT, steps=8, clip=0.5))


def transport(found, fine):
    """The root mean square of the distance between samples of one x_T."""
    return np.sqrt(np.mean(np.sum((found - fine) ** 2, axis=1)))


def test_on_a_mixture_the_solvers_agree_in_the_limit_and_2m_beats_ddim():
    # Samples of the same x_T are compared one by one: no figure here is an estimate of anything
    # random. Uniform steps in t are no ground for 2M: at 10 to 20 of them its last ones are too
    # long in log-SNR to be drawn on over.
    s, xT = linear(4000), noise.normal((100, 2), 5, noise.PRIOR).astype(np.float64)
    data = mixture(s)
    fine = heun(data, s, xT, steps=1000)
    # DDIM's error is of first order: it halves, down to one that is small beside the clusters'
    # width of 0.1.
    errors = [transport(ddim(data, s, xT, steps=steps), fine) for steps in (500, 1000, 2000)]
    assert errors[2] < 2e-3
    assert all(0.45 < finer / coarser < 0.6 for coarser, finer in pairwise(errors))
    for spacing in ("logsnr", "quadratic"):
        for steps, ratio in ((10, 0.75), (20, 0.5)):
            times = spaced(s, steps, spacing)
            ours, theirs = (transport(f(data, s, xT, steps=times), fine) for f in (dpmpp_2m, ddim))
            assert ours < ratio * theirs


# --- inversion


def encoded_by_hand(s, eps, x0, steps):
    """Song21a eq. 14's Euler step forwards, in x / sqrt(ab) and sqrt((1 - ab) / ab)."""
    scaled, noise_to_signal = x0, np.sqrt((1 - s.alpha_bar) / s.alpha_bar)
    times = spaced(s, steps)[::-1]
    for t, t_next in zip([0, *times], times, strict=False):
        eps_hat = eps(scaled * np.sqrt(s.alpha_bar[t]), t or t_next)
        scaled = scaled + (noise_to_signal[t_next] - noise_to_signal[t]) * eps_hat
    return scaled * np.sqrt(s.alpha_bar[s.T])


@pytest.mark.parametrize("steps", [1, 2, 13, 60])
def test_encode_is_song21as_equation_14(steps):
    s, x0 = linear(60), noise.normal((5, 2), 3).astype(np.float64)
    for denoise in (mixture(s), eps_alone(mixture(s))):
        expected = encoded_by_hand(s, mixture(s), x0, steps)
        close(encode(denoise, s, x0, steps=steps), expected, atol=1e-9)


def columns(f, s):
    """Mean and covariance that the affine map f gives to the Gaussian data, from its mean and a
    root's columns.
    """
    x = f(np.vstack([MEAN, MEAN + np.linalg.cholesky(COVARIANCE).T]))
    root = (x[1:] - x[0]).T
    return x[0], root @ root.T


def test_encoding_gaussian_data_gives_the_prior_and_decoding_gives_it_back():
    # Both errors are DDIM's, of first order. At T the data's own marginal differs from N(0, I) by
    # alpha_bar_T = 4e-5.
    s = linear(2**14)
    data = exact.Gaussian(MEAN, COVARIANCE, s)
    prior, back, steps = [], [], (32, 64, 128, 256)
    for n in steps:
        mean, covariance = columns(lambda x0, n=n: encode(data, s, x0, steps=n), s)
        prior.append(
            max(
                np.abs(mean - data.marginal(s.T)[0]).max(),
                np.abs(covariance - data.marginal(s.T)[1]).max(),
            )
        )
        x0 = np.array([[0.5, 1.0], [-1.0, 0.2]])
        xT = encode(data, s, x0, steps=n)
        back.append(np.abs(decode(data, s, xT, steps=n) - x0).max())
    for error in (prior, back):
        slope = -np.polyfit(np.log(steps), np.log(error), 1)[0]
        assert abs(slope - 1) < 0.15, f"order {slope:.2f}"
    mean, covariance = columns(lambda x0: encode(data, s, x0, steps=4096), s)
    close(covariance, np.eye(2), rtol=0, atol=3 * prior[0] * 32 / 4096 + s.alpha_bar[s.T])
    close(mean, np.zeros(2), rtol=0, atol=3 * prior[0] * 32 / 4096 + np.sqrt(s.alpha_bar[s.T]))


def test_decode_is_ddim_without_noise():
    s, xT = linear(40), noise.normal((3, 2), 1)
    how = {"steps": spaced(s, 9, "logsnr"), "clip": 0.5}
    np.testing.assert_array_equal(decode(mixture(s), s, xT, **how), ddim(mixture(s), s, xT, **how))


def test_encode_reaches_pure_noise():
    s, x0 = cosine(200).zero_terminal_snr(), np.array([[0.5, -0.3], [1.0, 1.0]])
    data = exact.Gaussian(MEAN, COVARIANCE, s)
    xT = encode(data, s, x0, steps=200)
    assert np.all(np.isfinite(xT))
    assert np.abs(decode(data, s, xT, steps=200) - x0).max() < 0.1


def test_a_fused_denoiser_takes_eulers_step():
    calls, xT = [], np.ones((2, 2))

    class Fused:
        def reverse(self, xt, t, c, clip, noise):
            calls.append((t, c, clip))
            return xt

    s = linear(20)
    euler(Fused(), s, xT, steps=4, clip=2.0)
    steps = pairwise([*spaced(s, 4), 0])
    assert calls == [(t, euler_coefficients(s, t, t_prev), 2.0) for t, t_prev in steps]


# --- on a device


class OnDevice:
    """A denoiser for arrays of a strict CuPy, which mixes with no array of the host's, and its
    noise there.
    """

    def __init__(self, xp):
        self.xp = xp

    def x0_hat(self, xt, t):
        return 0.3 * xt

    def x0_and_mix(self, xt, t):
        return 0.3 * xt, 0.1 * xt

    def normal(self, shape, seed, purpose, step, first_sample):
        return self.xp.asarray(noise.normal(shape, seed, purpose, step, first_sample))


@pytest.mark.parametrize(
    "run",
    [
        *(
            lambda d, s, x, name=name: sample_with(d, s, x, Sampling(name, 7, "logsnr"))
            for name in SAMPLERS
        ),
        lambda d, s, x: sample_with(d, s, x, Sampling("ddim", 7, "logsnr", eta=0.5)),
        lambda d, s, x: ancestral(d, s, x, variance="learned"),
        lambda d, s, x: langevin(d, s, x, method=PredictorCorrector("learned")),
        lambda d, s, x: encode(d, s, x, steps=7),
        lambda d, s, x: interpolate(d, s, x[0], x[1], 3, steps=7),
        lambda d, s, x: inpaint(d, s, x, x > 0, method=RePaint(2)),
    ],
)
def test_all_of_it_runs_where_its_arrays_live(run):
    # Both sides run the same NumPy underneath, operation by operation, so that their bits are the
    # same.
    s, x = linear(20), noise.normal((3, 4), 1)
    device = strict_cupy.strict()
    found = run(OnDevice(device), s, device.asarray(x))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.get(), run(OnDevice(np), s, x))
