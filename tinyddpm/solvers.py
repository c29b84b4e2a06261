"""Solvers of the probability-flow ODE, from x_T to data and back: no noise, so x_T alone decides.

Song21b eq. 13 in the time tau = -log alpha_bar (d tau = beta dt):
    dx / dtau = -1/2 (x + score),        score = (sqrt(alpha_bar) x0_hat - x) / (1 - alpha_bar)
Sampling follows it from tau_T down to tau = 0, data. At the end stands a table of all the samplers.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .errors import InputError
from .process import Array, Coefficients, score_from_x0
from .samplers import (
    Denoiser,
    NoiseSource,
    PredictorCorrector,
    Steps,
    Watch,
    ancestral,
    ddim,
    ddim_coefficients,
    estimate_x0,
    langevin,
    reverse_step,
    times,
)
from .schedule import Schedule, published_times, spaced
from .settings import PUBLISHED_SPACINGS, Sampling

ODE_STEPS = 50


def ode_time(s: Schedule, t: int, t_prev: int) -> float:
    """h = tau_t - tau_{t_prev} = log(alpha_bar_{t_prev} / alpha_bar_t), how far a step runs.

    Song21b eq. 13. Raises InputError at alpha_bar_t = 0, where it is infinite.
    """
    if s.alpha_bar[t] == 0:
        raise InputError(
            f"at t = {t}, alpha_bar is 0 and the ODE's time is infinite: "
            "use ddim or dpmpp_2m instead"
        )
    return math.log(s.alpha_bar[t_prev] / s.alpha_bar[t])


# Euler's method.


def euler(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
    watch: Watch | None = None,
) -> Array:
    """Follow the probability-flow ODE (Song21b eq. 13) by Euler's method: error 1 / steps.

    The last step, from t = 1, is one of the method and no jump to x0_hat: about half of the noise
    of x_1 stays.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: float (B, ...).
        steps: as in `samplers.ancestral`.
        clip: bound on |x0_hat|, or None.
        watch: as in `samplers.ancestral`.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps that cannot be, and for alpha_bar_T = 0.
    """
    xt = xT
    for t, t_prev in pairwise([*times(s, steps), 0]):
        c = euler_coefficients(s, t, t_prev)
        xt, x0_hat = reverse_step(denoise, s, xt, t, c, clip)  # x_t + h/2 (x_t + score)
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def euler_coefficients(s: Schedule, t: int, t_prev: int) -> Coefficients:
    """Euler's step x_{t_prev} = x_t + h/2 (x_t + score) (Song21b eq. 13), in terms of x0_hat.

    Raises InputError at alpha_bar_t = 0.
    """
    half, ab = 0.5 * ode_time(s, t, t_prev), float(s.alpha_bar[t])
    return Coefficients(half * math.sqrt(ab) / (1 - ab), 1 - half * ab / (1 - ab), 0.0)


# Heun's method.


def heun(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
    watch: Watch | None = None,
) -> Array:
    """Follow the ODE (Song21b eq. 13) by Heun's method: error 1 / steps^2.

    The slope is averaged over both ends of a step. Two evaluations a step, but one in the last,
    which is Euler's: the network cannot be called at data.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: float (B, ...).
        steps: as in `samplers.ancestral`.
        clip: bound on |x0_hat|, or None.
        watch: as in `samplers.ancestral`.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps that cannot be, and for alpha_bar_T = 0.
    """
    xt = xT
    for t, t_prev in pairwise([*times(s, steps), 0]):
        h = ode_time(s, t, t_prev)
        x0_hat = estimate_x0(denoise, s, xt, t, clip)
        f = ode_slope(xt, score_from_x0(s, xt, t, x0_hat))
        ahead = xt + h * f
        if t_prev > 0:
            x0_ahead = estimate_x0(denoise, s, ahead, t_prev, clip)
            f_ahead = ode_slope(ahead, score_from_x0(s, ahead, t_prev, x0_ahead))
            ahead = heun_step(xt, h, f, f_ahead)
        xt = ahead
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def heun_step(x: Any, h: float, f: Any, f_ahead: Any) -> Any:
    """Heun's step, x + h/2 (f + f_ahead): f at x, f_ahead at the end of Euler's step x + h f."""
    return x + 0.5 * h * (f + f_ahead)


def ode_slope(x: Any, score: Any) -> Any:
    """-dx / dtau = 1/2 (x + score), the way from noise to data (Song21b eq. 13)."""
    return 0.5 * (x + score)


# Lu22 Algorithm 2, DPM-Solver++(2M).


def dpmpp_2m(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
    watch: Watch | None = None,
) -> Array:
    """DPM-Solver++(2M), ddim with an extrapolated x0_hat (Lu22 Algorithm 2): error 1 / steps^2.

    x_s = sigma_s / sigma_t x_t - sqrt(alpha_bar_s) (exp(-h) - 1) D, with
    D = x0_hat + (x0_hat - x0_hat of the step before) / (2 r), h = lambda_s - lambda_t,
    r = h of the step before / h and sigma = sqrt(1 - alpha_bar). The first step has nothing to
    extrapolate from, and in the last one h is infinite: both take D = x0_hat, as ddim does.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser; alpha_bar_T may be 0.
        xT: float (B, ...).
        steps: as in `samplers.ancestral`, but a number of steps is spaced evenly in log SNR: where
            h grows from step to step, extrapolating overshoots.
        clip: bound on |x0_hat|, or None.
        watch: as in `samplers.ancestral`.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps that cannot be.
    """
    if isinstance(steps, int | np.integer):
        steps = spaced(s, min(steps, s.T), "logsnr")
    xt, before, h_before = xT, None, math.nan
    for t, t_prev in pairwise([*times(s, steps), 0]):
        x0_hat = estimate_x0(denoise, s, xt, t, clip)  # the paper's x_theta
        h = log_half_snr(s, t_prev) - log_half_snr(s, t)
        D = x0_hat  # lines 3, 4: the first step
        if before is not None and t_prev > 0:  # line 6
            D = x0_hat + h / (2 * h_before) * (x0_hat - before)
        c = ddim_coefficients(s, t, t_prev)  # sigma_s / sigma_t, sqrt(alpha_bar_s) (1 - exp(-h))
        xt = c.c_x0 * D + c.c_xt * xt  # line 7
        before, h_before = x0_hat, h
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def log_half_snr(s: Schedule, t: int) -> float:
    """lambda_t = log(sqrt(alpha_bar_t) / sqrt(1 - alpha_bar_t)) (Lu22 section 2).

    inf at data, -inf at alpha_bar_t = 0.
    """
    ab = float(s.alpha_bar[t])
    if ab in (0, 1):
        return math.inf if ab == 1 else -math.inf
    return 0.5 * math.log(ab / (1 - ab))


# Forwards and backwards.


def encode(
    denoise: Denoiser,
    s: Schedule,
    x0: Array,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
) -> Array:
    """x_T from data: ddim run forwards (Song21a section 4.3, eq. 14), the inverse of `decode`.

    x_t = sqrt(alpha_bar_t) x0_hat + sqrt(1 - alpha_bar_t) eps_hat, s < t, both evaluated at
    (x_s, s). At data, where the network cannot be called, they are evaluated at (x_0, t) of the
    first t. The error falls as the steps grow.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        x0: float (B, ...).
        steps: as in `samplers.ancestral`.
        clip: bound on |x0_hat|, or None.

    Returns:
        x_T, (B, ...) in the dtype of x0.

    Raises:
        InputError: for steps that cannot be.
    """
    x = x0
    for t, t_next in pairwise([0, *reversed(times(s, steps))]):
        x0_hat = estimate_x0(denoise, s, x, t or t_next, clip)
        c = ddim_coefficients(s, t, t_next) if t else first_coefficients(s, t_next)
        x = c.c_x0 * x0_hat + c.c_xt * x
    return x


def first_coefficients(s: Schedule, t_next: int) -> Coefficients:
    """`encode`'s first step, from x_0, which stays known: x_0 + (x_0 - x0_hat) sqrt(alpha_bar).

    sqrt(1 - alpha_bar_t) eps_hat is x_0 - sqrt(alpha_bar_t) x0_hat there.
    """
    root = math.sqrt(s.alpha_bar[t_next])
    return Coefficients(-root, 1 + root, 0.0)


def decode(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
) -> Array:
    """x_0 from x_T: ddim with eta = 0 (Song21a eq. 12), what `encode` inverts.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: float (B, ...).
        steps: as in `samplers.ancestral`.
        clip: bound on |x0_hat|, or None.

    Raises:
        InputError: for steps that cannot be.
    """
    return ddim(denoise, s, xT, steps=steps, clip=clip)


# All samplers by name, as the command line knows them.

SAMPLERS: dict[str, Callable[..., Array]] = {
    "ddim": ddim,
    "ancestral": ancestral,
    "langevin": langevin,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}


def steps_taken(name: str, s: Schedule, steps: int | None = None) -> int:
    """How many steps a sampler takes: by default 50, or T for ancestral and langevin; at most T.

    Raises InputError for a name that SAMPLERS lacks.
    """
    _check_name(name)
    if steps is None:
        steps = s.T if name in ("ancestral", "langevin") else ODE_STEPS
    if not isinstance(steps, int | np.integer):
        raise InputError(f"steps must be a whole number here, got {steps!r}")
    return min(steps, s.T)


def evaluations(name: str, steps: int) -> int:
    """How often a sampler calls its denoiser in so many steps, langevin with one correction each.

    heun and langevin call it twice in every step but the last. Raises InputError for a name that
    SAMPLERS lacks.
    """
    _check_name(name)
    return 2 * steps - 1 if name in ("heun", "langevin") else steps


def sample_with(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    how: Sampling,
    *,
    noise: NoiseSource = 0,
    watch: Watch | None = None,
) -> Array:
    """x_0 from x_T by the sampler that `how` names.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: float (B, ...).
        how: the sampler and its settings; those of other samplers are not used.
        noise: as in `samplers.ancestral`, for the samplers that draw noise.
        watch: as in `samplers.ancestral`.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for settings that the sampler refuses.
    """
    how = how.filled()
    steps, spacing = steps_taken(how.sampler, s, how.steps), str(how.spacing)
    if spacing in PUBLISHED_SPACINGS:
        times = published_times(s, steps, spacing, how.offset)
        s = s.until(times[0])  # where the first lies below T, x_T is taken for it
    else:
        times = spaced(s, steps, spacing)
    options: dict[str, Any] = {"steps": times, "clip": how.clip, "watch": watch}
    if how.sampler in ("ddim", "ancestral", "langevin"):
        options["noise"] = noise
    if how.sampler == "ddim":
        options["eta"] = how.eta
    elif how.sampler == "ancestral":
        options["variance"] = how.variance
    elif how.sampler == "langevin":
        options["method"] = PredictorCorrector(str(how.variance))
    return SAMPLERS[how.sampler](denoise, s, xT, **options)


def _check_name(name):
    if name not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
