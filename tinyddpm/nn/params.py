"""A network's parameters: one spec gives the flat vector, its named views and its first values.

A spec is a tree of dicts and lists whose leaves are `Param`s, or None for a part that is absent.
`views` lays the same tree of names over a flat vector, so that `p.conv1.w` and `g.conv1.w` are
windows on theta and its gradient, while optimiser, EMA and checkpoint see one array without
names.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from .. import noise
from ..errors import InputError


@dataclass(frozen=True)
class Param:
    """One array of a network."""

    shape: tuple[int, ...]
    bound: float | None  # its first values are uniform in [-bound, bound]; None: they are ones


def _weights(shape, fan_in, fan_out, gain):
    """Uniform of variance gain / mean(fan_in, fan_out): Ho20's code, Glorot10 eq. 12 at gain 1."""
    return Param(shape, math.sqrt(gain * 6 / (fan_in + fan_out)))


def linear(inputs, outputs, gain=1.0):
    """Spec of y = x w + b; gain 0 starts it at zero, as Ho20 does for a branch's last layer."""
    return {"w": _weights((inputs, outputs), inputs, outputs, gain), "b": Param((outputs,), 0.0)}


def conv(k, inputs, outputs, gain=1.0):
    """Spec of a k x k convolution.

    Args:
        k: the kernel's side.
        inputs, outputs: the channels C and O of its weights (k, k, C, O).
        gain: 0 starts it at zero.
    """
    weights = _weights((k, k, inputs, outputs), k * k * inputs, k * k * outputs, gain)
    return {"w": weights, "b": Param((outputs,), 0.0)}


def embedding(classes, width, no_label=True):
    """Spec of a row for each class and, by default, one for no class; numbers of variance 1."""
    return {"w": Param((classes + no_label, width), math.sqrt(3))}


def known_label(xp, label, has_none=True):
    """label, or for None the label (1,) that stands for no class: -1, the embedding's last row.

    Raises InputError for None where has_none says that the embedding has no such row.
    """
    if label is None and not has_none:
        raise InputError("this network has learned nothing without a class: name one of them")
    return xp.full((1,), -1) if label is None else label


def norm(channels):
    """Spec of a normalisation's scale (ones) and shift (zeros)."""
    return {"w": Param((channels,), None), "b": Param((channels,), 0.0)}


def named(spec, prefix=""):
    """The (name, Param) pairs of a spec in the flat vector's order; a name: "down.0.conv1.w"."""
    if isinstance(spec, Param):
        yield prefix, spec
    elif spec is not None:
        items = spec.items() if isinstance(spec, dict) else enumerate(spec)
        for key, part in items:
            yield from named(part, f"{prefix}.{key}" if prefix else str(key))


def size(spec):
    """How many numbers the spec's flat vector holds."""
    return sum(math.prod(param.shape) for _, param in named(spec))


def views(spec, flat):
    """The spec's tree of names over `flat`, (size(spec),): its leaves are windows, not copies.

    Raises:
        ValueError: flat has another length.
    """
    if flat.shape != (size(spec),):
        raise ValueError(
            f"the spec holds {size(spec)} parameters, the vector has shape {flat.shape}"
        )
    offset = 0

    def lay(part):
        nonlocal offset
        if part is None:
            return None
        if isinstance(part, Param):
            start, offset = offset, offset + math.prod(part.shape)
            return flat[start:offset].reshape(part.shape)
        if isinstance(part, dict):
            return SimpleNamespace(**{key: lay(value) for key, value in part.items()})
        return [lay(value) for value in part]

    return lay(spec)


def init(spec, seed=0, dtype=np.float32):
    """The first theta, (size(spec),): each parameter uniform within its bound, or ones."""
    theta = np.empty(size(spec), dtype)
    offset = 0
    for index, (_, param) in enumerate(named(spec)):
        n = math.prod(param.shape)
        if param.bound is None:
            theta[offset : offset + n] = 1
        else:
            u = noise.uniform((1, n), seed, noise.INIT, step=index)[0]
            theta[offset : offset + n] = param.bound * (2 * u - 1)
        offset += n
    return theta
