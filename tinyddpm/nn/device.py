"""Where arrays live, how noise is drawn, and the diffusion's and the optimiser's own steps: the
reference backend.

Coefficients are numbers, or (B,) arrays that multiply a batch; a backend may fuse each method into
one pass.
"""

import numpy as np

from .. import noise
from ..formulas import numpy_formulas
from . import optim


class Steps:
    """The part of a backend that knows no network."""

    name = "numpy"
    xp = np
    lazy = False  # whether reading a number off an array means waiting for a device
    # into how many parts a batch is cut that run side by side; a device takes it whole
    shards = 2
    formulas = numpy_formulas

    def asarray(self, host):
        """A NumPy array as this backend's own."""
        return host

    def to_host(self, x):
        """This backend's array as a NumPy array."""
        return x

    # Random numbers.

    def normal(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """`noise.normal`: the same random words on every backend, normals within 4 units in the
        last place.
        """
        return noise.normal(shape, seed, purpose, step, first_sample, self.xp, self.formulas)

    def uniform(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """`noise.uniform`, float64: the same on every backend."""
        return noise.uniform(shape, seed, purpose, step, first_sample, self.xp, self.formulas)

    # The diffusion's steps.

    def noised(self, x0, eps, signal, sigma):
        """x_t = signal x_0 + sigma eps (Ho20 eq. 4); x0, eps (B, ...), signal, sigma (B,)."""
        signal, sigma = (c.reshape(-1, *(1,) * (x0.ndim - 1)) for c in (signal, sigma))
        return self.formulas.noised(x0, eps, signal, sigma)

    def noised_drawn(self, x0, signal, sigma, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """(x_t, eps): `noised`, with the eps that `normal` draws with these arguments."""
        eps = self.normal(x0.shape, seed, purpose, step, first_sample)
        return self.noised(x0, eps, signal, sigma), eps

    def reverse(self, xt, output, z, factors):
        """x_s by `formulas.reverse` (Ho20 eq. 6-7, Song21a eq. 12).

        factors: Python floats a_xt, a_output, bound (or inf), c_x0, c_xt, sigma; z is not looked at
        where sigma is 0.
        """
        return self.formulas.reverse(xt, output, z if factors[-1] else 0.0, *factors)

    def reverse_drawn(
        self, xt, output, factors, seed=0, purpose=noise.REVERSE, step=0, first_sample=0
    ):
        """`reverse`, with the z that `normal` draws with these arguments; none is drawn where sigma
        is 0.
        """
        z = self.normal(xt.shape, seed, purpose, step, first_sample) if factors[-1] else None
        return self.reverse(xt, output, z, factors)

    # The optimiser's steps, on flat vectors.

    def clip_scale(self, grad, limit):
        """(scale, norm): the factor that brings grad's norm to at most `limit` (Pascanu13), and the
        norm.
        """
        return optim.clip_scale(grad, limit)

    def adamw_ema(self, theta, grad, m, v, ema, scale, factors):
        """AdamW on scale grad and the average, in place; factors: `optim.adamw_factors` and
        `optim.ema_weight`.
        """
        optim.update(theta, grad, m, v, ema, scale, factors[:-1], factors[-1])
