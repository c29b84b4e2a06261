"""The forward process and its closed forms: marginals, posterior, and what one prediction says of
another.

The trap of the two alphas: alpha_t is the factor of one step, alpha_bar_t the product of all of
them. The product stands in the marginal (eq. 4), the factor in the reverse mean (eq. 11). Many
texts write both "alpha".

Everywhere t is an int or (B,) ints in 1..T; coefficients are taken from float64 tables and cast
once, at the edge, to the dtype of the array they multiply. Raises InputError for t outside 1..T.
"""

import math

import numpy as np

from .errors import InputError
from .formulas import numpy_formulas


def at(s, table, t, x):
    """table[t] in the dtype of x, shaped to multiply x of shape (B, ...); t in 1..T. Raises
    InputError.

    A t that lives on a device is trusted, and the table must live there too: reading t back would
    stall it.
    """
    if hasattr(t, "__cuda_array_interface__"):
        return table[t].astype(x.dtype).reshape(t.shape + (1,) * (x.ndim - 1))
    t = np.asarray(t)
    if t.dtype.kind not in "iu" or t.ndim > 1 or t.size == 0:
        raise InputError(
            f"t must be an int or (B,) ints in 1..{s.T}, got {t.dtype} of shape {t.shape}"
        )
    if t.min() < 1 or t.max() > s.T:
        raise InputError(f"t must lie in 1..{s.T}, got {t.min()}..{t.max()}")
    if t.ndim == 1 and t.size != len(x):
        raise InputError(f"t has {t.size} entries for a batch of {len(x)}")
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    # for one t a scalar, which multiplies a device's array as well as a host's
    factor = table[t].astype(dtype)
    return factor.reshape(-1, *(1,) * (x.ndim - 1)) if t.ndim else factor


def q_step(s, x, t, eps):
    """One forward step (Ho20 eq. 2): x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps; x =
    x_{t-1}.

    As beta tends to 0 it is the step of an SDE, dx = -1/2 beta x dt + sqrt(beta) dw (Song21b eq.
    11).
    """
    return numpy_formulas.noised(
        x, eps, at(s, np.sqrt(s.alpha), t, x), at(s, np.sqrt(s.beta), t, x)
    )


def q_marginal(s, x0, t):
    """Mean and variance of q(x_t | x_0) (Ho20 eq. 4): sqrt(alpha_bar_t) x_0 and 1 - alpha_bar_t."""
    return at(s, np.sqrt(s.alpha_bar), t, x0) * x0, at(s, 1 - s.alpha_bar, t, x0)


def q_sample(s, x0, t, eps):
    """A draw of q(x_t | x_0) (Ho20 eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
    return numpy_formulas.noised(
        x0, eps, at(s, np.sqrt(s.alpha_bar), t, x0), at(s, np.sqrt(1 - s.alpha_bar), t, x0)
    )


def beta_tilde(s):
    """The posterior's variance (Ho20 eq. 7), float64 (T + 1,): (1 - alpha_bar_{t-1}) / (1 -
    alpha_bar_t) beta_t.

    Entry 1 is 0: given x_0, the step from x_1 to x_0 has nothing left to choose. Entry 0 is 0.
    """
    table = np.zeros_like(s.beta)
    table[1:] = (1 - s.alpha_bar[:-1]) / (1 - s.alpha_bar[1:]) * s.beta[1:]
    return table


def posterior_weights(s):
    """The weights of x_0 and x_t in the posterior's mean (Ho20 eq. 7), two float64 (T + 1,) tables.

    sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) and sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 -
    alpha_bar_t); at index 0, clean data, they are 1 and 0.
    """
    on_x0, on_xt = np.ones_like(s.beta), np.zeros_like(s.beta)
    rest = 1 - s.alpha_bar[1:]
    on_x0[1:] = np.sqrt(s.alpha_bar[:-1]) * s.beta[1:] / rest
    on_xt[1:] = np.sqrt(s.alpha[1:]) * (1 - s.alpha_bar[:-1]) / rest
    return on_x0, on_xt


def q_posterior(s, x0, xt, t):
    """Mean and variance of q(x_{t-1} | x_t, x_0) (Ho20 eq. 6, 7)."""
    on_x0, on_xt = posterior_weights(s)
    return at(s, on_x0, t, x0) * x0 + at(s, on_xt, t, xt) * xt, at(s, beta_tilde(s), t, xt)


def reverse_mean(s, xt, t, eps_hat):
    """Mean of p(x_{t-1} | x_t) (Ho20 eq. 11): (x_t - beta_t / sqrt(1 - alpha_bar_t) eps_hat) /
    sqrt(alpha_t).
    """
    slope = s.beta[1:] / np.sqrt(1 - s.alpha_bar[1:])
    slope = np.concatenate([[0.0], slope])
    return (xt - at(s, slope, t, xt) * eps_hat) / at(s, np.sqrt(s.alpha), t, xt)


def predict_x0(s, xt, t, eps_hat):
    """Ho20 eq. 15: x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t)."""
    return (xt - at(s, np.sqrt(1 - s.alpha_bar), t, xt) * eps_hat) / at(
        s, np.sqrt(s.alpha_bar), t, xt
    )


def predict_eps(s, xt, t, x0):
    """Ho20 eq. 4 solved for eps: (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)."""
    return (xt - at(s, np.sqrt(s.alpha_bar), t, xt) * x0) / at(s, np.sqrt(1 - s.alpha_bar), t, xt)


def predict_v(s, x0, t, eps):
    """Salimans22 section 4: v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0."""
    return at(s, np.sqrt(s.alpha_bar), t, x0) * eps - at(s, np.sqrt(1 - s.alpha_bar), t, x0) * x0


def x0_from_v(s, xt, t, v):
    """Salimans22 section 4: x0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v."""
    return at(s, np.sqrt(s.alpha_bar), t, xt) * xt - at(s, np.sqrt(1 - s.alpha_bar), t, xt) * v


def eps_from_v(s, xt, t, v):
    """Salimans22 section 4 turned by ninety degrees: eps = sqrt(1 - alpha_bar_t) x_t +
    sqrt(alpha_bar_t) v.
    """
    return at(s, np.sqrt(1 - s.alpha_bar), t, xt) * xt + at(s, np.sqrt(s.alpha_bar), t, xt) * v


def score_from_eps(s, t, eps_hat):
    """Song21b below eq. 13: the score, grad log q(x_t), is -eps_hat / sqrt(1 - alpha_bar_t)."""
    return -eps_hat / at(s, np.sqrt(1 - s.alpha_bar), t, eps_hat)


def eps_from_score(s, t, score):
    """Song21b below eq. 13, solved for eps: eps_hat = -sqrt(1 - alpha_bar_t) score."""
    return -at(s, np.sqrt(1 - s.alpha_bar), t, score) * score


def min_snr_weight(s, t, x, target, gamma):
    """Hang23 section 3.4: the weight min(SNR_t, gamma) of the x0 error, said of the error in
    `target`.

    The squared error in eps is SNR_t times that in x0, in v SNR_t + 1 times, so the weights are
    min(SNR, gamma) for "x0", over SNR for "eps" and over SNR + 1 for "v"; shaped and cast to
    multiply x (B, ...).
    """
    capped = np.minimum(s.snr, gamma)
    if target == "eps":  # min(SNR, gamma) / SNR, whose limit at SNR = 0 is 1
        return at(
            s, np.minimum(1.0, gamma * (1 - s.alpha_bar) / np.maximum(s.alpha_bar, 1e-300)), t, x
        )
    return at(s, capped if target == "x0" else capped / (s.snr + 1), t, x)


def x0_weights(s, t, target):
    """(a_xt, a_output), Python floats: x0_hat = a_xt x_t + a_output output, for an output of kind
    `target`.

    Ho20 eq. 15 for "eps", Salimans22 section 4 for "v". Raises InputError for "eps" where
    alpha_bar_t = 0.
    """
    root, rest = math.sqrt(s.alpha_bar[t]), math.sqrt(1 - s.alpha_bar[t])
    if target == "eps":
        if root == 0:
            raise InputError(f"at t = {t}, alpha_bar is 0 and eps_hat says nothing of x0")
        return 1 / root, -rest / root
    return (0.0, 1.0) if target == "x0" else (root, -rest)


def eps_weights(s, t, target):
    """(a_xt, a_output), Python floats: eps_hat = a_xt x_t + a_output output, for an output of kind
    `target`.

    Ho20 eq. 4 solved for eps for "x0", Salimans22 section 4 for "v"; t >= 1.
    """
    root, rest = math.sqrt(s.alpha_bar[t]), math.sqrt(1 - s.alpha_bar[t])
    return {"eps": (0.0, 1.0), "x0": (1 / rest, -root / rest), "v": (rest, root)}[target]


def split_output(y, learns_variance):
    """(prediction, mix) of a net's output (B, ..., C), or of one (B, ..., 2 C) that learns the
    variance as well.

    mix = (second half + 1) / 2 is v of Nichol21 eq. 15, so that a zero lies halfway between the two
    bounds; or None.
    """
    if not learns_variance:
        return y, None
    half = y.shape[-1] // 2
    return y[..., :half], (y[..., half:] + 1) / 2


# What a network may be trained to say, and how each saying gives x0_hat and eps_hat.
TARGETS = {"eps": lambda s, x0, t, eps: eps, "x0": lambda s, x0, t, eps: x0, "v": predict_v}
TO_X0 = {"eps": predict_x0, "x0": lambda s, xt, t, x0_hat: x0_hat, "v": x0_from_v}
TO_EPS = {"eps": lambda s, xt, t, eps_hat: eps_hat, "x0": predict_eps, "v": eps_from_v}
