"""A network's train step and sampling step on every backend and in PyTorch: one network, the same
weights.

A train step is all of it: noise, forward, backward, clipping, AdamW, EMA. A sampling step is the
network's output and the reverse update.
"""

from typing import NamedTuple

import numpy as np

from tinyddpm import MLP, UNet, linear, model, noise, samplers
from tinyddpm.nn import params
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

from . import clock
from .bench import compare

T = 500
TERMS = 30 * 9 * 64  # some thirty layers of sums over nine pixels of 64 channels


class Net(NamedTuple):
    """A network, one sample's shape, and a batch."""

    net: object
    shape: tuple
    batch: int


CASES = {
    "a: 8x8x1, two levels, batch 128": Net(
        UNet(base=32, mults=(1, 2), attention=(False, False)), (8, 8, 1), 128
    ),
    "b: 28x28x1, three levels, batch 64": Net(
        UNet(base=32, mults=(1, 2, 2), attention=(False, False, False)), (28, 28, 1), 64
    ),
    "c: points, MLP of width 128, batch 512": Net(MLP(hidden=128), (2,), 512),
}


def fresh(net):
    """A state before its first step, moved off Ho20's zero branches, whose output would prove
    nothing.
    """
    theta = params.init(net.spec())
    theta += 0.02 * noise.normal((1, len(theta)), 3, noise.INIT)[0]
    return TrainState(0, theta, theta.copy(), np.zeros_like(theta), np.zeros_like(theta))


def ours(case, bench):
    """(train step, sampling step, what they must agree on): callables without arguments and a list
    of arrays.
    """
    net, s, ops = case.net, linear(1000), bench.ops
    x = np.tanh(noise.normal((4 * case.batch, *case.shape), 1))
    trainer = Trainer(
        net, s, x, Recipe(batch=case.batch, shards=ops.shards), fresh(net).on(ops), bench.share, ops
    )
    denoise = model.Model(net, ops.asarray(fresh(net).theta), s, case.shape, ops=ops)
    halves = [
        ops.asarray(half)
        for half in np.array_split(noise.normal((case.batch, *case.shape)), ops.shards)
    ]
    coefficients = samplers.ancestral_coefficients(s, T)

    def sample():
        return bench.share(
            lambda i: denoise.reverse(halves[i], T, coefficients, 1.0, 0, i * len(halves[0])),
            range(len(halves)),
        )

    xs = np.concatenate([ops.to_host(half) for half in sample()])
    first = trainer.step()
    return (
        trainer.step,
        sample,
        [xs, *(np.reshape(float(first[name]), 1) for name in ("loss", "grad_norm"))],
    )


def run(found, seconds, peer=None, compiled=False):
    """Time every case; returns {"CASE, train step": rows, "CASE, sampling step": rows}. Raises
    WrongAnswer.
    """
    results = {}
    for title, case in CASES.items():
        contenders, want = {"train": {}, "sampling": {}}, None
        for name, bench in found.items():
            contenders["train"][name], contenders["sampling"][name], got = ours(case, bench)
            want = got if want is None else want
            compare(f"{title} on {name}", got, want, terms=TERMS)
        if peer == "torch":
            from . import torch_steps

            for kind, functions in torch_steps.steps(case, fresh(case.net).theta, compiled).items():
                contenders[kind].update(functions)
        waits = {name: bench.wait for name, bench in found.items()}
        for kind, functions in contenders.items():
            results[f"{title}, {kind} step"] = clock.summary(
                clock.interleave(functions, seconds, waits)
            )
    return results
