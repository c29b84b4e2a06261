"""No option is accepted and ignored: what was given is used, or refused in one line by its name."""

import shutil

import numpy as np
import pytest
from cli.test_cli import call
from PIL import Image

from tinyddpm.cli import commands
from tinyddpm.runs import checkpoint

SMALL = ["--batch", 16, "--base", 8, "--groups", 4, "--blocks", 1, "--T", 12, "--save-every", 3]


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    """Training draws none: they are other tests' matter, and slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "_draw_run", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on the digits."""
    out = tmp_path_factory.mktemp("runs") / "r0"
    assert commands.main([str(a) for a in ["train", "--steps", 2, "--out", out, *SMALL]]) == 0
    return out


@pytest.fixture
def r0(run, tmp_path, monkeypatch):
    """A copy of that run to work on, in the working directory."""
    shutil.copytree(run, tmp_path / "r0")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "r0"


@pytest.mark.parametrize(
    "given, words",
    [
        (["--T", 500], "T: 12 saved, 500 given"),
        (["--schedule", "linear"], "schedule: cosine saved, linear given"),
        (["--seed", 7], "seed: 0 saved, 7 given"),
        (["--zero-snr"], "zero_snr: False saved, True given"),
        (["--classes"], "classes: False saved, True given"),
        (["--range", 0, 9], "range: None saved, [0.0, 9.0] given"),
        (["--batch", 64], "batch: 16 saved, 64 given"),
        (["--base", 16], "base: 8 saved, 16 given"),
        (["--holdout", 0.25], "holdout: 0.5 saved, 0.25 given"),
        (["--gray"], "gray: False saved, True given"),
        (["--size", 8], "size: None saved, 8 given"),
        (["--flip"], "flip: False saved, True given"),
        (["--attention", 0], "attention: [False, True] saved, [True, False] given"),
        (
            ["--lr", 0.1, "--target", "eps"],
            "lr: 0.002 saved, 0.1 given; target: v saved, eps given",
        ),
        (["--out", "elsewhere"], "give no --out"),
        (["digits", "--data", "moons"], "give the data once"),
        (["--data", "moons"], "the samples of r0 have the shape (8, 8, 1), those of its data (2,)"),
    ],
)
def test_beside_resume_what_differs_is_refused_by_name(r0, capsys, given, words):
    code, _, err = call(capsys, "train", "--resume", "r0", "--steps", 4, *given)
    assert code == 2 and words in err.replace("'", "") and err.count("\n") == 1, err
    assert checkpoint.load("r0")[1]["step"] == 2


def test_beside_resume_what_agrees_or_may_change_is_used(r0, capsys):
    same = ["--batch", 16, "--T", 12, "--schedule", "cosine", "--base", 8, "--seed", 0]
    more = ["--save-every", 1, "--keep", 4, "--log-every", 1, "--backend", "numpy"]
    code, _, err = call(capsys, "train", "--resume", "r0", "--steps", 5, *same, *more)
    assert (code, err) == (0, "")
    meta = checkpoint.load("r0")[1]
    assert [meta[name] for name in ("step", "save_every", "keep", "log_every")] == [5, 1, 4, 1]
    assert {path.name for path in r0.glob("checkpoint-*")} == {
        f"checkpoint-{step}.npz" for step in (2, 3, 4)
    }


def test_a_run_goes_on_where_its_data_is_now(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (12, 6, 6), np.uint8)
    np.save("a.npy", pixels)
    assert call(capsys, "train", "a.npy", "--steps", 1, "--out", "r", *SMALL)[0] == 0
    (tmp_path / "a.npy").rename(tmp_path / "b.npy")
    np.save("c.npy", 255 - pixels)
    assert call(capsys, "train", "--resume", "r", "--steps", 2)[0] == 2
    code, _, err = call(capsys, "train", "--resume", "r", "--steps", 2, "--data", "c.npy")
    assert code == 2 and "the data is not what r was trained on" in err
    assert call(capsys, "train", "--resume", "r", "--steps", 2, "--data", "b.npy")[0] == 0
    assert call(capsys, "train", "--resume", "r", "--steps", 3)[0] == 0
    assert checkpoint.load("r")[1]["data"]["spec"] == str(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["train", "--data", "digits"], "--data goes with --resume"),
        (["train", "--label-dropout", 0.2], "--label-dropout needs --classes"),
        (["trian"], "no command trian: did you mean train? (tinyddpm --help)"),
        (["dance"], "no command dance: there are train, sample, eval"),
        (["train", "--stpes", 4], "no option --stpes: did you mean --steps? (tinyddpm train"),
        (["train", "--schedule", "cosin"], "got 'cosin': did you mean cosine?"),
        (["train", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "digits", "moons"], "one argument too many: 'moons'"),
        (["sample"], "required: RUN"),
        ([], "required: COMMAND"),
        (["train", "--base", 80000], "this run would take at least"),
        (["train", "--T", 3000000000], "T must be a whole number in 1..10,000,000"),
        (["train", "--batch", 100000000000], "this run would take at least"),
        (["train", "moons", "--layers", 1000000000], "this run would take at least"),
        (["train", "moons", "--limit", 200000], "the limit is 195 KiB (--limit)"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *argv)
    assert code == 2 and words in err and err.count("\n") == 1 and err.startswith("tinyddpm: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given, words",
    [
        (["--eta", 0.5, "--sampler", "dpmpp_2m"], "eta is a setting of ddim: dpmpp_2m has none"),
        (["--variance", "beta"], "variance is a setting of ancestral and langevin: ddim has none"),
        (["--steps", 2000], "steps must be at most T = 12 of this model, got 2000"),
        (["--out", "x.jpg"], "x.jpg: what is written there is a .png file"),
        (["--gif", "x.png"], "x.png: what is written there is a .gif file"),
        (["--array", "x.npz"], "x.npz: what is written there is a .npy file"),
        (["--n", 10**14], "sampling would take at least"),
    ],
)
def test_what_a_sampler_does_not_use_is_refused(r0, capsys, given, words):
    before = sorted(path.name for path in r0.iterdir())
    code, _, err = call(capsys, "sample", "r0", *given)
    assert code == 2 and words in err and err.count("\n") == 1
    assert sorted(path.name for path in r0.iterdir()) == before


def test_samples_are_new_and_their_names_say_what_made_them(r0, capsys):
    few = ["--n", 2, "--steps", 2]
    seeds = []
    for _ in range(2):
        code, out, err = call(capsys, "sample", "r0", *few)
        assert (code, err) == (0, "")
        seed = next(line for line in out.splitlines() if line.startswith("seed "))[5:]
        assert (r0 / f"samples-{seed}-steps_2-n_2-at_2.png").exists()
        seeds.append(seed)
    assert seeds[0] != seeds[1]
    for more in ([], ["--eta", 0.5], ["--no-clip"], ["--sampler", "euler"]):
        assert call(capsys, "sample", "r0", "--seed", 7, *few, *more)[0] == 0
    names = {path.name for path in r0.glob("samples-7-*")}
    assert len(names) == 4 and "samples-7-steps_2-eta_0.5-n_2-at_2.png" in names
    with Image.open(r0 / "samples-7-steps_2-n_2-at_2.png") as image:
        assert image.format == "PNG"


def test_the_hint_after_an_interruption_carries_what_it_needs(tmp_path, monkeypatch, capsys):
    """--limit is not in the checkpoint, the backend is; a folder's name is quoted for the shell."""
    monkeypatch.chdir(tmp_path)

    class Stopped(commands.running.Stopped):
        def __call__(self):
            self.signal = 2
            return True

    monkeypatch.setattr(commands.running, "Stopped", Stopped)
    argv = ["train", "moons", "--out", "a run", "--limit", 10**9, "--hidden", 8, "--layers", 1]
    code, _, err = call(capsys, *argv)
    assert code == 130 and "tinyddpm train --resume 'a run' --limit 1000000000" in err
    assert checkpoint.load("a run")[1]["backend"] == "numpy"
