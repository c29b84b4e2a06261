"""Sampling from a trained model: what is asked for is used or refused."""

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.errors import InputError

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "A"
    net = td.MLP(hidden=8, layers=1)
    td.train(X, steps=2, batch=4, net=net, schedule=td.linear(20), out=out)
    return out


@pytest.mark.parametrize(
    "how, words",
    [
        ({"variance": "a"}, "variance must be one of beta, beta_tilde, learned, got 'a'"),
        ({"clip": -1}, "clip must be above 0"),
        ({"clip": 0}, "clip must be above 0"),
        ({"clip": float("nan")}, "clip must be above 0"),
        ({"clip": "1"}, "clip must be a number, got '1'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 21}, "steps must be at most T = 20 of this model, got 21"),
        ({"steps": [20, 1]}, r"steps must be a whole number, got \[20, 1\]"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"sampler": "ddmi"}, "did you mean ddim"),
        ({"sampler": "dpmpp_2m", "eta": 0.5}, "eta is a setting of ddim: dpmpp_2m has none"),
        ({"sampler": "dpmpp_2m", "eta": 0.0}, "eta is a setting of ddim: dpmpp_2m has none"),
        ({"variance": "beta"}, "variance is a setting of ancestral and langevin: ddim has none"),
        ({"step": 3}, "did you mean steps"),
        ({"guidence": 1}, "did you mean guidance"),
        ({"n": 2.0}, "n must be a whole number, got 2.0"),
        ({"n": True}, "n must be a whole number, got True"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 2**64}, "seed must be a whole number"),
        ({"trajectory": 1}, "trajectory"),
        ({"guidance": 1.0}, "guidance needs a class"),
        ({"progress": "no"}, "progress must be True, False or None, got 'no'"),
        ({"team": 3}, "team must be what tinyddpm.parallel.join gives, got 3"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(run, how, words):
    with pytest.raises(InputError, match=words):
        td.sample(td.load(run), **{"n": 2, **how})


def test_numpys_numbers_are_numbers(run):
    model = td.load(run)
    how = {"steps": np.int32(3), "eta": np.float32(0.5), "clip": np.float64(2), "seed": np.uint8(7)}
    found = td.sample(model, np.int64(3), **how)
    assert np.array_equal(found, td.sample(model, 3, 7, steps=3, eta=0.5, clip=2))


def test_a_run_may_be_named_by_its_path(run):
    expected = td.sample(td.load(run), 3)
    for name in (run, str(run), run / "checkpoint.npz"):
        assert np.array_equal(td.sample(name, 3), expected)
    with pytest.raises(InputError, match="no checkpoint at"):
        td.sample("runs/nothing")
    with pytest.raises(InputError, match="a Model, or the path of a run, is needed"):
        td.sample(X)


def test_the_frames_are_those_of_every_chunk(run):
    """300 samples go through in three chunks or more; noise stands first, the samples last."""
    model = td.load(run)
    x, frames = td.sample(model, 300, 1, steps=4, trajectory=3)
    assert frames.shape == (3, 300, 2) and np.array_equal(frames[-1], x)
    assert np.array_equal(frames[0], td.normal((300, 2), 1, 2))
    assert np.array_equal(x, td.sample(model, 300, 1, steps=4))


@pytest.mark.parametrize("words", [("x",), (1.5,), (-1,), (2**64,), (0, -1), (0, 2**32), (None,)])
def test_a_noise_of_no_numbers_is_refused(words):
    with pytest.raises(InputError, match="must be a whole number in 0..2"):
        td.Noise(*words)


def test_spaced_takes_the_schedule_first():
    with pytest.raises(InputError, match="a schedule and a number of steps, got 20 first"):
        td.spaced(20, td.linear(30))
    with pytest.raises(InputError, match=r"T must be a whole number in 1\.\.10,000,000"):
        td.cosine(3_000_000_000)


def test_images_that_are_no_floats_or_have_other_channels_are_refused(run):
    """In every way to a model: bytes were taken for numbers up to 255."""
    model = td.load(run)
    s, whole = model.schedule, np.full((2, 2), 200, np.uint8)
    ways = [
        lambda x: model(x, 5),
        lambda x: model.x0_hat(x, 5),
        lambda x: td.ddim(model, s, x),
        lambda x: td.ancestral(model, s, x),
        lambda x: td.heun(model, s, x, steps=4),
        lambda x: td.encode(model, s, x, steps=4),
        lambda x: td.interpolate(model, s, x[0], x[1], 3, steps=4),
    ]
    for way in ways:
        with pytest.raises(InputError, match="x_t must be floats"):
            way(whole)
        with pytest.raises(InputError, match=r"takes samples of shape \(2,\), got \(3,\)"):
            way(np.zeros((2, 3), np.float32))
        way(np.zeros((2, 2), np.float32))
