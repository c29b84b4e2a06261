"""The variational bound, term by term: how many bits a model needs to write the data down.

    -log p(x_0) <= L_T + sum_{t > 1} L_{t-1} + L_0                                        (Ho20 eq. 5)
    L_T     = KL(q(x_T | x_0) || N(0, I))                  how far x_T is from pure noise; nothing to learn
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))         two Gaussians, in closed form
    L_0     = -log p(x_0 | x_1)                            the decoder, over the data's grey levels (Ho20 eq. 13)

Natural logarithms inside; whatever has "bits" in its name or its sentence is divided by D log 2:
bits per dimension. xp is the module whose arrays are handed in: numpy's, or a device's.
"""

import math
from typing import NamedTuple

import numpy as np

from . import noise
from .errors import InputError
from .process import at, beta_tilde, posterior_weights, q_sample
from .samplers import estimate_x0

HALF_WIDTH = 1 / 255  # of a bin: 8-bit data in [-1, 1]; 1 / (levels - 1) in general
# parts of the data with times of their own, at least; samples in one, at most
GROUPS, CHUNK = 16, 128
# The decoder's distribution function, F(z) = sigmoid(STEEP (z + CUBE z^3)) (see discretised_nll).
STEEP, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


class Tables(NamedTuple):
    """What the bound needs of a schedule: three float64 (T + 1,) tables, entry 0 unused."""

    on_x0: np.ndarray  # the posterior mean's weight of x_0 (Ho20 eq. 7)
    log_beta: np.ndarray  # the upper and
    log_beta_tilde: np.ndarray  # the lower bound on a sensible log variance (Ho20 section 3.2)


class Bound(NamedTuple):
    """The bound in bits per dimension, averaged over the data; total = prior + terms.sum(), and
    error is its own.

    terms[j] is the sum of L_{t-1} over first[j] <= t < first[j + 1] (to T, for the last one);
    terms[0] is L_0 alone.
    """

    total: float
    error: float  # one standard error: chance in data, noise and times
    prior: float  # L_T
    first: np.ndarray  # (k,) ints
    terms: np.ndarray  # (k,)


def bound_tables(s):
    """The `Tables` of a schedule. beta_tilde_1 = 0 would forbid any error at all, so beta_tilde_2
    stands in for it.
    """
    beta, tilde = s.beta.copy(), beta_tilde(s)
    beta[0] = beta[1]
    tilde[:2] = tilde[2] if s.T > 1 else beta[1]
    return Tables(posterior_weights(s)[0], np.log(beta), np.log(tilde))


def normal_kl(mean_q, log_var_q, mean_p, log_var_p, xp=np):
    """KL(N(mean_q, exp(log_var_q)) || N(mean_p, exp(log_var_p))), in nats, element by element (Ho20
    eq. 5).

    1/2 (log_var_p - log_var_q + exp(log_var_q - log_var_p) - 1 + (mean_q - mean_p)^2
    exp(-log_var_p)).
    """
    apart = (mean_q - mean_p) ** 2 * xp.exp(-log_var_p)
    return 0.5 * (log_var_p - log_var_q + xp.expm1(log_var_q - log_var_p) + apart)


def normal_kl_slope(mean_q, log_var_q, mean_p, log_var_p, xp=np):
    """d normal_kl / d log_var_p = 1/2 (1 - exp(log_var_q - log_var_p) - (mean_q - mean_p)^2
    exp(-log_var_p)).
    """
    apart = (mean_q - mean_p) ** 2 * xp.exp(-log_var_p)
    return -0.5 * (xp.expm1(log_var_q - log_var_p) + apart)


def discretised_nll(x0, mean, log_sigma, half_width, xp=np):
    """-log p(x_0 | x_1) of N(mean, sigma^2) cut into bins (Ho20 eq. 13), in nats, element by
    element.

    p = F((x_0 - mean + half_width) / sigma) - F((x_0 - mean - half_width) / sigma): the bin around
    x_0, the lowest open downwards (no second term), the highest upwards (F = 1 in the first). F is
    Ho20's code's and every bound's published since: sigmoid(2 sqrt(2/pi) (z + 0.044715 z^3)),
    within 2e-4 of the normal's. It rises from 0 to 1, so the bins' p sum to 1 and the bits are true
    bits; only the decoder's shape is a hair off the Gaussian. half_width None: data without bins,
    and the density itself, 1/2 ((x_0 - mean)^2 / sigma^2 + log(2 pi sigma^2)).
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
    nll = xp.where(highest, 0, xp.logaddexp(0, -upper)) + xp.where(
        lowest, 0, xp.logaddexp(0, lower)
    )
    return nll - xp.where(lowest | highest, 0, xp.log(-xp.expm1(-width)))


def discretised_nll_slope(x0, mean, log_sigma, half_width, xp=np):
    """d discretised_nll / d log_sigma, element by element: z is (x_0 - ...) / sigma, so dz / d
    log_sigma = -z.
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
    """The logits of F at a bin's two edges, their distance, and the slopes of the three in
    log_sigma.
    """
    scale = xp.exp(-log_sigma)
    z, h = (x0 - mean) * scale, half_width * scale
    lower, upper = (STEEP * (edge + CUBE * edge**3) for edge in (z - h, z + h))
    dlower, dupper = (-STEEP * (edge + 3 * CUBE * edge**3) for edge in (z - h, z + h))
    # upper - lower, multiplied out: exact also where a bin is far smaller than sigma.
    width = 2 * STEEP * h * (1 + CUBE * (3 * z**2 + h**2))
    dwidth = -2 * STEEP * h * (1 + 3 * CUBE * (3 * z**2 + h**2))
    return lower, upper, width, (dlower, dupper, dwidth)


def prior_term(s, x0, xp=np):
    """L_T = KL(q(x_T | x_0) || N(0, I)) (Ho20 eq. 5) of x0 (B, ...), bits per dimension (B,),
    float64.
    """
    alpha_bar = float(s.alpha_bar[-1])
    mean = math.sqrt(alpha_bar) * x0.astype(np.float64)
    return _bits(normal_kl(mean, math.log1p(-alpha_bar), 0.0, 0.0, xp))


def vb_term(denoise, s, x0, t, eps, variance="beta_tilde", clip=None, half_width=HALF_WIDTH, xp=np):
    """L_{t-1} (Ho20 eq. 5, 8, 12), or at t = 1 the decoder's L_0 (Ho20 eq. 13), at x_t of x0, eps:
    bits/dim (B,).

    x0, eps: (B, ...) floats; t: an int in 1..T; variance: "beta", "beta_tilde" or, from
    denoise.x0_and_mix, "learned" (Nichol21 eq. 15); clip: bound on |x0_hat|, or None; half_width:
    of the data's bins, or None for data without. The decoder's variance, for both fixed ones, is
    beta_tilde_2 (Nichol21's code) or, without bins, beta_1: what x_1 leaves open of a smooth
    density. Raises InputError for another variance, half_width or t.
    """
    _check(x0, half_width)
    xt, tables = q_sample(s, x0, t, eps), bound_tables(s)
    on_x0, log_beta, log_var_q = (at(s, table, t, x0) for table in tables)
    if variance == "learned":
        if not hasattr(denoise, "x0_and_mix"):
            raise InputError(
                "this denoiser did not learn the variance: it has no x0_and_mix(xt, t)"
            )
        x0_hat, mix = denoise.x0_and_mix(xt, t)
        x0_hat = x0_hat if clip is None else x0_hat.clip(-clip, clip)
        log_var = log_var_q + mix * (log_beta - log_var_q)
    elif variance in ("beta", "beta_tilde"):
        x0_hat = estimate_x0(denoise, s, xt, t, clip)
        upper = variance == "beta" if t > 1 else half_width is None
        log_var = log_beta if upper else log_var_q
    else:
        raise InputError(f"variance must be one of beta, beta_tilde, learned, got {variance!r}")
    # p(x_0 | x_1) has the mean x0_hat: the posterior's weights there are 1 and 0
    if t == 1:
        return _bits(discretised_nll(x0, x0_hat, 0.5 * log_var, half_width, xp))
    # Both means hold the same share of x_t, which their difference does not see.
    return _bits(normal_kl(on_x0 * x0, log_var_q, on_x0 * x0_hat, log_var, xp))


def vb_loss_and_slope(s, x0, t, x0_hat, mix, half_width=HALF_WIDTH, tables=None, xp=np):
    """L_vlb's part in L_hybrid = L_simple + lambda L_vlb (Nichol21 eq. 15, 16): (vb, d vb / d mix).

    vb (B,): L_{t-1} or L_0 of each sample at its own t, in bits per dimension; T times its mean
    over uniform t is L_vlb on average. The slope (B, ...) is each vb's own, in bits per dimension
    too; x0_hat is held fixed, as Nichol21 section 3.1 would have it. x0, x0_hat, mix: (B, ...); t:
    (B,) ints in 1..T; log variance = mix log beta + (1 - mix) log beta_tilde; half_width as in
    vb_term; tables: `bound_tables(s)`, where t lives if that is a device. Raises InputError for t
    outside 1..T.
    """
    on_x0, log_beta, log_var_q = (at(s, table, t, x0) for table in tables or bound_tables(s))
    span = log_beta - log_var_q
    log_var = log_var_q + mix * span
    step = on_x0 * x0, log_var_q, on_x0 * x0_hat, log_var, xp
    decoder = x0, x0_hat, 0.5 * log_var, half_width, xp
    first = (t == 1).reshape(-1, *(1,) * (x0.ndim - 1))
    nats = xp.where(first, discretised_nll(*decoder), normal_kl(*step))
    slope = span * xp.where(first, 0.5 * discretised_nll_slope(*decoder), normal_kl_slope(*step))
    return _bits(nats), slope / (math.log(2) * math.prod(x0.shape[1:]))


def strata(T, times=None):
    """1..T cut into `times` runs, by their first t's: (times + 1,) ints, the last T + 1; None cuts
    it into single t's.

    t = 1 stands alone. Beyond, the runs grow geometrically, as fast as L_{t-1} falls: each holds a
    like share of it. Raises InputError unless 2 <= times <= T.
    """
    if times is None or times == T:
        return np.arange(1, T + 2)
    if not isinstance(times, int | np.integer) or not 2 <= times <= T:
        raise InputError(f"times must be a whole number in 2..T = {T}, got {times!r}")
    last = np.maximum(np.rint(np.geomspace(1, T, times)).astype(int), np.arange(1, times + 1))
    return np.concatenate([[1], last + 1])


def bits_per_dim(
    denoise,
    s,
    x0,
    seed=0,
    variance="beta_tilde",
    clip=1.0,
    half_width=HALF_WIDTH,
    times=None,
    progress=None,
    xp=np,
):
    """The variational bound (Ho20 eq. 3, 5) of data x0 (B, ...) in bits per dimension, a `Bound`.

    times: None for every t; or k, the evaluations for each sample: one t is drawn from each of k
    `strata` and stands for all of it, which leaves the expectation as it is. The samples are cut
    into groups, each with its own times and noise: their spread is the standard error (nan for one
    sample). progress: called with (done, of), in calls of the denoiser; the other arguments are
    vb_term's. Raises InputError where vb_term does, and for bad times.
    """
    _check(x0, half_width)
    first, count = strata(s.T, times), len(x0)
    width, groups = np.diff(first), max(min(count, GROUPS), -(-count // CHUNK))
    # step 0: the noise at t has step t
    within = noise.uniform((groups, width.size), seed, noise.BOUND, 0)
    cuts = np.linspace(0, count, groups + 1).astype(int)
    draw = getattr(denoise, "normal", noise.normal)
    prior, terms = np.zeros(groups), np.zeros((groups, width.size))
    for g, (start, end) in enumerate(zip(cuts, cuts[1:])):
        part = x0[start:end]
        prior[g] = float(prior_term(s, part, xp).mean())
        for j, t in enumerate((first[:-1] + np.floor(within[g] * width)).astype(int).tolist()):
            eps = draw(part.shape, seed, noise.BOUND, t, int(start)).astype(x0.dtype)
            terms[g, j] = width[j] * float(
                vb_term(denoise, s, part, t, eps, variance, clip, half_width, xp).mean()
            )
            if progress is not None:
                progress(g * width.size + j + 1, groups * width.size)
    share, totals = np.diff(cuts) / count, prior + terms.sum(axis=1)
    error = totals.std(ddof=1) / math.sqrt(groups) if groups > 1 else math.nan
    return Bound(
        float(share @ totals), float(error), float(share @ prior), first[:-1], share @ terms
    )


def _bits(nats):
    """Bits per dimension (B,) of nats (B, ...)."""
    return nats.reshape(len(nats), -1).mean(axis=1) / math.log(2)


def _check(x0, half_width):
    if x0.dtype.kind != "f" or x0.ndim < 2 or x0.size == 0:
        raise InputError(
            f"x0 must be (B, ...) floats and not empty, got {x0.dtype} of shape {x0.shape}"
        )
    if half_width is not None and not 0 < half_width <= 1:
        raise InputError(f"half_width must be in (0, 1] or None, got {half_width}")
