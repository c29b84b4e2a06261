"""Checkpoints from foreign hands, their digests right, put before the commands.

Case i is a pure function of i: a run's checkpoint of which a setting or an array was changed before
it was saved, and the command that meets it. The rule for every case: the command does its work, or
ends in one line. `python -m support.command_cases --first I --n N` (in tests/) shows cases again.
"""

import argparse
import contextlib
import functools
import io
import os
import pathlib
import random
import signal
import tempfile
import warnings

import numpy as np

from support import reader_cases
from support.reader_cases import Broken
from tinyddpm.cli import commands
from tinyddpm.datasets import sets
from tinyddpm.runs import checkpoint, memory

SECONDS = 20  # after which a case is taken to hang
DRAWN = 16  # of so many cases of training one draws its figures, which take longer than all else
SMALL = ["--base", "4", "--groups", "2", "--blocks", "1", "--mults", "1", "2", "--batch", "4"]
TRAIN = ["--steps", "2", "--T", "4", "--warmup", "1", "--holdout", "0.5", "--log-every", "1"]
COMMANDS = (
    ["sample", "r", "--n", "3", "--steps", "2", "--array", "x.npy"],
    ["sample", "r", "--n", "2", "--sampler", "ancestral", "--class", "1"],
    ["eval", "r", "--n", "6", "--steps", "2"],
    ["train", "--resume", "r", "--steps", "4"],
)


def write_data(folder):
    """The data of the runs, images and points with labels, in a folder."""
    pixels = np.arange(16 * 16, dtype=np.uint8).reshape(16, 4, 4)
    np.savez(folder / "images.npz", x=pixels, y=np.arange(16) % 2)
    np.save(folder / "points.npy", sets.load("moons").x[:16])


def run(argv, drawn=False):
    """(exit code, standard error) of a command in this process; its figures only where asked."""
    out, err = io.StringIO(), io.StringIO()
    before = commands._draw_run, commands.FRAMES, memory.free
    commands.FRAMES, memory.free = 2, lambda: 1e9  # bytes, on whatever machine
    if not drawn:
        commands._draw_run = lambda *_: None
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            code = commands.main(argv)
    except SystemExit as stop:  # argparse's own
        code = stop.code
    finally:
        commands._draw_run, commands.FRAMES, memory.free = before
    return code, err.getvalue()


@functools.cache
def checkpoints():
    """The checkpoints of three small runs: images, images with classes, points."""
    kinds = (
        ["images.npz", *SMALL],
        ["images.npz", "--classes", "--vlb", "0.001", *SMALL],
        ["points.npy", "--hidden", "4", "--layers", "1", "--batch", "4"],
    )
    made = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_data(pathlib.Path(folder))
        for kind in kinds:
            code, err = run(["train", *kind, *TRAIN, "--out", f"r{len(made)}"])
            assert code == 0, err
            made.append(pathlib.Path(f"r{len(made)}", checkpoint.NAME).read_bytes())
    return made


def case(i):
    """(checkpoint, command) of case i; the data lies in the folder that the command runs in."""
    r = random.Random(f"commands {i}")
    a, other = r.choice(checkpoints()), r.choice(checkpoints())
    content = reader_cases.resealed(r, a, other)
    return content, r.choice(COMMANDS)


def attempt(i, folder):
    """The exit code of case i in a folder; raises Broken where the rule is."""
    content, argv = case(i)
    with tempfile.TemporaryDirectory(dir=folder) as here, contextlib.chdir(here):
        write_data(pathlib.Path(here))
        pathlib.Path("r").mkdir()
        pathlib.Path("r", checkpoint.NAME).write_bytes(moved(content, here))
        return judged(argv, drawn=i % DRAWN == 0)


def moved(content, here):
    """A checkpoint with its data's path where it is now, if it still has one; its digest right."""
    path = pathlib.Path(here, "moved.npz")
    path.write_bytes(content)
    with contextlib.suppress(Exception):  # what is no checkpoint stays as it is
        arrays, meta = checkpoint.load(path)
        spec = meta["data"]["spec"]
        meta["data"]["spec"] = os.path.join(here, os.path.basename(spec)) if spec else spec
        checkpoint.save(path, arrays, meta)
    content = path.read_bytes()
    path.unlink()
    return content


def judged(argv, drawn=False):
    """The exit code of a command; raises Broken for a traceback, a hang or more than one line."""

    def hang(*_):
        raise Broken(f"{' '.join(argv)}: took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        code, err = run(argv, drawn)
    except Broken:
        raise
    except BaseException as error:  # whatever else comes out is what this looks for
        raise Broken(f"{' '.join(argv)}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    right = code in (1, 2) and err.count("\n") == 1 and err.startswith("tinyddpm: ")
    if code != 0 and not right:
        raise Broken(f"{' '.join(argv)}: exit code {code}: {err}")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--n", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for number in range(args.first, args.first + args.n):
            try:
                print(number, attempt(number, place), flush=True)
            except Broken as broken:
                print(number, f"BROKEN {str(broken)[:300]!r}", flush=True)
