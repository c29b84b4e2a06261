"""Classifier-free guidance: one denoiser made of two, so that every sampler takes it as it is."""

from dataclasses import dataclass


def guide(conditional, unconditional, weight):
    """Ho22 eq. 6: (1 + w) eps(x_t | c) - w eps(x_t); w = 0 is the conditional, w = -1 the
    unconditional.

    The weights add up to 1, and x0_hat, v and the score are affine in eps: what holds of one holds
    of all.
    """
    return (1 + weight) * conditional - weight * unconditional


@dataclass(frozen=True)
class Guided:
    """The denoiser that `guide` makes of two denoisers, for example of a mixture's component and
    the whole mixture.
    """

    conditional: object
    unconditional: object
    weight: float

    def __call__(self, xt, t):
        """eps_hat (Ho22 eq. 6)."""
        return guide(self.conditional(xt, t), self.unconditional(xt, t), self.weight)

    def vjp(self, xt, t, u):
        """(eps_hat, u^T d eps_hat / d xt) of two denoisers that offer as much."""
        pairs = zip(self.conditional.vjp(xt, t, u), self.unconditional.vjp(xt, t, u))
        return tuple(guide(one, other, self.weight) for one, other in pairs)
