"""tinyddpm import and export."""

import numpy as np
import pytest
from support.published import write_folder

import tinyddpm as td
from tinyddpm.cli import main

pytest.importorskip("safetensors")


def refused(capsys, *argv):
    """The one line on standard error of a command that exits with 2."""
    assert main(list(map(str, argv))) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("tinyddpm: ")
    return err


def test_a_published_folder_becomes_a_run_and_a_folder_again(tmp_path, capsys):
    source, run, back = write_folder(tmp_path / "a", "learned"), tmp_path / "run", tmp_path / "b"
    assert main(["import", str(source), "--out", str(run)]) == 0
    assert "predicts eps, sampler ancestral" in capsys.readouterr().out
    array = tmp_path / "x.npy"
    assert main(["sample", str(run), "--n", "3", "--seed", "0", "--array", str(array)]) == 0
    model = td.load(run)
    # the folder's own way: ancestral, all T steps, the learned variance, nothing clipped
    want = td.sample(
        td.from_diffusers(source), 3, sampler="ancestral", variance="learned", clip=None
    )
    assert np.array_equal(np.load(array), want)
    assert (
        main(["export", str(run), "--out", str(back), "--plain", str(tmp_path / "p.safetensors")])
        == 0
    )
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (back / file).read_bytes() == (source / file).read_bytes()
    from safetensors.numpy import load_file

    plain = load_file(tmp_path / "p.safetensors")
    assert np.array_equal(plain["conv_in.w"], model.p.conv_in.w)
    assert sum(array.size for array in plain.values()) == model.theta.size


def test_what_the_commands_refuse(tmp_path, capsys):
    source, run = write_folder(tmp_path / "a", "classes"), tmp_path / "run"
    assert main(["import", str(source), "--out", str(run)]) == 0
    capsys.readouterr()
    assert "already holds a run" in refused(capsys, "import", source, "--out", run)
    assert "export needs" in refused(capsys, "export", run)
    assert "not empty" in refused(capsys, "export", run, "--out", source)
    assert "is no folder" in refused(capsys, "export", run, "--out", run / "checkpoint.npz")
    assert "no class" in refused(capsys, "sample", run) or "without a class" in refused(
        capsys, "sample", run
    )
    assert "limit is 1,000" in refused(
        capsys, "import", source, "--out", tmp_path / "x", "--limit", 1000
    )
    assert not (tmp_path / "x").exists()
    td.train(np.zeros((4, 2)), steps=1, out=tmp_path / "points")
    error = refused(capsys, "export", tmp_path / "points", "--out", tmp_path / "y")
    assert "only a U-Net" in error and not (tmp_path / "y").exists()


def test_a_run_of_ours_is_exported_as_the_network_of_t_less_one(tmp_path):
    """Its predictions are the same to rounding; ours embed 1..T, theirs 0..T-1."""
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((8, 8, 8, 1)).clip(-1, 1)
    model = td.train(x, steps=3, schedule=td.linear(20), batch=4, target="eps")
    td.to_diffusers(model, tmp_path / "out")
    back = td.from_diffusers(tmp_path / "out")
    assert back.net.t_offset == -1 and np.array_equal(back.schedule.beta, model.schedule.beta)
    for t in (1, 7, 20):
        assert np.abs(back(x, t) - model(x, t)).max() < 1e-6 * np.abs(model(x, t)).max()
    bent = td.cosine(20).until(10)
    td.to_diffusers(td.Model(model.net, model.theta, bent, (8, 8, 1), "v"), tmp_path / "bent")
    back = td.from_diffusers(tmp_path / "bent")
    assert np.array_equal(back.schedule.beta, bent.beta) and back.target == "v"


def test_a_way_to_sample_that_is_none_is_refused(tmp_path):
    """As in a checkpoint that another program wrote."""
    model = td.from_diffusers(write_folder(tmp_path / "a", "learned"))
    for odd in ("ddim", {"samplr": 1}, {"clip": "x"}, {"clip": -1}, {"offset": "x"}, 3):
        broken = td.Model(
            model.net, model.theta, model.schedule, model.shape, meta={"sampling": odd}
        )
        with pytest.raises(td.InputError):
            td.sample(broken, 1, steps=2)
    # what is given goes before the model's own
    own = {"sampler": "ddim", "spacing": "leading", "offset": 1, "clip": None}
    model = td.Model(model.net, model.theta, model.schedule, model.shape, meta={"sampling": own})
    first, second = td.sample(model, 1, steps=3), td.sample(model, 1, steps=3, spacing="trailing")
    assert np.isfinite(first).all() and not np.array_equal(first, second)


def test_a_published_model_is_judged_fine_tuned_and_handed_back(tmp_path, capsys):
    """Its weights move, its network, schedule, target and way to sample stay."""
    source, run, tuned = write_folder(tmp_path / "a", "learned"), tmp_path / "r", tmp_path / "t"
    assert main(["import", str(source), "--out", str(run)]) == 0
    images = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (90, 4, 4, 1)).astype("u1")
    np.save(tmp_path / "x.npy", images)
    data = str(tmp_path / "x.npy")
    train = ["train", data, "--from", str(run), "--out", str(tuned), "--steps", "2"]
    assert main([*train, "--batch", "4", "--lr", "1e-3"]) == 0
    before, after = td.load(run), td.load(tuned)
    assert after.net == before.net and after.target == "eps" and after.learns_variance
    assert np.array_equal(after.schedule.beta, before.schedule.beta)
    assert 0 < np.abs(after.theta - before.theta).max() < 0.01
    assert after.meta["sampling"] == before.meta["sampling"] and after.meta["recipe"]["vlb"] > 0
    assert main(["export", str(tuned), "--out", str(tmp_path / "b")]) == 0
    assert np.array_equal(td.from_diffusers(tmp_path / "b").theta, after.theta)
    assert main(["eval", str(run), "--data", data, "--n", "6"]) == 0
    assert "bits_per_dim" in capsys.readouterr().out
    for extra in (["--base", "8"], ["--T", "10"], ["--target", "x0"], ["--schedule", "linear"]):
        assert "--from" in refused(capsys, *train[:4], "--out", tmp_path / "z", *extra)
    assert "--from" in refused(capsys, "train", "--resume", tuned, "--from", run)
    assert "moments" in refused(capsys, "train", "--resume", run, "--steps", "3")


def test_a_run_starts_at_a_models_weights():
    x = np.random.Generator(np.random.PCG64(0)).uniform(-1, 1, (8, 2))
    first = td.train(x, 2, batch=4, target="eps", seed=1)
    second = td.train(x, 1, start=first, lr=0.0, seed=9)
    assert np.array_equal(second.theta, first.theta) and second.target == "eps"
    for bad in ({"net": td.MLP()}, {"schedule": td.linear(9)}, {"target": "v"}, {"vlb": 0.1}):
        with pytest.raises(td.InputError):
            td.train(x, 1, start=first, **bad)
