"""A network that learns the reverse variance (Nichol21 eq. 15, 16), from training to samples and
the bound.
"""

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm import likelihood, process
from tinyddpm.cli import commands as cli
from tinyddpm.errors import InputError
from tinyddpm.exact import Gaussian

S = td.linear(50)


@pytest.fixture(scope="module")
def points():
    """Draws of a narrow Gaussian, whose best reverse variance lies between beta_tilde and beta."""
    return Gaussian(np.array([0.2, -0.1]), 0.04, S).sample(2000, seed=1).clip(-1, 1)


@pytest.fixture(scope="module")
def model(points):
    return td.train(
        points, 800, batch=256, vlb=0.001, schedule=S, net=td.MLP(hidden=32, layers=2, out=4)
    )


def test_the_output_is_a_prediction_and_the_share_of_log_beta():
    y = np.arange(8.0).reshape(1, 2, 1, 4)
    prediction, mix = process.split_output(y, True)
    assert np.array_equal(prediction, y[..., :2])
    assert np.array_equal(mix, (y[..., 2:] + 1) / 2)
    assert process.split_output(y, False) == (y, None)


def test_a_learned_variance_tightens_the_bound(model, points):
    """By its own definition: the network was trained on just this sum, so it must beat both fixed
    choices.
    """
    x0 = points[:1000].astype(np.float32)
    bits = {
        variance: likelihood.bits_per_dim(
            model, S, x0, seed=0, chain=likelihood.Chain(variance, half_width=None)
        ).total
        for variance in ("learned", "beta_tilde", "beta")
    }
    assert bits["learned"] < min(bits["beta_tilde"], bits["beta"])


def test_samples_by_the_learned_variance_have_the_datas_spread(model, points):
    """0.2 wide data within a tenth: 4,000 samples know their spread to 1.2 %, the rest is the
    network's.
    """
    x = td.sample(model, 4000, sampler="ancestral", variance="learned")
    assert np.allclose(x.std(axis=0), points.std(axis=0), rtol=0.1)
    assert np.allclose(x.mean(axis=0), points.mean(axis=0), atol=0.02)


def test_it_is_resumed_to_the_same_bytes(tmp_path, points):
    settings = {"vlb": 0.001, "batch": 16, "save_every": 3, "schedule": S}
    td.train(points, 6, out=tmp_path / "whole", **settings)
    stop = iter([False, False, True])
    td.train(points, 6, out=tmp_path / "parts", stop=lambda: next(stop), **settings)
    td.resume(tmp_path / "parts", points)
    assert (tmp_path / "whole" / "checkpoint.npz").read_bytes() == (
        tmp_path / "parts" / "checkpoint.npz"
    ).read_bytes()
    assert td.load(tmp_path / "parts").learns_variance


def test_what_was_not_learned_is_not_given(points):
    plain = td.train(points, 1, net=td.MLP(hidden=8))
    with pytest.raises(InputError, match="did not learn the variance"):
        td.sample(plain, 2, sampler="ancestral", variance="learned")
    with pytest.raises(InputError, match="out = 4"):
        td.train(points, 1, vlb=0.001, net=td.MLP())
    with pytest.raises(InputError, match="out = 2"):
        td.train(points, 1, net=td.MLP(out=4))


def test_the_command_line_learns_judges_and_samples_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--base", "8", "--groups", "4", "--steps", "3", "--batch", "8", "--T", "20"]
    assert cli.main(["train", "digits", "--vlb", "0.001", "--classes", "--out", "run", *small]) == 0
    assert (
        cli.main(
            [
                "sample",
                "run",
                "--n",
                "4",
                "--class",
                "7",
                "3",
                "--guidance",
                "1",
                "--sampler",
                "ancestral",
                "--variance",
                "learned",
            ]
        )
        == 0
    )
    assert cli.main(["eval", "run", "--n", "20", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "bits_per_dim" in shown and "label_agreement" in shown
    assert cli.main(["sample", "run", "--class", "77"]) == 2
    assert "77" in capsys.readouterr().err
    np.save("bare.npy", np.zeros((20, 8, 8), np.uint8))
    assert cli.main(["eval", "run", "--data", "bare.npy"]) == 2
    assert "bare.npy has none" in capsys.readouterr().err
