"""Runs that are killed, interrupted, started twice or diverge: nothing is lost, one clear line."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import kills

import tinyddpm as td
from tinyddpm.cli import commands, terminal
from tinyddpm.datasets import sets
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.nn.ops import Ops
from tinyddpm.runs import checkpoint, files, lock, log, run

ROOT = pathlib.Path(__file__).parents[2]
NET = td.UNet(base=8, mults=(1, 2), blocks=1, groups=4)
SMALL = {
    "steps": 9,
    "batch": 6,
    "warmup": 2,
    "log_every": 2,
    "save_every": 4,
    "dropout": 0.1,
    "net": NET,
}
MOONS = ["--steps", "2", "--hidden", "8", "--layers", "1", "--out", "r"]

# A process that trains with SMALL and kills itself within a step.
DIES = """
import os, signal, sys
from tests.runs.test_durable import SMALL, run, sets
folder, backend, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
run.train(sets.load("digits").x, out=folder, backend=backend, **SMALL,
          progress=lambda record: record["step"] == last and os.kill(os.getpid(), signal.SIGKILL))
"""

# The command line with a sampler that prints when it is at work and works on for a minute; or
# whose threads hang.
ENDLESS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from tinyddpm.cli import commands
def sample(model, n, *args, real=commands.draw_samples, **named):
    if sys.argv[1] == "hang":
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(time.sleep, 60)
            print("at work", flush=True)
            future.result()
    print("at work", flush=True)
    end = time.monotonic() + 60          # a test that was itself killed leaves nothing running
    while time.monotonic() < end:
        real(model, n, 0, sampler="ddim", steps=5)
commands.draw_samples = sample
sys.exit(commands.main(sys.argv[2:]))
"""


def python(code, *argv, **options):
    """A process that runs a piece of code."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@contextlib.contextmanager
def killing(process):
    """Kill a process at the end of the block, however it ends."""
    try:
        yield
    finally:
        process.kill()


def contents(folder):
    """The bytes of every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Exact resume.


@pytest.mark.parametrize("backend, last", [("numpy", 3), ("numpy", 5), ("numpy", 8), ("numba", 7)])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, backend, last):
    """SIGKILL before the first checkpoint, after it and on it; weights, EMA, moments, log and
    samples, bit for bit.
    """
    if backend == "numba":
        pytest.importorskip("numba")
    digits, whole, parts = sets.load("digits").x, tmp_path / "whole", tmp_path / "parts"
    trained = td.train(digits, out=whole, backend=backend, **SMALL)
    process = python(DIES, parts, backend, last)
    assert process.communicate(timeout=300) == ("", "") and process.returncode == -signal.SIGKILL
    assert checkpoint.holds_run(parts) == (last > 4) and (parts / lock.NAME).exists()
    if last > 4:
        resumed = td.resume(parts, digits, backend=backend)
    else:
        resumed = td.train(digits, out=parts, backend=backend, **SMALL)
    assert contents(whole) == contents(parts)
    assert np.array_equal(*(td.sample(each, 3, steps=4) for each in (trained, resumed)))


def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_bytes(tmp_path):
    digits, whole, parts = sets.load("digits").x, tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        td.train(digits, out=folder, **SMALL)
    content = bytearray((parts / checkpoint.NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (parts / checkpoint.NAME).write_bytes(content)
    with pytest.warns(
        checkpoint.DamageWarning, match="checkpoint-8.npz, of step 8, is used instead"
    ):
        td.resume(parts, digits)
    assert contents(whole) == contents(parts)


def test_the_command_line_tells_of_damage_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    assert commands.main(["train", "moons", *MOONS, "--save-every", "1"]) == 0
    (tmp_path / "r" / checkpoint.NAME).write_bytes(b"damaged")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        # as outside of pytest
        patch.setattr("warnings.filters", [("default", None, Warning, None, 0)])
        assert commands.main(["train", "--resume", "r"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(
        "tinyddpm: r/checkpoint.npz is not a readable checkpoint"
    )
    assert "checkpoint-1.npz, of step 1, is used instead" in err


def test_what_is_given_beside_resume_must_be_the_runs_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    assert commands.main(["train", "moons", *MOONS]) == 0
    assert commands.main(["train", "--resume", "r", "--hidden", "8"]) == 0
    assert commands.main(["train", "--resume", "r", "--hidden", "16", "--ema", "0.5"]) == 2
    assert "ema: 0.995 saved, 0.5 given; hidden: 8 saved, 16 given" in capsys.readouterr().err


# One process at a time.


def test_a_second_process_is_refused_until_the_first_one_is_dead(tmp_path):
    with subprocess.Popen(**kills.command(tmp_path / "r")) as child, killing(child):
        while not (tmp_path / "r" / checkpoint.NAME).exists():
            assert child.poll() is None
        for attempt in (
            lambda: td.resume(tmp_path / "r", kills.POINTS, 1),
            lambda: td.train(kills.POINTS, 3, out=tmp_path / "r", **kills.SETTINGS),
        ):
            with pytest.raises(InputError, match="is in use: another process trains there"):
                attempt()
        assert child.poll() is None
    step = checkpoint.load(tmp_path / "r")[1]["step"]
    assert td.resume(tmp_path / "r", kills.POINTS, step + 1).meta["step"] == step + 1
    assert not (tmp_path / "r" / lock.NAME).exists()


def test_the_command_line_refuses_a_locked_run_with_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    assert commands.main(["train", "moons", *MOONS]) == 0
    before = contents(tmp_path / "r")
    capsys.readouterr()
    with lock.hold("r"):
        assert commands.main(["train", "--resume", "r"]) == 2
        assert capsys.readouterr().err == "tinyddpm: r is in use: another process trains there\n"
        # which only reads
        assert commands.main(["sample", "r", "--n", "2", "--steps", "2"]) == 0
    assert (
        before.items() <= contents(tmp_path / "r").items()
        and commands.main(["train", "--resume", "r"]) == 0
    )


def test_the_lock_is_given_back_after_a_failure(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="the lock's file stays on this system")
def test_a_lock_whose_file_its_holder_just_deleted_is_none(tmp_path, monkeypatch):
    """Between our open and our lock the first holder leaves and a third process comes: it has the
    lock, not we.
    """
    real, stack = files.fcntl.flock, contextlib.ExitStack()

    def late(file, how):
        monkeypatch.setattr(files.fcntl, "flock", real)
        (tmp_path / lock.NAME).unlink()
        stack.enter_context(lock.hold(tmp_path))
        real(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with stack, pytest.raises(InputError, match="in use"), lock.hold(tmp_path):
        pass


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "how, argv",
    [("work", ["sample", "r"]), ("hang", ["eval", "r"]), ("work", ["train", "--resume", "r"])],
)
def test_an_interrupted_command_ends_with_one_line(tmp_path, monkeypatch, number, how, argv):
    """While it samples, be it that its threads cannot be stopped; train while it draws what is
    trained and saved.
    """
    monkeypatch.chdir(tmp_path)
    td.train(
        sets.load("moons").x,
        1,
        out="r",
        net=td.MLP(hidden=8, layers=1),
        data={"spec": "moons", "holdout": 0, "range": None, "restore": [-1, 1]},
    )
    if argv[0] == "eval":
        monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
        assert (
            commands.main(["train", "moons", "--steps", "1", "--hidden", "8", "--out", "held"]) == 0
        )
        argv = ["eval", "held", "--quiet"]
    with python(ENDLESS, how, *argv) as process:
        assert "at work\n" in iter(process.stdout.readline, "")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)  # half of what its threads would take
    assert (process.returncode, out, err) == (128 + number, "", "tinyddpm: interrupted\n")
    assert checkpoint.load("r")[1]["step"] == 1 and not [
        name for name in os.listdir("r") if name.startswith(".")
    ]


def test_the_first_signal_waits_for_the_step_and_the_second_does_not(monkeypatch):
    monkeypatch.setattr(terminal, "GRACE", 1000)
    before = signal.getsignal(signal.SIGTERM)
    stopped = terminal.Stopped()
    with pytest.raises(KeyboardInterrupt), stopped.waiting():
        signal.raise_signal(signal.SIGTERM)
        assert stopped() and stopped.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was ignored")
    assert stopped.signal == signal.SIGTERM
    stopped.close()
    assert signal.getsignal(signal.SIGTERM) is before
    stopped = terminal.Stopped()
    with stopped.waiting():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    stopped.close()


# Numbers.


class Lazy(Ops):
    """The reference as a backend whose numbers are not looked at in each step."""

    lazy = True

    def adamw_ema(self, *args):
        """A device does not warn of what overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            super().adamw_ema(*args)


@pytest.mark.parametrize("ops, save_every", [(Ops(), 1), (Lazy(), 1), (Ops(), 10), (Lazy(), 10)])
def test_divergence_names_the_step_the_numbers_and_the_last_good_checkpoint(
    tmp_path, monkeypatch, ops, save_every
):
    monkeypatch.setattr(run, "get", lambda name, precision="fp32": ops)
    bad = {
        **SMALL,
        "steps": 60,
        "lr": 1e30,
        "clip_norm": 0,
        "log_every": 60,
        "save_every": save_every,
    }
    with pytest.raises(TinyDDPMError) as caught:
        td.train(sets.load("digits").x, out=tmp_path / "r", **bad)
    assert not isinstance(caught.value, InputError)
    if save_every == 1:
        arrays, meta = checkpoint.load(tmp_path / "r")
        assert all(np.isfinite(array).all() for array in arrays.values())
        assert f"diverged at step {meta['step'] + 1}: loss " in str(caught.value)
        assert str(caught.value).endswith(
            f"checkpoint.npz of step {meta['step']} is the last good one"
        )
        assert [record["step"] for record in log.read(tmp_path / "r")] == [1]
    else:
        assert str(caught.value).endswith("; no checkpoint had been saved yet")
    assert "gradient norm" in str(caught.value) and not (tmp_path / "r" / lock.NAME).exists()
