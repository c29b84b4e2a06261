"""The variational bound, term by term: an upper bound on the bits that encode the data.

    -log p(x_0) <= L_T + sum_{t > 1} L_{t-1} + L_0                               (Ho20 eq. 5)
    L_T     = KL(q(x_T | x_0) || N(0, I))           x_T against pure noise; nothing is learned
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))     two Gaussians, in closed form
    L_0     = -log p(x_0 | x_1)             the decoder, over the data's grey levels (Ho20 eq. 13)

Logarithms are natural inside. What has "bits" in its name is divided by D log 2: bits per
dimension. xp is the module of the arrays that are handed in: numpy, or a device's.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import noise as counter_noise
from .errors import InputError
from .noise import Noise
from .process import Array, at, learned_log_variance, posterior_tables, q_sample
from .samplers import Denoiser, check_schedule, draw, estimate_x0, estimate_x0_and_mix
from .schedule import Schedule
from .settings import VARIANCES

HALF_WIDTH = 1 / 255  # of a bin: 8-bit data in [-1, 1]; 1 / (levels - 1) in general
GROUPS = 16  # parts of the data with times of their own, at least
CHUNK = 128  # samples in one part, at most
# The decoder's distribution function, F(z) = sigmoid(STEEP (z + CUBE z^3)) (see discretised_nll).
STEEP, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


@dataclass(frozen=True)
class Chain:
    """The reverse chain p whose bound is taken."""

    variance: str = "beta_tilde"  # "beta", "beta_tilde", or "learned" (Nichol21 eq. 15)
    clip: float | None = None  # bound on |x0_hat|, or None
    half_width: float | None = HALF_WIDTH  # of the data's bins, or None for data without


class Tables(NamedTuple):
    """What the bound needs of a schedule: float64 (T + 1,) tables, entry 0 unused; and the bins."""

    c_x0: Array  # the posterior mean's weight of x_0 (Ho20 eq. 7)
    log_beta: Array  # the upper bound on a sensible log variance (Ho20 section 3.2)
    log_beta_tilde: Array  # the lower bound
    half_width: float | None = HALF_WIDTH  # of the data's bins, or None for data without

    def on(self, asarray: Callable[[Array], Any]) -> "Tables":
        """These tables where `asarray` puts them, such as on a device."""
        tables = self.c_x0, self.log_beta, self.log_beta_tilde
        c_x0, log_beta, log_beta_tilde = map(asarray, tables)
        return Tables(c_x0, log_beta, log_beta_tilde, self.half_width)

    def at(self, s: Schedule, t: Any, x: Array) -> "Tables":
        """Their entries at t, shaped to multiply x (`process.at`)."""
        return self.on(lambda table: at(s, table, t, x))


class Bound(NamedTuple):
    """The bound in bits per dimension, averaged over the data: total = prior + terms.sum()."""

    total: float
    error: float  # one standard error of the total: chance in data, noise and times
    prior: float  # L_T
    first: Array  # (k,) ints: where the runs of t begin that the terms stand for
    terms: Array  # (k,): the sum of L_{t-1} over a run; terms[0] is L_0 alone


def bound_tables(s: Schedule, half_width: float | None = HALF_WIDTH) -> Tables:
    """The `Tables` of a schedule.

    beta_tilde_1 = 0 would forbid any error at all, so beta_tilde_2 takes its place.
    """
    c = posterior_tables(s)
    beta, tilde = s.beta.copy(), c.beta_tilde.copy()
    beta[0] = beta[1]
    tilde[:2] = tilde[2] if s.T > 1 else beta[1]
    return Tables(c.c_x0, np.log(beta), np.log(tilde), half_width)


def normal_kl(mean_q: Any, log_var_q: Any, mean_p: Any, log_var_p: Any, xp: Any = np) -> Any:
    """KL(N(mean_q, var_q) || N(mean_p, var_p)) in nats, element by element (Ho20 eq. 5).

    1/2 (log_var_p - log_var_q + exp(log_var_q - log_var_p) - 1 + (mean_q - mean_p)^2
    exp(-log_var_p)). All four are numbers or arrays that broadcast.
    """
    apart = (mean_q - mean_p) ** 2 * xp.exp(-log_var_p)
    return 0.5 * (log_var_p - log_var_q + xp.expm1(log_var_q - log_var_p) + apart)


def normal_kl_slope(mean_q: Any, log_var_q: Any, mean_p: Any, log_var_p: Any, xp: Any = np) -> Any:
    """d normal_kl / d log_var_p, element by element.

    1/2 (1 - exp(log_var_q - log_var_p) - (mean_q - mean_p)^2 exp(-log_var_p)).
    """
    apart = (mean_q - mean_p) ** 2 * xp.exp(-log_var_p)
    return -0.5 * (xp.expm1(log_var_q - log_var_p) + apart)


def discretised_nll(
    x0: Array, mean: Array, log_sigma: Any, half_width: float | None, xp: Any = np
) -> Array:
    """-log p(x_0 | x_1) of N(mean, sigma^2) cut into bins (Ho20 eq. 13), in nats.

    p = F((x_0 - mean + half_width) / sigma) - F((x_0 - mean - half_width) / sigma): the bin around
    x_0, the lowest open downwards (no second term), the highest upwards (F = 1 in the first). F is
    that of Ho20's code and of every bound published since: sigmoid(2 sqrt(2/pi) (z + 0.044715
    z^3)), within 2e-4 of the normal's. It rises from 0 to 1, so the p of the bins sum to 1 and the
    bits are true bits; the decoder's shape alone is a little off the Gaussian.

    Args:
        x0: data, float (B, ...).
        mean: of the decoder, like x0.
        log_sigma: of the decoder, broadcasts to x0.
        half_width: of a bin; None for data without bins: then it is the density itself,
            1/2 ((x_0 - mean)^2 / sigma^2 + log(2 pi sigma^2)).
        xp: the module of the arrays.

    Returns:
        nats, element by element, like x0.
    """
    if half_width is None:
        return (
            0.5 * ((x0 - mean) * xp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
        )
    lower, upper, width, _ = _edges(x0, mean, log_sigma, half_width, xp)
    lowest, highest = x0 < half_width - 1, x0 > 1 - half_width
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no two near numbers are
    # subtracted, so the logarithm of the least likely bin is right too. An open end has the factor
    # 1 in its place.
    nll = xp.where(highest, 0, xp.logaddexp(0, -upper))
    nll = nll + xp.where(lowest, 0, xp.logaddexp(0, lower))
    return nll - xp.where(lowest | highest, 0, xp.log(-xp.expm1(-width)))


def discretised_nll_slope(
    x0: Array, mean: Array, log_sigma: Any, half_width: float | None, xp: Any = np
) -> Array:
    """d discretised_nll / d log_sigma, element by element; arguments as there.

    z is (x_0 - ...) / sigma, so dz / d log_sigma = -z.
    """
    if half_width is None:
        return 1 - ((x0 - mean) * xp.exp(-log_sigma)) ** 2
    lower, upper, width, (dlower, dupper, dwidth) = _edges(x0, mean, log_sigma, half_width, xp)
    lowest, highest = x0 < half_width - 1, x0 > 1 - half_width
    # d log(1 + exp(y)) = sigmoid(y) dy, and sigmoid(y) = exp(-log(1 + exp(-y))) never overflows.
    slope = xp.where(highest, 0, -xp.exp(-xp.logaddexp(0, upper)) * dupper)
    slope = slope + xp.where(lowest, 0, xp.exp(-xp.logaddexp(0, -lower)) * dlower)
    return slope - xp.where(lowest | highest, 0, dwidth * xp.exp(-width) / -xp.expm1(-width))


def _edges(x0, mean, log_sigma, half_width, xp):
    """The logits of F at a bin's two edges, their distance, and their slopes in log_sigma."""
    scale = xp.exp(-log_sigma)
    z, h = (x0 - mean) * scale, half_width * scale
    lower, upper = (STEEP * (edge + CUBE * edge**3) for edge in (z - h, z + h))
    dlower, dupper = (-STEEP * (edge + 3 * CUBE * edge**3) for edge in (z - h, z + h))
    # upper - lower, multiplied out: exact also where a bin is far smaller than sigma.
    width = 2 * STEEP * h * (1 + CUBE * (3 * z**2 + h**2))
    dwidth = -2 * STEEP * h * (1 + 3 * CUBE * (3 * z**2 + h**2))
    return lower, upper, width, (dlower, dupper, dwidth)


def prior_term(s: Schedule, x0: Array, xp: Any = np) -> Array:
    """L_T = KL(q(x_T | x_0) || N(0, I)) (Ho20 eq. 5) in bits per dimension, float64 (B,)."""
    alpha_bar = float(s.alpha_bar[-1])
    mean = math.sqrt(alpha_bar) * x0.astype(np.float64)
    return _bits(normal_kl(mean, math.log1p(-alpha_bar), 0.0, 0.0, xp))


def vb_term(
    denoise: Denoiser,
    s: Schedule,
    x0: Array,
    t: int,
    eps: Array,
    chain: Chain = Chain(),
    xp: Any = np,
) -> Array:
    """L_{t-1} (Ho20 eq. 5, 8, 12), or at t = 1 the decoder's L_0 (Ho20 eq. 13), at one x_t.

    The decoder's variance, for both fixed ones, is beta_tilde_2 (Nichol21's code) or, without bins,
    beta_1: what x_1 leaves open of a smooth density.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        x0: data, float (B, ...).
        t: an int in 1..T.
        eps: N(0, I) like x0: x_t is `q_sample` of both.
        chain: the variance, the clipping and the data's bins.
        xp: the module of the arrays.

    Returns:
        bits per dimension, (B,).

    Raises:
        InputError: for another variance, half_width or t, or a schedule that is not the denoiser's.
    """
    _check(x0, chain)
    xt, half_width = q_sample(s, x0, t, eps), chain.half_width
    c_x0, log_beta, log_var_q, _ = bound_tables(s).at(s, t, x0)
    if chain.variance == "learned":
        if getattr(denoise, "schedule", s) is not s:
            check_schedule(denoise, s)
        x0_hat, mix = estimate_x0_and_mix(denoise, xt, t, chain.clip)
        log_var = learned_log_variance(log_beta, log_var_q, mix)
    else:
        x0_hat = estimate_x0(denoise, s, xt, t, chain.clip)
        upper = chain.variance == "beta" if t > 1 else half_width is None
        log_var = log_beta if upper else log_var_q
    if t == 1:  # p(x_0 | x_1) has the mean x0_hat: the posterior's weights there are 1 and 0
        return _bits(discretised_nll(x0, x0_hat, 0.5 * log_var, half_width, xp))
    # Both means hold the same share of x_t, which their difference does not see.
    return _bits(normal_kl(c_x0 * x0, log_var_q, c_x0 * x0_hat, log_var, xp))


def vb_loss_and_slope(
    s: Schedule,
    x0: Array,
    t: Array,
    x0_hat: Array,
    mix: Array,
    tables: Tables | None = None,
    xp: Any = np,
) -> tuple[Array, Array]:
    """L_vlb's part in L_hybrid (Nichol21 eq. 15, 16), and its slope in the learned variance.

    x0_hat is held fixed (Nichol21 section 3.1). T times the mean of the first result over uniform t
    is L_vlb on average.

    Args:
        s: the schedule.
        x0: data, float (B, ...).
        t: (B,) ints in 1..T.
        x0_hat: the prediction of x0, like x0.
        mix: v of Nichol21 eq. 15, like x0.
        tables: `bound_tables(s)`, where t lives if that is a device.
        xp: the module of the arrays.

    Returns:
        vb, (B,), L_{t-1} or L_0 of each sample, and d vb / d mix, (B, ...), in bits per dimension.

    Raises:
        InputError: for t outside 1..T.
    """
    tables = tables or bound_tables(s)
    c_x0, log_beta, log_var_q, half_width = tables.at(s, t, x0)
    log_var = learned_log_variance(log_beta, log_var_q, mix)
    step = c_x0 * x0, log_var_q, c_x0 * x0_hat, log_var, xp
    decoder = x0, x0_hat, 0.5 * log_var, half_width, xp
    first = (t == 1).reshape(-1, *(1,) * (x0.ndim - 1))
    nats = xp.where(first, discretised_nll(*decoder), normal_kl(*step))
    slope = (log_beta - log_var_q) * xp.where(
        first, 0.5 * discretised_nll_slope(*decoder), normal_kl_slope(*step)
    )
    return _bits(nats), slope / (math.log(2) * math.prod(x0.shape[1:]))


def strata(T: int, times: int | None = None) -> Array:
    """The first t of each of `times` runs that 1..T is cut into, and T + 1: (times + 1,) ints.

    t = 1 stands alone. Beyond, the runs grow geometrically, as fast as L_{t-1} falls: each holds a
    like share of it. None cuts 1..T into single t. Raises InputError unless 2 <= times <= T.
    """
    if times is None or times == T:
        return np.arange(1, T + 2)
    if not isinstance(times, int | np.integer) or not 2 <= times <= T:
        raise InputError(f"times must be a whole number in 2..T = {T}, got {times!r}")
    last = np.maximum(np.rint(np.geomspace(1, T, times)).astype(int), np.arange(1, times + 1))
    return np.concatenate([[1], last + 1])


def bits_per_dim(
    denoise: Denoiser,
    s: Schedule,
    x0: Array,
    *,
    seed: int = 0,
    chain: Chain = Chain(clip=1.0),
    times: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Bound:
    """The variational bound of data (Ho20 eq. 3, 5) in bits per dimension.

    Groups of samples have times and noise of their own: their spread gives the standard error.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        x0: data, float (B, ...).
        seed: of the noise and the times.
        chain: the variance, the clipping and the data's bins.
        times: None for every t; or how many evaluations for each sample: one t is drawn from each
            of the `strata` and stands for all of it, which leaves the expectation as it is.
        progress: called with (done, of), in calls of the denoiser.

    Raises:
        InputError: where `vb_term` does, and for times that cannot be.
    """
    _check(x0, chain)
    groups, done = Groups(s, x0, seed, times), itertools.count(1)

    def tick():
        if progress is not None:
            progress(next(done), groups.drawn.size)

    return groups.average([groups.bound(denoise, chain, g, tick) for g in groups.numbers])


class Groups:
    """The data in groups whose bounds are averaged; each has times and noise of its own.

    Any process may take any group: `bound` of each number, then `average` of all, in order.

    Args:
        s: the schedule.
        x0: data, float (B, ...).
        seed: of the noise and the times.
        times: as in `bits_per_dim`.
    """

    def __init__(self, s: Schedule, x0: Array, seed: int = 0, times: int | None = None) -> None:
        self.s, self.x0, self.seed = s, x0, seed
        self.first, count = strata(s.T, times), len(x0)
        groups = max(min(count, GROUPS), -(-count // CHUNK))
        self.numbers = range(groups)
        self.cuts = np.linspace(0, count, groups + 1).astype(int)
        width = np.diff(self.first)
        # step 0 of the counter; the noise at t has step t
        within = counter_noise.uniform((groups, width.size), seed, counter_noise.BOUND, 0)
        self.drawn = (self.first[:-1] + np.floor(within * width)).astype(int)  # (groups, times)

    def bound(
        self, denoise: Denoiser, chain: Chain, g: int, progress: Callable[[], object] | None = None
    ) -> tuple[float, list[float]]:
        """L_T of group g, and the terms that stand for the strata, in bits per dimension.

        Args:
            denoise, chain: as in `bits_per_dim`.
            g: the group's number.
            progress: called after each evaluation of the denoiser.
        """
        xp, (start, end) = getattr(denoise, "xp", np), self.cuts[g : g + 2]
        part, noise = self.x0[start:end], Noise(self.seed, int(start))
        terms = []
        for j, t in enumerate(self.drawn[g].tolist()):
            eps = draw(denoise, noise, part, counter_noise.BOUND, t)
            term = float(vb_term(denoise, self.s, part, t, eps, chain, xp).mean())
            terms.append(float(self.first[j + 1] - self.first[j]) * term)
            if progress is not None:
                progress()
        return float(prior_term(self.s, part, xp).mean()), terms

    def average(self, found: list[tuple[float, list[float]]]) -> Bound:
        """The `Bound` of what `bound` found for each group, in order."""
        prior, terms = (np.array(part) for part in zip(*found))
        share = np.diff(self.cuts) / len(self.x0)
        return _average(self.first[:-1], share, prior, terms)


def _average(first, share, prior, terms):
    """The `Bound` of groups that hold these shares of the data, their spread as the error."""
    groups, totals = len(share), prior + terms.sum(axis=1)
    error = totals.std(ddof=1) / math.sqrt(groups) if groups > 1 else math.nan
    return Bound(float(share @ totals), float(error), float(share @ prior), first, share @ terms)


def _bits(nats):
    """Bits per dimension (B,) of nats (B, ...)."""
    return nats.reshape(len(nats), -1).mean(axis=1) / math.log(2)


def _check(x0, chain):
    if chain.variance not in VARIANCES:
        raise InputError(f"variance must be one of {', '.join(VARIANCES)}, got {chain.variance!r}")
    if x0.dtype.kind != "f" or x0.ndim < 2 or x0.size == 0:
        raise InputError(
            f"x0 must be (B, ...) floats and not empty, got {x0.dtype} of shape {x0.shape}"
        )
    if chain.half_width is not None and not 0 < chain.half_width <= 1:
        raise InputError(f"half_width must be in (0, 1] or None, got {chain.half_width}")
