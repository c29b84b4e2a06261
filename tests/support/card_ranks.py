"""MPI's ranks that train on cards: the strict stand-ins for CuPy and NCCL, in every process.

`python -m support.card_ranks FOLDER BACKEND` (in tests/), started three times over, trains with 1,
2 and 3 ranks, and alone.
"""

import pathlib
import sys

import pytest

from support import ranks, strict_cuda, strict_cupy, strict_nccl
from support.strict_cupy import Counted

DEVICES = 3
TRAINED = {"cupy": tuple(ranks.CASES), "cuda": ("points",)}


def stand_ins(backend, folder):
    """The device, until the process ends."""
    patch = pytest.MonkeyPatch()
    if backend == "cupy":
        strict_cupy.install(patch)
        return
    import tinyddpm.backend
    from support import sim_stand_ins

    sim_stand_ins.install(patch, folder)
    patch.setattr(tinyddpm.backend, "_simulating", lambda: False)
    patch.setattr(tinyddpm.backend, "NEEDS", {"cuda": ()})


def check_waits(team, backend):
    """A step neither waits nor copies; recorded, it is one launch, and NCCL's calls are in it."""
    from tinyddpm import linear
    from tinyddpm.backend import get
    from tinyddpm.settings import Recipe
    from tinyddpm.training import Trainer, TrainState

    ops, net = get(backend), ranks.CASES["points"]["net"]
    team.use(ops)
    team.check(3)
    state = TrainState.fresh(net, 0).on(ops)
    trainer = Trainer(net, linear(8), ranks.POINTS, Recipe(batch=6, shards=3), state, ops)
    for _ in range(3):
        trainer.step(team=team)
    launches, groups = strict_cuda.Graph.launches, len(strict_nccl.ended)
    with Counted() as seen:
        for _ in range(2):
            trainer.step(team=team)
    assert not any(seen.all.values()), seen.all
    if backend == "cuda":  # one launch a step, of what was recorded once
        assert strict_cuda.Graph.launches == launches + 2 and len(strict_nccl.ended) == groups
        (recording,) = trainer._whole.recordings.values()
        assert [node.name for node in recording.graph.nodes].count("nccl") == 3
    pairs = ["send", "recv"] * team.size
    assert strict_nccl.ended[-3:] == [pairs, ["broadcast"] * team.size, ["allGather"]]


def check_sampling(folder, team):
    """Every rank gets the samples that one draws, though their devices drew some of them each."""
    from tinyddpm.runs import sample
    from tinyddpm.runs.load import load

    settings, sample.CHUNK = {"n": 7, "seed": 3, "steps": 2}, 2
    alone = sample.sample(load(folder, "cupy"), **settings)
    shared = sample.sample(load(folder, "cupy", team=team), team=team, **settings)
    assert shared.tobytes() == alone.tobytes()
    assert strict_cuda.state.device == team.rank


def work(folder, backend):
    """What each of the processes does: see the top."""
    from tinyddpm import parallel

    stand_ins(backend, folder)
    with parallel.join() as everyone:
        world = everyone.comm
        for groups in ranks.ROUNDS[3]:
            comm = world.Split(groups[world.Get_rank()])
            strict_nccl.install(comm, DEVICES)
            team = parallel.Ranks(comm)
            for name in TRAINED[backend]:
                ranks.train(name, folder / f"{name}-{team.size}", backend, team)
                assert strict_cuda.state.device == comm.Get_rank()
        check_waits(team, backend)
        if backend == "cupy":
            check_sampling(folder / "points-3", team)
        ranks.train("points", folder / "sum", backend, parallel.Ranks(world, "sum"))
        if everyone.first:
            for name in TRAINED[backend]:
                ranks.train(name, folder / name, backend)


if __name__ == "__main__":
    work(pathlib.Path(sys.argv[1]), sys.argv[2])
