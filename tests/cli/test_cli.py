"""The command line as its users meet it: its files, its exit codes, its one line for an error."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tinyddpm.cli import commands
from tinyddpm.runs import checkpoint, log
from tinyddpm.settings import Recipe

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--base",
    "8",
    "--groups",
    "4",
    "--blocks",
    "1",
    "--batch",
    "16",
    "--T",
    "12",
    "--save-every",
    "3",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "FRAMES", 4)
    return tmp_path


def call(capsys, *argv):
    """(exit code, standard output, standard error) of one command, in this process."""
    try:
        code = commands.main([str(a) for a in argv])
    except SystemExit as stop:  # argparse's own refusals
        code = stop.code
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )
    done = capsys.readouterr()
    return code, done.out, done.err


def start(*argv, **options):
    """A process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tinyddpm", *map(str, argv)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_train_sample_eval(here, capsys):
    code, out, err = call(capsys, "train", "digits", "--steps", 4, *SMALL)
    assert (code, err) == (0, "") and "runs/digits" in out
    run = here / "runs" / "digits"
    assert {p.name for p in run.iterdir()} == {
        "samples.png",
        "reverse.gif",
        "loss.png",
        log.NAME,
        checkpoint.NAME,
        "checkpoint-3.npz",
    }
    for name in ("samples.png", "loss.png"):
        with Image.open(run / name) as image:
            assert min(image.size) > 200
    with Image.open(run / "reverse.gif") as image:
        assert image.n_frames == 4

    code, out, err = call(
        capsys,
        "sample",
        run,
        "--n",
        5,
        "--steps",
        3,
        "--seed",
        7,
        "--array",
        "x.npy",
        "--gif",
        "x.gif",
    )
    assert (
        (code, err) == (0, "")
        and (run / "samples-7-steps_3-n_5-at_4.png").exists()
        and (here / "x.gif").exists()
    )
    x = np.load("x.npy")
    # the digits' own range
    assert x.shape == (5, 8, 8, 1) and x.min() >= 0 and x.max() <= 16 and x.max() > 2

    code, out, err = call(capsys, "eval", run, "--n", 30, "--steps", 2)
    scores = json.loads((run / "eval.json").read_text())
    assert (
        (code, err) == (0, "")
        and "frechet" in out
        and scores["n"] == 30
        and 0 <= scores["coverage"] <= 1
    )


def test_a_second_run_takes_a_free_folder(here, capsys):
    for name in ("digits", "digits-2"):
        assert call(capsys, "train", "--steps", 1, *SMALL)[0] == 0
        assert (here / "runs" / name / checkpoint.NAME).exists()


@pytest.mark.parametrize("toy", ["moons", "swissroll", "rings"])
def test_toys(here, capsys, toy):
    code, _, err = call(
        capsys, "train", toy, "--steps", 2, "--hidden", 8, "--layers", 1, "--T", 5, "--out", "r"
    )
    assert (code, err) == (0, "")
    assert call(capsys, "eval", "r", "--n", 20)[0] == 0


def test_the_users_own_files(here, capsys):
    """An array, an archive and a folder of colour PNGs."""
    rng = np.random.Generator(np.random.PCG64(0))
    pixels = rng.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    np.save("a.npy", pixels[..., 0])
    np.savez("a.npz", images=pixels)
    (here / "pngs").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(here / "pngs" / f"{i:02}.png")
    for name, channels in (("a.npy", 1), ("a.npz", 3), ("pngs", 3)):
        code, _, err = call(capsys, "train", name, "--steps", 1, "--out", f"r-{name}", *SMALL)
        assert (code, err) == (0, ""), name
        assert checkpoint.load(here / f"r-{name}")[1]["shape"] == [6, 6, channels]


def test_resume_is_bitwise_and_only_steps_may_change(here, capsys):
    call(capsys, "train", "--steps", 7, "--out", "whole", *SMALL)
    call(capsys, "train", "--steps", 7, "--out", "parts", *SMALL)
    whole = checkpoint.load("whole")
    (here / "parts" / checkpoint.NAME).unlink()
    process = start("train", "--steps", 4000, "--out", "cut", *SMALL)
    wait_for(here / "cut" / checkpoint.NAME)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and "--resume cut" in err
        and err.count("\n") == 1
        and "Traceback" not in err
    )
    step = checkpoint.load("cut")[1]["step"]
    code, out, err = call(capsys, "train", "--resume", "cut", "--steps", step + 2)
    assert code == 0 and checkpoint.load("cut")[1]["step"] == step + 2
    assert whole[1]["step"] == 7
    code, _, err = call(capsys, "train", "moons", "--resume", "whole")
    assert code == 2 and "the samples of whole have the shape" in err


def test_sigterm_saves_and_exits_143(here):
    process = start("train", "--steps", 4000, "--out", "r", *SMALL)
    wait_for(here / "r" / checkpoint.NAME)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "saved" in err


def wait_for(path):
    """Until the file is there; a process that never writes it fails the test."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def bad_inputs(folder):
    """Command lines that must be refused, with a word of the complaint."""
    np.save(folder / "nan.npy", np.full((4, 8, 8), np.nan))
    np.save(folder / "shape.npy", np.zeros(7))
    np.save(folder / "far.npy", np.full((4, 8, 8), 3.0))
    np.save(folder / "objects.npy", np.array([{}, 1], dtype=object))
    (folder / "empty").mkdir()
    (folder / "text.npz").write_text("not an archive")
    checkpoint.save(folder / "old.npz", {"ema": np.zeros(3)}, {"version": 0})
    checkpoint.save(folder / "hollow.npz", {"ema": np.zeros(3)}, {})
    return [
        (["train", "missing.npy"], "missing.npy"),
        (["train", "empty"], "empty"),
        (["train", "shape.npy"], "shape"),
        (["train", "nan.npy"], "NaN"),
        (["train", "far.npy"], "--range"),
        (["train", "objects.npy"], "objects.npy"),
        (["train", "text.npz"], "text.npz"),
        (["train", "--T", "0"], "T must be"),
        (["train", "--steps", "0"], "steps"),
        (["train", "--lr", "nan"], "lr"),
        (["train", "--groups", "7"], "groups"),
        (["train", "--heads", "5"], "heads"),
        (["train", "--mults", "1", "1", "1", "1", "1"], "halve"),
        (["train", "--attention", "9"], "levels"),
        (["train", "--base", "7"], "base"),
        (["train", "--hidden", "8"], "--hidden"),
        (["train", "moons", "--base", "8"], "--base"),
        (["train", "--zero-snr", "--target", "eps"], "--target"),
        (["train", "--holdout", "1"], "holdout"),
        (["train", "--range", "0", "1"], "range"),
        (["train", "--resume", "nowhere"], "no checkpoint"),
        (["train", "--seed", "-1"], "seed"),
        (["sample", "nowhere"], "no checkpoint"),
        (["sample", "old.npz"], "version 0"),
        (["sample", "hollow.npz"], "lacks"),
        (["sample", "text.npz"], "not a readable checkpoint"),
        (["eval", "empty"], "no checkpoint"),
        (["train", "--steps", "many"], "invalid int"),
        (["trian"], "no command trian: did you mean train?"),
        ([], "required"),
    ]


def test_bad_input_gets_one_line_and_exit_code_2(here, capsys):
    for argv, word in bad_inputs(here):
        code, out, err = call(capsys, *argv)
        last = err.strip().splitlines()[-1]
        assert code == 2 and word in last and "Traceback" not in err, (argv, code, err)
        if not err.startswith("usage:"):
            assert err.count("\n") == 1 and err.startswith("tinyddpm: "), (argv, err)
    assert not (here / "runs").exists(), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "options, word",
    [
        (["--n", "0"], "n must"),
        (["--steps", "0"], "steps"),
        (["--eta", "2"], "eta"),
        (["--seed", "-3"], "seed"),
    ],
)
def test_bad_sampler_settings(here, capsys, options, word):
    call(capsys, "train", "--steps", 1, "--out", "r", *SMALL)
    code, _, err = call(capsys, "sample", "r", *options)
    assert code == 2 and word in err


def test_a_failure_is_not_bad_input(here, capsys):
    """Divergence exits with 1 and names the step."""
    code, _, err = call(
        capsys, "train", "--steps", 50, "--lr", "1e30", "--clip-norm", 0, "--out", "r", *SMALL
    )
    assert code == 1 and "diverged at step" in err and err.count("\n") == 1


def test_help_groups_the_options_and_shows_defaults(capsys):
    code, out, _ = call(capsys, "train", "--help")
    assert code == 0 and "None" not in out
    assert all(
        f"\n{group}:" in out for group in ("run", "data", "training", "diffusion", "network")
    )
    assert f"how many steps (default: {Recipe().steps})" in " ".join(out.split())


@pytest.mark.filterwarnings("default")
def test_pictures_of_many_sizes_train_at_one(here, capsys):
    """Photographs as they are found: two sizes, a JPEG among them, a text beside them."""
    (here / "photos").mkdir()
    for i, size in enumerate([(12, 9), (9, 12), (20, 20), (8, 8)]):
        Image.new("RGB", size, (60 * i, 100, 0)).save(
            here / "photos" / f"{i}.{'jpg' * (i % 2) or 'png'}"
        )
    (here / "photos" / "notes.txt").touch()
    code, _, err = call(capsys, "train", "photos", "--steps", 1, "--out", "r", *SMALL)
    assert code == 2 and "holds pictures of 4 sizes: 12 x 9" in err and "--size N" in err
    options = ["--size", 8, "--gray", "--holdout", 0.5]
    code, _, err = call(capsys, "train", "photos", "--steps", 1, "--out", "r", *options, *SMALL)
    assert (code, err) == (0, "tinyddpm: photos: 1 file is not read: 1 .txt\n")
    assert checkpoint.load(here / "r")[1]["shape"] == [8, 8, 1]
    assert call(capsys, "train", "--resume", "r", "--steps", 2)[0] == 0
