"""AdamW, the moving average, gradient clipping and the learning rate, all on flat vectors.

theta, grad, m, v and ema are (P,) arrays of one dtype, changed in place, a block at a time so that
the temporaries stay in cache.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..formulas import numpy_formulas

BLOCK = 1 << 15  # parameters that are updated together


class AdamWFactors(NamedTuple):
    """The numbers of one AdamW step, in the order in which `formulas.adamw` unpacks them."""

    keep: float  # 1 - lr weight_decay: what the decay leaves of theta
    rate: float  # lr / (1 - decay_m^step): the learning rate, with the correction of m
    gain_m: float  # 1 - decay_m
    gain_v: float  # 1 - decay_v
    correct_v: float  # 1 / sqrt(1 - decay_v^step)
    tol: float  # added to sqrt(v_hat)


class Vectors(NamedTuple):
    """What an optimiser's step changes in place: flat vectors (P,) of one dtype."""

    theta: Any  # the parameters
    m: Any  # Adam's first moment
    v: Any  # Adam's second moment
    ema: Any  # the average of theta


def adamw_factors(step, lr, weight_decay=0.0, decay_m=0.9, decay_v=0.999, tol=1e-8):
    """What `formulas.adamw` needs at one step.

    Args:
        step: counted from 1.
        lr: the learning rate.
        weight_decay: what theta shrinks by in a step, as a multiple of lr.
        decay_m, decay_v: Adam's beta_1 and beta_2.
        tol: added to sqrt(v_hat).

    Returns:
        AdamWFactors of Python floats.
    """
    return AdamWFactors(
        keep=1 - lr * weight_decay,
        rate=lr / (1 - decay_m**step),
        gain_m=1 - decay_m,
        gain_v=1 - decay_v,
        correct_v=1 / math.sqrt(1 - decay_v**step),
        tol=tol,
    )


def ema_weight(step, decay):
    """1 - d with d = min(decay, (1 + step) / (10 + step)), step counted from 1.

    The rising d is the warm-up: early on the average forgets the random start instead of carrying
    it along.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


def update(vectors, grad, scale, factors, ema_weight):
    """One AdamW step on scale grad (`adamw`) and one of the average (`ema_update`), in place.

    Args:
        vectors: Vectors, changed in place.
        grad: (P,), left as it is.
        scale: what grad is multiplied by first, as `clip_scale` gives it.
        factors: AdamWFactors.
        ema_weight: the number that the function `ema_weight` gives.
    """
    theta, m, v, ema = vectors
    for start in range(0, theta.size, BLOCK):
        part = slice(start, start + BLOCK)
        g = grad[part] if scale == 1 else scale * grad[part]
        theta[part], m[part], v[part] = numpy_formulas.adamw(
            theta[part], g, m[part], v[part], factors
        )
        ema[part] = numpy_formulas.average(ema[part], theta[part], ema_weight)


def adamw(theta, grad, m, v, step, lr, **constants):
    """One AdamW step in place (Loshchilov19 Algorithm 2; without decay, Kingma15 Algorithm 1).

    m <- decay_m m + (1 - decay_m) grad, v <- decay_v v + (1 - decay_v) grad^2,
    theta <- theta - lr weight_decay theta - lr m_hat / (sqrt(v_hat) + tol)
    with m_hat = m / (1 - decay_m^step), v_hat = v / (1 - decay_v^step). The decay is multiplied by
    lr once.

    Args:
        theta, m, v: (P,), changed in place; m and v start at zero.
        grad: (P,), left as it is.
        step, lr, constants: as `adamw_factors`'s.
    """
    factors = adamw_factors(step, lr, **constants)
    update(Vectors(theta, m, v, theta.copy()), grad, 1, factors, ema_weight=0.0)


def ema_update(ema, theta, step, decay):
    """ema <- ema + (1 - d) (theta - ema), in place, with the d of `ema_weight`.

    Args:
        ema: (P,), changed in place.
        theta: (P,).
        step: counted from 1.
        decay: the largest d.
    """
    ema[:] = numpy_formulas.average(ema, theta, ema_weight(step, decay))


def clip_scale(grad, limit):
    """(scale, norm): min(1, limit / norm) (Pascanu13 Algorithm 1), and the Euclidean norm of grad.

    The scale is 1 for limit None or 0, and where the norm is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(float(np.dot(grad, grad)))
    return limit / norm if limit and math.isfinite(norm) and norm > limit else 1, norm


def clip_scale_unread(xp, grad, limit):
    """`clip_scale` as arrays () of the module xp, so that nothing waits for a device."""
    norm = xp.sqrt(xp.dot(grad, grad))
    clipped = xp.isfinite(norm) & (norm > (limit or math.inf))
    return xp.where(clipped, (limit or 1.0) / norm, xp.ones_like(norm)), norm


def clip_by_norm(grad, limit):
    """Scale grad in place to a norm of at most `limit` (Pascanu13); returns the norm before."""
    scale, norm = clip_scale(grad, limit)
    if scale != 1:
        grad *= scale
    return norm


def learning_rate(step, steps, peak, warmup=0, decay="cosine"):
    """The learning rate at a step: linear up to the peak, then constant or half a cosine to 0.

    Cosine: peak (1 + cos(pi (step - 1 - warmup) / (steps - warmup))) / 2 (Loshchilov17 eq. 5), so
    the first step after warm-up has the peak and the last is just above 0.

    Args:
        step: 1..steps.
        steps: how many there are.
        peak: the largest rate.
        warmup: the steps of the linear rise.
        decay: "cosine" or "constant".
    """
    if step <= warmup:
        return peak * step / warmup
    if decay == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - 1 - warmup) / max(1, steps - warmup))) / 2
