"""AdamW, EMA, gradient clipping and the learning rate's course, all on flat vectors.

theta, grad, m, v and ema are (P,) arrays of one dtype, changed in place, a block at a time so that
the temporaries stay in cache.
"""

import math

import numpy as np

from ..formulas import numpy_formulas

BLOCK = 1 << 15


def _blocks(size):
    return (slice(i, i + BLOCK) for i in range(0, size, BLOCK))


def adamw_factors(step, lr, weight_decay=0.0, decay_m=0.9, decay_v=0.999, tol=1e-8):
    """What `formulas.adamw` needs at `step`, counted from 1: keep, rate, gain_m, gain_v, correct_v,
    tol.
    """
    return (
        1 - lr * weight_decay,
        lr / (1 - decay_m**step),
        1 - decay_m,
        1 - decay_v,
        1 / math.sqrt(1 - decay_v**step),
        tol,
    )


def ema_weight(step, decay):
    """1 - d with d = min(decay, (1 + step) / (10 + step)), step counted from 1.

    The rising d is the warm-up: early on the average forgets the random start instead of carrying
    it along.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


def update(theta, grad, m, v, ema, scale, factors, weight):
    """One AdamW step on scale grad and one step of the average, in place (`adamw`, `ema_update`)."""
    for part in _blocks(theta.size):
        g = grad[part] if scale == 1 else scale * grad[part]
        theta[part], m[part], v[part] = numpy_formulas.adamw(
            theta[part], g, m[part], v[part], *factors
        )
        ema[part] = numpy_formulas.average(ema[part], theta[part], weight)


def adamw(theta, grad, m, v, step, lr, weight_decay=0.0, decay_m=0.9, decay_v=0.999, tol=1e-8):
    """One AdamW step (Loshchilov19 Algorithm 2; weight_decay = 0 is Kingma15 Algorithm 1); step
    counts from 1.

    m <- decay_m m + (1 - decay_m) grad; v likewise of grad^2; theta <- theta - lr weight_decay
    theta
    - lr m_hat / (sqrt(v_hat) + tol), with m_hat = m / (1 - decay_m^step), v_hat = v / (1 -
      decay_v^step).
    The decay is multiplied by lr once.
    """
    factors = adamw_factors(step, lr, weight_decay, decay_m, decay_v, tol)
    update(theta, grad, m, v, theta.copy(), 1, factors, 0.0)


def ema_update(ema, theta, step, decay):
    """ema <- ema + (1 - d) (theta - ema), in place, with the warm-up of `ema_weight`."""
    ema[:] = numpy_formulas.average(ema, theta, ema_weight(step, decay))


def clip_scale(grad, limit):
    """(scale, norm): min(1, limit / norm) (Pascanu13 Algorithm 1), and the Euclidean norm of grad.

    The scale is 1 for limit None or 0, and where the norm is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(float(np.dot(grad, grad)))
    return limit / norm if limit and math.isfinite(norm) and norm > limit else 1, norm


def clip_scale_unread(xp, grad, limit):
    """(scale, norm): `clip_scale` as arrays () of the module xp, so that no device is waited for."""
    norm = xp.sqrt(xp.dot(grad, grad))
    clipped = xp.isfinite(norm) & (norm > (limit or math.inf))
    return xp.where(clipped, (limit or 1.0) / norm, xp.ones_like(norm)), norm


def clip_by_norm(grad, limit):
    """Scale grad in place to a Euclidean norm of at most `limit` (Pascanu13 Algorithm 1); returns
    the norm before.
    """
    scale, norm = clip_scale(grad, limit)
    if scale != 1:
        grad *= scale
    return norm


def learning_rate(step, steps, peak, warmup=0, decay="cosine"):
    """The rate at `step` of 1..steps: linear up to `peak` over `warmup` steps, then level or a half
    cosine to 0.

    Cosine: peak (1 + cos(pi (step - 1 - warmup) / (steps - warmup))) / 2 (Loshchilov17 eq. 5), so
    the first step after warm-up has the peak and the last is just above 0.
    """
    if step <= warmup:
        return peak * step / warmup
    if decay == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - 1 - warmup) / max(1, steps - warmup))) / 2
