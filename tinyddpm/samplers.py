"""Samplers from noise to data: ancestral, DDIM, Langevin.

Each sampler is its paper's algorithm, written out; the comments cite its lines. What they share are
the lines' functions: the coefficients of a step and `reverse_step`, which takes it.

A denoiser is any callable (xt, t) -> eps_hat, t an int: a network or a closed form. It may have
    x0_hat(xt, t) -> x0_hat                  is then called instead; needed where alpha_bar_T = 0
    x0_and_mix(xt, t) -> (x0_hat, mix)       for a learned variance: mix is Nichol21 eq. 15's v
    normal(shape, seed, purpose, step, first_sample) -> z        noise on the device of its arrays
    xp                                       their module, where it is not NumPy
    reverse(xt, t, c, clip, noise) -> x_{t_prev}                 the whole step as one fused kernel
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from .errors import InputError
from .noise import LANGEVIN, REVERSE, Noise, normal
from .process import Array, Coefficients, ancestral_coefficients, learned_sigma, x0_from_eps
from .schedule import Schedule, spaced
from .settings import VARIANCES

Denoiser = Callable[[Array, int], Array]
Watch = Callable[[int, Array, Array | None], object]  # (t_prev, x_{t_prev}, x0_hat)
Steps = int | Sequence[int] | None  # a number of steps; their times, falling; None: every t


Seed = int | Noise | None
NoiseSource = Seed | Callable[..., Array]  # a seed; a Noise; (t) -> z


# Ho20 Algorithm 2.


def ancestral(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = None,
    variance: str = "beta_tilde",
    clip: float | None = None,
    noise: NoiseSource = 0,
    watch: Watch | None = None,
) -> Array:
    """Sample x_0 from x_T by the learned reverse chain (Ho20 Algorithm 2).

    As beta tends to 0 its step is the reverse SDE's, dx = (1/2 x + score) beta dt + sqrt(beta) dw
    (Song21b eq. 6).

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: N(0, I), float (B, ...).
        steps: how many, more than T are T; or the falling times themselves, as of `spaced`; None
            is every t. Fewer than T are a shorter chain (Nichol21 eq. 19).
        variance: sigma^2: "beta", "beta_tilde" (Ho20 section 3.2) or "learned" (Nichol21 eq. 15).
        clip: bound on |x0_hat|, or None.
        noise: a seed, a `Noise`, or (t) -> z in the shape of xT.
        watch: called after each step with (t_prev, x_{t_prev}, x0_hat); x0_hat is None where the
            step is fused.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps or a variance that cannot be.
    """
    xt, falling = xT, range(s.T, 0, -1) if steps is None else times(s, steps)
    for t, t_prev in pairwise([*falling, 0]):  # line 2
        c = ancestral_coefficients(s, t, t_prev, variance)  # Ho20 eq. 7
        xt, x0_hat = reverse_step(denoise, s, xt, t, c, clip, noise)  # lines 3, 4
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt  # line 6


# The lines that the samplers share.


def reverse_step(
    denoise: Denoiser,
    s: Schedule,
    xt: Array,
    t: int,
    c: Coefficients,
    clip: float | None = None,
    noise: NoiseSource = 0,
) -> tuple[Array, Array | None]:
    """Take one step x_{t_prev} = c_x0 x0_hat + c_xt x_t + sigma z, fused where the denoiser can.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xt: x_t, float (B, ...).
        t: where the step starts, 1..T.
        c: its coefficients; where sigma is 0, no z is drawn.
        clip: bound on |x0_hat|, or None.
        noise: a seed, a `Noise`, or (t) -> z in the shape of xt.

    Returns:
        x_{t_prev} in the dtype of xt, and x0_hat, or None where the step is fused.

    Raises:
        InputError: x0_hat or a learned variance cannot be had from this denoiser, which may also
            know another schedule; a clip that is no bound.
    """
    if getattr(denoise, "schedule", s) is not s:
        check_schedule(denoise, s)
    if c.sigma_max is None and hasattr(denoise, "reverse") and not callable(noise):
        if clip is not None:
            check_clip(clip)
        return denoise.reverse(xt, t, c, clip, Noise.of(noise)), None
    if c.sigma_max is None:
        x0_hat, sigma = estimate_x0(denoise, s, xt, t, clip), c.sigma
    else:
        x0_hat, sigma = estimate_x0_and_sigma(denoise, xt, t, c, clip)
    xs = c.c_x0 * x0_hat + c.c_xt * xt
    if c.sigma > 0:
        z = noise(t) if callable(noise) else draw(denoise, noise, xt, REVERSE, t)
        xs = xs + sigma * z
    return xs, x0_hat


def estimate_x0(
    denoise: Denoiser, s: Schedule, xt: Array, t: int, clip: float | None = None
) -> Array:
    """x0_hat of a denoiser, clipped: its own where it has one, else Ho20 eq. 15.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xt: x_t, float (B, ...).
        t: an int in 1..T.
        clip: bound on |x0_hat|, or None.

    Raises:
        InputError: at alpha_bar_t = 0, for a denoiser that gives eps_hat alone; for one that knows
            another schedule; for a clip that is no bound.
    """
    if getattr(denoise, "schedule", s) is not s:
        check_schedule(denoise, s)
    if hasattr(denoise, "x0_hat"):
        x0_hat = denoise.x0_hat(xt, t)
    elif s.alpha_bar[t] > 0:
        x0_hat = x0_from_eps(s, xt, t, denoise(xt, t))  # Ho20 eq. 15
    else:
        raise InputError(
            f"at t = {t}, alpha_bar is 0 and x0 cannot be computed from eps_hat: "
            "the denoiser needs x0_hat(xt, t)"
        )
    return x0_hat if clip is None else clipped(x0_hat, clip)


def estimate_x0_and_mix(
    denoise: Denoiser, xt: Array, t: int, clip: float | None = None
) -> tuple[Array, Array]:
    """x0_hat, clipped, and Nichol21 eq. 15's v, from one call of a denoiser that learned both.

    Raises InputError where the denoiser has learned no variance.
    """
    if not hasattr(denoise, "x0_and_mix"):
        raise InputError(
            "variance must be beta or beta_tilde for a denoiser that has learned none "
            "(no x0_and_mix)"
        )
    x0_hat, mix = denoise.x0_and_mix(xt, t)
    return (x0_hat if clip is None else clipped(x0_hat, clip)), mix


def estimate_x0_and_sigma(
    denoise: Denoiser, xt: Array, t: int, c: Coefficients, clip: float | None = None
) -> tuple[Array, Any]:
    """x0_hat, clipped, and the learned sigma between c.sigma and c.sigma_max (Nichol21 eq. 15)."""
    x0_hat, mix = estimate_x0_and_mix(denoise, xt, t, clip)
    if c.sigma == 0 or c.sigma_max is None:  # the step into data
        return x0_hat, c.sigma
    return x0_hat, learned_sigma(c.sigma_max, c.sigma, mix)


def check_schedule(denoise: Any, s: Schedule) -> None:
    """Raise InputError unless s is the schedule of a denoiser that has one, or its first steps."""
    own = denoise.schedule
    if not s.begins(own):  # a published spacing may start below T, on the first steps alone
        raise InputError(f"the denoiser has another schedule: {own}, got {s}")


def check_clip(clip: float) -> None:
    """Raise InputError unless clip is above 0."""
    if not isinstance(clip, Real) or not clip > 0:
        raise InputError(f"clip must be above 0, or None for no bound, got {clip!r:.80}")


def clipped(x0_hat: Array, clip: float) -> Array:
    """x0_hat within [-clip, clip] (Ho20's code). Raises InputError unless clip is above 0."""
    check_clip(clip)
    return x0_hat.clip(-clip, clip)


def draw(denoise: Denoiser, noise: Seed, like: Array, purpose: int, step: int) -> Array:
    """z ~ N(0, I) like an array, on the device of the denoiser's arrays.

    Args:
        denoise: a denoiser; where it has a method `normal`, that draws.
        noise: a seed or a `Noise`, for Philox normals.
        like: the array, (B, ...).
        purpose: one of the purposes of `noise`, as noise.REVERSE.
        step: the counter's step, as t.
    """
    noise, drawn = Noise.of(noise), getattr(denoise, "normal", normal)
    return drawn(like.shape, noise.seed, purpose, step, noise.first_sample).astype(like.dtype)


def times(s: Schedule, steps: Steps) -> list[int]:
    """The times of a sampler's steps, falling; see `ancestral` for what `steps` may be.

    Raises InputError for times that do not fall or lie outside 1..T.
    """
    if steps is None:
        return list(range(s.T, 0, -1))
    if isinstance(steps, int | np.integer):
        return spaced(s, min(steps, s.T))
    whole = np.ndim(steps) == 1 and all(isinstance(t, int | np.integer) for t in steps)
    falls = whole and all(a > b for a, b in pairwise([*steps, 0]))
    if not falls or not len(steps) or steps[0] != s.T:
        must = f"steps must be a whole number or times that must fall strictly from T = {s.T} to 1"
        raise InputError(f"{must} or above, got {steps!r}")
    return [int(t) for t in steps]


# Song21a, DDIM.


def ddim(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = 50,
    eta: float = 0.0,
    clip: float | None = None,
    noise: NoiseSource = 0,
    watch: Watch | None = None,
) -> Array:
    """Sample x_0 from x_T in few jumps (Song21a eq. 12, 16).

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: N(0, I), float (B, ...).
        steps: as in `ancestral`.
        eta: 0 adds no noise, 1 on all steps is Ho20's chain; in [0, 1].
        clip: bound on |x0_hat|, or None.
        noise: as in `ancestral`.
        watch: as in `ancestral`.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps or an eta that cannot be.
    """
    if not isinstance(eta, Real) or not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], got {eta!r:.80}")
    xt = xT
    for t, t_prev in pairwise([*times(s, steps), 0]):
        c = ddim_coefficients(s, t, t_prev, eta)  # eq. 16
        xt, x0_hat = reverse_step(denoise, s, xt, t, c, clip, noise)  # eq. 12
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def ddim_coefficients(s: Schedule, t: int, t_prev: int, eta: float = 0.0) -> Coefficients:
    """The step t -> t_prev, any t_prev < t (Song21a eq. 12, 16).

    x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps_hat + sigma z, s = t_prev,
    with eps_hat = (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 - alpha_bar_t) put in.

    Args:
        s: the schedule.
        t: where the step starts, 1..T.
        t_prev: where it ends. For eta = 0 it may also lie above t: the same step run forwards
            (Song21a section 4.3).
        eta: the share of Ho20's noise.
    """
    ab_t, ab_s = float(s.alpha_bar[t]), float(s.alpha_bar[t_prev])
    sigma = eta * math.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)) if eta else 0.0
    c_xt = math.sqrt(max(1 - ab_s - sigma**2, 0.0) / (1 - ab_t))
    return Coefficients(math.sqrt(ab_s) - c_xt * math.sqrt(ab_t), c_xt, sigma)


# Song21b Algorithm 3.


@dataclass(frozen=True)
class PredictorCorrector:
    """How `langevin` makes a step (Song21b Algorithm 3). Raises InputError for other values."""

    variance: str = "beta_tilde"  # the predictor's sigma^2, as in `ancestral`
    corrections: int = 1  # Langevin steps behind each predictor step
    snr: float = 0.16  # the size r of a Langevin step (Song21b Algorithm 5)

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            listed = ", ".join(VARIANCES)
            raise InputError(f"variance must be one of {listed}, got {self.variance!r}")
        if not isinstance(self.corrections, int | np.integer) or self.corrections < 0:
            raise InputError(
                f"corrections must be a whole number of at least 0, got {self.corrections!r}"
            )
        if not 0 < self.snr < math.inf:
            raise InputError(f"snr must be a positive number, got {self.snr}")


def langevin(
    denoise: Denoiser,
    s: Schedule,
    xT: Array,
    *,
    steps: Steps = None,
    method: PredictorCorrector = PredictorCorrector(),
    clip: float | None = None,
    noise: NoiseSource = 0,
    watch: Watch | None = None,
) -> Array:
    """Sample x_0 from x_T by ancestral steps and Langevin steps in turn (Song21b Algorithm 3).

    The predictor is the ancestral step; the corrector follows it everywhere but at data.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        xT: N(0, I), float (B, ...).
        steps: as in `ancestral`.
        method: the predictor's variance, and the number and size of the corrector's steps.
        clip: bound on |x0_hat|, or None.
        noise: as in `ancestral`; a callable is called as (t) for the predictor's z and as
            (t_prev, j) for the corrector's, j = 1..corrections.
        watch: as in `ancestral`, called after the corrector.

    Returns:
        x_0, (B, ...) in the dtype of xT.

    Raises:
        InputError: for steps or a variance that cannot be.
    """
    xt = xT
    for t, t_prev in pairwise([*times(s, steps), 0]):  # line 2
        c = ancestral_coefficients(s, t, t_prev, method.variance)
        xt, x0_hat = reverse_step(denoise, s, xt, t, c, clip, noise)  # for lines 3 to 5: Ho20's
        for j in range(1, method.corrections + 1) if t_prev > 0 else ():  # line 6
            k = t_prev * method.corrections + j - 1  # the counter's step
            # line 7
            z = noise(t_prev, j) if callable(noise) else draw(denoise, noise, xt, LANGEVIN, k)
            xt = langevin_step(denoise, s, xt, t_prev, method.snr, clip, z)  # line 8
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def langevin_step(
    denoise: Denoiser, s: Schedule, xt: Array, t: int, snr: float, clip: float | None, z: Array
) -> Array:
    """Take one Langevin step at t (Song21b Algorithm 5): x + e score + sqrt(2 e) z."""
    x0_hat, c = estimate_x0(denoise, s, xt, t, clip), langevin_coefficients(s, t, snr)
    return c.c_x0 * x0_hat + c.c_xt * xt + c.sigma * z


def langevin_coefficients(s: Schedule, t: int, snr: float = 0.16) -> Coefficients:
    """One Langevin step at t (Song21b Algorithm 5).

    The paper's x + e score + sqrt(2 e) z with score = (sqrt(alpha_bar_t) x0_hat - x) / (1 -
    alpha_bar_t) put in, and e = 2 alpha_t (snr |z| / |score|)^2 with |z| / |score| = sqrt(1 -
    alpha_bar_t).
    """
    # The paper averages both norms over the batch. Here stands their ratio for noisy data's own
    # score, -eps / sqrt(1 - alpha_bar), so that a sample does not depend on its batch.
    variance, gain = 1 - float(s.alpha_bar[t]), 2 * float(s.alpha[t]) * snr**2
    return Coefficients(gain * math.sqrt(s.alpha_bar[t]), 1 - gain, math.sqrt(2 * gain * variance))
