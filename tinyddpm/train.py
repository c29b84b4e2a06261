"""Training (Ho20 Algorithm 1): draw x_0, t and eps, and follow the gradient of |eps - eps_theta(x_t, t)|^2.

Every number drawn is a pure function of (seed, step, sample), so a state is theta, its average, Adam's two
moments and the step: nothing else has to be kept for a run to go on as if it had never stopped.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from . import noise, optim, params
from .data import batch_indices
from .errors import InputError, TinyDDPMError
from .ops import Ops
from .process import TARGETS, min_snr_weight, q_sample

DECAYS = ("cosine", "constant")
TIMES = ("stratified", "independent")


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises InputError for a value that makes no sense.

    steps, batch: how much; lr, warmup (steps), decay ("cosine" or "constant"), weight_decay, clip_norm (0 = off):
    AdamW's course; ema: the average's decay; target: "eps", "x0" or "v"; times: "stratified" or "independent";
    min_snr: gamma of Hang23's weighting, 0 = off; dropout: rate; shards: parts of a batch that run side by side,
    their gradients added in order.
    """

    steps: int = 4000
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 100
    decay: str = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.995
    target: str = "v"
    times: str = "stratified"
    min_snr: float = 0.0
    dropout: float = 0.0
    shards: int = 2
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch", "shards"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "warmup", "weight_decay", "clip_norm", "min_snr", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name, choices in (("target", TARGETS), ("decay", DECAYS), ("times", TIMES)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")


@dataclass
class TrainState:
    """All that a run is: the step it has reached and five flat vectors, (P,) float32."""

    step: int
    theta: np.ndarray
    ema: np.ndarray
    m: np.ndarray
    v: np.ndarray

    @classmethod
    def fresh(cls, net, seed):
        """The state before the first step."""
        theta = params.init(net.spec(), seed)
        return cls(0, theta, theta.copy(), np.zeros_like(theta), np.zeros_like(theta))

    def arrays(self):
        """The vectors by name, for a checkpoint."""
        return {"theta": self.theta, "ema": self.ema, "m": self.m, "v": self.v}


def draw_times(s, seed, step, batch, times="independent"):
    """(batch,) ints, each uniform on 1..T (Ho20 Algorithm 1, line 3).

    "independent" as in the paper; "stratified" lays one shared u ~ U(0, 1) and its shifts by i / batch over 1..T
    (Kingma21 Appendix I.1): t_i = 1 + floor(T ((u + i / batch) mod 1)), the same expectation with less variance.
    """
    if times == "stratified":
        u = noise.uniform((1, 1), seed, noise.TIME, step)[0, 0]
        return 1 + np.floor(s.T * ((u + np.arange(batch) / batch) % 1)).astype(np.int64)
    return 1 + noise.integers((batch, 1), s.T, seed, noise.TIME, step)[:, 0]


def dropout_masks(rate, seed, step, first_sample):
    """A callable (shape, dtype) -> mask of 0 and 1 / (1 - rate), new at every call, or None for rate 0."""
    if rate == 0:
        return None
    site = itertools.count()

    def mask(shape, dtype):
        purpose = noise.DROPOUT + (next(site) << 8)
        kept = noise.uniform(shape, seed, purpose, step, first_sample) >= rate
        return kept.astype(dtype) / dtype.type(1 - rate)
    return mask


def loss_and_grad(ops, net, s, p, g, x0, t, eps, target="eps", min_snr=0.0, drop=None, scale=1.0):
    """L_simple (Ho20 eq. 14, a mean per element) at x0, t (B,), eps; adds scale times its gradient to g.

    target: what the net is to predict, "eps", "x0" or "v" (Salimans22); min_snr: Hang23's gamma, 0 for weight 1.
    Returns the loss, unscaled.
    """
    xt = q_sample(s, x0, t, eps)
    tape = []
    y = net.forward(ops, p, xt, t, tape, drop)
    weight = min_snr_weight(s, t, y, target, min_snr) if min_snr else y.dtype.type(1)
    loss = ops.mse(y, TARGETS[target](s, x0, t, eps), weight, tape)
    net.backward(ops, g, ops.mse_backward(scale, tape), tape)
    return loss


class Trainer:
    """One run's state and the step that moves it on; `share` is the map of `machine.workers`."""

    def __init__(self, net, s, x, recipe, state, share, ops=None):
        self.net, self.s, self.x, self.recipe, self.state, self.share = net, s, x, recipe, state, share
        self.ops = ops or Ops()
        self.p = params.views(net.spec(), state.theta)
        cuts = np.linspace(0, recipe.batch, min(recipe.shards, recipe.batch) + 1).astype(int)
        self.parts = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
        self.grads = [np.zeros_like(state.theta) for _ in self.parts]
        self.views = [params.views(net.spec(), grad) for grad in self.grads]

    def step(self):
        """One step of Ho20 Algorithm 1 with AdamW; returns {"step", "loss", "grad_norm", "lr"}.

        Raises TinyDDPMError where the loss or the gradient is no longer finite; theta is then still the last good.
        """
        r, state = self.recipe, self.state
        step = state.step + 1
        rows = batch_indices(len(self.x), r.batch, r.seed, state.step)
        times = draw_times(self.s, r.seed, step, r.batch, r.times)

        def one_part(index):
            part = self.parts[index]
            x0 = self.x[rows[part]]
            eps = noise.normal(x0.shape, r.seed, noise.EPS, step, first_sample=part.start)
            drop = dropout_masks(r.dropout, r.seed, step, part.start)
            share = len(x0) / r.batch
            self.grads[index][:] = 0
            with np.errstate(over="ignore", invalid="ignore"):      # divergence is looked for below
                loss = loss_and_grad(self.ops, self.net, self.s, self.p, self.views[index], x0, times[part], eps,
                                     r.target, r.min_snr, drop, share)
            return share * float(loss)

        loss = sum(self.share(one_part, range(len(self.parts))))
        grad = self.grads[0]
        for other in self.grads[1:]:
            grad += other
        norm = optim.clip_by_norm(grad, r.clip_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TinyDDPMError(f"training diverged at step {step}: loss {loss}, gradient norm {norm}; "
                                f"try a smaller learning rate than {r.lr}")
        lr = optim.learning_rate(step, r.steps, r.lr, r.warmup, r.decay)
        optim.adamw(state.theta, grad, state.m, state.v, step, lr, r.weight_decay)
        optim.ema_update(state.ema, state.theta, step, r.ema)
        state.step = step
        return {"step": step, "loss": loss, "grad_norm": norm, "lr": lr}
