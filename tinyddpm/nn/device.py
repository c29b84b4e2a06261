"""Where arrays live, and the steps of the diffusion and of the optimiser: the reference backend.

The coefficients of a step are Python floats, or (B,) arrays that multiply a batch. A backend may
fuse each method into one pass over its arrays.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import noise
from ..formulas import numpy_formulas
from . import optim


class FusedStep(NamedTuple):
    """The numbers of one reverse step, in the order in which `formulas.reverse` unpacks them."""

    a_xt: float  # x0_hat = a_xt xt + a_prediction prediction
    a_prediction: float
    bound: float  # x0_hat is clipped to [-bound, bound]; inf where it is not clipped
    c_x0: float  # x_s = c_x0 x0_hat + c_xt xt + sigma z
    c_xt: float
    sigma: float  # the standard deviation of the step's noise; 0 where it adds none


class Clock(NamedTuple):
    """Where in the noise a step draws: the arguments of `noise.normal` that move on."""

    seed: Any
    step: Any
    first_sample: Any


class StepNumbers(NamedTuple):
    """The numbers of one step, which differ from the last one's; a device may hold them itself."""

    clock: Clock
    whole: Any = ()  # at most three whole numbers
    real: Any = ()  # at most eight real ones


class Steps:
    """The part of a backend that needs no network: arrays, noise, the fused steps."""

    name = "numpy"
    xp = np  # the module of its arrays
    precision = "fp32"  # of its products: "tf32" keeps 10 bits of their factors
    recorded = False  # whether `repeated` records and replays
    lazy = False  # whether reading a number from an array means waiting for a device
    shards = 2  # into how many parts a batch is cut that run side by side; a device takes it whole
    formulas = numpy_formulas

    def asarray(self, host):
        """A NumPy array as this backend's own."""
        return host

    def to_host(self, x):
        """This backend's array as a NumPy array."""
        return x

    def free_bytes(self):
        """What a device of its own has free, in bytes; None where arrays are the host's."""
        return None

    # Several processes.

    def between(self, comm, place):
        """What this backend's arrays travel by between processes, by calls of MPI's names.

        Where they live on devices, this process uses one of its own from here on.

        Args:
            comm: MPI's communicator of the processes.
            place: which of those on this machine this one is.

        Raises:
            InputError: two processes would have one device.
        """
        return comm

    # Random numbers.

    def normal(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """`noise.normal`: equal words on every backend, normals equal within 4 units in last place.

        Args:
            shape, seed, purpose, step, first_sample: as `noise.normal`'s.

        Returns:
            float32 of the given shape.
        """
        return noise.normal(shape, seed, purpose, step, first_sample, self.xp, self.formulas)

    def uniform(self, shape, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """`noise.uniform`: the same on every backend.

        Args:
            shape, seed, purpose, step, first_sample: as `noise.normal`'s.

        Returns:
            float64 of the given shape.
        """
        return noise.uniform(shape, seed, purpose, step, first_sample, self.xp, self.formulas)

    def dropout_mask(self, shape, dtype, rate, seed, purpose, step, first_sample):
        """A mask of 0 with probability `rate`, else 1 / (1 - rate).

        Args:
            shape, seed, purpose, step, first_sample: as `uniform`'s.
            dtype: of the mask.
            rate: in [0, 1).
        """
        kept = self.uniform(shape, seed, purpose, step, first_sample) >= rate
        return kept.astype(dtype) / dtype.type(1 - rate)

    # What is done again and again.

    def repeated(self, function):
        """A function that is called with every step, as one that a device may record and replay.

        Args:
            function: (numbers, *arrays) -> a tuple of arrays; numbers are StepNumbers, and nothing
                else that it reads may change from call to call but the contents of arrays.

        Returns:
            The function, or one of the same results.
        """
        return function

    # The diffusion's steps.

    def noised(self, x0, eps, c_x0, c_eps):
        """x_t = c_x0 x_0 + c_eps eps (Ho20 eq. 4).

        Args:
            x0, eps: (B, ...), float32.
            c_x0, c_eps: (B,), sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) of each sample's t.

        Returns:
            x_t, like x0.
        """
        c_x0, c_eps = (c.reshape(-1, *(1,) * (x0.ndim - 1)) for c in (c_x0, c_eps))
        return self.formulas.noised(x0, eps, c_x0, c_eps)

    def noised_drawn(self, x0, c_x0, c_eps, seed=0, purpose=noise.EPS, step=0, first_sample=0):
        """`noised`, with an eps that is drawn here.

        Args:
            x0, c_x0, c_eps: as `noised`'s.
            seed, purpose, step, first_sample: as `normal`'s, which draws eps.

        Returns:
            (x_t, eps), both like x0.
        """
        eps = self.normal(x0.shape, seed, purpose, step, first_sample)
        return self.noised(x0, eps, c_x0, c_eps), eps

    def reverse(self, xt, prediction, z, c):
        """x_s = c_x0 x0_hat + c_xt x_t + sigma z (Ho20 eq. 6-7; Song21a eq. 12).

        Args:
            xt: x_t, (B, ...), float32.
            prediction: the network's output at x_t, like xt.
            z: noise like xt; not read, and None will do, where c.sigma is 0.
            c: a FusedStep.

        Returns:
            x_s, like xt.
        """
        return self.formulas.reverse(xt, prediction, z if c.sigma else 0.0, c)

    def reverse_drawn(
        self, xt, prediction, c, seed=0, purpose=noise.REVERSE, step=0, first_sample=0
    ):
        """`reverse`, with a z that is drawn here, or none where c.sigma is 0.

        Args:
            xt, prediction, c: as `reverse`'s.
            seed, purpose, step, first_sample: as `normal`'s, which draws z.

        Returns:
            x_s, like xt.
        """
        z = self.normal(xt.shape, seed, purpose, step, first_sample) if c.sigma else None
        return self.reverse(xt, prediction, z, c)

    # The optimiser's steps, on flat vectors.

    def clip_scale(self, grad, limit):
        """(scale, norm): `optim.clip_scale`; scale grad has a norm of at most `limit`."""
        return optim.clip_scale(grad, limit)

    def adamw_ema(self, vectors, grad, scale, factors, ema_weight):
        """One step of AdamW and one of the average, in place: `optim.update`.

        Args:
            vectors: optim.Vectors, changed in place.
            grad: (P,), left as it is.
            scale: what grad is multiplied by first, as `clip_scale` gives it.
            factors: AdamWFactors.
            ema_weight: as `optim.ema_weight` gives it.
        """
        optim.update(vectors, grad, scale, factors, ema_weight)
