"""A training process that is killed again and again at random moments, and the checks on its run.

After every kill a whole checkpoint must be there, no earlier than the last one. In every fifth
round the newest checkpoint is damaged as well, and the one before has to serve. In the end the run
goes on for a few steps, and every file of its folder must have the bytes of a run that was never
stopped.

`python -m support.kills FOLDER` (in tests/) is the process that is killed. With several ranks it is
one of three, at random, and the others must end with it.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np

from tinyddpm.nn import mlp
from tinyddpm.runs import checkpoint, files, run
from tinyddpm.runs import log as runlog
from tinyddpm.shards import ALONE

TESTS = pathlib.Path(__file__).parents[1]
POINTS = np.linspace(-0.9, 0.9, 22, dtype=np.float32).reshape(11, 2)
SETTINGS = {
    "batch": 4,
    "shards": 3,
    "net": mlp.MLP(hidden=4, layers=1),
    "decay": "constant",
    "warmup": 0,
    "save_every": 2,
    "log_every": 1,
}
LONG = 10**6  # steps that no child lives to see
LONGEST = 0.12  # seconds from "ready" to the kill, at most
LONGEST_OF_RANKS = 1.2  # their steps take longer, where they are more than the cores
EVERY = 5  # in which rounds the newest checkpoint is damaged too
PATIENCE = 60  # seconds in which a child must have saved what a round of damage needs
READY = b"."


class Lost(AssertionError):
    """Something that was safe is no longer there."""


def command(folder, backend="numpy", several=False):
    """The arguments of subprocess.Popen that start a child on a run folder, or three ranks."""
    argv = [sys.executable, "-m", "support.kills", str(folder), "--backend", backend]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    if several:
        from . import ranks  # here, for it takes the children's time

        argv, environment = [ranks.starter(), "-n", "3", *argv, "--ranks"], ranks.environment()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {"args": argv, "cwd": TESTS, "env": environment, **pipes}


def work(folder, backend, team=ALONE):
    """What a child does: load the backend, report that it is ready, train until it is killed."""
    run.train(POINTS, 1, backend=backend, team=team, **SETTINGS)
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    if team.once(lambda: checkpoint.holds_run(folder)):
        run.resume(folder, POINTS, backend=backend, team=team)
    else:
        run.train(POINTS, LONG, out=folder, backend=backend, team=team, **SETTINGS)


def kill_once(folder, delay, backend, enough=lambda: True, victim=None):
    """Start a child on a run folder; kill it `delay` seconds after it was ready and enough() holds.

    victim: which of three ranks is the one to be killed, or None for a child alone.

    Raises Lost where the child fails by itself, or enough() does not hold in PATIENCE seconds.
    """
    with subprocess.Popen(**command(folder, backend, victim is not None)) as child:
        try:
            if child.stdout.read(1) != READY:
                raise Lost(f"the process did not start: {child.stderr.read().decode()}")
            time.sleep(delay)
            end = time.monotonic() + PATIENCE
            while not enough():
                if time.monotonic() > end:
                    raise Lost(f"the process saved too little in {PATIENCE} seconds")
                time.sleep(0.001)
            if victim is not None:
                _kill_rank(child, victim)
        finally:
            child.kill()
        complaint = child.stderr.read().decode()
    if "Traceback" in complaint:
        raise Lost(f"the process failed by itself: {complaint}")


def _kill_rank(starter, victim):
    """Kill one rank; Lost unless all of them, and their starter, end because of it."""
    from . import ranks

    there = ranks.processes(starter.pid)
    os.kill(there[victim], signal.SIGKILL)
    try:
        starter.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise Lost(f"the other ranks outlive rank {victim}") from None
    left = [number for number in there.values() if pathlib.Path(f"/proc/{number}").exists()]
    if left or not starter.returncode:
        raise Lost(f"rank {victim} was killed: exit code {starter.returncode}, {left} go on")


def can_be_damaged(folder, hurt):
    """Whether the newest checkpoint is whole, and an older one is there to take its place.

    hurt: the content of the newest checkpoint as the last round of damage left it, or None. Only a
    later save replaces it, so other content is whole.
    """
    try:
        older = any(map(checkpoint.OLDER.fullmatch, names(folder)))
        return older and (folder / checkpoint.NAME).read_bytes() != hurt
    except FileNotFoundError:  # not yet there
        return False


def names(folder):
    """The names of a folder's files."""
    return [path.name for path in folder.iterdir()]


def newest_step(folder, before, hurt):
    """The step of the newest whole checkpoint, 0 for none.

    Raises Lost where it is before step `before`. A warning of damage is an error, unless the newest
    file still has the content `hurt`.
    """
    if not checkpoint.holds_run(folder):
        if before:
            raise Lost(f"the checkpoint of step {before} is gone")
        return 0
    path = folder / checkpoint.NAME
    with warnings.catch_warnings():
        ours = hurt and path.exists() and path.read_bytes() == hurt
        warnings.simplefilter("ignore" if ours else "error", checkpoint.DamageWarning)
        step = checkpoint.load(folder)[1]["step"]
    if step < before:
        raise Lost(f"the run was at step {before} and is now at step {step}")
    return step


def damage(folder, r):
    """Change one bit of the newest checkpoint's arrays.

    Returns (the file's content now, the step of the checkpoint that must serve).
    """
    path = folder / checkpoint.NAME
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200 + r.randrange(50)] ^= 1 << r.randrange(8)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        step = checkpoint.load(folder)[1]["step"]
    if [warning.category for warning in told] != [checkpoint.DamageWarning]:
        raise Lost("a damaged checkpoint went unnoticed")
    return content, step


def campaign(folder, kills, seed=0, backend="numpy", several=False):
    """Kill a run in `folder` so many times, by seeded delays, and compare its end. Raises Lost.

    several: whether it is three ranks, one of which is killed.

    Returns {"steps": of the run, "half": kills that left a temporary file, "damaged": rounds}.
    """
    r, step, hurt, half, damaged = random.Random(seed), 0, None, 0, 0
    parts = folder / "parts"
    for kill in range(1, kills + 1):
        to_damage, old = kill % EVERY == 0, hurt
        enough = (lambda old=old: can_be_damaged(parts, old)) if to_damage else (lambda: True)
        victim = r.randrange(3) if several else None
        longest = LONGEST_OF_RANKS if several else LONGEST
        kill_once(parts, r.uniform(0, longest), backend, enough, victim)
        half += parts.exists() and any(map(files.TEMPORARY.fullmatch, names(parts)))
        step = newest_step(parts, step, hurt)
        if to_damage:
            hurt, step = damage(parts, r)
            damaged += 1
    compare_with_whole(folder, step + 5, backend)
    return {"steps": step + 5, "half": half, "damaged": damaged}


def compare_with_whole(folder, steps, backend):
    """Let the killed run end at `steps`; Lost unless its files are those of a run never stopped."""
    parts, whole = folder / "parts", folder / "whole"
    run.train(POINTS, steps, out=whole, backend=backend, **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checkpoint.DamageWarning)
        if checkpoint.holds_run(parts):
            run.resume(parts, POINTS, steps, backend=backend)
        else:
            run.train(POINTS, steps, out=parts, backend=backend, **SETTINGS)
    wanted, found = (
        {path.name: path.read_bytes() for path in each.iterdir()} for each in (whole, parts)
    )
    if wanted != found:
        different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise Lost(f"these differ from a run never stopped: {', '.join(different)}")
    if [record["step"] for record in runlog.read(parts)] != list(range(1, steps + 1)):
        raise Lost("the log does not have each step once")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--ranks", action="store_true")
    args = parser.parse_args()
    if args.ranks:
        from tinyddpm import parallel

        work(args.folder, args.backend, parallel.join())
    else:
        work(args.folder, args.backend)
