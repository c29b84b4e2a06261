"""Classifier-free guidance: one denoiser made of two, so that every sampler takes it as it is."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .errors import InputError
from .process import Array
from .schedule import Schedule


def guide(conditional: Array, unconditional: Array, weight: float) -> Array:
    """Ho22 eq. 6: (1 + w) eps(x_t | c) - w eps(x_t); w = 0 is the conditional one.

    The weights add up to 1, and x0_hat, v and the score are affine in eps: what holds for one holds
    for all of them.

    Args:
        conditional: the prediction for the class c, (B, ...).
        unconditional: the prediction without a class, (B, ...).
        weight: w.
    """
    return (1 + weight) * conditional - weight * unconditional


@dataclass(frozen=True)
class Guided:
    """The denoiser that `guide` makes of two denoisers.

    Raises InputError for a weight that is not finite, and for denoisers of two schedules.
    """

    conditional: Any  # a denoiser, such as one component of a mixture
    unconditional: Any  # a denoiser, such as the whole mixture
    weight: float  # w of Ho22 eq. 6

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Real) or not math.isfinite(self.weight):
            raise InputError(f"weight must be a finite number, got {self.weight!r:.80}")
        own, other = self._schedules()[:1], self._schedules()[1:]
        if other and not (own[0].begins(other[0]) and other[0].begins(own[0])):
            raise InputError(f"the denoisers have two schedules: {own[0]} and {other[0]}")

    def _schedules(self):
        both = self.conditional, self.unconditional
        return [each.schedule for each in both if hasattr(each, "schedule")]

    @property
    def schedule(self) -> Schedule:
        """That of the denoisers, which samplers hold theirs against.

        Raises AttributeError where neither has one: `hasattr` then says so.
        """
        for found in self._schedules():
            return found
        raise AttributeError("these denoisers have no schedule of their own")

    def __call__(self, xt: Array, t: int) -> Array:
        """eps_hat (Ho22 eq. 6)."""
        return guide(self.conditional(xt, t), self.unconditional(xt, t), self.weight)

    def vjp(self, xt: Array, t: int, u: Array) -> tuple[Array, Array]:
        """(eps_hat, u^T d eps_hat / d xt), for two denoisers that have a vjp."""
        eps_hat, product = self.conditional.vjp(xt, t, u)
        other_eps_hat, other_product = self.unconditional.vjp(xt, t, u)
        weight = self.weight
        return guide(eps_hat, other_eps_hat, weight), guide(product, other_product, weight)
