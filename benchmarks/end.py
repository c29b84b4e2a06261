"""End to end: training from the first line to the model, and sampling from it, on the embedded
digits.
"""

import numpy as np

import tinyddpm as td
from tinyddpm.datasets import sets

from . import clock, report
from .bench import compare

SAMPLES = 64


def measure(found, seconds, sizes):
    """{"train ...": rows, "sample ...": rows}; each backend trains and samples once or oftener.

    Raises WrongAnswer where a backend does not train as the first one does.
    """
    images, steps, models = sets.load().x, sizes.trained, {}
    training = {
        name: lambda name=name: models.update({name: td.train(images, steps, backend=name)})
        for name in found
    }
    waits = {name: bench.wait for name, bench in found.items()}
    sampling = {name: lambda name=name: td.sample(models[name], SAMPLES) for name in found}
    kinds = {f"train {steps} steps of 64": training, f"sample {SAMPLES} in 50 steps": sampling}
    _compare(found, images, sizes.compared)
    return {
        kind: clock.summary(clock.interleave(contenders, seconds, waits, warm=0, least=1))
        for kind, contenders in report.each(kinds.items(), "end")
    }


def _compare(found, images, steps):
    """Train a few steps on every backend; losses and samples must agree. Raises WrongAnswer."""
    want = None
    for name in found:
        losses = []
        trained = td.train(
            images,
            steps,
            backend=name,
            log_every=1,
            progress=lambda record, losses=losses: losses.append(float(record["loss"])),
        )
        got = [np.array(losses), td.sample(trained, 8, steps=10)]
        want = got if want is None else want
        # Adam divides by square roots of small gradients, which magnifies their rounding
        compare(f"{steps} steps of training on {name}", got, want, terms=10**6)
