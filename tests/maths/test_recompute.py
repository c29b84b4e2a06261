"""Blocks computed again in the backward pass: the same bits for less memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm import backend
from tinyddpm.nn import params
from tinyddpm.nn.ops import Ops, Recompute
from tinyddpm.runs import threads
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

NET = td.UNet(base=8, groups=4, blocks=1, mults=(1, 2), attention=(False, True), classes=3, out=2)
X = np.random.Generator(np.random.PCG64(3)).uniform(-1, 1, (24, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(24) % 3
RECIPE = Recipe(steps=20, batch=12, lr=1e-2, warmup=0, seed=5, dropout=0.3, vlb=0.001, shards=4)


def trainer(ops, **changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    state = TrainState.fresh(NET, recipe.seed).on(ops)
    return Trainer(NET, td.cosine(50), X, recipe, state, ops, LABELS)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("turns", [1, 2])
def test_the_bits_of_training_are_the_same(name, turns):
    """With labels, dropout, a learned variance and accumulation, on two threads."""
    if backend.reason(name):
        pytest.skip(backend.reason(name))
    ops = backend.get(name)
    kept, again = trainer(ops), trainer(ops, recompute=True, accumulate=turns)
    with threads.workers(2) as share:
        for _ in range(3):
            assert kept.step(share) == again.step(share)
    for vector in ("theta", "ema", "m", "v"):
        assert np.array_equal(getattr(kept.state, vector), getattr(again.state, vector)), vector
    assert kept.step()["grad_norm"] > 0


def test_the_bits_of_a_run_are_the_same(tmp_path):
    """The settings alone tell the checkpoints apart."""
    how = {"labels": LABELS, "net": NET, "batch": 4, "dropout": 0.2, "vlb": 0.001}
    for name in ("kept", "again"):
        td.train(X, 2, out=tmp_path / name, recompute=name == "again", **how)
    runs = [td.load(tmp_path / name) for name in ("kept", "again")]
    assert np.array_equal(runs[0].theta, runs[1].theta)
    assert [run.meta["recipe"]["recompute"] for run in runs] == [False, True]
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("kept", "again")]
    assert logs[0] == logs[1]


def test_it_takes_less_memory():
    """A block keeps about ten maps beside its input, which is all that it leaves here."""
    net = td.UNet(base=8, groups=4, blocks=3, mults=(1,), attention=(False,))
    p, x, peaks = params.views(net.spec(), params.init(net.spec())), X[:8], []
    for tape in ([], Recompute()):
        tracemalloc.start()
        net.forward(Ops(), p, x, np.ones(8, np.int64), tape)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.5 * peaks[0]


def test_points_have_no_blocks():
    with pytest.raises(td.InputError, match="recompute is of a U-Net's"):
        td.train(np.zeros((4, 2)), steps=1, recompute=True)
