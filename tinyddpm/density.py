"""The log-likelihood of data along the probability-flow ODE: the model's own density.

Song21b eq. 13 in the time tau = -log alpha_bar (d tau = beta dt) carries data, tau = 0, to noise:

    dx / dtau = f(x, tau) = -1/2 (x + score),        score = -eps_hat / sqrt(1 - alpha_bar)
    log p(x_0) = log N(x_T; 0, I) + integral of div f dtau                       (Song21b eq. 39)

That is the change of variables (Grathwohl19): where div f > 0, the density decreases along the
flow. It is no bound: up to the solver's error it is the density that sampling draws from.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from . import noise as counter_noise
from .errors import InputError
from .noise import Noise
from .process import Array, score_from_eps
from .samplers import Steps, check_schedule, draw, times
from .schedule import Schedule
from .solvers import heun_step, ode_slope

DIVERGENCES = ("exact", "hutchinson")


class LogLikelihood(NamedTuple):
    """The result of `log_likelihood`."""

    log_p: Array  # natural logarithm, float64 (B,)
    error: Array  # one standard error, (B,): 0 for the exact divergence, NaN for one probe


def log_likelihood(
    denoise: Any,
    s: Schedule,
    x0: Array,
    *,
    steps: Steps = None,
    divergence: str = "exact",
    probes: int = 1,
    noise: int | Noise = 0,
) -> LogLikelihood:
    """log p(x_0) along the probability-flow ODE (Song21b eq. 39), by Heun's method.

    The error falls as steps^-2. The network cannot be called at t = 0, so the first interval, 0 to
    1, is one Euler step with its value at t = 1: that error, of order beta_1^2, falls with T alone.
    As in sampling, x_T is N(0, I): where alpha_bar_T is not small, the data's own density differs.

    Args:
        denoise: a denoiser with vjp(xt, t, u).
        s: the schedule of the denoiser.
        x0: data, float (B, ...).
        steps: as in `samplers.ancestral`, here from data to T.
        divergence: "exact", one vjp for each of the D elements of a sample; or "hutchinson"
            (Song21b eq. 40), one for each probe, the same along the whole path.
        probes: random vectors of "hutchinson", at least 1; of one alone the error is NaN.
        noise: a seed or a `Noise`, of the probes.

    Raises:
        InputError: a denoiser without vjp, alpha_bar_T = 0, where tau is infinite, or settings that
            cannot be.
    """
    _check(denoise, s, x0, divergence, probes)
    exact = divergence == "exact"
    signs = None if exact else [_signs(denoise, x0, noise, k) for k in range(probes)]
    xT, spread = _integrate(denoise, s, signs, x0, times(s, steps)[::-1])
    prior = -0.5 * (_sum(xT**2) + x0[0].size * math.log(2 * math.pi))
    logs = [prior + part for part in spread]
    log_p = sum(logs) / len(logs)
    if len(logs) == 1:
        return LogLikelihood(log_p, log_p * (0.0 if exact else math.nan))
    variance = sum((each - log_p) ** 2 for each in logs) / (len(logs) - 1)
    return LogLikelihood(log_p, (variance / len(logs)) ** 0.5)


def _flow(denoise, s, signs, x, t):
    """f (B, ...), and a list of div f (B,), float64: the exact one, or one for each probe.

    The trace of a matrix J is the sum of e_d J e_d over unit vectors, or the mean of v J v over
    random signs v, since E[v v^T] = I.
    """
    score, traces = None, []
    for u in _units(x) if signs is None else signs:
        eps_hat, product = denoise.vjp(x, t, u)
        score = score_from_eps(s, t, eps_hat)
        traces.append(_sum(u * score_from_eps(s, t, product)))
    traces = [sum(traces)] if signs is None else traces
    return -ode_slope(x, score), [-0.5 * (x[0].size + trace) for trace in traces]


def _integrate(denoise, s, signs, x, times):
    """x carried along the ODE to times[-1], and the integrals of its divergences over d tau.

    The first step is Euler's, with x_0 evaluated at t = 1, since there is no t = 0.
    """
    tau = -np.log(s.alpha_bar)
    f, div = _flow(denoise, s, signs, x, times[0])
    h = float(tau[times[0]])
    x, spread = x + h * f, [h * part for part in div]
    for t, t_next in pairwise(times):
        h = float(tau[t_next] - tau[t])
        f, div = _flow(denoise, s, signs, x, t)
        f_ahead, div_ahead = _flow(denoise, s, signs, x + h * f, t_next)
        x = heun_step(x, h, f, f_ahead)
        spread = [heun_step(total, h, a, b) for total, a, b in zip(spread, div, div_ahead)]
    return x, spread


def _units(x):
    """The D unit vectors in the shape of x, one at a time, each the same for every sample."""
    for d in range(x[0].size):
        unit = 0 * x
        unit.reshape(len(x), -1)[:, d] = 1
        yield unit


def _signs(denoise, x, noise, k):
    """The k-th probe: independent signs, +1 or -1 (Rademacher), like x and on its device."""
    return (2 * (draw(denoise, noise, x, counter_noise.PROBE, k) > 0) - 1).astype(x.dtype)


def _sum(x):
    """The sum over each sample's elements, float64: (B, ...) -> (B,)."""
    return x.reshape(len(x), -1).astype(np.float64).sum(axis=1)


def _check(denoise, s, x0, divergence, probes):
    """Raises InputError for arguments of `log_likelihood` that cannot be."""
    if not hasattr(denoise, "vjp"):
        raise InputError(
            "the ODE's likelihood needs the denoiser's derivative: it has no vjp(xt, t, u)"
        )
    if getattr(denoise, "schedule", s) is not s:
        check_schedule(denoise, s)
    if s.alpha_bar[-1] == 0:
        raise InputError(
            "at alpha_bar_T = 0 the ODE's time is infinite: it gives no likelihood for this "
            "schedule"
        )
    if x0.dtype.kind != "f" or x0.ndim < 2:
        raise InputError(f"x0 must be (B, ...) floats, got {x0.dtype} of shape {x0.shape}")
    if divergence not in DIVERGENCES:
        raise InputError(f"divergence must be exact or hutchinson, got {divergence!r}")
    if not isinstance(probes, int | np.integer) or probes < 1:
        raise InputError(f"probes must be a whole number of at least 1, got {probes!r}")


# Grey values: from a density back to bits.


def dequantise(x0: Array, levels: int, seed: int = 0, first_sample: int = 0) -> Array:
    """x0 plus noise uniform over its bin, of width 2 / (levels - 1) (Theis16 eq. 3).

    A density of data on few values would have no bound.

    Args:
        x0: floats (B, ...) on `levels` evenly spaced values from -1 to 1.
        levels: how many grey values there are, at least 2.
        seed: of the noise.
        first_sample: the number of the first sample, for the noise.

    Returns:
        (B, ...) in the dtype of x0.

    Raises:
        InputError: for less than two levels.
    """
    width = _bin_width(levels)
    u = counter_noise.uniform(x0.shape, seed, counter_noise.DEQUANTISE, 0, first_sample)
    return (x0 + width * (u - 0.5)).astype(x0.dtype)


def ode_bits_per_dim(log_p: Array, dims: int, levels: int) -> Array:
    """Bits per dimension of grey values, from log p of `dequantise`d ones (Theis16 eq. 5).

    A bin's probability is at least exp(E log(p width^D)), so -(log p + D log width) / (D log 2) is
    on average at least what the values cost. Raises InputError for less than two levels.

    Args:
        log_p: natural logarithm, of any shape.
        dims: D, the elements of a sample.
        levels: as in `dequantise`.
    """
    return -(log_p + dims * math.log(_bin_width(levels))) / (dims * math.log(2))


def _bin_width(levels):
    if not isinstance(levels, int | np.integer) or levels < 2:
        raise InputError(f"levels must be a whole number of at least 2, got {levels!r}")
    return 2 / (levels - 1)
