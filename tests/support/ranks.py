"""Several processes under MPI's starter, and the small runs that they share.

`python -m support.ranks FOLDER BACKEND` (in tests/), started three times over, trains every case
with 1, 2 and 3 ranks: a group of one and a group of two side by side, then all. Started six times
over it is 1, 2, 3, 4 and 6 ranks. `python -m support.ranks` alone runs the command lines that come
on its standard input as JSON, one after another, in each of the ranks.
"""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.unet import UNet
from tinyddpm.runs import run
from tinyddpm.shards import ALONE

TESTS = pathlib.Path(__file__).parents[1]
PATIENCE = 120  # seconds that a few processes may take
# For so many processes, the groups that they work in, round after round; None has a rest.
ROUNDS = {3: [(0, 1, 1), (0, 0, 0)], 6: [(0, 1, 1, 2, 2, 2), (0, 0, 0, 0, None, None), (0,) * 6]}
SIZES = {3: (1, 2, 3), 6: (1, 2, 3, 4, 6)}
POINTS = np.linspace(-0.9, 0.9, 60, dtype=np.float32).reshape(30, 2)
IMAGES = np.sin(np.arange(30 * 16, dtype=np.float32)).reshape(30, 4, 4, 1)
LABELS = np.arange(30) % 3
SETTINGS = {"batch": 24, "shards": 12, "seed": 3, "log_every": 1, "save_every": 2}
TINY_UNET = UNet(base=4, groups=2, blocks=1, mults=(1,), attention=(True,), classes=3, out=2)
CASES = {
    "points": {"images": POINTS, "net": MLP(hidden=4, layers=1)},
    "images": {
        "images": IMAGES,
        "labels": LABELS,
        "net": TINY_UNET,
        "dropout": 0.1,
        "label_dropout": 0.2,
        "vlb": 0.001,
        "accumulate": 2,
    },
}


def starter():
    """The path of mpiexec; skips the test where it, or mpi4py, is not there."""
    beside = pathlib.Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs MPI: pip install -e '.[mpi]'")
    return found


def environment():
    """This process's own, with one thread of BLAS for each rank, and more ranks than cores."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }


def start(size, *words, **options):
    """(exit code, standard output, standard error) of `size` ranks of python with these words."""
    command = [starter(), "-n", str(size), sys.executable, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=PATIENCE, **options
    )
    return done.returncode, done.stdout, done.stderr


def train(name, out, backend, team=ALONE, steps=3, **changes):
    """One of CASES, trained in a new folder."""
    settings = {**CASES[name], **SETTINGS, **changes}
    images = settings.pop("images")
    return run.train(images, steps, out=out, backend=backend, team=team, **settings)


def command_lines(size, lines, folder):
    """([exit code of each line], standard error) of command lines that `size` ranks run in turn.

    "{rank}" in one of them is the rank's own number. The exit codes end with that of all.
    """
    code, out, err = start(size, "-m", "support.ranks", cwd=folder, input=json.dumps(lines))
    return [*map(int, re.findall(r"^code (\d+)$", out, re.MULTILINE)), code], err


def run_lines():
    """What each rank does for `command_lines`."""
    from tinyddpm import parallel
    from tinyddpm.cli import commands

    world = parallel.join().comm
    rank = world.Get_rank()
    lines = json.loads(world.bcast(sys.stdin.read() if rank == 0 else None))
    parallel.guard, commands.FRAMES = lambda rank: None, 4
    for line in lines:
        words = [word.format(rank=rank) for word in line]
        parallel.__version__ = f"{words.pop(0)}{rank}" if words[0] == "VERSION" else "1"
        try:
            code = commands.main(words)
        except SystemExit as stop:
            code = stop.code
        print(f"code {code}", flush=True)


def processes(top):
    """{rank: process number} of the ranks that a starter, process `top`, has started."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
        rank = [each.partition(b"=")[2] for each in variables if each.startswith(b"PMI_RANK=")]
        if rank:
            found[int(folder.name)] = int(words[1]), int(rank[0])
    guards = {parent for parent, _ in found.values()}
    return {
        rank: number
        for number, (_, rank) in found.items()
        if number not in guards and _is_below(number, top)
    }


def _is_below(number, top):
    """Whether a process was started by `top`, or by one that was."""
    while number > 1 and number != top:
        try:
            stat = pathlib.Path(f"/proc/{number}/stat").read_text()
        except OSError:  # it has just ended
            return False
        number = int(stat.rpartition(")")[2].split()[1])
    return number == top


def content(folder):
    """{name: bytes} of a run folder."""
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def work(folder, backend):
    """What each of the processes does: see the top."""
    from tinyddpm import parallel

    parallel.PIECE = 100  # so that these small gradients go in many pieces
    with parallel.join() as everyone:
        world = everyone.comm
        for groups in ROUNDS[world.Get_size()]:
            group = groups[world.Get_rank()]
            comm = world.Split(9 if group is None else group)
            if group is not None:
                team = parallel.Ranks(comm)
                for name in CASES:
                    train(name, folder / f"{name}-{team.size}", backend, team)
        train("points", folder / "sum", backend, parallel.Ranks(world, "sum"))
        train_early(parallel.Ranks(world), folder / "early", backend)


def train_early(team, out, backend):
    """As between machines: the decoder's gradient is added while the encoder's is computed."""
    made, early = [], team.early
    team.ahead, team.early = True, lambda *given: made.append(early(*given)) or made[-1]
    train("images", out, backend, team, accumulate=1)
    assert [each.left for each in made] == [0] * 3 and not any(each.is_alive() for each in made)


if __name__ == "__main__":
    if sys.argv[1:]:
        work(pathlib.Path(sys.argv[1]), sys.argv[2])
    else:
        run_lines()
