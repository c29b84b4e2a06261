"""Data whose best denoiser is a closed form: a Gaussian, a mixture of Gaussians, a set of points.

Where q(x_0) is known, so is q(x_t) (Ho20 eq. 4: shrink by sqrt(alpha_bar_t), add N(0, (1 -
alpha_bar_t) I)), and with it all that a network has to learn, in three forms (Efron11 eq. 1.4;
Song21b below eq. 13):

    score   = grad log q(x_t)
    x0_hat  = E[x_0 | x_t] = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t)     (Tweedie)
    eps_hat = E[eps | x_t] = -sqrt(1 - alpha_bar_t) score

Each class is a denoiser like a network, (xt, t) -> eps_hat, so every sampler and likelihood can be
tested against the truth.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import noise
from .errors import InputError
from .process import Array, eps_from_score, score_from_x0
from .schedule import Schedule

BLOCK = 2**19  # entries of a samples-by-points matrix held at a time: 4 MB
WEIGHT_TOL = 1e-6  # weights written in float32 sum to 1 within about 6e-8 each


class Marginal(NamedTuple):
    """What q(x_t | x_0) is made of at one t (Ho20 eq. 4); Python floats."""

    alpha_bar: float
    root: float  # its square root
    variance: float  # 1 - alpha_bar_t


class ClosedForm(ABC):
    """A denoiser that is exact.

    xt: (B, ...) with D elements a sample; t: an int in 0..T, 0 being clean data. All is computed in
    float64 and returned in xt's dtype (float64 for integers). Methods raise InputError for another
    shape or t, and where t = 0 and the data has no density: a singular covariance, points.
    """

    # Each kind of data fills these in, for x float64 (B, D) and an int t.

    @abstractmethod
    def _log_density(self, x: Array, t: int) -> Array: ...

    @abstractmethod
    def _score(self, x: Array, t: int) -> Array: ...

    @abstractmethod
    def _x0_hat(self, x: Array, t: int) -> Array: ...

    @abstractmethod
    def _hessian(self, x: Array, t: int, u: Array) -> Array: ...

    @abstractmethod
    def _draw(self, pick: Array, z: Array, t: int) -> Array: ...

    def __init__(self, shape: tuple[int, ...], s: Schedule) -> None:
        if not isinstance(s, Schedule):
            raise InputError(f"s must be a Schedule, got {type(s).__name__}")
        self.s, self.schedule, self.shape, self.D = s, s, tuple(shape), math.prod(shape)

    def __call__(self, xt: ArrayLike, t: int) -> Array:
        """eps_hat = E[eps | x_t] (Song21b below eq. 13), 0 at t = 0: (B, ...)."""
        return self._answer(self._eps_hat, t, xt)

    def x0_hat(self, xt: ArrayLike, t: int) -> Array:
        """E[x_0 | x_t] (Efron11 eq. 1.4), x_t itself at t = 0: (B, ...)."""
        return self._answer(lambda x, t: self._x0_hat(x, t) if t else x, t, xt)

    def score(self, xt: ArrayLike, t: int) -> Array:
        """grad log q(x_t) (Song21b section 2): (B, ...)."""
        return self._answer(self._score, t, xt)

    def log_density(self, xt: ArrayLike, t: int) -> Array:
        """log q(x_t), natural logarithm, of the D elements together: (B,)."""
        return self._answer(self._log_density, t, xt)

    def vjp(self, xt: ArrayLike, t: int, u: ArrayLike) -> tuple[Array, Array]:
        """(eps_hat, u^T d eps_hat / d x_t), sample by sample: both (B, ...), as is u.

        The Jacobian is -sqrt(1 - alpha_bar_t) grad grad^T log q(x_t); 0 at t = 0.
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

    def sample(self, n: int, seed: int = 0, t: int = 0) -> Array:
        """n draws of q(x_t) for an int t in 0..T, of clean data at t = 0: float64 (n, ...).

        Sample i depends on (seed, t, i) alone; draws at two times are independent.
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
                f"xt must be (B, ...) real numbers, {self.D} a sample, "
                f"got {xt.dtype} of shape {xt.shape}"
            )
        return xt.reshape(len(xt), self.D).astype(np.float64)

    def _check_time(self, t):
        if not isinstance(t, int | np.integer) or not 0 <= t <= self.s.T:
            raise InputError(f"t must be a whole number in 0..{self.s.T}, got {t!r}")

    def _at(self, t):
        ab = float(self.s.alpha_bar[t])
        return Marginal(ab, math.sqrt(ab), 1 - ab)


class Gaussian(ClosedForm):
    """x_0 ~ N(mean, cov).

    q(x_t) = N(sqrt(alpha_bar_t) mean, alpha_bar_t cov + (1 - alpha_bar_t) I) (Ho20 eq. 4).

    Args:
        mean: (D,).
        cov: a number (times I), (D,) a diagonal, or (D, D), symmetric and positive semidefinite: it
            may be singular.
        s: the schedule.

    Raises:
        InputError: for another mean or cov.
    """

    def __init__(self, mean: ArrayLike, cov: ArrayLike, s: Schedule) -> None:
        self.mean = numbers("mean", mean)
        if self.mean.ndim != 1:
            raise InputError(f"mean must have shape (D,), got {self.mean.shape}")
        super().__init__(self.mean.shape, s)
        # Every covariance along the way has the same axes: turned onto them, each coordinate is on
        # its own.
        self.spectrum, self.axes = _eigen(cov, self.D)

    def marginal(self, t: int) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D) of q(x_t), float64, for an int t in 0..T."""
        self._check_time(t)
        return self._at(t).root * self.mean, self.axes * self._variances(t) @ self.axes.T

    def _variances(self, t):
        """The eigenvalues of x_t's covariance: alpha_bar_t spectrum + 1 - alpha_bar_t."""
        alpha_bar, _, variance = self._at(t)
        return alpha_bar * self.spectrum + variance

    def _positive(self, t):
        if (variances := self._variances(t)).min() <= 0:
            raise InputError(f"at t = {t} the covariance is singular: no density and no score")
        return variances

    def _log_density(self, x, t):
        y, variances = (x - self._at(t).root * self.mean) @ self.axes, self._positive(t)
        return -0.5 * np.sum(y**2 / variances + np.log(2 * np.pi * variances), axis=1)

    def _score(self, x, t):
        return self._hessian(x, t, x - self._at(t).root * self.mean)

    def _hessian(self, x, t, u):
        return -(u @ self.axes / self._positive(t)) @ self.axes.T

    def _x0_hat(self, x, t):
        """The regression of x_0 on x_t, with root = sqrt(alpha_bar_t).

        mean + root cov cov_t^-1 (x_t - root mean)
        """
        root = self._at(t).root
        gain = root * self.spectrum / self._positive(t)
        return self.mean + gain * ((x - root * self.mean) @ self.axes) @ self.axes.T

    def _draw(self, pick, z, t):
        return self._at(t).root * self.mean + np.sqrt(self._variances(t)) * z @ self.axes.T


class GaussianMixture(ClosedForm):
    """x_0 ~ sum_k weights_k N(means_k, covs_k): a mixture at every t, of the parts' q(x_t).

    Args:
        weights: (K,), not negative, of sum 1.
        means: (K, D).
        covs: K covariances, each as `Gaussian` takes it.
        s: the schedule.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covs: Any, s: Schedule) -> None:
        weights, means = numbers("weights", weights), numbers("means", means)
        covs = list(covs) if np.iterable(covs) else []
        if weights.ndim != 1 or means.ndim != 2 or not len(weights) == len(means) == len(covs):
            raise InputError(
                "a mixture of K components needs weights (K,), means (K, D) and K covariances"
            )
        if weights.min() < 0 or abs(weights.sum() - 1) > WEIGHT_TOL:
            raise InputError(f"weights must not be negative and must sum to 1, got {weights}")
        super().__init__(means.shape[1:], s)
        self.weights = weights / weights.sum()
        self.parts = [Gaussian(mean, cov, s) for mean, cov in zip(means, covs)]

    def _weigh(self, x, t):
        """log q(x_t), (B,), and the responsibilities r_k = q(k | x_t), (K, B).

        r_k = weights_k q_k(x_t) / q(x_t)
        """
        # a weight of 0 has the logarithm -inf, and its component is ignored
        with np.errstate(divide="ignore"):
            logs = np.log(self.weights)[:, None] + self._ask("_log_density", x, t)
        # taken out, so that the largest exponential is 1, however far x is
        top = logs.max(axis=0)
        shares = np.exp(logs - top)
        total = shares.sum(axis=0)
        return top + np.log(total), shares / total

    def _ask(self, method, *arguments):
        return np.stack([getattr(part, method)(*arguments) for part in self.parts])

    def _log_density(self, x, t):
        return self._weigh(x, t)[0]

    def _score(self, x, t):
        return _average(self._weigh(x, t)[1], self._ask("_score", x, t))

    def _x0_hat(self, x, t):
        return _average(self._weigh(x, t)[1], self._ask("_x0_hat", x, t))

    def _hessian(self, x, t, u):
        # score = sum_k r_k score_k, and log r_k = log q_k - log q + ..., so grad r_k = r_k (score_k
        # - score), and H = sum_k r_k (H_k + score_k (score_k - score)^T) = sum_k r_k (H_k + away_k
        # away_k^T), away_k = score_k - score, whose mean over r_k is 0: a covariance of scores, and
        # no large terms cancel.
        shares, scores = self._weigh(x, t)[1], self._ask("_score", x, t)
        away = scores - _average(shares, scores)
        along = np.sum(away * u, axis=2, keepdims=True)
        return _average(shares, self._ask("_hessian", x, t, u) + away * along)

    def _draw(self, pick, z, t):
        edges = np.cumsum(self.weights)
        component = np.searchsorted(edges / edges[-1], pick, side="right")
        x = np.empty_like(z)
        for k, part in enumerate(self.parts):
            chosen = component == k
            x[chosen] = part._draw(pick[chosen], z[chosen], t)
        return x


class PointSet(ClosedForm):
    """x_0 is one of N points, each as likely: the data set itself (Karras22 appendix B.3).

    A sampler given it can only return the points, and a network at its training optimum no better.

    Args:
        points: (N, ...); a point listed twice counts twice.
        s: the schedule.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, points: ArrayLike, s: Schedule) -> None:
        points = numbers("points", points)
        if points.ndim == 0:
            raise InputError("points must have shape (N, ...), got a number")
        super().__init__(points.shape[1:], s)
        rows = points.reshape(len(points), self.D)
        # Measured from their centre the points are small, and so are the roundings of a |point|^2.
        self.centre = rows.mean(axis=0)
        self.offsets = rows - self.centre
        self.half_squares = 0.5 * np.sum(self.offsets**2, axis=1)

    def _weigh(self, x, t):
        """Yield (rows of x, log sum of exp(logits), r_i = q(x_i | x_t)) for some rows at a time.

        r = softmax(-|x_t - sqrt(alpha_bar_t) x_i|^2 / (2 (1 - alpha_bar_t))). The term |x_t|^2 is
        the same for all i, and large: it would cost digits, so the logits leave it out.
        """
        alpha_bar, root, variance = self._at(t)
        if variance == 0:
            raise InputError(f"at t = {t} points have no density and no score")
        size = max(1, BLOCK // len(self.offsets))
        for rows in (slice(start, start + size) for start in range(0, len(x), size)):
            logits = (root / variance * (x[rows] - root * self.centre)) @ self.offsets.T
            logits -= alpha_bar / variance * self.half_squares
            top = logits.max(axis=1, keepdims=True)
            shares = np.exp(np.subtract(logits, top, out=logits), out=logits)
            total = shares.sum(axis=1, keepdims=True)
            shares /= total
            yield rows, (top + np.log(total))[:, 0], shares

    def _log_density(self, x, t):
        _, root, variance = self._at(t)
        logs = np.empty(len(x))
        for rows, log_sum, _ in self._weigh(x, t):
            logs[rows] = log_sum
        square = np.sum((x - root * self.centre) ** 2, axis=1)
        return (
            logs
            - square / (2 * variance)
            - self.D / 2 * math.log(2 * math.pi * variance)
            - math.log(len(self.offsets))
        )

    def _x0_hat(self, x, t):
        """sum_i r_i x_i."""
        x0_hat = np.empty_like(x)
        for rows, _, shares in self._weigh(x, t):
            x0_hat[rows] = self.centre + shares @ self.offsets
        return x0_hat

    def _score(self, x, t):
        return score_from_x0(self.s, x, t, self._x0_hat(x, t))

    def _hessian(self, x, t, u):
        # score = (sqrt(ab) x0_hat - x) / (1 - ab), ab = alpha_bar_t, and, as for a mixture, d
        # x0_hat / dx is sqrt(ab) / (1 - ab) Cov[x_0 | x_t]; so H = (ab / (1 - ab) Cov - I) / (1 -
        # ab). With the deviations from the mean on one side, Cov u = sum_i r_i x_i (x_i - x0_hat)^T
        # u, and offsets serve for the x_i on the other.
        alpha_bar, _, variance = self._at(t)
        product = np.empty_like(x)
        for rows, _, shares in self._weigh(x, t):
            mean = shares @ self.offsets
            along = u[rows] @ self.offsets.T - np.sum(u[rows] * mean, axis=1, keepdims=True)
            along *= shares
            product[rows] = along @ self.offsets
        return (alpha_bar / variance * product - u) / variance

    def _draw(self, pick, z, t):
        _, root, variance = self._at(t)
        x0 = self.centre + self.offsets[(pick * len(self.offsets)).astype(np.int64)]
        return root * x0 + math.sqrt(variance) * z


def _average(shares, values):
    """sum_k r_k values_k: shares (K, B), values (K, B, D) -> (B, D)."""
    return np.einsum("kb,kbd->bd", shares, values)


def _eigen(cov, D):
    """Eigenvalues (D,) and eigenvectors (D, D), in columns, of a covariance. Raises InputError."""
    matrix = numbers("cov", cov)
    if matrix.shape not in ((), (D,), (D, D)):
        raise InputError(f"cov must be a number, ({D},) or ({D}, {D}), got shape {matrix.shape}")
    if matrix.ndim < 2:
        spectrum, axes, tol = np.broadcast_to(matrix, (D,)), np.eye(D), 0.0
    else:
        # What rounding leaves of an asymmetry, or of an eigenvalue that should be 0, in the
        # precision of the user.
        given = np.asarray(cov).dtype
        tol = D * np.finfo(given if given.kind == "f" else np.float64).eps * np.abs(matrix).max()
        if np.abs(matrix - matrix.T).max() > tol:
            raise InputError("cov must be symmetric")
        spectrum, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    if spectrum.min() < -tol:
        raise InputError(
            f"cov must be positive semidefinite, its smallest eigenvalue is {spectrum.min():.6g}"
        )
    return np.where(spectrum > tol, spectrum, 0.0), axes


def numbers(name: str, values: ArrayLike) -> Array:
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
