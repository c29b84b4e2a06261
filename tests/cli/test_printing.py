"""Standard output and error that are full, closed, or lack letters: the work is done and kept."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import tinyddpm as td
from tinyddpm.cli import commands, terminal
from tinyddpm.datasets import sets
from tinyddpm.runs import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--steps", "2", "--hidden", "8", "--layers", "1", "--T", "5", "--out", "r"]
JUDGE = ["eval", "r", "--n", "20", "--steps", "2"]
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An empty folder to work in, with the run r."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    about = {"spec": "moons", "holdout": 0.5, "range": None, "restore": [-1, 1]}
    fit, _ = sets.split(sets.load("moons"), 0.5)
    td.train(fit.x, 1, out="r", net=td.MLP(hidden=8, layers=1), data=about)
    return tmp_path


def full_device():
    """A stream onto a device that takes nothing."""
    return open("/dev/full", "w")


def closed_pipe():
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def without_output(monkeypatch, stream, *argv):
    """The exit code of a command whose standard output is the stream, flushed as at the end."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        try:
            return commands.main(list(argv))
        finally:
            stream.close()


@full
def test_a_full_device_is_one_line_and_the_work_is_kept(run, monkeypatch, capsys):
    assert without_output(monkeypatch, full_device(), *JUDGE) == 1
    assert json.loads((run / "r" / "eval.json").read_text())["n"] == 20
    lost = "tinyddpm: cannot write to standard output: No space left on device\n"
    assert capsys.readouterr().err == lost
    assert without_output(monkeypatch, full_device(), "--version") == 1
    assert capsys.readouterr().err == lost


def test_a_reader_that_went_away_is_no_failure(run, monkeypatch, capsys):
    assert without_output(monkeypatch, closed_pipe(), *JUDGE) == 0
    assert json.loads((run / "r" / "eval.json").read_text())["n"] == 20
    sample = ["sample", "r", "--n", "4", "--steps", "2", "--array", "x.npy"]
    assert without_output(monkeypatch, closed_pipe(), *sample) == 0
    assert (run / "x.npy").exists(), "what comes after the first line is done too"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed(run, monkeypatch, capsys, closed):
    """Python has None in its place, and what is printed there must not go to the other one."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, closed, None)
        patch.setattr(terminal, "open", lambda *_: io.StringIO(), raising=False)
        assert commands.main(["train", "moons", *SMALL[:-1], "new"]) == 0
        assert commands.main(["sample", "nowhere"]) == 2
    done = capsys.readouterr()
    assert checkpoint.load(run / "new")[1]["step"] == 2
    if closed == "stderr":
        assert "new: 2 steps" in done.out and "nowhere" not in done.out and done.err == ""
    else:
        assert done.out == "" and done.err == "tinyddpm: no checkpoint at nowhere\n"


def test_letters_that_the_terminal_lacks_and_codes_that_it_would_act_on(run, capsys):
    """In a name of a file, printed on either stream."""
    name = "gr\u00fcn\x1b[2J.png"
    sample = ["sample", "r", "--n", "4", "--steps", "2", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "tinyddpm", *sample, name],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "gr\\xfcn\\x1b[2J.png"
    assert (run / name).exists()
    assert commands.main(["sample", "no\x1b]0;title\x07 run"]) == 2
    assert capsys.readouterr().err == "tinyddpm: no checkpoint at no\\x1b]0;title\\x07 run\n"


def test_plain_keeps_what_can_be_printed():
    assert terminal.plain("a b\tc\nd \udcff \u202e \u00e9 \u732b") == (
        "a b\\tc\\nd \\udcff \\u202e \u00e9 \u732b"
    )


def test_an_unwritable_name_is_noticed_before_sampling(run, monkeypatch, capsys):
    monkeypatch.setattr(commands, "draw_samples", lambda *_, **__: pytest.fail("it sampled first"))
    for option, path in (("--out", "r/checkpoint.npz/a.png"), ("--array", "no/a.npy")):
        assert commands.main(["sample", "r", option, path]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"tinyddpm: cannot write {path}: ") and err.count("\n") == 1


NUMPY = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
SCRIPT = "import sys\nfrom tinyddpm.cli import main\nsys.exit(main())\n"


@pytest.mark.parametrize("how", ["module", "script", "library"])
def test_an_interruption_while_modules_are_loaded(tmp_path, how):
    """A NumPy that is interrupted stands in for the moment; a program of the user's is its own."""
    (tmp_path / "numpy.py").write_text(NUMPY)
    (tmp_path / "tinyddpm").write_text(SCRIPT)
    argv = {"module": ["-m", "tinyddpm"], "script": [tmp_path / "tinyddpm"]}
    done = subprocess.run(
        [sys.executable, *argv.get(how, ["-c", "import tinyddpm"])],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        # where the suite itself runs in a shell's background, children would ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    if how == "library":
        assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (130, "tinyddpm: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["train", "--help"]])
def test_help_on_a_full_device_is_one_line(argv, buffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tinyddpm", *argv],
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "tinyddpm: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)
