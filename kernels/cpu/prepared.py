"""Weights laid out for sampling, which are kept until their numbers change."""

import time
from typing import Any, NamedTuple

import numpy as np

from .jit import kernel

MOST = 512  # layers whose weights are kept
BLOCK = 4096  # pairs of numbers that are compared before a difference is looked for


class Layer(NamedTuple):
    """One layer's weights."""

    w: np.ndarray  # a copy of them
    made: Any  # the layout
    looked: float  # when they were last found to be these, by time.perf_counter


class Prepared(dict[Any, Layer]):
    """The layouts of many layers, which threads may share."""

    def find(self, w, kind, make, begun):
        """make(w), or what it was when w held the same numbers.

        Whether it still does is looked at once for all threads whose network was called before.

        Args:
            w: float32.
            kind: what it is laid out for.
            make: lays it out.
            begun: when the network was called, by time.perf_counter.
        """
        key = w.__array_interface__["data"][0], w.shape, kind
        kept, now = self.get(key), time.perf_counter()
        if kept is not None and kept.looked > begun:
            return kept.made
        if kept is not None and same_bits(kept.w, w):
            kept = kept._replace(looked=now)
        else:
            kept = Layer(w.copy(), make(w), now)
        if len(self) >= MOST and key not in self:
            self.clear()
        self[key] = kept
        return kept.made


def same_bits(a, b):
    """Whether two float32 arrays hold the same numbers."""
    if a.size % 2 or a.shape != b.shape or not (a.flags.c_contiguous and b.flags.c_contiguous):
        return np.array_equal(a, b)
    return _same_bits(*(x.reshape(-1).view(np.int64) for x in (a, b)))


@kernel
def _same_bits(a, b):
    """By blocks: a loop that may end at any number is not made into vectors."""
    for start in range(0, len(a), BLOCK):
        x, y, differ = a[start : start + BLOCK], b[start : start + BLOCK], 0
        for k in range(len(x)):
            differ |= x[k] ^ y[k]
        if differ != 0:
            return False
    return True
