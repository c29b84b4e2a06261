"""What a training step draws beside x_0, t and eps: labels left out, mirrored images, dropout."""

import itertools
from collections.abc import Callable

import numpy as np

from . import noise
from .nn.ops import Ops
from .process import Array

NUMPY = Ops()


def draw_labels(labels: Array, rate: float, seed: int, step: int) -> Array:
    """The labels (batch,), each -1, no label, with probability `rate` (Ho22 Algorithm 1, line 3).

    Args:
        labels: (batch,) ints.
        rate: in [0, 1).
        seed: of every number drawn.
        step: of training.
    """
    dropped = noise.uniform((len(labels), 1), seed, noise.LABEL, step)[:, 0] < rate
    return np.where(dropped, -1, labels)


def draw_flips(batch: int, seed: int, step: int) -> Array:
    """Whether each image is shown mirrored, (batch,) bools, true with probability 1/2."""
    return noise.uniform((batch, 1), seed, noise.FLIP, step)[:, 0] < 0.5


def dropout_masks(
    rate: float, seed: int, step: int, first_sample: int, ops: Ops = NUMPY
) -> Callable[..., Array] | None:
    """(shape, dtype) -> mask of 0 and 1 / (1 - rate), new at every call; None for rate 0.

    Args:
        rate: in [0, 1).
        seed: of every number drawn.
        step: of training.
        first_sample: the number of the batch's first sample.
        ops: the backend.
    """
    if rate == 0:
        return None
    site = itertools.count()

    def mask(shape, dtype):
        purpose = noise.DROPOUT + (next(site) << 8)
        return ops.dropout_mask(shape, dtype, rate, seed, purpose, step, first_sample)

    return mask
