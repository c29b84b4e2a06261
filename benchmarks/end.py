"""End to end: training from the first line to the model, and sampling from it, on the embedded
digits.
"""

import numpy as np

from tinyddpm import model
from tinyddpm.datasets import sets as data
from tinyddpm.runs import run

from . import clock
from .bench import compare

SHORT = 20  # steps of the run whose losses and samples are compared
QUICK, FULL = 30, 300


def measure(found, seconds, quick, samples=64):
    """{"train ...": rows, "sample ...": rows}; each backend trains and samples once or oftener.
    Raises WrongAnswer.
    """
    steps = QUICK if quick else FULL
    images, models, want = data.load().x, {}, None
    for name in found:
        losses = []
        trained = run.train(
            images,
            SHORT,
            backend=name,
            log_every=1,
            progress=lambda record, losses=losses: losses.append(float(record["loss"])),
        )
        got = [np.array(losses), model.sample(trained, 8, steps=10)]
        want = got if want is None else want
        # Adam divides by square roots of small gradients, which magnifies their rounding
        compare(f"{SHORT} steps of training on {name}", got, want, terms=10**6)
    training = {
        name: lambda name=name: models.update({name: run.train(images, steps, backend=name)})
        for name in found
    }
    waits = {name: bench.wait for name, bench in found.items()}
    rows = {
        f"train {steps} steps of 64": clock.summary(
            clock.interleave(training, seconds, waits, warm=0, least=1)
        )
    }
    sampling = {name: lambda name=name: model.sample(models[name], samples) for name in found}
    rows[f"sample {samples} in 50 steps"] = clock.summary(
        clock.interleave(sampling, seconds, waits, warm=0, least=1)
    )
    return rows
