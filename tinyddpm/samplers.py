"""Samplers: free functions over a denoiser. They differ in their coefficients, not in their loop.

A denoiser is any callable (xt, t) -> eps_hat with t an int: a network or a closed form. One that also has a
method x0_hat(xt, t) is asked for that instead: where alpha_bar_T = 0, eps_hat says nothing about x_0. One that has
a method reverse(xt, t, coefficients, clip, seed, first_sample) takes the whole step itself, fused.

Every reverse step, of Ho20 eq. 6-7 and of Song21a eq. 12 alike, is
    x_s = c_x0 x0_hat + c_xt x_t + sigma z,        s < t.
"""

import math

import numpy as np

from . import noise as counter_noise
from .errors import InputError
from .process import beta_tilde, posterior_weights, predict_x0


def ancestral_coefficients(s, t, variance="beta_tilde"):
    """(c_x0, c_xt, sigma) of the step t -> t - 1 (Ho20 eq. 6-7, Algorithm 2), Python floats.

    sigma^2 is beta_t or beta_tilde_t (Ho20 section 3.2); at t = 1 no noise is added. Raises InputError.
    """
    tables = {"beta": s.beta, "beta_tilde": beta_tilde(s)}
    if variance not in tables:
        raise InputError(f"variance must be one of {', '.join(tables)}, got {variance!r}")
    on_x0, on_xt = posterior_weights(s)
    sigma = math.sqrt(tables[variance][t]) if t > 1 else 0.0
    return float(on_x0[t]), float(on_xt[t]), sigma


def ddim_coefficients(s, t, t_prev, eta=0.0):
    """(c_x0, c_xt, sigma) of the step t -> t_prev, any t_prev < t (Song21a eq. 12, 16), Python floats.

    The paper's x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps_hat + sigma z, with
    eps_hat = (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 - alpha_bar_t) put in.
    """
    ab_t, ab_s = float(s.alpha_bar[t]), float(s.alpha_bar[t_prev])
    sigma = eta * math.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))
    c_xt = math.sqrt(max(1 - ab_s - sigma**2, 0.0) / (1 - ab_t))
    return math.sqrt(ab_s) - c_xt * math.sqrt(ab_t), c_xt, sigma


def timesteps(T, steps):
    """`steps` times from T down to 1, evenly spaced and rounded, as ints: the first step is at T, the last at 1.

    steps = 1 is the one jump from T to data. Raises InputError unless 1 <= steps <= T.
    """
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= T:
        raise InputError(f"steps must be a whole number in 1..T = {T}, got {steps!r}")
    return [int(t) for t in np.rint(np.linspace(T, 1, steps))]


def reverse_step(xt, x0_hat, z, coefficients):
    """x_s = c_x0 x0_hat + c_xt x_t + sigma z; z may be None where sigma is 0. Keeps the dtype of xt."""
    c_x0, c_xt, sigma = coefficients
    mean = c_x0 * x0_hat + c_xt * xt
    return mean + sigma * z if sigma else mean


def estimate_x0(denoise, s, xt, t, clip=None):
    """x0_hat from the denoiser (Ho20 eq. 15, or its own x0_hat), clipped to [-clip, clip] where asked.

    Raises InputError at alpha_bar_t = 0 for a denoiser that gives eps_hat alone.
    """
    if hasattr(denoise, "x0_hat"):
        x0_hat = denoise.x0_hat(xt, t)
    elif s.alpha_bar[t] == 0:
        raise InputError(f"at t = {t}, alpha_bar is 0 and eps_hat says nothing of x0: the denoiser needs x0_hat(xt, t)")
    else:
        x0_hat = predict_x0(s, xt, t, denoise(xt, t))
    return x0_hat if clip is None else x0_hat.clip(-clip, clip)


def _descend(denoise, s, xT, times, coefficients, clip, seed, first_sample, noise, watch):
    """The one loop: walk xT down `times` to data, each step with coefficients(t, t_prev)."""
    fused = hasattr(denoise, "reverse") and noise is None

    def draw(t):
        return counter_noise.normal(xT.shape, seed, counter_noise.REVERSE, t, first_sample).astype(xT.dtype)

    xt, x0_hat = xT, None
    for t, t_prev in zip(times, times[1:] + [0]):
        step = coefficients(t, t_prev)
        if fused:
            xt = denoise.reverse(xt, t, step, clip, seed, first_sample)
        else:
            x0_hat = estimate_x0(denoise, s, xt, t, clip)
            xt = reverse_step(xt, x0_hat, (noise or draw)(t) if step[2] > 0 else None, step)
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def ancestral(denoise, s, xT, variance="beta_tilde", clip=None, seed=0, noise=None, watch=None,
              first_sample=0):
    """Ho20 Algorithm 2: x_0 from x_T, through every t from T to 1.

    denoise: (xt, t) -> eps_hat; xT: (B, ...), N(0, I); variance: "beta" or "beta_tilde" (Ho20 section 3.2);
    clip: bound on |x0_hat|, or None; noise: (t) -> z of xT's shape, by default Philox from `seed`, the samples
    counted from `first_sample`; watch: called after each step with (t_prev, x_{t_prev}, x0_hat), the last None
    where the denoiser takes fused steps. Returns x_0. Raises InputError.
    """
    return _descend(denoise, s, xT, timesteps(s.T, s.T), lambda t, t_prev: ancestral_coefficients(s, t, variance),
                    clip, seed, first_sample, noise, watch)


def ddim(denoise, s, xT, steps=50, eta=0.0, clip=None, seed=0, noise=None, watch=None, first_sample=0):
    """Song21a eq. 12, 16: x_0 from x_T in `steps` jumps; eta = 0 adds no noise, eta = 1 on all steps is Ho20's.

    The other arguments are `ancestral`'s. Returns x_0. Raises InputError.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], got {eta}")
    return _descend(denoise, s, xT, timesteps(s.T, min(steps, s.T)),
                    lambda t, t_prev: ddim_coefficients(s, t, t_prev, eta), clip, seed, first_sample, noise, watch)
