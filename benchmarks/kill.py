"""A training process, killed again and again at random moments: `python -m benchmarks.kill [--times
200]`.

After every kill a whole checkpoint must be there, no earlier than the last one; every fifth time
the newest is damaged as well, and the one before has to serve. In the end the run goes on for a few
steps, and every file of its folder must have the bytes of a run that was never stopped.
tests/test_kill.py runs 30 kills.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

from tinyddpm.nn import mlp
from tinyddpm.runs import checkpoint, run
from tinyddpm.runs import log as runlog

ROOT = pathlib.Path(__file__).parent.parent
POINTS = np.linspace(-0.9, 0.9, 22, dtype=np.float32).reshape(11, 2)
SETTINGS = {
    "batch": 4,
    "net": mlp.MLP(hidden=4, layers=1),
    "decay": "constant",
    "warmup": 0,
    "save_every": 2,
    "log_every": 1,
}
LONG = 10**6  # steps that no child lives to see
READY = b"."


class Lost(AssertionError):
    """Something that was safe is no longer there."""


def work(folder, backend):
    """What a child does: load what the backend needs, say that it is ready, and train until it is
    killed.
    """
    run.train(POINTS, 1, backend=backend, **SETTINGS)
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    if checkpoint.holds_run(folder):
        run.resume(folder, POINTS, backend=backend)
    else:
        run.train(POINTS, LONG, out=folder, backend=backend, **SETTINGS)


def kill_once(folder, delay, backend):
    """Start a child on a run folder and kill it `delay` seconds after it was ready; returns its
    complaints.
    """
    argv = [sys.executable, "-m", "benchmarks.kill", "--child", str(folder), "--backend", backend]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        if child.stdout.read(1) != READY:
            raise Lost(f"the process did not start: {child.stderr.read().decode()}")
        time.sleep(delay)
        child.kill()
        said = child.stderr.read().decode()
    if "Traceback" in said:
        raise Lost(f"the process failed by itself: {said}")
    return said


def newest(folder, before, hurt):
    """The step of the newest checkpoint, not before step `before`, and whole unless it is still
    `hurt`; 0 for none.
    """
    if not checkpoint.holds_run(folder):
        if before:
            raise Lost(f"the checkpoint of step {before} is gone")
        return 0
    with warnings.catch_warnings():
        ours = hurt and (folder / checkpoint.NAME).read_bytes() == hurt
        warnings.simplefilter("ignore" if ours else "error", checkpoint.DamageWarning)
        step = checkpoint.load(folder)[1]["step"]
    if step < before:
        raise Lost(f"the run was at step {before} and is now at step {step}")
    return step


def damage(folder, r):
    """Change one byte of the newest checkpoint's arrays; returns (content, step of the one that
    must serve).
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


def campaign(folder, times, seed=0, backend="numpy", longest=0.12):
    """Kill a run in `folder` so many times, by seeded delays; returns {"steps", "half", "damaged"}.
    Raises Lost.
    """
    r, step, hurt, half, damaged = random.Random(seed), 0, None, 0, 0
    parts, whole = folder / "parts", folder / "whole"
    for kill in range(times):
        kill_once(parts, r.uniform(0, longest), backend)
        half += parts.exists() and any(
            checkpoint.TEMPORARY.fullmatch(path.name) for path in parts.iterdir()
        )
        step = newest(parts, step, hurt)
        if kill % 5 == 4 and len(list(parts.glob("checkpoint*"))) > 1:
            hurt, step = damage(parts, r)
            damaged += 1
    run.train(POINTS, step + 5, out=whole, backend=backend, **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checkpoint.DamageWarning)
        if checkpoint.holds_run(parts):
            run.resume(parts, POINTS, step + 5, backend=backend)
        else:
            run.train(POINTS, step + 5, out=parts, backend=backend, **SETTINGS)
    wanted, found = (
        {path.name: path.read_bytes() for path in each.iterdir()} for each in (whole, parts)
    )
    if wanted != found:
        different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise Lost(
            f"after {times} kills these differ from a run never stopped: {', '.join(different)}"
        )
    if [record["step"] for record in runlog.read(parts)] != list(range(1, step + 6)):
        raise Lost("the log does not have each step once")
    return {"steps": step + 5, "half": half, "damaged": damaged}


def main():
    """Run the campaign, or be the process that is killed in it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--times", type=int, default=200, help="how often to kill (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--backend", default="numpy", help="who computes (default: numpy)")
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(args.child, args.backend)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(pathlib.Path(folder), args.times, args.seed, args.backend)
    print(
        f"{args.times} kills in {found['steps']} steps: no checkpoint lost, {found['half']} left a temporary file, "
        f"{found['damaged']} newest ones damaged besides; the same bytes as a run never stopped"
    )


if __name__ == "__main__":
    main()
