"""Classifier-free guidance: one denoiser made of two, so that every sampler takes it as it is."""

from dataclasses import dataclass
from typing import Any

from .process import Array


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
    """The denoiser that `guide` makes of two denoisers."""

    conditional: Any  # a denoiser, such as one component of a mixture
    unconditional: Any  # a denoiser, such as the whole mixture
    weight: float  # w of Ho22 eq. 6

    def __call__(self, xt: Array, t: int) -> Array:
        """eps_hat (Ho22 eq. 6)."""
        return guide(self.conditional(xt, t), self.unconditional(xt, t), self.weight)

    def vjp(self, xt: Array, t: int, u: Array) -> tuple[Array, Array]:
        """(eps_hat, u^T d eps_hat / d xt), for two denoisers that have a vjp."""
        eps_hat, product = self.conditional.vjp(xt, t, u)
        other_eps_hat, other_product = self.unconditional.vjp(xt, t, u)
        weight = self.weight
        return guide(eps_hat, other_eps_hat, weight), guide(product, other_product, weight)
