"""The U-Net's train step and sampling step, ours and PyTorch's: the same network, weights and numbers of samples.

A train step is all of it: noise, forward, backward, clipping, AdamW, EMA. A sampling step is the network's
output and the reverse update.
"""

import numpy as np

from tinyddpm import UNet, linear, machine, model, noise, params, samplers
from tinyddpm.train import Recipe, Trainer, TrainState

from . import clock

CASES = {
    "a: 8x8x1, two levels, batch 128": (UNet(base=32, mults=(1, 2), attention=(False, False)), 8, 128),
    "b: 28x28x1, three levels, batch 64": (UNet(base=32, mults=(1, 2, 2), attention=(False, False, False)), 28, 64),
}


def ours(net, size, batch, share):
    """(train step, sampling step, theta): callables without arguments."""
    s = linear(1000)
    x = np.tanh(noise.normal((4 * batch, size, size, net.channels), 1))
    trainer = Trainer(net, s, x, Recipe(batch=batch), TrainState.fresh(net, 0), share)
    denoise = model.Model(net, trainer.state.theta, s, x.shape[1:])
    halves = np.array_split(noise.normal((batch, size, size, net.channels)), 2)

    def sample():
        coefficients = samplers.ancestral_coefficients(s, 500)

        def half(index):
            xt = halves[index]
            z = noise.normal(xt.shape, 0, noise.REVERSE, 500, index * len(xt))
            return samplers.reverse_step(xt, samplers.estimate_x0(denoise, s, xt, 500, 1.0), z, coefficients)
        return share(half, range(2))
    return trainer.step, sample, denoise


def compare(seconds, peer=None):
    """Time every case; returns {case: {"train": rows, "sample": rows}}, after the answers were checked."""
    results = {}
    machine.keep_pages()
    for case, (net, size, batch) in CASES.items():
        with machine.workers(2) as share:
            train, sample, denoise = ours(net, size, batch, share)
            contenders = {"train": {"numpy": train}, "sample": {"numpy": sample}}
            if peer == "torch":
                from . import torch_steps
                theirs = torch_steps.steps(net, size, batch, params.named(net.spec()), denoise)
                for kind, functions in theirs.items():
                    contenders[kind].update(functions)
            results[case] = {}
            for kind, functions in contenders.items():
                base = "torch" if "torch" in functions else "numpy"
                results[case][kind] = clock.summary(clock.interleave(functions, seconds), base)
    return results
