"""One rank on one card: its gradients go through NCCL to itself, in the recorded step."""

import importlib.util
import time

import numpy as np

from tinyddpm import linear, noise
from tinyddpm.errors import InputError
from tinyddpm.runs.new import default_net
from tinyddpm.settings import Recipe
from tinyddpm.shards import ALONE
from tinyddpm.training import Trainer

from . import network, sizes
from .bench import WrongAnswer

STEPS, SHARDS = 6, 2  # compared; two warm up, one is recorded
CASE = sizes.Net(default_net((8, 8, 1)), (8, 8, 1), 64)


def one_rank(ops, wait, seconds=1.0, case=CASE):
    """Steps by `parallel.Ranks` of one rank against those of no ranks: the same bytes, and times.

    Args:
        ops: the backend `cuda` or `cupy`.
        wait: waits for the device.
        seconds: for each of the two.
        case: the network.

    Returns:
        {what: microseconds, or a text}; one text where MPI or NCCL is missing.

    Raises:
        WrongAnswer: their parameters differ, or a step with NCCL is not recorded on `cuda`.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return {"one rank": "left out: mpi4py is not installed"}
    from mpi4py import MPI

    from tinyddpm import parallel

    team = parallel.Ranks(MPI.COMM_SELF)
    team.use(ops)
    try:
        team.check(SHARDS)
    except InputError as error:
        return {"one rank": f"left out: {error}"}
    x = np.tanh(noise.normal((4 * case.batch, *case.shape), 1))
    found, theta = {}, []
    for name, each in {"a step, no ranks": ALONE, "a step, one rank": team}.items():
        recipe, state = Recipe(batch=case.batch, shards=SHARDS), network.fresh(case.net).on(ops)
        trainer = Trainer(case.net, linear(1000), x, recipe, state, ops)
        for _ in range(STEPS):
            trainer.step(team=each)
        theta.append(ops.to_host(trainer.state.theta).tobytes())
        found[name] = _time(lambda t=trainer, e=each: t.step(team=e), wait, seconds)
        refused = getattr(trainer._whole, "refused", None)
        if refused:
            raise WrongAnswer(f"{name} is not recorded: {refused}")
    if theta[0] != theta[1]:
        raise WrongAnswer("one rank's parameters are not the bytes of no ranks'")
    return {**found, "parameters": "the same bytes"}


def _time(step, wait, seconds):
    """Microseconds of one of many steps in a row."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(10):
            step()
        wait()
        count += 10
    return 1e6 * (time.perf_counter() - begin) / count
