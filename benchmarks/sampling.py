"""The samplers, whole: images from noise by each of them, on network (a) with the weights it starts
from.
"""

from tinyddpm import Model, linear, sample

from . import clock, network, report
from .bench import compare

KINDS = {
    "ddim in 50 steps": {"sampler": "ddim", "steps": 50},
    "ddim in 50 steps, eta 1": {"sampler": "ddim", "steps": 50, "eta": 1.0},
    "dpmpp_2m in 20 steps": {"sampler": "dpmpp_2m", "steps": 20},
    "heun in 20 steps": {"sampler": "heun", "steps": 20},
    "ancestral": {"sampler": "ancestral"},
}


def measure(found, seconds, sizes):
    """{"SAMPLER, T = ...": rows}, the images of a few steps compared first. Raises WrongAnswer."""
    case, rows = next(iter(sizes.nets.values())), {}
    T, n = sizes.T, sizes.samples
    waits = {name: bench.wait for name, bench in found.items()}
    for kind, options in report.each(KINDS.items(), "samplers"):
        want = None
        for name, bench in found.items():
            got = sample(_model(case, bench.ops, 5), 8, **_at_most(5, options))
            want = got if want is None else want
            # five networks, each given what the last made of its rounding
            compare(f"{kind} on {name}", [got], [want], terms=5**2 * network.TERMS)
        models = {name: _model(case, bench.ops, T) for name, bench in found.items()}
        timed = _at_most(T, options)
        contenders = {name: lambda m=m, o=timed: sample(m, n, **o) for name, m in models.items()}
        rows[f"{kind}, T = {T}, {n} images"] = clock.summary(
            clock.interleave(contenders, seconds, waits, warm=0, least=1)
        )
    return rows


def _at_most(T, options):
    """The options, with no more steps than a schedule of T has."""
    return {**options, "steps": min(options["steps"], T)} if "steps" in options else options


def _model(case, ops, T):
    """The case's network on a backend with a schedule of T steps; it predicts v."""
    theta = ops.asarray(network.fresh(case.net).theta)
    return Model(case.net, theta, linear(T), case.shape, "v", ops=ops)
