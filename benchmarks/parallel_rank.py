"""One rank of `python -m benchmarks parallel`: ours under MPI's starter, or PyTorch's.

`python -m benchmarks.parallel_rank ours|torch CASE SECONDS REDUCE BACKEND`; rank 0 writes a line of
JSON. Each process is pinned to one core.
"""

import json
import os
import statistics
import sys
import time
import zlib

import numpy as np

from tinyddpm import backend, linear, noise
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer

from . import bench, loopback, network, parallel, scaling

STEPS = 2  # whose parameters are compared, and that warm up


def pin(rank):
    """Keep this process on one of its cores."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})


def timed(step, seconds, ends):
    """What step() returns, again and again for so many seconds, and thrice at least.

    ends: takes whether this rank would end, and returns what all of them do.
    """
    found, end = [], time.perf_counter() + seconds
    while not ends(time.perf_counter() > end and len(found) >= 3):
        found.append(step())
    return found


def ours(case, seconds, reduce, name):
    """A Trainer's steps: their time, and that of waiting for the others and of the reduction."""
    from tinyddpm import parallel as ranks

    team = ranks.join("tree" if reduce == "early" else reduce)
    team.ahead = reduce == "early"
    pin(team.rank)
    ops, spent = backend.get(name), {"wait": 0.0, "reduction": 0.0}
    total = team.total

    def watched(grads, losses):
        begin = time.perf_counter()
        if not team.part:  # a thread that moves gradients would share its core with this waiting
            team.comm.Barrier()
        middle = time.perf_counter()
        found = total(grads, losses)
        spent.update(wait=middle - begin, reduction=time.perf_counter() - middle)
        return found

    team.total = watched
    x = np.tanh(noise.normal((4 * case.batch, *case.shape), 1))
    recipe = Recipe(batch=case.batch, shards=scaling.SHARDS)
    trainer = Trainer(case.net, linear(1000), x, recipe, network.fresh(case.net), ops)

    def step():
        begin = time.perf_counter()
        trainer.step(map, team)
        return {"step": time.perf_counter() - begin, **spent}

    for _ in range(STEPS):
        step()
    theta = trainer.state.theta
    answer = {"crc": zlib.crc32(theta), "norm": float(np.linalg.norm(theta))}
    rows = timed(step, seconds, lambda end: team.comm.bcast(end))
    found = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return team.rank, {**found, "readings": len(rows), "parameters": theta.size, **answer}


def sizes(seconds, reduce):
    """{bytes: seconds} of the reductions of gradients of several sizes.

    Raises WrongAnswer where they should pass the loopback, and do not.
    """
    from tinyddpm import parallel as ranks

    team, found, moved = ranks.join(reduce), {}, 0
    pin(team.rank)
    for length in parallel.LENGTHS:
        part = np.ones(length, np.float32)

        def reduction(part=part):
            part[:] = 1
            team.comm.Barrier()
            begin = time.perf_counter()
            team.total({team.rank: part}, [0.0])
            return time.perf_counter() - begin

        reduction()
        rows = timed(reduction, seconds / 8, lambda end: team.comm.bcast(end))
        found[4 * length] = statistics.median(rows)
        moved += len(rows) * scaling.sent(scaling.SHARDS, 2, 4 * length)
    if loopback.TCP.items() <= os.environ.items() and loopback.passed() < moved:
        raise bench.WrongAnswer("the gradients did not pass the loopback")
    return team.rank, found


def torchs(case, seconds):
    """PyTorch's step, with DistributedDataParallel over gloo where there are two processes."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from . import torch_steps

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    pin(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    theta = network.fresh(case.net).theta
    twin = torch_steps.twin_of(case, theta, torch.contiguous_format)
    torch_steps.check("torch", twin, case._replace(batch=2), theta)
    twin = DistributedDataParallel(twin) if size > 1 else twin
    part = case._replace(batch=case.batch // size)
    one = torch_steps.training(twin, part, torch.contiguous_format)

    def step():
        begin = time.perf_counter()
        one()
        return time.perf_counter() - begin

    def ends(end):
        agreed = [end]
        dist.broadcast_object_list(agreed, 0)
        return agreed[0]

    for _ in range(STEPS):
        step()
    rows = timed(step, seconds, ends)
    say(rank, {"step": statistics.median(rows), "readings": len(rows)})
    os._exit(0)  # the end of a process group has been seen to wait for itself, for ever


def main(kind, title, seconds, reduce, name):
    """Measure one thing; rank 0 writes it."""
    if kind == "sizes":
        say(*sizes(float(seconds), reduce))
    elif kind == "torch":
        torchs((parallel.CASES | parallel.SMALL)[title], float(seconds))
    else:
        say(*ours((parallel.CASES | parallel.SMALL)[title], float(seconds), reduce, name))


def say(rank, found):
    """Rank 0's line."""
    if rank == 0:
        print(json.dumps(found), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
