"""What a training step draws beside x_0, t and eps: labels left out, mirrored images, dropout."""

from dataclasses import dataclass, replace
from typing import Any

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


@dataclass
class DropoutMasks:
    """(shape, dtype) -> mask of 0 and 1 / (1 - rate), new at every call."""

    rate: float  # in (0, 1)
    seed: int  # of every number drawn
    step: Any  # of training
    first_sample: int  # the number of the batch's first sample
    ops: Ops
    site: int = 0  # how many masks were drawn

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The next mask."""
        purpose, where = noise.DROPOUT + (self.site << 8), (self.step, self.first_sample)
        self.site += 1
        return self.ops.dropout_mask(shape, dtype, self.rate, self.seed, purpose, *where)

    def again(self) -> "DropoutMasks":
        """The same masks as those that are still to come."""
        return replace(self)


def dropout_masks(
    rate: float, seed: int, step: int, first_sample: int, ops: Ops = NUMPY
) -> DropoutMasks | None:
    """`DropoutMasks`, or None for rate 0; the arguments are its fields."""
    return DropoutMasks(rate, seed, step, first_sample, ops) if rate else None
