"""How large a network is, counted without building it: its parameters, and what a batch keeps.

Both counts grow by the same amount with each residual block of a level, or layer of a perceptron,
so the specs of two small networks tell those of any depth. A spec itself would be as long as the
network is deep.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import params

DEPTHS = ("blocks", "layers")  # the field of a network that says how often its parts repeat


def parameters(net: Any) -> int:
    """How many parameters a network has: `params.size` of its spec."""
    return _by_depth(net, lambda small: params.size(small.spec()))


def kept(net: Any, shape: tuple[int, ...], recompute: bool = False) -> int:
    """At least how many numbers the backward pass keeps of one sample: the inputs of its layers.

    Args:
        net: the network.
        shape: of the sample, (H, W, C) or (D,).
        recompute: whether it keeps the inputs of a U-Net's blocks alone.
    """
    return _by_depth(net, lambda small: _inputs(small.spec(), shape, recompute))


def _by_depth(net: Any, count: Callable[[Any], int]) -> int:
    """A count that is linear in the network's depth, from those of the depths 1 and 2."""
    name = next(name for name in DEPTHS if hasattr(net, name))
    once, twice = (count(replace(net, **{name: depth})) for depth in (1, 2))
    return once + (twice - once) * (getattr(net, name) - 1)


def _inputs(spec: Any, shape: tuple[int, ...], recompute: bool) -> int:
    """The numbers that all layers of a spec, or all blocks, take together from one sample."""
    if len(shape) == 1:
        return sum(each.shape[0] for _, each in params.named(spec) if len(each.shape) == 2)
    total, levels = 0, len(spec["down"])
    for i, parts in enumerate(zip(spec["down"], reversed(spec["up"]))):
        pixels = math.prod(-(-side // 2**i) for side in shape[:2])
        here = [*parts, spec["mid"]] if i == levels - 1 else parts
        layers = params.named(list(here))
        if recompute:  # a block begins with the norm of its input
            channels = (each.shape[0] for name, each in layers if name.endswith("norm1.w"))
        else:
            channels = (each.shape[2] for _, each in layers if len(each.shape) == 4)
        total += pixels * sum(channels)
    return total
