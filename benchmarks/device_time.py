"""A model of the time that a step takes on a device: a prediction, not a measurement.

A node takes a time of its own (its floor: starting, filling and draining the processors), the time
of its bytes at a share of the copy's bandwidth, and a product the time of its operations. The
constants are fitted to what was measured on one H200 on 2026-11-28 (results/gpu-h200-before.json):
steps replayed as one CUDA graph, nothing of the host in them. `errors` is the model's error there.
"""

import json
import pathlib
from typing import NamedTuple

from .blank import Work

BEFORE = pathlib.Path(__file__).parent / "results" / "gpu-h200-before.json"
COPY = 4.2e12  # bytes a second, read and written
PRODUCTS = {"fp32": 50e12, "tf32": 320e12}  # operations a second
# assumed, of small layers in one node, in every precision: a number of the weights comes from the
# cache, at 5.5 TB/s, for each four rows, that is 2 operations a byte
DENSE = 10e12


class Rate(NamedTuple):
    """What the nodes of one kind cost."""

    floor: float  # seconds of each node
    share: float  # of the copy's bandwidth


# A product's floor holds its reductions over split sums; a normalisation's, its passes.
RATES = {
    "product": Rate(5e-6, 1.0),
    "im2col": Rate(2e-6, 0.67),
    "col2im": Rate(2e-6, 0.67),  # assumed: as im2col, which moves the same bytes
    **dict.fromkeys(("elementwise", "copy"), Rate(1.6e-6, 0.67)),  # CuPy's
    **dict.fromkeys(("sum", "memset"), Rate(1.6e-6, 1.0)),
    # assumed: the second reading comes from the cache, at 5.5 TB/s, all else at 0.9 of the copy;
    # a backward's last block sums over the samples when all others are done
    **dict.fromkeys(("norm", "norm_silu"), Rate(4e-6, 0.6)),
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), Rate(6e-6, 0.6)),
}
# assumed: the start, a load, a sum in shared memory, each waiting for the one before
RATES |= dict.fromkeys(("dense", "dense_backward", "dense_weights"), Rate(2.5e-6, 0.9))
# Of the normalisations that were measured: three passes over 16 bytes of a pixel, a block a group.
MEASURED_NORMS = dict.fromkeys(
    ("norm", "norm_silu", "norm_backward", "norm_silu_backward"), Rate(4e-6, 0.206)
)
STREAM = Rate(1.6e-6, 0.9)  # of every other kernel: the fused steps reach 88 to 98 %


def seconds(kind, work, precision="fp32", rates=RATES):
    """The predicted time of all nodes of one kind.

    Args:
        kind: of the nodes.
        work: Work.
        precision: of the products, "fp32" or "tf32".
        rates: {kind: Rate}.
    """
    rate = rates.get(kind, STREAM)
    moving = work.bytes / (rate.share * COPY)
    speed = DENSE if kind.startswith("dense") else PRODUCTS[precision]
    return work.nodes * rate.floor + moving + work.operations / speed


def predict(works, precision="fp32", rates=RATES):
    """{kind: seconds} of a step, the longest first; works: {kind: Work}, the rest as above."""
    found = {kind: seconds(kind, work, precision, rates) for kind, work in works.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def before():
    """What was measured on 2026-11-28, and the counts of the steps that were measured."""
    return json.loads(BEFORE.read_text(encoding="utf-8"))


def errors():
    """{(network, step, precision): (predicted ms, measured ms)} where the model was fitted."""
    figures, found = before(), {}
    for name, steps in figures["counts"].items():
        for step, kinds in steps.items():
            works = {kind: Work(*numbers) for kind, numbers in kinds.items()}
            for precision in PRODUCTS:
                measured = figures["steps_ms"][f"{name} {step}"][f"prototype, {precision}"]
                times = predict(works, precision, RATES | MEASURED_NORMS)
                predicted = 1e3 * sum(times.values())
                found[name, step, precision] = predicted, measured
    return found


def worst(precision):
    """(lowest, highest) of predicted / measured - 1."""
    found = [p / m - 1 for (*_, kind), (p, m) in errors().items() if kind == precision]
    return min(found), max(found)
