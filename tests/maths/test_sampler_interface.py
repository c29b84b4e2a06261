"""What all samplers share: their parameters, `steps`, `noise`, and the way through their code."""

import inspect
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm import exact, noise, settings, solvers
from tinyddpm.density import log_likelihood
from tinyddpm.editing import RePaint, inpaint, interpolate
from tinyddpm.errors import InputError
from tinyddpm.nn import params
from tinyddpm.samplers import Noise, PredictorCorrector, ancestral, ddim, langevin
from tinyddpm.schedule import linear, spaced
from tinyddpm.solvers import SAMPLERS, decode, dpmpp_2m, encode, euler, heun

S = linear(10)
DATA = exact.Gaussian([0.4, -0.2], [[0.5, 0.2], [0.2, 0.3]], S)
X = noise.normal((5, 2), 1, noise.PRIOR)
FIRST_KNOWN = np.array([1.0, 0.0])


# --- the parameters


def test_the_table_of_samplers_is_the_settings():
    assert tuple(SAMPLERS) == settings.SAMPLERS
    for name, sampler in SAMPLERS.items():
        assert sampler is getattr(td, name) is getattr(solvers, name)


@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), encode, decode])
def test_a_sampler_has_few_parameters_and_names_its_options(sampler):
    parameters = list(inspect.signature(sampler).parameters.values())
    assert len(parameters) <= 8
    assert [p.name for p in parameters[:3]] == ["denoise", "s", "x0" if sampler is encode else "xT"]
    assert {p.kind for p in parameters[:3]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {p.kind for p in parameters[3:]} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="positional"):
        sampler(DATA, S, X, 5)


# --- the way through the code


def called(run):
    """The package's functions that run() calls, as "file.function"."""
    package, found = Path(td.__file__).parent, set()

    def record(frame, event, _):
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        if event == "call" and package in path.parents:
            place = path.relative_to(package).with_suffix("").as_posix()
            found.add(f"{place}.{code.co_qualname.split('.<locals>')[0]}")

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def test_a_reader_of_ancestral_meets_few_functions():
    """Ho20 Algorithm 2 by a plain callable: five functions in two files."""
    s = linear(20)
    assert s.alpha_bar[0] == 1  # a table is worked out when it is first read
    found = called(lambda: td.ancestral(lambda xt, t: 0.1 * xt, s, X, noise=lambda t: 0 * X))
    five = {
        "samplers.ancestral",
        "process.ancestral_coefficients",
        "samplers.reverse_step",
        "samplers.estimate_x0",
        "process.x0_from_eps",
    }
    # the length of a table, and one entry of one
    reads = {"schedule.Schedule.T", "process.at", "process.checked_time"}
    assert found - reads == five


# --- steps

STEPPED = {
    "ancestral": partial(ancestral, DATA, S, X),
    "ddim": partial(ddim, DATA, S, X, eta=0.5),
    "langevin": partial(langevin, DATA, S, X, method=PredictorCorrector("beta", 2)),
    "euler": partial(euler, DATA, S, X),
    "heun": partial(heun, DATA, S, X),
    "dpmpp_2m": partial(dpmpp_2m, DATA, S, X),
    "encode": partial(encode, DATA, S, X),
    "decode": partial(decode, DATA, S, X),
    "interpolate": partial(interpolate, DATA, S, X[0], X[1], 3),
    "inpaint": partial(inpaint, DATA, S, X, FIRST_KNOWN, method=RePaint(2)),
    "log_likelihood": lambda steps: log_likelihood(DATA, S, X, steps=steps).log_p,
}
every_stepped = pytest.mark.parametrize("name", STEPPED)


@every_stepped
@pytest.mark.parametrize("steps", [1, 2, 4, np.int64(4), 9, 10, 99, None], ids=repr)
def test_a_number_of_steps_is_the_list_of_its_times(name, steps):
    spacing = "logsnr" if name == "dpmpp_2m" else "uniform"
    times = spaced(S, 10 if steps is None else min(steps, 10), spacing)
    expected = STEPPED[name](steps=times)
    assert np.all(np.isfinite(expected))
    for same in (steps, tuple(times), np.array(times)):
        np.testing.assert_array_equal(STEPPED[name](steps=same), expected)


@every_stepped
def test_a_list_of_times_is_taken_as_it_is(name):
    """Which times matters: each spacing, and a list that no spacing makes, gives its own result."""
    lists = [spaced(S, 4, spacing) for spacing in settings.SPACINGS] + [[10, 9, 2, 1]]
    results = [STEPPED[name](steps=times) for times in lists]
    for i, times in enumerate(lists):
        for j in range(i):
            assert (times == lists[j]) == np.array_equal(results[i], results[j])
    assert len({tuple(times) for times in lists}) >= 3


def test_the_denoiser_is_asked_at_the_times_of_the_list():
    for sampler in (ancestral, ddim, euler, dpmpp_2m):
        asked = []
        sampler(lambda xt, t, asked=asked: asked.append(t) or 0 * xt, S, X, steps=[10, 7, 3])
        assert asked == [10, 7, 3] and {type(t) for t in asked} == {int}


@every_stepped
@pytest.mark.parametrize(
    "steps",
    [
        0,
        -1,
        2.5,
        float("nan"),
        "9",
        [],
        [11, 1],
        [8, 7, 3],
        [10, 0],
        [10, -1],
        [10, 5, 5, 1],
        [1, 5, 10],
        [9.5, 1.0],
    ],
    ids=repr,
)
def test_steps_that_cannot_be_are_refused(name, steps):
    with pytest.raises(InputError, match="steps") as caught:
        STEPPED[name](steps=steps)
    assert "\n" not in str(caught.value)


# --- noise

DRAWN = {
    "ancestral": partial(ancestral, DATA, S),
    "ddim": partial(ddim, DATA, S, steps=4, eta=1.0),
    "langevin": partial(langevin, DATA, S, method=PredictorCorrector("beta", 2)),
    "sample_with": lambda x, noise: solvers.sample_with(
        DATA, S, x, settings.Sampling("ancestral", 6), noise=noise
    ),
    "inpaint": lambda x, noise: inpaint(DATA, S, x, FIRST_KNOWN, method=RePaint(2), noise=noise),
    "log_likelihood": lambda x, noise: (
        log_likelihood(DATA, S, x, divergence="hutchinson", noise=noise).log_p
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_is_the_noise_of_that_seed(name):
    run = DRAWN[name]
    whole = run(X, noise=7)
    for same in (Noise(7), Noise(seed=7, first_sample=0), np.int64(7)):
        np.testing.assert_array_equal(run(X, noise=same), whole)
    np.testing.assert_array_equal(run(X[2:], noise=Noise(7, first_sample=2)), whole[2:])
    for other in (Noise(8), 8, Noise(7, first_sample=1)):
        assert np.any(run(X, noise=other) != whole)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    "bad, words",
    [
        (-1, "must be a whole number"),
        (2**64, "must be a whole number"),
        (0.5, "noise must be a seed"),
        ("3", "noise must be a seed"),
    ],
    ids=repr,
)
def test_a_seed_that_cannot_be_is_refused(name, bad, words):
    with pytest.raises(InputError, match=words):
        DRAWN[name](X, noise=bad)


def test_the_default_noise_is_seed_0():
    np.testing.assert_array_equal(ancestral(DATA, S, X), ancestral(DATA, S, X, noise=Noise()))
    assert Noise.of(3) == Noise(3, 0) and Noise.of(None) == Noise(0, 0)
    given = Noise(3, 128)
    assert Noise.of(given) is given


def test_a_fused_step_is_given_a_noise_and_a_callable_is_never_fused():
    given = []

    class Fused:
        def reverse(self, xt, t, c, clip, noise):
            given.append(noise)
            return xt

        def x0_hat(self, xt, t):
            return 0 * xt

    for each in (3, Noise(3), Noise(3, first_sample=5)):
        ancestral(Fused(), S, X, steps=2, noise=each)
    assert given == [Noise(3)] * 4 + [Noise(3, 5)] * 2
    asked = []
    x0 = ancestral(Fused(), S, X, steps=2, noise=lambda t: asked.append(t) or 0 * X)
    assert len(given) == 6 and asked == [10]
    np.testing.assert_array_equal(x0, 0 * X)


# --- a model's own schedule, and a bound that is one


MLP = td.MLP(dim=2)
FIXED = td.Model(MLP, params.init(MLP.spec(), 0), S, (2,))
WIDE = td.MLP(dim=2, out=4)
LEARNED = td.Model(WIDE, params.init(WIDE.spec(), 0), S, (2,))
XF = X.astype(np.float32)
ENTRIES = {
    **{name: partial(sampler, FIXED) for name, sampler in SAMPLERS.items()},
    "learned": partial(ancestral, LEARNED, variance="learned"),
    "guided": partial(ddim, td.Guided(FIXED, FIXED, 1.0)),
    "guided in a step": partial(ancestral, td.Guided(LEARNED, FIXED, 1.0)),
    "closed form": partial(ancestral, td.Gaussian(np.zeros(2), 1.0, S)),
    "encode": partial(encode, FIXED),
    "decode": partial(decode, FIXED),
    "log_likelihood": partial(log_likelihood, FIXED),
    "bits_per_dim": partial(td.bits_per_dim, FIXED),
    "learned bits_per_dim": partial(td.bits_per_dim, LEARNED, chain=td.Chain("learned")),
    "inpaint": lambda s, x: inpaint(FIXED, s, x, np.ones((5, 2), bool)),
    "interpolate": lambda s, x: interpolate(FIXED, s, x[0], x[1], 3),
}


@pytest.mark.parametrize("other", [linear(20), linear(9), td.cosine(10)], ids=repr)
@pytest.mark.parametrize("name", ENTRIES)
def test_a_model_refuses_another_schedule_than_its_own(name, other):
    with pytest.raises(InputError, match="another schedule"):
        ENTRIES[name](other, XF)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_model_takes_its_schedule_made_again(name):
    ENTRIES[name](linear(10), XF)


def test_a_model_takes_the_first_steps_of_its_schedule():
    ddim(FIXED, S.until(7), XF, steps=3)


def test_guidance_has_one_schedule_and_a_finite_weight():
    other = td.Model(MLP, FIXED.theta, linear(9), (2,))
    with pytest.raises(InputError, match="the denoisers have two schedules"):
        td.Guided(FIXED, other, 1.0)
    for weight in (np.nan, np.inf, "1", None):
        with pytest.raises(InputError, match="weight must be a finite number"):
            td.Guided(FIXED, FIXED, weight)
    plain = td.Guided(lambda xt, t: xt, lambda xt, t: 0 * xt, 1.0)
    assert not hasattr(plain, "schedule")
    for one in (td.Guided(plain, FIXED, 1.0), td.Guided(FIXED, plain, 1.0)):
        assert one.schedule is S


@pytest.mark.parametrize("eta", [None, "0.5", np.nan, -0.1, 1.1])
def test_an_eta_that_cannot_be_is_refused(eta):
    with pytest.raises(InputError, match=r"eta must be in \[0, 1\]"):
        ddim(DATA, S, X, eta=eta)


@pytest.mark.parametrize("eta", [np.nan, np.inf, -0.1, 1.1])
def test_settings_refuse_it_too(eta):
    with pytest.raises(InputError, match=r"eta must be in \[0, 1\]"):
        settings.Sampling(eta=eta)


@pytest.mark.parametrize(
    "xt, t, words",
    [
        (XF.tolist(), 1, "x_t must be an array of floats, got a list"),
        (XF, [1, 2], "t has 2 entries for a batch of 5"),
        (XF, np.arange(1, 4), "t has 3 entries for a batch of 5"),
        (XF, 1.5, "t must be an int"),
        (XF, "1", "t must be an int"),
        (XF, 11, r"t must lie in 1..10, got 11..11"),
        (XF[0], 1, r"takes samples of shape \(2,\)"),
    ],
)
def test_a_model_refuses_what_is_no_xt_and_no_time(xt, t, words):
    for call in (FIXED, FIXED.x0_hat, FIXED.predict):
        with pytest.raises(InputError, match=words):
            call(xt, t)


def test_a_model_takes_times_as_a_list():
    np.testing.assert_array_equal(FIXED(XF, [1, 2, 3, 4, 5]), FIXED(XF, np.arange(1, 6)))


def test_pictures_that_do_not_halve_are_refused():
    net = td.UNet(base=4, groups=2, mults=(1, 2), blocks=1, attention=(False, False))
    model = td.Model(net, params.init(net.spec(), 0), S, (4, 4, 1))
    for call in (model, lambda x, t: model.vjp(x, t, x), lambda x, t: ddim(model, S, x)):
        with pytest.raises(InputError, match="images of 5 x 4 do not halve"):
            call(np.zeros((2, 5, 4, 1), np.float32), 3)


@pytest.mark.parametrize("clip", [-1, 0, np.nan, "1"])
@pytest.mark.parametrize("denoise", [DATA, FIXED], ids=["callable", "fused"])
@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), encode, decode])
def test_a_clip_that_is_no_bound_is_refused(sampler, denoise, clip):
    with pytest.raises(InputError, match="clip must be above 0"):
        sampler(denoise, S, XF, clip=clip)
