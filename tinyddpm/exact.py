"""Data whose optimal denoiser is a closed form: a Gaussian, a mixture of Gaussians, a finite set of
points.

Each class is a denoiser like a network, (xt, t) -> eps_hat, so every sampler and likelihood can be
run against the truth. `closed_form` has the questions one may ask of them; here stand the answers:
log q(x_t), its gradient (the score), its Hessian, and E[x_0 | x_t].

Karras22     Elucidating the design space of diffusion-based generative models, arXiv:2206.00364
"""

import math

import numpy as np

from .closed_form import ClosedForm, numbers
from .errors import InputError

BLOCK = 2**19  # entries of a samples-by-points matrix held at a time: 4 MB
WEIGHT_TOL = 1e-6  # weights written in float32 sum to 1 within about 6e-8 each


class Gaussian(ClosedForm):
    """x_0 ~ N(mean, cov), so q(x_t) = N(sqrt(alpha_bar_t) mean, alpha_bar_t cov + (1 - alpha_bar_t)
    I) (Ho20 eq. 4).

    mean (D,); cov a number (times I), (D,) a diagonal, or (D, D), symmetric and positive
    semidefinite: it may be singular. s: the Schedule. Raises InputError for another mean or cov.
    """

    def __init__(self, mean, cov, s):
        self.mean = numbers("mean", mean)
        if self.mean.ndim != 1:
            raise InputError(f"mean must have shape (D,), got {self.mean.shape}")
        super().__init__(self.mean.shape, s)
        # Every covariance along the way has the same axes: turned onto them, each coordinate is on
        # its own.
        self.spectrum, self.axes = _eigen(cov, self.D)

    def marginal(self, t):
        """Mean (D,) and covariance (D, D) of q(x_t), float64, t an int in 0..T. Raises InputError."""
        self._check_time(t)
        return self._at(t)[1] * self.mean, self.axes * self._variances(t) @ self.axes.T

    def _variances(self, t):
        """The eigenvalues of x_t's covariance: alpha_bar_t spectrum + 1 - alpha_bar_t."""
        alpha_bar, _, rest = self._at(t)
        return alpha_bar * self.spectrum + rest

    def _positive(self, t):
        variances = self._variances(t)
        if variances.min() <= 0:
            raise InputError(
                f"at t = {t} the covariance is singular: there is no density and no score"
            )
        return variances

    def _log_density(self, x, t):
        y, variances = (x - self._at(t)[1] * self.mean) @ self.axes, self._positive(t)
        return -0.5 * np.sum(y**2 / variances + np.log(2 * np.pi * variances), axis=1)

    def _score(self, x, t):
        return self._hessian(x, t, x - self._at(t)[1] * self.mean)

    def _hessian(self, x, t, u):
        return -(u @ self.axes / self._positive(t)) @ self.axes.T

    def _x0_hat(self, x, t):
        """mean + sqrt(alpha_bar_t) cov cov_t^-1 (x_t - sqrt(alpha_bar_t) mean), the regression of
        x_0 on x_t.
        """
        root = self._at(t)[1]
        gain = root * self.spectrum / self._positive(t)
        return self.mean + gain * ((x - root * self.mean) @ self.axes) @ self.axes.T

    def _draw(self, pick, z, t):
        return self._at(t)[1] * self.mean + np.sqrt(self._variances(t)) * z @ self.axes.T


class GaussianMixture(ClosedForm):
    """x_0 ~ sum_k weights_k N(means_k, covs_k): at every t again a mixture, of the components'
    q(x_t).

    weights (K,), not negative, of sum 1; means (K, D); covs: K covariances, each as Gaussian takes
    it. s: the Schedule. Raises InputError for anything else.
    """

    def __init__(self, weights, means, covs, s):
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
        """log q(x_t), (B,), and the responsibilities r_k = q(k | x_t) = weights_k q_k(x_t) /
        q(x_t), (K, B).
        """
        # a weight of 0 has the logarithm -inf, and its component no say
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
    """x_0 is one of N points, each as likely: the data set itself (Karras22 appendix B.3), and its
    optimal denoiser.

    points (N, ...), a point listed twice counting twice; s: the Schedule. A sampler given this
    denoiser can only return the points: a network that reached its training optimum would do no
    better. Raises InputError.
    """

    def __init__(self, points, s):
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
        """Yield (rows of x, log sum of exp(logits), r): r_i = q(x_i | x_t), (rows, N), for some
        rows at a time.

        r = softmax(-|x_t - sqrt(alpha_bar_t) x_i|^2 / (2 (1 - alpha_bar_t))). The term |x_t|^2 is
        the same for all i and would only drown the rest, so the logits leave it out.
        """
        alpha_bar, root, rest = self._at(t)
        if rest == 0:
            raise InputError(f"at t = {t} points have no density and no score")
        size = max(1, BLOCK // len(self.offsets))
        for rows in (slice(start, start + size) for start in range(0, len(x), size)):
            logits = (root / rest * (x[rows] - root * self.centre)) @ self.offsets.T
            logits -= alpha_bar / rest * self.half_squares
            top = logits.max(axis=1, keepdims=True)
            shares = np.exp(np.subtract(logits, top, out=logits), out=logits)
            total = shares.sum(axis=1, keepdims=True)
            shares /= total
            yield rows, (top + np.log(total))[:, 0], shares

    def _log_density(self, x, t):
        _, root, rest = self._at(t)
        logs = np.empty(len(x))
        for rows, log_sum, _ in self._weigh(x, t):
            logs[rows] = log_sum
        square = np.sum((x - root * self.centre) ** 2, axis=1)
        return (
            logs
            - square / (2 * rest)
            - self.D / 2 * math.log(2 * math.pi * rest)
            - math.log(len(self.offsets))
        )

    def _x0_hat(self, x, t):
        """sum_i r_i x_i."""
        x0_hat = np.empty_like(x)
        for rows, _, shares in self._weigh(x, t):
            x0_hat[rows] = self.centre + shares @ self.offsets
        return x0_hat

    def _score(self, x, t):
        _, root, rest = self._at(t)
        return (root * self._x0_hat(x, t) - x) / rest

    def _hessian(self, x, t, u):
        # score = (sqrt(ab) x0_hat - x) / (1 - ab), ab = alpha_bar_t, and, as for a mixture, d
        # x0_hat / dx is sqrt(ab) / (1 - ab) Cov[x_0 | x_t]; so H = (ab / (1 - ab) Cov - I) / (1 -
        # ab). With the deviations from the mean on one side, Cov u = sum_i r_i x_i (x_i - x0_hat)^T
        # u, and offsets serve for the x_i on the other.
        alpha_bar, _, rest = self._at(t)
        product = np.empty_like(x)
        for rows, _, shares in self._weigh(x, t):
            mean = shares @ self.offsets
            along = u[rows] @ self.offsets.T - np.sum(u[rows] * mean, axis=1, keepdims=True)
            along *= shares
            product[rows] = along @ self.offsets
        return (alpha_bar / rest * product - u) / rest

    def _draw(self, pick, z, t):
        _, root, rest = self._at(t)
        x0 = self.centre + self.offsets[(pick * len(self.offsets)).astype(np.int64)]
        return root * x0 + math.sqrt(rest) * z


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
