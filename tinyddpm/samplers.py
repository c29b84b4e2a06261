"""Samplers: free functions over a denoiser. They differ in their coefficients, not in their loop.

A denoiser is any callable (xt, t) -> eps_hat with t an int: a network or a closed form. It may also
have the methods
    x0_hat(xt, t) -> x0_hat                 asked instead: where alpha_bar_T = 0, eps_hat says nothing of x_0
    x0_and_mix(xt, t) -> (x0_hat, mix)      for the learned variance: mix is Nichol21 eq. 15's v
    normal(shape, seed, purpose, step, first_sample) -> z       noise where its arrays live
    reverse(xt, t, coefficients, clip, seed, first_sample)      the whole step, fused

Every reverse step, of Ho20 eq. 6-7 and of Song21a eq. 12 alike, is
    x_s = c_x0 x0_hat + c_xt x_t + sigma z,        s < t.
"""

import math

import numpy as np

from . import noise as counter_noise
from .errors import InputError
from .process import predict_x0

SPACINGS = ("uniform", "logsnr", "quadratic")
VARIANCES = ("beta", "beta_tilde", "learned")


def ancestral_coefficients(s, t, variance="beta_tilde", t_prev=None):
    """(c_x0, c_xt, sigma) of the step t -> t_prev, by default t - 1 (Ho20 eq. 6-7, Algorithm 2),
    Python floats.

    sigma^2 is beta_t or beta_tilde_t (Ho20 section 3.2), for t_prev < t - 1 those of the shorter
    chain: beta = 1 - alpha_bar_t / alpha_bar_s (Nichol21 eq. 19). Into data, t_prev = 0, no noise
    is added. Raises InputError.
    """
    t_prev = t - 1 if t_prev is None else t_prev
    ab_t, ab_s = float(s.alpha_bar[t]), float(s.alpha_bar[t_prev])
    # For neighbours the quotient is alpha_t by definition, and the difference would only lose
    # digits of beta_t.
    beta = float(s.beta[t]) if t_prev == t - 1 else 1 - ab_t / ab_s
    variances = {"beta": beta, "beta_tilde": (1 - ab_s) / (1 - ab_t) * beta}
    if variance not in variances:
        raise InputError(f"variance must be one of {', '.join(variances)}, got {variance!r}")
    sigma = math.sqrt(variances[variance]) if t_prev > 0 else 0.0
    return math.sqrt(ab_s) * beta / (1 - ab_t), math.sqrt(1 - beta) * (1 - ab_s) / (1 - ab_t), sigma


def ddim_coefficients(s, t, t_prev, eta=0.0):
    """(c_x0, c_xt, sigma) of the step t -> t_prev, any t_prev < t (Song21a eq. 12, 16), Python
    floats.

    For eta = 0 t_prev may also lie above t: the same step run forwards (Song21a section 4.3). The
    paper's x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps_hat + sigma z, with
    eps_hat = (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 - alpha_bar_t) put in.
    """
    ab_t, ab_s = float(s.alpha_bar[t]), float(s.alpha_bar[t_prev])
    sigma = eta * math.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)) if eta else 0.0
    c_xt = math.sqrt(max(1 - ab_s - sigma**2, 0.0) / (1 - ab_t))
    return math.sqrt(ab_s) - c_xt * math.sqrt(ab_t), c_xt, sigma


def timesteps(T, steps):
    """`steps` times from T down to 1, evenly spaced and rounded, as ints: the first step is at T,
    the last at 1.

    steps = 1 is the one jump from T to data. Raises InputError unless 1 <= steps <= T.
    """
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= T:
        raise InputError(f"steps must be a whole number in 1..T = {T}, got {steps!r}")
    return [int(t) for t in np.rint(np.linspace(T, 1, steps))]


def spaced(s, steps, spacing="uniform"):
    """`steps` times from T strictly down to 1, as ints; spacing: "uniform" in t, "logsnr" or
    "quadratic".

    "logsnr" is uniform in log SNR (Lu22), "quadratic" in sqrt(t) (Song21a appendix D.3): both put
    more steps near data. Times that round to the same t are pushed apart, so that none is lost.
    steps = 1 is the one jump from T to data. Raises InputError for another spacing, and unless 1 <=
    steps <= T.
    """
    if spacing not in SPACINGS:
        raise InputError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
    times = timesteps(s.T, steps)
    if spacing == "uniform" or steps == 1:
        return times
    if spacing == "quadratic":
        rising = np.linspace(1, math.sqrt(s.T), steps) ** 2
    else:
        snr = s.snr[1:].copy()
        # at alpha_bar_T = 0 the logarithm is -inf: its neighbour stands for it
        snr[-1] = snr[-1] or snr[-2]
        log_snr = np.log(snr)
        # np.interp wants its table to rise, so both it and the times stand from T down to 1.
        rising = np.interp(
            np.linspace(*log_snr[[0, -1]], steps), log_snr[::-1], np.arange(s.T, 0, -1.0)
        )
    place, rising = np.arange(steps), np.rint(rising).astype(int)
    rising[0], rising[-1] = 1, s.T
    # each at least one above the last ...
    rising = np.maximum.accumulate(rising - place) + place
    # ... and none so high that the rest has no room
    rising = np.minimum(rising, s.T - place[::-1])
    return rising[::-1].tolist()


def walk(s, steps, spacing):
    """The times of a sampler's walk: `spaced`, where steps = None is every t, and more than T are
    T.
    """
    return spaced(s, s.T if steps is None else min(steps, s.T), spacing)


def reverse_step(xt, x0_hat, z, coefficients):
    """x_s = c_x0 x0_hat + c_xt x_t + sigma z; z may be None where sigma is 0. Keeps the dtype of
    xt.
    """
    c_x0, c_xt, sigma = coefficients
    mean = c_x0 * x0_hat + c_xt * xt
    return mean + sigma * z if sigma else mean


def estimate_x0(denoise, s, xt, t, clip=None):
    """x0_hat from the denoiser (Ho20 eq. 15, or its own x0_hat), clipped to [-clip, clip] where
    asked.

    Raises InputError at alpha_bar_t = 0 for a denoiser that gives eps_hat alone.
    """
    if hasattr(denoise, "x0_hat"):
        x0_hat = denoise.x0_hat(xt, t)
    elif s.alpha_bar[t] == 0:
        raise InputError(
            f"at t = {t}, alpha_bar is 0 and eps_hat says nothing of x0: the denoiser needs x0_hat(xt, t)"
        )
    else:
        x0_hat = predict_x0(s, xt, t, denoise(xt, t))
    return x0_hat if clip is None else x0_hat.clip(-clip, clip)


def draw(denoise, like, seed, purpose, step, first_sample):
    """N(0, I) in the shape and dtype of `like`: the denoiser's `normal` where it has one, else
    `noise.normal`.
    """
    normal = getattr(denoise, "normal", counter_noise.normal)
    return normal(like.shape, seed, purpose, step, first_sample).astype(like.dtype)


def descend(xT, times, step, watch=None):
    """The one loop: walk xT down `times` to data, by step(xt, t, t_prev) -> (x_{t_prev}, x0_hat)."""
    xt = xT
    for t, t_prev in zip(times, times[1:] + [0]):
        xt, x0_hat = step(xt, t, t_prev)
        if watch is not None:
            watch(t_prev, xt, x0_hat)
    return xt


def linear_step(denoise, s, coefficients, clip=None, seed=0, first_sample=0, noise=None):
    """The step for `descend` with the factors coefficients(t, t_prev), fused (and x0_hat None)
    where it can be.
    """

    def step(xt, t, t_prev):
        factors = coefficients(t, t_prev)
        if hasattr(denoise, "reverse") and noise is None:
            return denoise.reverse(xt, t, factors, clip, seed, first_sample), None
        x0_hat = estimate_x0(denoise, s, xt, t, clip)
        z = None
        if factors[2] > 0:
            z = (
                noise(t)
                if noise
                else draw(denoise, xt, seed, counter_noise.REVERSE, t, first_sample)
            )
        return reverse_step(xt, x0_hat, z, factors), x0_hat

    return step


def ancestral_step(
    denoise, s, variance="beta_tilde", clip=None, seed=0, first_sample=0, noise=None
):
    """The step for `descend` of Ho20 Algorithm 2, also with the learned variance (Nichol21 eq. 15).

    "learned": sigma^2 = exp(mix log beta + (1 - mix) log beta_tilde), mix (B, ...), one for each
    element. Raises InputError for it where the denoiser has no x0_and_mix.
    """
    if variance != "learned":
        return linear_step(
            denoise,
            s,
            lambda t, t_prev: ancestral_coefficients(s, t, variance, t_prev),
            clip,
            seed,
            first_sample,
            noise,
        )
    if not hasattr(denoise, "x0_and_mix"):
        raise InputError(
            "variance must be beta or beta_tilde for a denoiser that has learned none (no x0_and_mix)"
        )

    def step(xt, t, t_prev):
        x0_hat, mix = denoise.x0_and_mix(xt, t)
        x0_hat = x0_hat if clip is None else x0_hat.clip(-clip, clip)
        high = ancestral_coefficients(s, t, "beta", t_prev)[2]
        *mean, low = ancestral_coefficients(s, t, "beta_tilde", t_prev)
        if t_prev == 0:
            return reverse_step(xt, x0_hat, None, (*mean, 0.0)), x0_hat
        z = noise(t) if noise else draw(denoise, xt, seed, counter_noise.REVERSE, t, first_sample)
        sigma = low * (high / low) ** mix
        return reverse_step(xt, x0_hat, sigma * z, (*mean, 1.0)), x0_hat

    return step


def ancestral(
    denoise,
    s,
    xT,
    variance="beta_tilde",
    clip=None,
    seed=0,
    noise=None,
    watch=None,
    first_sample=0,
    steps=None,
    spacing="uniform",
):
    """Ho20 Algorithm 2: x_0 from x_T, through every t from T to 1, or `steps` of them (Nichol21 eq.
    19).

    As beta tends to 0 its step is the reverse SDE's, dx = (1/2 x + score) beta dt + sqrt(beta) dw
    (Song21b eq. 6).

    denoise: (xt, t) -> eps_hat; xT: (B, ...), N(0, I); variance: "beta" or "beta_tilde" (Ho20
    section 3.2) or "learned" (Nichol21 eq. 15); clip: bound on |x0_hat|, or None; noise: (t) -> z
    of xT's shape, by default Philox from `seed`, the samples counted from `first_sample`; watch:
    called after each step with (t_prev, x_{t_prev}, x0_hat), the last None where the denoiser takes
    fused steps; steps: None for all T, more than T are T; spacing: see `spaced`. Returns x_0.
    Raises InputError.
    """
    return descend(
        xT,
        walk(s, steps, spacing),
        ancestral_step(denoise, s, variance, clip, seed, first_sample, noise),
        watch,
    )


def ddim(
    denoise,
    s,
    xT,
    steps=50,
    eta=0.0,
    clip=None,
    seed=0,
    noise=None,
    watch=None,
    first_sample=0,
    spacing="uniform",
):
    """Song21a eq. 12, 16: x_0 from x_T in `steps` jumps; eta = 0 adds no noise, eta = 1 on all
    steps is Ho20's.

    The other arguments are `ancestral`'s. Returns x_0. Raises InputError.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], got {eta}")
    return descend(
        xT,
        walk(s, steps, spacing),
        linear_step(
            denoise,
            s,
            lambda t, t_prev: ddim_coefficients(s, t, t_prev, eta),
            clip,
            seed,
            first_sample,
            noise,
        ),
        watch,
    )


def langevin_coefficients(s, t, snr=0.16):
    """(c_x0, c_xt, sigma) of one Langevin step at t (Song21b Algorithm 5), Python floats.

    The paper's x + e score + sqrt(2 e) z with score = (sqrt(alpha_bar_t) x0_hat - x) / (1 -
    alpha_bar_t) put in, and e = 2 alpha_t (snr |z| / |score|)^2 with |z| / |score| = sqrt(1 -
    alpha_bar_t).
    """
    # The paper averages both norms over the batch. What they are for noisy data's own score, -eps /
    # sqrt(1 - alpha_bar), stands in for them here, so that a sample does not depend on those that
    # it is drawn with.
    rest, gain = 1 - float(s.alpha_bar[t]), 2 * float(s.alpha[t]) * snr**2
    return gain * math.sqrt(s.alpha_bar[t]), 1 - gain, math.sqrt(2 * gain * rest)


def langevin(
    denoise,
    s,
    xT,
    steps=None,
    corrections=1,
    snr=0.16,
    variance="beta_tilde",
    clip=None,
    seed=0,
    noise=None,
    watch=None,
    first_sample=0,
    spacing="uniform",
):
    """Song21b Algorithm 3, predictor-corrector: each `ancestral` step is followed by Langevin steps
    at its t_prev.

    corrections: how many of them, none at data; snr: their size r in Song21b Algorithm 5; noise:
    asked as (t) for the predictor's z and as (t_prev, j), j = 1..corrections, for the corrector's.
    The other arguments are `ancestral`'s. Returns x_0. Raises InputError.
    """
    if not isinstance(corrections, int | np.integer) or corrections < 0:
        raise InputError(f"corrections must be a whole number of at least 0, got {corrections!r}")
    if not 0 < snr < math.inf:
        raise InputError(f"snr must be a positive number, got {snr}")
    predict = ancestral_step(denoise, s, variance, clip, seed, first_sample, noise)

    def correct(xt, t, j):
        x0_hat = estimate_x0(denoise, s, xt, t, clip)
        z = (
            noise(t, j)
            if noise
            else draw(
                denoise, xt, seed, counter_noise.LANGEVIN, t * corrections + j - 1, first_sample
            )
        )
        return reverse_step(xt, x0_hat, z, langevin_coefficients(s, t, snr))

    def step(xt, t, t_prev):
        xt, x0_hat = predict(xt, t, t_prev)
        for j in range(1, corrections + 1) if t_prev > 0 else ():
            xt = correct(xt, t_prev, j)
        return xt, x0_hat

    return descend(xT, walk(s, steps, spacing), step, watch)
