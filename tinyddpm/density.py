"""The log-likelihood of data along the probability-flow ODE: no bound but the model's own density,
up to the solver.

Song21b eq. 13 in the time tau = -log alpha_bar (d tau = beta dt) carries data, tau = 0, to noise:

    dx / dtau = f(x, tau) = -1/2 (x + score),        score = -eps_hat / sqrt(1 - alpha_bar)
    log p(x_0) = log N(x_T; 0, I) + integral of div f dtau                                  (Song21b eq. 39)

The change of variables: where the flow spreads (div f > 0), density thins out on the way to noise.

Theis16      A note on the evaluation of generative models, arXiv:1511.01844
Grathwohl19  FFJORD: free-form continuous dynamics, arXiv:1810.01367
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from . import noise
from .errors import InputError
from .process import score_from_eps
from .samplers import walk


class LogLikelihood(NamedTuple):
    """log p (B,), natural logarithm, and one standard error (B,) of it from the probes (0 for the
    exact divergence).
    """

    log_p: np.ndarray
    error: np.ndarray


def log_likelihood(
    denoise,
    s,
    x0,
    steps=None,
    spacing="uniform",
    divergence="exact",
    probes=1,
    seed=0,
    first_sample=0,
):
    """log p(x0) along the probability-flow ODE (Song21b eq. 39), by Heun's method: a LogLikelihood,
    float64 (B,).

    denoise: a denoiser with vjp(xt, t, u); x0: (B, ...) floats; steps: of the walk from data to T,
    None for every t; spacing: a name in `samplers.SPACINGS`; divergence: "exact", which asks vjp
    once for each of the D elements of a sample, or "hutchinson" (Song21b eq. 40), which asks it
    once for each of `probes` random vectors, the same along the whole path. Heun's error falls as
    steps^-2. The network cannot be asked at t = 0, so the first interval, 0 to 1, is one Euler step
    with what it says at t = 1: its error, of order beta_1^2, does not fall with steps, but with T.
    p is the model's: as in sampling, x_T is N(0, I), so where alpha_bar_T is not small the data's
    own density differs. Raises InputError for a denoiser without vjp, for alpha_bar_T = 0 (tau is
    infinite), and for another divergence, spacing, number of steps or of probes.
    """
    if not hasattr(denoise, "vjp"):
        raise InputError(
            "the ODE's likelihood needs the denoiser's derivative: it has no vjp(xt, t, u)"
        )
    if s.alpha_bar[-1] == 0:
        raise InputError(
            "at alpha_bar_T = 0 the ODE's time is infinite: it gives no likelihood for this schedule"
        )
    if x0.dtype.kind != "f" or x0.ndim < 2:
        raise InputError(f"x0 must be (B, ...) floats, got {x0.dtype} of shape {x0.shape}")
    if divergence not in ("exact", "hutchinson"):
        raise InputError(f"divergence must be exact or hutchinson, got {divergence!r}")
    if not isinstance(probes, int | np.integer) or probes < 1:
        raise InputError(f"probes must be a whole number of at least 1, got {probes!r}")
    exact = divergence == "exact"
    signs = [] if exact else [_signs(denoise, x0, seed, k, first_sample) for k in range(probes)]

    def flow(x, t):
        """f (B, ...), and a list of div f (B,), float64: the one truth, or what each probe says of
        it.
        """
        score, traces = None, []
        for u in _units(x) if exact else signs:
            eps_hat, product = denoise.vjp(x, t, u)
            score = score_from_eps(s, t, eps_hat)
            traces.append(_sum(u * score_from_eps(s, t, product)))
        # The trace of a matrix J is the sum of e_d J e_d, or the mean of v J v over random signs v,
        # for E[v v^T] = I.
        return -0.5 * (x + score), [
            -0.5 * (x[0].size + trace) for trace in ([sum(traces)] if exact else traces)
        ]

    times = walk(s, steps, spacing)[::-1]
    xT, spread = _heun(flow, -np.log(s.alpha_bar), x0, times)
    prior = -0.5 * (_sum(xT**2) + x0[0].size * math.log(2 * math.pi))
    logs = [prior + part for part in spread]
    log_p = sum(logs) / len(logs)
    if len(logs) == 1:
        return LogLikelihood(log_p, log_p * (0.0 if exact else math.nan))
    return LogLikelihood(
        log_p, (sum((each - log_p) ** 2 for each in logs) / (len(logs) - 1) / len(logs)) ** 0.5
    )


def dequantise(x0, levels, seed=0, first_sample=0):
    """x0 plus noise uniform over its bin, as wide as the distance of two levels: 2 / (levels - 1)
    (Theis16 eq. 3).

    x0 (B, ...), floats on `levels` evenly spaced values from -1 to 1: a density of such data would
    have no bound. Returns x0's dtype. Raises InputError for less than two levels.
    """
    width = _bin_width(levels)
    u = noise.uniform(x0.shape, seed, noise.DEQUANTISE, 0, first_sample)
    return (x0 + width * (u - 0.5)).astype(x0.dtype)


def ode_bits_per_dim(log_p, dims, levels):
    """Bits per dimension of grey values, from log p of `dequantise`d ones (Theis16 eq. 5): the
    shape of log_p.

    A bin's probability is at least exp(E log(p width^D)), so -(log p + D log width) / (D log 2), on
    average, is what the values cost at most. dims = D; levels as in dequantise. Raises InputError
    for less than two levels.
    """
    return -(log_p + dims * math.log(_bin_width(levels))) / (dims * math.log(2))


def _heun(flow, tau, x, times):
    """x carried by flow to times[-1], and the integrals of its divergences, over the table tau of d
    tau.
    """
    # asked about x_0 at t = 1, not of an x_1: there is no t = 0
    f, div = flow(x, times[0])
    h = float(tau[times[0]])
    x, spread = x + h * f, [h * part for part in div]
    for t, t_next in pairwise(times):
        h = float(tau[t_next] - tau[t])
        f, div = flow(x, t)
        f_next, div_next = flow(x + h * f, t_next)
        x = x + 0.5 * h * (f + f_next)
        spread = [total + 0.5 * h * (a + b) for total, a, b in zip(spread, div, div_next)]
    return x, spread


def _units(x):
    """The D unit vectors in the shape of x, one at a time, each the same for every sample."""
    for d in range(x[0].size):
        unit = 0 * x
        unit.reshape(len(x), -1)[:, d] = 1
        yield unit


def _signs(denoise, x, seed, step, first_sample):
    """Independent signs, +1 or -1 (Rademacher), in the shape and dtype of x and where the
    denoiser's arrays live.
    """
    draw = getattr(denoise, "normal", noise.normal)
    return (2 * (draw(x.shape, seed, noise.PROBE, step, first_sample) > 0) - 1).astype(x.dtype)


def _sum(x):
    """The sum over each sample's elements, float64: (B, ...) -> (B,)."""
    return x.reshape(len(x), -1).astype(np.float64).sum(axis=1)


def _bin_width(levels):
    if not isinstance(levels, int | np.integer) or levels < 2:
        raise InputError(f"levels must be a whole number of at least 2, got {levels!r}")
    return 2 / (levels - 1)
