"""A full disk: what was saved stays, no partial file does, one clear line, exit code 1."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("resource")

ROOT = pathlib.Path(__file__).parents[2]

# What each of the processes below starts with; none of them may limit the test's own process.
COMMON = """
import contextlib, io, json, os, pathlib, resource, sys
import numpy as np
from tinyddpm.cli import commands
from tinyddpm.runs import checkpoint, log
from tinyddpm.errors import InputError, TinyDDPMError
os.chdir(sys.argv[1])

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def contents(folder="."):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}

def refused(call, words):
    before = contents()
    try:
        call()
    except TinyDDPMError as error:
        assert not isinstance(error, InputError), error
        assert words in str(error) and "cannot write" in str(error), error
    else:
        raise AssertionError("the disk was not full")
    assert contents() == before

def save(step, count=4):
    checkpoint.save_run(".", {"theta": np.full(count, step, np.float32)}, {"step": step}, 2)
"""

SAVES = """
save(2), save(4)
size = os.path.getsize(checkpoint.NAME)
for most in range(size):
    limit(most)
    refused(lambda: save(6), "File too large")
limit(size)
save(6)
print(size, checkpoint.load(".")[1]["step"])
"""

APPENDS = """
opened = log.RunLog(".", 0)
opened.append({"step": 1, "loss": 0.5})
size = os.path.getsize(log.NAME)
for most in range(size, 2 * size):
    limit(most)
    refused(lambda: opened.append({"step": 2, "loss": 0.5}), "File too large")
limit(2 * size)
opened.append({"step": 2, "loss": 0.5})
refused(lambda: opened.append({"step": 3, "loss": 0.5}), "File too large")
limit(resource.RLIM_INFINITY)
opened.append({"step": 3, "loss": 0.5})
refused(lambda: (limit(size), log.RunLog(".", 3)), "File too large")
print(size, [record["step"] for record in log.read(".")])
"""

COMMANDS = """
def command(most, *argv):
    limit(most)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = commands.main(list(argv))
    limit(resource.RLIM_INFINITY)
    return code, err.getvalue()

def one_line(err, words):
    return err.startswith("tinyddpm: " + words) and err.count(chr(10)) == 1


commands.FRAMES = 2
small = ["--steps", "4", "--save-every", "2", "--log-every", "1", "--hidden", "8", "--layers", "1"]
small += ["--T", "5"]
assert command(resource.RLIM_INFINITY, "train", "moons", *small, "--out", "whole") == (0, "")
checkpoint_size = os.path.getsize("whole/checkpoint.npz")
assert command(resource.RLIM_INFINITY, "eval", "whole", "--n", "20", "--steps", "2") == (0, "")
before = contents("whole")
walk = ["whole", "--n", "20", "--steps", "2"]
trials = [("eval", *walk), ("sample", *walk), ("sample", *walk, "--out", "x.png")]
for trial in trials:
    for most in (0, 1, 99):
        code, err = command(most, *trial)
        assert code == 1 and one_line(err, "cannot write"), (trial, most, err)
        assert contents("whole") == before and os.listdir(".") == ["whole"], (trial, most)
many = ["sample", "whole", "--n", "90000", "--steps", "2", "--out", "x.png", "--array", "x.npy"]
code, err = command(600_000, *many)
assert code == 1 and one_line(err, "cannot write x.npy"), err
# the picture had room, 720 KB of numbers had not
assert sorted(os.listdir(".")) == ["whole", "x.png"]
for most in (0, 30, 200, checkpoint_size - 1):
    code, err = command(most, "train", "moons", *small, "--out", f"r{most}")
    assert code == 1 and one_line(err, "cannot write"), (most, err)
    assert err.endswith("no checkpoint had been saved yet" + chr(10)), err
    left = os.listdir(f"r{most}") if os.path.isdir(f"r{most}") else []
    assert set(left) <= {"log.jsonl"}, most
code, err = command(checkpoint_size - 1, "train", "--resume", "whole", "--steps", "6")
assert code == 1, code
assert err.endswith("whole/checkpoint.npz of step 4 is the last good one" + chr(10)), err
assert contents("whole")["checkpoint.npz"] == before["checkpoint.npz"]
assert {name for name in contents("whole")} == set(before)
print("done")
"""

# On a disk of 256 KB: saves of ever more numbers, until one no longer fits; then the log, until it
# does not either.
FILLS = """
count = 100
with contextlib.suppress(TinyDDPMError):
    while True:
        save(count, count)
        count *= 2
refused(lambda: save(count, count), "No space left")
older = checkpoint.load(".")[1]["step"]
opened = log.RunLog(".", 0)
with contextlib.suppress(TinyDDPMError):
    for step in range(1, 10**6):
        opened.append({"step": step, "loss": 0.5})
refused(lambda: opened.append({"step": step, "loss": 0.5}), "No space left")
assert [record["step"] for record in log.read(".")] == list(range(1, step))
print(older, count)
"""


def python(code, folder, before=()):
    """What a process that runs COMMON and a piece of code prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*before, sys.executable, "-c", COMMON + code, str(folder)],
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_save_that_the_disk_cuts_at_any_size_leaves_the_old_one(tmp_path):
    size, step = python(SAVES, tmp_path).split()
    assert int(size) > 500 and step == "6"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-4.npz", "checkpoint.npz"]


def test_a_line_of_the_log_that_the_disk_cuts_leaves_no_half(tmp_path):
    size, steps = python(APPENDS, tmp_path).split(maxsplit=1)
    assert int(size) == 25 and json.loads(steps) == [1, 2, 3]


def test_every_command_says_so_in_one_line_and_leaves_nothing_half_written(tmp_path):
    assert python(COMMANDS, tmp_path) == "done"


def test_a_full_disk(tmp_path):
    """A real one, of 256 KB, where this system lets us mount it in a name space of our own."""
    mount = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}" && exec "$@"',
        "sh",
    ]
    if (
        not shutil.which("unshare")
        or subprocess.run([*mount, "true"], capture_output=True).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    older, count = python(FILLS, tmp_path, mount).split()
    assert int(count) == 2 * int(older) > 1000
