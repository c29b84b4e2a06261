"""Editing images through a denoiser: paths between two of them, and filling in missing parts."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from . import noise as counter_noise
from .errors import InputError
from .process import Array, ancestral_coefficients, q_sample
from .samplers import Denoiser, Seed, Steps, Watch, draw, reverse_step, times
from .schedule import Schedule
from .settings import VARIANCES
from .solvers import ODE_STEPS, decode, encode

# Below this sine the arc's formula is 0 / 0, and the arc longer than the chord by a part in 1e12.
STRAIGHT = 1e-6


def slerp(a: Array, b: Array, w: float) -> Array:
    """The point at w in [0, 1] of the arc from a to b (Song21a eq. 67).

    (sin((1 - w) angle) a + sin(w angle) b) / sin(angle), cos(angle) = a.b / (|a| |b|). The straight
    mean of two Gaussian draws would be too short to be one. Where the angle is 0 or half a turn the
    arc is the straight line.

    Args:
        a: the start, as one vector of any shape.
        b: the end, in the shape of a.
        w: the share of the arc.
    """

    def dot(u, v):
        return float((u.astype(np.float64) * v.astype(np.float64)).sum())

    lengths = math.sqrt(dot(a, a) * dot(b, b))
    angle = math.acos(max(-1.0, min(1.0, dot(a, b) / lengths))) if lengths else 0.0
    if math.sin(angle) < STRAIGHT:
        return (1 - w) * a + w * b
    return (
        math.sin((1 - w) * angle) / math.sin(angle) * a + math.sin(w * angle) / math.sin(angle) * b
    )


def interpolate(
    denoise: Denoiser,
    s: Schedule,
    a: Array,
    b: Array,
    n: int,
    *,
    steps: Steps = ODE_STEPS,
    clip: float | None = None,
) -> Array:
    """n images from a to b, evenly along the arc between their x_T (Song21a appendix D.5).

    Both are encoded, joined by `slerp` and decoded (Song21a eq. 14, 12, eta = 0). The first and
    the last come back as a and b up to the error of `encode`.

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        a: one image, (...).
        b: another one, in the shape of a.
        n: how many, at least 2.
        steps: as in `samplers.ancestral`.
        clip: bound on |x0_hat|, or None.

    Returns:
        (n, ...) in the dtype of a.

    Raises:
        InputError: for n < 2 and for shapes that differ.
    """
    if not isinstance(n, int | np.integer) or n < 2:
        raise InputError(f"n must be a whole number of at least 2, got {n!r}")
    if a.shape != b.shape:
        raise InputError(f"a and b must be of one shape, got {a.shape} and {b.shape}")
    start, end = (encode(denoise, s, image[None], steps=steps, clip=clip) for image in (a, b))
    xT = start.repeat(n, axis=0)
    for i in range(n):
        xT[i] = slerp(start[0], end[0], i / (n - 1))
    return decode(denoise, s, xT, steps=steps, clip=clip)


@dataclass(frozen=True)
class RePaint:
    """How `inpaint` makes a step (Lugmayr22 Algorithm 1). Raises InputError for other values."""

    repeats: int = 1  # the paper's U: so often each step is made, which joins the two parts
    variance: str = "beta_tilde"  # sigma^2, as in `samplers.ancestral`
    clip: float | None = None  # bound on |x0_hat|, or None

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            listed = ", ".join(VARIANCES)
            raise InputError(f"variance must be one of {listed}, got {self.variance!r}")
        if not isinstance(self.repeats, int | np.integer) or self.repeats < 1:
            raise InputError(f"repeats must be a whole number of at least 1, got {self.repeats!r}")


def inpaint(
    denoise: Denoiser,
    s: Schedule,
    known: Array,
    mask: Array,
    *,
    steps: Steps = None,
    method: RePaint = RePaint(),
    noise: Seed = 0,
    watch: Watch | None = None,
) -> Array:
    """Sample x_0 that is `known` where mask is 1 and fits it elsewhere (Lugmayr22 Algorithm 1).

    Args:
        denoise: (xt, t) -> eps_hat, a denoiser.
        s: the schedule of the denoiser.
        known: the images, float (B, ...); what stands where mask is 0 does not matter.
        mask: ones (known) and zeros, in a shape that broadcasts to that of known.
        steps: as in `samplers.ancestral`.
        method: how often each step is made, its variance and the bound on x0_hat.
        noise: a seed or a `Noise`.
        watch: as in `samplers.ancestral`, called once for each t.

    Returns:
        x_0, (B, ...) in the dtype of known.

    Raises:
        InputError: for a mask or steps that cannot be, and NaN or inf where mask is 1.
    """
    mask, z = _checked(known, mask), partial(_noise, denoise, s, known, noise)
    xt = z(counter_noise.PRIOR, 0)  # line 1
    for t, t_prev in pairwise([*times(s, steps), 0]):  # line 2
        c = ancestral_coefficients(s, t, t_prev, method.variance)
        for u in range(method.repeats if t_prev > 0 else 1):  # line 3
            there = known
            if t_prev > 0:
                there = q_sample(s, known, t_prev, z(counter_noise.KNOWN, t_prev, u))  # 4, 5
            own = partial(z, counter_noise.REVERSE, repeat=u)
            xs, x0_hat = reverse_step(denoise, s, xt, t, c, method.clip, own)  # lines 6, 7
            xs = np.where(mask, there, xs)  # line 8; chosen, for NaN times 0 is NaN
            if t_prev > 0 and u + 1 < method.repeats:
                xt = _back(s, xs, t, t_prev, z(counter_noise.RENOISE, t, u + 1))  # 9, 10
        xt = xs
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def _noise(denoise, s, known, noise, purpose, t, repeat=0):
    """The z of one repeat: it has counters of its own, or the first repeat's would come again."""
    return draw(denoise, noise, known, purpose, repeat * (s.T + 1) + t)


def _back(s, xs, t, t_prev, eps):
    """One forward step over the whole jump from x_s, s = t_prev, back to x_t (Ho20 eq. 2)."""
    alpha = float(s.alpha_bar[t] / s.alpha_bar[t_prev])
    return math.sqrt(alpha) * xs + math.sqrt(1 - alpha) * eps


def _checked(known, mask):
    """The mask as booleans. Raises InputError where the two make no sense."""
    if known.dtype.kind != "f" or known.ndim < 2:
        raise InputError(f"known must be (B, ...) floats, got {known.dtype} of shape {known.shape}")
    lined_up = zip(mask.shape[::-1], known.shape[::-1])
    if mask.ndim > known.ndim or any(size not in (1, whole) for size, whole in lined_up):
        raise InputError(
            f"mask must broadcast to {known.shape}, the shape of known, got {mask.shape}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("mask must hold ones (known) and zeros alone")
    if not bool(np.isfinite(np.where(mask, known, 0)).all()):
        raise InputError("known must be finite where mask is 1, got NaN or inf")
    return mask.astype(bool)
