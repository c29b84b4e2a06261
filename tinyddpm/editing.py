"""Working on images through a denoiser: paths between two of them, and filling in what is missing
of one.

Lugmayr22   RePaint: inpainting using denoising diffusion probabilistic models, arXiv:2201.09865
"""

import math

import numpy as np

from . import noise
from .errors import InputError
from .process import q_sample
from .samplers import ancestral_step, descend, draw, walk
from .solvers import ODE_STEPS, decode, encode

# below this sine the arc's formula is 0 / 0, and the arc no longer than the chord by a part in 1e12
STRAIGHT = 1e-6


def slerp(a, b, w):
    """The point at w in [0, 1] of the arc from a to b (Song21a eq. 67): sin((1 - w) angle) a +
    sin(w angle) b, scaled.

    Both over sin(angle), cos(angle) = a.b / (|a| |b|), a and b of one shape, each as one vector.
    The straight mean of two Gaussian draws would be too short to be one. Where the angle is 0 or
    half a turn the arc is the straight line.
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


def interpolate(denoise, s, a, b, n, steps=ODE_STEPS, clip=None, spacing="uniform"):
    """n images from a to b, evenly along the arc between their x_T (Song21a appendix D.5): (n, ...)
    in a's dtype.

    a, b (...) are single images: encoded, put together by `slerp`, decoded (Song21a eq. 14, 12, eta
    = 0); the first and last come back as a and b up to the error of `encode`. The other arguments
    are `solvers.euler`'s. Raises InputError for n < 2 and for shapes that differ.
    """
    if not isinstance(n, int | np.integer) or n < 2:
        raise InputError(f"n must be a whole number of at least 2, got {n!r}")
    if a.shape != b.shape:
        raise InputError(f"a and b must be of one shape, got {a.shape} and {b.shape}")
    start, end = (encode(denoise, s, image[None], steps, clip, spacing) for image in (a, b))
    xT = start.repeat(n, axis=0)
    for i in range(n):
        xT[i] = slerp(start[0], end[0], i / (n - 1))
    return decode(denoise, s, xT, steps, clip, spacing)


def inpaint(
    denoise,
    s,
    known,
    mask,
    steps=None,
    repeats=1,
    variance="beta_tilde",
    clip=None,
    seed=0,
    first_sample=0,
    spacing="uniform",
    watch=None,
):
    """RePaint, Lugmayr22 Algorithm 1: x_0 that is `known` where mask is 1, and sampled to fit where
    it is 0: (B, ...).

    x_s = mask q_sample(known, s) + (1 - mask) (the ancestral step from x_t), s < t; then, `repeats`
    times in all, one forward step back to x_t and down again: it lets the two parts agree with each
    other. known (B, ...); mask of ones and zeros, in a shape that broadcasts to known's; the other
    arguments are `samplers.ancestral`'s; watch is called once for each step of the walk. Raises
    InputError.
    """
    mask = _checked(known, mask, repeats)

    def drawn(purpose, t, repeat):
        # Each repeat has counters of its own, or the noise of the first would come again and again.
        return draw(denoise, known, seed, purpose, repeat * (s.T + 1) + t, first_sample)

    def jump(xt, t, t_prev, repeat):
        """One whole step down, the known part put in its place."""
        down = ancestral_step(
            denoise, s, variance, clip, noise=lambda t: drawn(noise.REVERSE, t, repeat)
        )
        xs, x0_hat = down(xt, t, t_prev)
        there = (
            known if t_prev == 0 else q_sample(s, known, t_prev, drawn(noise.KNOWN, t_prev, repeat))
        )
        return mask * there + (1 - mask) * xs, x0_hat

    def step(xt, t, t_prev):
        xs, x0_hat = jump(xt, t, t_prev, 0)
        for repeat in range(1, repeats if t_prev > 0 else 1):
            # q(x_t | x_s) = N(sqrt(alpha) x_s, (1 - alpha) I), alpha = alpha_bar_t / alpha_bar_s,
            # over the whole jump.
            alpha = float(s.alpha_bar[t] / s.alpha_bar[t_prev])
            xt = math.sqrt(alpha) * xs + math.sqrt(1 - alpha) * drawn(noise.RENOISE, t, repeat)
            xs, x0_hat = jump(xt, t, t_prev, repeat)
        return xs, x0_hat

    return descend(drawn(noise.PRIOR, 0, 0), walk(s, steps, spacing), step, watch)


def _checked(known, mask, repeats):
    """The mask in known's dtype. Raises InputError where the three make no sense."""
    if not isinstance(repeats, int | np.integer) or repeats < 1:
        raise InputError(f"repeats must be a whole number of at least 1, got {repeats!r}")
    if known.dtype.kind != "f" or known.ndim < 2:
        raise InputError(f"known must be (B, ...) floats, got {known.dtype} of shape {known.shape}")
    lined_up = zip(mask.shape[::-1], known.shape[::-1])
    if mask.ndim > known.ndim or any(size not in (1, whole) for size, whole in lined_up):
        raise InputError(
            f"mask must broadcast to {known.shape}, the shape of known, got {mask.shape}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("mask must hold ones (known) and zeros alone")
    return mask.astype(known.dtype)
