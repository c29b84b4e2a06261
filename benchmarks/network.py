"""One network's train step and sampling step on every backend and in PyTorch, on the same weights.

A train step is all of it: noise, forward, backward, clipping, AdamW, EMA. A sampling step is the
network's prediction and the reverse update.
"""

import numpy as np

from tinyddpm import Model, Noise, linear, noise, samplers
from tinyddpm.nn import params
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

from . import clock, report, sizes
from .bench import compare

T = 500
TERMS = 30 * 9 * 64  # some thirty layers of sums over nine pixels of 64 channels


def fresh(net):
    """A state before its first step, moved off Ho20's zero branches, which would prove nothing."""
    theta = params.init(net.spec())
    theta += 0.02 * noise.normal((1, len(theta)), 3, noise.INIT)[0]
    return TrainState(0, theta, theta.copy(), np.zeros_like(theta), np.zeros_like(theta))


def training(case, ops):
    """The Trainer of a network on a backend, before its first step."""
    x = np.tanh(noise.normal((4 * case.batch, *case.shape), 1))
    recipe = Recipe(batch=case.batch, shards=ops.shards)
    return Trainer(case.net, linear(1000), x, recipe, fresh(case.net).on(ops), ops)


def ours(case, bench):
    """(train step, sampling step, [arrays on which all must agree]); no step takes arguments."""
    net, s, ops = case.net, linear(1000), bench.ops
    trainer = training(case, ops)
    denoise = Model(net, ops.asarray(fresh(net).theta), s, case.shape, ops=ops)
    xT = np.array_split(noise.normal((case.batch, *case.shape)), ops.shards)
    halves, c = [ops.asarray(half) for half in xT], samplers.ancestral_coefficients(s, T, T - 1)

    def one_half(i):
        return denoise.reverse(halves[i], T, c, 1.0, Noise(0, i * len(halves[0])))

    def sample():
        return bench.share(one_half, range(len(halves)))

    def train():
        return trainer.step(bench.share)

    xs = np.concatenate([ops.to_host(half) for half in sample()])
    first = train()
    read = [np.reshape(float(first[name]), 1) for name in ("loss", "grad_norm")]
    return train, sample, [xs, *read]


def run(found, seconds, peer=None, compiled=False, nets=sizes.NETS):
    """Time every network; returns {"NET, train step": rows, "NET, sampling step": rows}.

    Raises WrongAnswer where a backend or the peer does not agree with the first one.
    """
    results = {}
    for title, case in report.each(nets.items(), "network"):
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
