"""Several processes under MPI's starter, and the small runs that they share.

`python -m support.ranks FOLDER BACKEND` (in tests/), started three times over, trains every case
with 1, 2 and 3 ranks: a group of one and a group of two side by side, then all. Started six times
over it is 1, 2, 3, 4 and 6 ranks.
"""

import importlib.util
import os
import pathlib
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


def content(folder):
    """{name: bytes} of a run folder."""
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def work(folder, backend):
    """What each of the processes does: see the top."""
    from tinyddpm import parallel

    world = parallel.join().comm
    for groups in ROUNDS[world.Get_size()]:
        group = groups[world.Get_rank()]
        comm = world.Split(9 if group is None else group)
        if group is not None:
            team = parallel.Ranks(comm)
            for name in CASES:
                train(name, folder / f"{name}-{team.size}", backend, team)


if __name__ == "__main__":
    work(pathlib.Path(sys.argv[1]), sys.argv[2])
