"""Solvers of the probability-flow ODE, from x_T to data and back: no noise, so x_T alone decides
the sample.

Song21b eq. 13 in the time tau = -log alpha_bar (d tau = beta dt):
    dx / dtau = -1/2 (x + score),        score = (sqrt(alpha_bar) x0_hat - x) / (1 - alpha_bar)
Sampling walks it from tau_T down to tau = 0, data. All the samplers of the package stand here in
one table.

Lu22     DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models,
         arXiv:2211.01095
"""

import math

from .errors import InputError
from .samplers import (
    ancestral,
    ddim,
    ddim_coefficients,
    descend,
    estimate_x0,
    langevin,
    linear_step,
    reverse_step,
    walk,
)

ODE_STEPS = 50


def ode_time(s, t, t_prev):
    """h = tau_t - tau_s = log(alpha_bar_s / alpha_bar_t), s = t_prev: how far the ODE runs in a
    step, a float.

    Song21b eq. 13. Raises InputError at alpha_bar_t = 0, where it is infinite.
    """
    if s.alpha_bar[t] == 0:
        raise InputError(
            f"at t = {t}, alpha_bar is 0 and the ODE's time is infinite: use ddim or dpmpp_2m instead"
        )
    return math.log(s.alpha_bar[t_prev] / s.alpha_bar[t])


def euler_coefficients(s, t, t_prev):
    """(c_x0, c_xt, 0) of Euler's step x_s = x_t + h/2 (x_t + score) (Song21b eq. 13), floats.
    Raises InputError.
    """
    half, ab = 0.5 * ode_time(s, t, t_prev), float(s.alpha_bar[t])
    return half * math.sqrt(ab) / (1 - ab), 1 - half * ab / (1 - ab), 0.0


def euler(denoise, s, xT, steps=ODE_STEPS, clip=None, watch=None, spacing="uniform"):
    """x_0 from x_T along the probability-flow ODE (Song21b eq. 13), by Euler's steps: the error
    falls as 1 / steps.

    denoise: (xt, t) -> eps_hat; xT (B, ...); steps: None for all T, more than T are T; clip: bound
    on |x0_hat|, or None; watch: called after each step with (t_prev, x_{t_prev}, x0_hat); spacing:
    see `samplers.spaced`. The last step, from t = 1, is one of the method and no jump to x0_hat:
    about half of x_1's noise stays. Returns x_0, (B, ...) in the dtype of xT. Raises InputError,
    also for alpha_bar_T = 0.
    """
    return descend(
        xT,
        walk(s, steps, spacing),
        linear_step(denoise, s, lambda t, t_prev: euler_coefficients(s, t, t_prev), clip),
        watch,
    )


def heun(denoise, s, xT, steps=ODE_STEPS, clip=None, watch=None, spacing="uniform"):
    """`euler` with the slope averaged over both ends of a step (Heun's method): the error falls as
    1 / steps^2.

    x_s = x_t + h/2 (f(x_t, t) + f(x_t + h f(x_t, t), s)), f = (x + score) / 2 (Song21b eq. 13). Two
    evaluations a step, but one in the last, which is Euler's: the network cannot be asked at data.
    Arguments, result and errors are `euler`'s.
    """

    def slope(x, t):
        x0_hat, ab = estimate_x0(denoise, s, x, t, clip), float(s.alpha_bar[t])
        score = (math.sqrt(ab) * x0_hat - x) / (1 - ab)
        return 0.5 * (x + score), x0_hat

    def step(xt, t, t_prev):
        h = ode_time(s, t, t_prev)
        f, x0_hat = slope(xt, t)
        there = xt + h * f
        if t_prev > 0:
            there = xt + 0.5 * h * (f + slope(there, t_prev)[0])
        return there, x0_hat

    return descend(xT, walk(s, steps, spacing), step, watch)


def log_half_snr(s, t):
    """lambda_t = log(sqrt(alpha_bar_t) / sqrt(1 - alpha_bar_t)) (Lu22 section 2): inf at data, -inf
    at noise.
    """
    ab = float(s.alpha_bar[t])
    return math.inf if ab == 1 else -math.inf if ab == 0 else 0.5 * math.log(ab / (1 - ab))


def dpmpp_2m(denoise, s, xT, steps=ODE_STEPS, clip=None, watch=None, spacing="logsnr"):
    """DPM-Solver++(2M), Lu22 Algorithm 2: ddim with x0_hat drawn on from the last step's: error as
    1 / steps^2.

    x_s = sigma_s / sigma_t x_t - sqrt(alpha_bar_s) (exp(-h) - 1) D,    D = x0_hat + (x0_hat - x0_hat_last) / (2 r),
    h = lambda_s - lambda_t, r = h_last / h, sigma = sqrt(1 - alpha_bar); one evaluation a step. The
    first step has nothing to draw on from, and in the last one h is infinite: both take D = x0_hat,
    as ddim does. The arguments are `euler`'s, but the steps are even in log-SNR unless told
    otherwise: where h grows from step to step, drawing on overshoots. alpha_bar_T = 0 is no
    obstacle. Raises InputError.
    """
    last = None  # (x0_hat, h) of the step before

    def step(xt, t, t_prev):
        nonlocal last
        x0_hat = estimate_x0(denoise, s, xt, t, clip)
        h = log_half_snr(s, t_prev) - log_half_snr(s, t)
        ahead = x0_hat
        if last is not None and t_prev > 0:
            # h_last is infinite after alpha_bar_T = 0, and nothing is drawn on
            before, h_last = last
            ahead = x0_hat + h / (2 * h_last) * (x0_hat - before)
        last = x0_hat, h
        # exp(-h) is sqrt(alpha_bar_t) sigma_s / (sigma_t sqrt(alpha_bar_s)): the two factors are
        # ddim's.
        return reverse_step(xt, ahead, None, ddim_coefficients(s, t, t_prev)), x0_hat

    return descend(xT, walk(s, steps, spacing), step, watch)


def encode(denoise, s, x0, steps=ODE_STEPS, clip=None, spacing="uniform"):
    """x_T from data: ddim run forwards (Song21a section 4.3, eq. 14), the inverse of `decode` as
    steps grow: (B, ...).

    x_t = sqrt(alpha_bar_t) x0_hat + sqrt(1 - alpha_bar_t) eps_hat, s < t, both asked at (x_s, s).
    At data, where the network cannot be asked, they are asked at (x_0, t) of the first t. The
    arguments are `euler`'s. Raises InputError.
    """
    x = x0
    rising = walk(s, steps, spacing)[::-1]
    for t, t_next in zip([0] + rising, rising):
        x0_hat = estimate_x0(denoise, s, x, t or t_next, clip)
        if t:
            factors = ddim_coefficients(s, t, t_next)
        else:  # sqrt(1 - alpha_bar_t) eps_hat is x_0 - sqrt(alpha_bar_t) x0_hat here, and x_0 itself stays known
            root = math.sqrt(s.alpha_bar[t_next])
            factors = -root, 1 + root, 0.0
        x = reverse_step(x, x0_hat, None, factors)
    return x


def decode(denoise, s, xT, steps=ODE_STEPS, clip=None, spacing="uniform"):
    """x_0 from x_T: ddim with eta = 0 (Song21a eq. 12), what `encode` inverts. Raises InputError."""
    return ddim(denoise, s, xT, steps, clip=clip, spacing=spacing)


# A name for each sampler, as `sample_with` and the command line know it.
SAMPLERS = {
    "ddim": ddim,
    "ancestral": ancestral,
    "langevin": langevin,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}


def steps_taken(name, s, steps=None):
    """How many steps the sampler `name` takes: by default 50, or T for ancestral and langevin;
    never more than T.

    Raises InputError for a name that SAMPLERS lacks.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    if steps is None:
        steps = s.T if name in ("ancestral", "langevin") else ODE_STEPS
    return min(steps, s.T)


def evaluations(name, steps):
    """How often the sampler `name` asks its denoiser in `steps` steps, langevin with one correction
    each.

    heun and langevin ask twice in every step but the last. Raises InputError for a name that
    SAMPLERS lacks.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    return 2 * steps - 1 if name in ("heun", "langevin") else steps


def sample_with(
    name,
    denoise,
    s,
    xT,
    steps=None,
    spacing=None,
    clip=None,
    seed=0,
    watch=None,
    first_sample=0,
    eta=0.0,
    variance="beta_tilde",
):
    """x_0 from x_T by the sampler of that name, in `steps_taken` steps: (B, ...) in the dtype of
    xT.

    spacing None is the sampler's own; eta goes to ddim, variance to ancestral and langevin, seed
    and first_sample to those that draw noise (ddim too); the other arguments are
    `samplers.ancestral`'s. Raises InputError.
    """
    options = {"steps": steps_taken(name, s, steps), "clip": clip, "watch": watch}
    options |= {} if spacing is None else {"spacing": spacing}
    if name in ("ddim", "ancestral", "langevin"):
        options |= {"seed": seed, "first_sample": first_sample}
        options |= {"eta": eta} if name == "ddim" else {"variance": variance}
    return SAMPLERS[name](denoise, s, xT, **options)
