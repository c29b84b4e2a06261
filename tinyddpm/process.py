"""The forward process in closed form: marginals, posterior, and x0, eps, v, score from each other.

The trap of the two alphas: alpha_t is the factor of one step, alpha_bar_t the product of all of
them. The product stands in the marginal (Ho20 eq. 4), the factor in the reverse mean (Ho20 eq. 11).
Many texts write both "alpha".

Everywhere t is an int or (B,) ints in 1..T. Coefficients are read from float64 tables and cast
once, to the dtype of the array that they multiply. Raises InputError for t outside 1..T.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .schedule import Schedule

Array = NDArray[Any]
Time = int | NDArray[np.integer[Any]]  # an int, or (B,) ints


def checked_time(s: Schedule, t: Any, x: Array) -> Any:
    """t as an array, () or (B,), for the batch x; one on a device as it is.

    Raises InputError where it is no int or (B,) ints, or lies outside 1..T.
    """
    if hasattr(t, "__cuda_array_interface__"):
        return t
    t = np.asarray(t)
    if t.dtype.kind not in "iu" or t.ndim > 1 or t.size == 0:
        raise InputError(f"t must be an int or (B,) ints in 1..{s.T}, got {t.dtype} of {t.shape}")
    if t.min() < 1 or t.max() > s.T:
        raise InputError(f"t must lie in 1..{s.T}, got {t.min()}..{t.max()}")
    if t.ndim == 1 and t.size != len(x):
        raise InputError(f"t has {t.size} entries for a batch of {len(x)}")
    return t


def at(s: Schedule, table: Array, t: Any, x: Array) -> Any:
    """Look up table[t], cast to the dtype of x and shaped to multiply x.

    Args:
        s: the schedule, which knows T.
        table: float64 (T + 1,).
        t: an int or (B,) ints in 1..T. One on a device is not checked, since reading it back would
            stall the device, and the table must live there too.
        x: (B, ...), the array that the coefficient multiplies.

    Returns:
        A scalar for an int t, else (B, 1, ...), in the dtype of x (float64 if x holds integers).

    Raises:
        InputError: t is no int or (B,) ints, or lies outside 1..T.
    """
    t = checked_time(s, t, x)
    if hasattr(t, "__cuda_array_interface__"):
        return table[t].astype(x.dtype).reshape(t.shape + (1,) * (x.ndim - 1))
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    # For one t this is a scalar, which multiplies a device's array as well as a host's.
    coefficient = table[t].astype(dtype)
    return coefficient.reshape(-1, *(1,) * (x.ndim - 1)) if t.ndim else coefficient


# The forward process.


def q_step(s: Schedule, x: Array, t: Time, eps: Array) -> Array:
    """Take one forward step (Ho20 eq. 2): x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps.

    As beta tends to 0 it is the step of an SDE, dx = -1/2 beta x dt + sqrt(beta) dw (Song21b
    eq. 11).

    Args:
        s: the schedule.
        x: x_{t-1}, (B, ...).
        t: the step that x goes to.
        eps: N(0, I) in the shape of x.
    """
    return at(s, np.sqrt(s.alpha), t, x) * x + at(s, np.sqrt(s.beta), t, x) * eps


def q_marginal(s: Schedule, x0: Array, t: Time) -> tuple[Array, Any]:
    """Mean and variance of q(x_t | x_0) (Ho20 eq. 4): sqrt(alpha_bar_t) x_0, 1 - alpha_bar_t."""
    return at(s, np.sqrt(s.alpha_bar), t, x0) * x0, at(s, 1 - s.alpha_bar, t, x0)


def q_sample(s: Schedule, x0: Array, t: Time, eps: Array) -> Array:
    """Draw x_t (Ho20 eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    Args:
        s: the schedule.
        x0: clean data, (B, ...).
        t: an int or (B,) ints in 1..T.
        eps: N(0, I) in the shape of x0.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return at(s, root, t, x0) * x0 + at(s, rest, t, x0) * eps


# The posterior.


class Coefficients(NamedTuple):
    """One reverse step, x_{t_prev} = c_x0 x0_hat + c_xt x_t + sigma z: floats, or tables."""

    c_x0: Any
    c_xt: Any
    sigma: Any  # for a learned variance, its lower bound
    sigma_max: Any = None  # the upper bound of a learned variance, else None
    beta_tilde: Any = None  # the posterior's variance, where the step is the posterior's


def ancestral_coefficients(
    s: Schedule, t: Time, t_prev: Time, variance: str = "beta_tilde"
) -> Coefficients:
    """The step t -> t_prev of the reverse chain: q(x_{t_prev} | x_t, x0_hat) (Ho20 eq. 7).

    From t to t - 1 beta is beta_t. A longer jump has a beta of its own, 1 - alpha_bar_t /
    alpha_bar_{t_prev} (Nichol21 eq. 19). Into data, t_prev = 0, the weights are 1 and 0 and no
    noise is added.

    Args:
        s: the schedule.
        t: where the step starts, an int or ints in 1..T.
        t_prev: where it ends, an int or ints in 0..t - 1.
        variance: sigma^2, "beta", "beta_tilde" (Ho20 section 3.2) or "learned" (Nichol21 eq. 15).

    Returns:
        Python floats for an int t, else float64 arrays.

    Raises:
        InputError: for another variance.
    """
    ab_t, ab_s = s.alpha_bar[t], s.alpha_bar[t_prev]
    # For neighbours the quotient is alpha_t by definition: it would only lose digits of beta_t.
    beta = np.where(np.equal(t, np.add(t_prev, 1)), s.beta[t], 1 - ab_t / ab_s)
    beta_tilde = (1 - ab_s) / (1 - ab_t) * beta
    variances = {"beta": beta, "beta_tilde": beta_tilde, "learned": beta_tilde}
    if variance not in variances:
        raise InputError(f"variance must be one of {', '.join(variances)}, got {variance!r}")
    c = Coefficients(
        c_x0=np.sqrt(ab_s) * beta / (1 - ab_t),
        c_xt=np.sqrt(1 - beta) * (1 - ab_s) / (1 - ab_t),
        sigma=np.where(np.equal(t_prev, 0), 0.0, np.sqrt(variances[variance])),
        sigma_max=np.sqrt(beta) if variance == "learned" else None,
        beta_tilde=beta_tilde,
    )
    return c if np.ndim(t) else Coefficients(*(x if x is None else float(x) for x in c))


def posterior_tables(s: Schedule) -> Coefficients:
    """`ancestral_coefficients` of every step t -> t - 1, (T + 1,) each; entry 0 is data's."""
    t = np.arange(1, s.T + 1)
    c = ancestral_coefficients(s, t, t - 1)
    return Coefficients(
        c_x0=np.concatenate([[1.0], c.c_x0]),
        c_xt=np.concatenate([[0.0], c.c_xt]),
        sigma=np.concatenate([[0.0], c.sigma]),
        beta_tilde=np.concatenate([[0.0], c.beta_tilde]),
    )


def beta_tilde(s: Schedule) -> Array:
    """The posterior's variance (Ho20 eq. 7), float64 (T + 1,); entries 0 and 1 are 0.

    At t = 1 the step ends at x_0 itself, which is given: its variance is 0.
    """
    return posterior_tables(s).beta_tilde


def q_posterior(s: Schedule, x0: Array, xt: Array, t: Time) -> tuple[Array, Any]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) (Ho20 eq. 6, 7).

    Args:
        s: the schedule.
        x0: clean data, or an estimate of it, (B, ...).
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
    """
    c = posterior_tables(s)
    return at(s, c.c_x0, t, x0) * x0 + at(s, c.c_xt, t, xt) * xt, at(s, c.beta_tilde, t, xt)


def reverse_mean(s: Schedule, xt: Array, t: Time, eps_hat: Array) -> Array:
    """Mean of p(x_{t-1} | x_t) (Ho20 eq. 11).

    (x_t - beta_t / sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_t).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        eps_hat: the prediction of eps, in the shape of xt.
    """
    slope = np.concatenate([[0.0], s.beta[1:] / np.sqrt(1 - s.alpha_bar[1:])])
    return (xt - at(s, slope, t, xt) * eps_hat) / at(s, np.sqrt(s.alpha), t, xt)


def learned_log_variance(log_beta: Any, log_beta_tilde: Any, mix: Array) -> Array:
    """log sigma^2 = v log beta_t + (1 - v) log beta_tilde_t, with mix = v (Nichol21 eq. 15)."""
    return log_beta_tilde + mix * (log_beta - log_beta_tilde)


def learned_sigma(sigma_max: float, sigma_min: float, mix: Array) -> Array:
    """sigma of Nichol21 eq. 15, between sigma_min^2 = beta_tilde_t and sigma_max^2 = beta_t."""
    return sigma_min * (sigma_max / sigma_min) ** mix


# Conversions between x0, eps, v and the score; the argument is what stands after "from".


def x0_from_eps(s: Schedule, xt: Array, t: Time, eps_hat: Array) -> Array:
    """Ho20 eq. 15: x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        eps_hat: the prediction of eps, like xt.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return (xt - at(s, rest, t, xt) * eps_hat) / at(s, root, t, xt)


def eps_from_x0(s: Schedule, xt: Array, t: Time, x0: Array) -> Array:
    """Ho20 eq. 4 solved for eps: (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        x0: x_0 or a prediction of it, like xt.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return (xt - at(s, root, t, xt) * x0) / at(s, rest, t, xt)


def v_from_x0_eps(s: Schedule, x0: Array, t: Time, eps: Array) -> Array:
    """Salimans22 section 4: v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0.

    Args:
        s: the schedule.
        x0: x_0, (B, ...).
        t: an int or (B,) ints in 1..T.
        eps: the noise in x_t, like x0.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return at(s, root, t, x0) * eps - at(s, rest, t, x0) * x0


def x0_from_v(s: Schedule, xt: Array, t: Time, v: Array) -> Array:
    """Salimans22 section 4: x0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v.

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        v: the prediction of v, like xt.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return at(s, root, t, xt) * xt - at(s, rest, t, xt) * v


def eps_from_v(s: Schedule, xt: Array, t: Time, v: Array) -> Array:
    """Salimans22 section 4: eps_hat = sqrt(1 - alpha_bar_t) x_t + sqrt(alpha_bar_t) v.

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        v: the prediction of v, like xt.
    """
    root, rest = np.sqrt(s.alpha_bar), np.sqrt(1 - s.alpha_bar)
    return at(s, rest, t, xt) * xt + at(s, root, t, xt) * v


def score_from_eps(s: Schedule, t: Time, eps_hat: Array) -> Array:
    """Song21b below eq. 13: grad log q(x_t) = -eps_hat / sqrt(1 - alpha_bar_t)."""
    return -eps_hat / at(s, np.sqrt(1 - s.alpha_bar), t, eps_hat)


def eps_from_score(s: Schedule, t: Time, score: Array) -> Array:
    """Song21b below eq. 13, solved for eps: eps_hat = -sqrt(1 - alpha_bar_t) score."""
    return -at(s, np.sqrt(1 - s.alpha_bar), t, score) * score


def score_from_x0(s: Schedule, xt: Array, t: Time, x0_hat: Array) -> Array:
    """Efron11 eq. 1.4, solved for the score: (sqrt(alpha_bar_t) x0_hat - x_t) / (1 - alpha_bar_t).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        x0_hat: E[x_0 | x_t], or the prediction of it, like xt.
    """
    return (at(s, np.sqrt(s.alpha_bar), t, xt) * x0_hat - xt) / at(s, 1 - s.alpha_bar, t, xt)


# A network's prediction: of eps, x0 or v (`settings.TARGETS`).


def target_from(s: Schedule, x0: Array, t: Time, eps: Array, target: str) -> Array:
    """What a network of this target should predict at x_t of x0 and eps: eps, x0 or v.

    Args:
        s: the schedule.
        x0: x_0, (B, ...).
        t: an int or (B,) ints in 1..T.
        eps: the noise in x_t, like x0.
        target: "eps", "x0" or "v".
    """
    if target == "eps":
        return eps
    return x0 if target == "x0" else v_from_x0_eps(s, x0, t, eps)


def x0_from_prediction(s: Schedule, xt: Array, t: Time, prediction: Array, target: str) -> Array:
    """x0_hat from a prediction of eps (Ho20 eq. 15), of x0 or of v (Salimans22 section 4).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        prediction: of the target, like xt.
        target: "eps", "x0" or "v".
    """
    if target == "eps":
        return x0_from_eps(s, xt, t, prediction)
    return prediction if target == "x0" else x0_from_v(s, xt, t, prediction)


def eps_from_prediction(s: Schedule, xt: Array, t: Time, prediction: Array, target: str) -> Array:
    """eps_hat from a prediction of eps, of x0 (Ho20 eq. 4) or of v (Salimans22 section 4).

    Args:
        s: the schedule.
        xt: x_t, (B, ...).
        t: an int or (B,) ints in 1..T.
        prediction: of the target, like xt.
        target: "eps", "x0" or "v".
    """
    if target == "eps":
        return prediction
    return eps_from_x0(s, xt, t, prediction) if target == "x0" else eps_from_v(s, xt, t, prediction)


def x0_weights(s: Schedule, t: int, target: str) -> tuple[float, float]:
    """(a_xt, a_prediction), floats: x0_hat = a_xt x_t + a_prediction prediction.

    Raises InputError for target "eps" where alpha_bar_t = 0.
    """
    if target == "eps" and s.alpha_bar[t] == 0:
        raise InputError(f"at t = {t}, alpha_bar is 0 and x0 cannot be computed from eps_hat")
    return _weights(x0_from_prediction, s, t, target)


def eps_weights(s: Schedule, t: int, target: str) -> tuple[float, float]:
    """(a_xt, a_prediction), floats: eps_hat = a_xt x_t + a_prediction prediction."""
    return _weights(eps_from_prediction, s, t, target)


def _weights(from_prediction, s, t, target):
    """The two weights of a linear map of (x_t, prediction): its values at (1, 0) and (0, 1)."""
    one, zero = np.float64(1), np.float64(0)
    a_xt = from_prediction(s, one, t, zero, target)
    a_prediction = from_prediction(s, zero, t, one, target)
    return float(a_xt), float(a_prediction)


def split_output(y: Array, learns_variance: bool) -> tuple[Array, Array | None]:
    """(prediction, mix) of a network's output (B, ..., C), or (B, ..., 2 C) with a variance.

    mix = (second half + 1) / 2 is v of Nichol21 eq. 15, so that an output of 0 lies halfway between
    the two bounds; None for an output without it.
    """
    if not learns_variance:
        return y, None
    half = y.shape[-1] // 2
    return y[..., :half], (y[..., half:] + 1) / 2


def min_snr_weight(s: Schedule, x: Array, t: Time, target: str, gamma: float) -> Any:
    """The loss weight that stands for min(SNR_t, gamma) on the x0 error (Hang23 section 3.4).

    The squared error in eps is SNR_t times that in x0, in v SNR_t + 1 times, so the weight is
    min(SNR, gamma) for "x0", over SNR for "eps" and over SNR + 1 for "v".

    Args:
        s: the schedule.
        x: (B, ...), the array that the weight multiplies.
        t: an int or (B,) ints in 1..T.
        target: "eps", "x0" or "v".
        gamma: the bound on the SNR.
    """
    capped = np.minimum(s.snr, gamma)
    if target == "eps":  # min(SNR, gamma) / SNR, whose limit at SNR = 0 is 1
        over_snr = gamma * (1 - s.alpha_bar) / np.maximum(s.alpha_bar, 1e-300)
        return at(s, np.minimum(1.0, over_snr), t, x)
    return at(s, capped if target == "x0" else capped / (s.snr + 1), t, x)
