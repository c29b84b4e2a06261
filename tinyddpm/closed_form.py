"""What every closed-form denoiser has in common: one density q(x_t), asked in five ways.

Where q(x_0) is known, so is q(x_t) (Ho20 eq. 4: shrink by sqrt(alpha_bar_t), add N(0, (1 -
alpha_bar_t) I)), and with it all that a network has to learn. It can be said in three ways (Efron11
eq. 1.4; Song21b below eq. 13):

    score = grad log q(x_t)
    x0_hat = E[x_0 | x_t] = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t)        (Tweedie's formula)
    eps_hat = E[eps | x_t] = -sqrt(1 - alpha_bar_t) score

Efron11      Tweedie's formula and selection bias
"""

import math

import numpy as np

from . import noise
from .errors import InputError
from .process import eps_from_score
from .schedule import Schedule


class ClosedForm:
    """A denoiser whose answers are exact; the kinds of data in `exact` fill in the density.

    xt: (B, ...) with D elements a sample; t: an int in 0..T, 0 being clean data. All is computed in
    float64 and returned in xt's dtype (float64 for integers). Methods raise InputError for another
    shape or t, and where t = 0 and the data has no density: a singular covariance, points.
    """

    def __init__(self, shape, s):
        if not isinstance(s, Schedule):
            raise InputError(f"s must be a Schedule, got {type(s).__name__}")
        self.s, self.shape, self.D = s, tuple(shape), math.prod(shape)

    def __call__(self, xt, t):
        """eps_hat = E[eps | x_t] = -sqrt(1 - alpha_bar_t) score (Song21b below eq. 13), 0 at t = 0:
        (B, ...).
        """
        return self._answer(self._eps_hat, t, xt)

    def x0_hat(self, xt, t):
        """E[x_0 | x_t] (Efron11 eq. 1.4), also where alpha_bar_t = 0, and x_t itself at t = 0: (B,
        ...).
        """
        return self._answer(lambda x, t: self._x0_hat(x, t) if t else x, t, xt)

    def score(self, xt, t):
        """grad log q(x_t) (Song21b section 2): (B, ...)."""
        return self._answer(self._score, t, xt)

    def log_density(self, xt, t):
        """log q(x_t), natural logarithm, of the D elements together: (B,)."""
        return self._answer(self._log_density, t, xt)

    def vjp(self, xt, t, u):
        """(eps_hat, u^T d eps_hat / d x_t), sample by sample: both (B, ...), as is u.

        The Jacobian is -sqrt(1 - alpha_bar_t) H, where H = grad grad^T log q(x_t) is symmetric; 0
        at t = 0.
        """
        if np.shape(u) != np.shape(xt):
            raise InputError(f"u must have the shape of xt, {np.shape(xt)}, got {np.shape(u)}")

        def product(x, t):
            return (
                eps_from_score(self.s, t, self._hessian(x, t, self._rows(u)))
                if t
                else np.zeros_like(x)
            )

        return self(xt, t), self._answer(product, t, xt)

    def sample(self, n, seed=0, t=0):
        """n draws of q(x_t) for an int t in 0..T, of clean data at t = 0: float64 (n, ...).

        Sample i depends on (seed, t, i) alone; draws at two times are independent. Raises
        InputError.
        """
        self._check_time(t)
        if not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n must be a whole number of at least 1, got {n!r}")
        pick = noise.uniform((n, 1), seed, noise.EXACT, 2 * t)[:, 0]
        z = noise.normal((n, self.D), seed, noise.EXACT, 2 * t + 1).astype(np.float64)
        return self._draw(pick, z, t).reshape(n, *self.shape)

    def _eps_hat(self, x, t):
        return eps_from_score(self.s, t, self._score(x, t)) if t else np.zeros_like(x)

    def _answer(self, question, t, xt):
        """question(x, t), asked in float64 of x (B, D), answered in the shape and dtype of xt."""
        self._check_time(t)
        answer, xt = question(self._rows(xt), t), np.asarray(xt)
        dtype = xt.dtype if xt.dtype.kind == "f" else np.float64
        return answer.reshape(xt.shape if answer.ndim > 1 else len(xt)).astype(dtype)

    def _rows(self, xt):
        """xt as float64 (B, D)."""
        xt = np.asarray(xt)
        if xt.dtype.kind not in "iuf" or xt.ndim == 0 or xt.size != len(xt) * self.D:
            raise InputError(
                f"xt must be (B, ...) real numbers, {self.D} a sample, got {xt.dtype} of shape {xt.shape}"
            )
        return xt.reshape(len(xt), self.D).astype(np.float64)

    def _check_time(self, t):
        if not isinstance(t, int | np.integer) or not 0 <= t <= self.s.T:
            raise InputError(f"t must be a whole number in 0..{self.s.T}, got {t!r}")

    def _at(self, t):
        """alpha_bar_t, sqrt(alpha_bar_t) and 1 - alpha_bar_t, Python floats."""
        alpha_bar = float(self.s.alpha_bar[t])
        return alpha_bar, math.sqrt(alpha_bar), 1 - alpha_bar


def numbers(name, values):
    """The user's array as float64: real, not empty, finite. Raises InputError."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers") from None
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            f"{name} must be finite numbers and not empty, got an array of shape {array.shape}"
        )
    return array
