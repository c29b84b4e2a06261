"""Training (Ho20 Algorithm 1): draw x_0, t and eps, and follow the gradient of |eps -
eps_theta(x_t, t)|^2.

Every number drawn is a pure function of (seed, step, sample), so a state is theta, its average,
Adam's two moments and the step: nothing else has to be kept for a run to go on as if it had never
stopped.
"""

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from . import noise
from .datasets.sets import batch_indices
from .errors import TinyDDPMError
from .likelihood import HALF_WIDTH, Tables, bound_tables, vb_loss_and_slope
from .nn import optim, params
from .nn.ops import Ops
from .process import TARGETS, TO_X0, at, min_snr_weight, q_sample, split_output

NUMPY = Ops()
PLAN = 64  # steps whose batches are drawn together


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

    def on(self, ops):
        """This state with its vectors on a backend."""
        return TrainState(self.step, *map(ops.asarray, self.arrays().values()))


def draw_times(s, seed, step, batch, times="independent"):
    """(batch,) ints, each uniform on 1..T (Ho20 Algorithm 1, line 3).

    "independent" as in the paper; "stratified" lays one shared u ~ U(0, 1) and its shifts by i /
    batch over 1..T (Kingma21 Appendix I.1): t_i = 1 + floor(T ((u + i / batch) mod 1)), the same
    expectation with less variance.
    """
    if times == "stratified":
        u = noise.uniform((1, 1), seed, noise.TIME, step)[0, 0]
        return 1 + np.floor(s.T * ((u + np.arange(batch) / batch) % 1)).astype(np.int64)
    return 1 + noise.integers((batch, 1), s.T, seed, noise.TIME, step)[:, 0]


def draw_labels(labels, rate, seed, step):
    """labels (batch,), each replaced by -1, no label, with probability `rate` (Ho22 Algorithm 1,
    line 3).
    """
    return np.where(
        noise.uniform((len(labels), 1), seed, noise.LABEL, step)[:, 0] < rate, -1, labels
    )


def dropout_masks(rate, seed, step, first_sample, ops=NUMPY):
    """A callable (shape, dtype) -> mask of 0 and 1 / (1 - rate), new at every call, or None for
    rate 0.
    """
    if rate == 0:
        return None
    site = itertools.count()

    def mask(shape, dtype):
        purpose = noise.DROPOUT + (next(site) << 8)
        kept = ops.uniform(shape, seed, purpose, step, first_sample) >= rate
        return kept.astype(dtype) / dtype.type(1 - rate)

    return mask


def loss_and_grad(
    ops,
    net,
    s,
    p,
    g,
    x0,
    t,
    eps,
    target="eps",
    min_snr=0.0,
    drop=None,
    scale=1.0,
    xt=None,
    label=None,
    vlb=0.0,
    half_width=HALF_WIDTH,
    tables=None,
):
    """L_simple (Ho20 eq. 14, a mean per element) at x0, t (B,), eps; adds scale times its gradient
    to g.

    target: what the net is to predict, "eps", "x0" or "v" (Salimans22); min_snr: Hang23's gamma, 0
    for weight 1; xt: the noised x0 where it is known already; label: (B,) ints, -1 for none, or
    None; vlb: above 0 for a net whose output holds the variance too, lambda of L_hybrid = L_simple
    + lambda L_vlb (Nichol21 eq. 16), half_width and tables as `likelihood.vb_loss_and_slope` takes
    them. Returns the loss, unscaled.
    """
    xt = q_sample(s, x0, t, eps) if xt is None else xt
    tape = []
    y = net.forward(ops, p, xt, t, tape, drop, label)
    weight = min_snr_weight(s, t, y, target, min_snr) if min_snr else y.dtype.type(1)
    said, mix = split_output(y, vlb > 0)
    loss = ops.mse(said, TARGETS[target](s, x0, t, eps), weight, tape)
    dy = ops.mse_backward(scale, tape)
    if vlb:
        x0_hat = TO_X0[target](s, xt, t, said)
        bits, slope = vb_loss_and_slope(s, x0, t, x0_hat, mix, half_width, tables, ops.xp)
        loss = loss + vlb * s.T * bits.mean()  # T times its mean over t is the whole bound
        # mix is half of the output, and 1/2
        slope = slope * (scale * vlb * s.T / len(x0) / 2)
        dy = ops.xp.concatenate([dy, slope], axis=-1)
    net.backward(ops, g, dy, tape)
    return loss


class Trainer:
    """One run's state, on a backend, and the step that moves it on; `share` is the map of
    `machine.workers`.

    x (N, ...); labels: (N,) ints below net.classes, for a net that knows classes, or None.
    """

    def __init__(self, net, s, x, recipe, state, share, ops=NUMPY, labels=None):
        self.net, self.recipe, self.state, self.share, self.ops = net, recipe, state, share, ops
        self.x, self.labels = ops.asarray(x), labels if net.classes else None
        # the tables live where the times do, so that neither has to be fetched
        self.s = SimpleNamespace(T=s.T, alpha_bar=ops.asarray(s.alpha_bar), snr=ops.asarray(s.snr))
        self.tables = ops.xp.sqrt(self.s.alpha_bar), ops.xp.sqrt(1 - self.s.alpha_bar)
        self.bound = Tables(*map(ops.asarray, bound_tables(s))) if recipe.vlb else None
        self.half_width = 1 / (recipe.levels - 1) if recipe.levels else None
        self.planned = None
        self.p = params.views(net.spec(), state.theta)
        cuts = np.linspace(0, recipe.batch, min(recipe.shards, recipe.batch) + 1).astype(int)
        self.parts = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
        self.grads = [ops.xp.zeros_like(state.theta) for _ in self.parts]
        self.views = [params.views(net.spec(), grad) for grad in self.grads]

    def _plan(self, step):
        """A step's rows of x, times and labels, from plans of many steps: a device gets them a plan
        at a time.
        """
        r, first = self.recipe, (step - 1) // PLAN * PLAN
        if self.planned is None or self.planned[0] != first:
            steps = range(first + 1, first + PLAN + 1)
            rows = [batch_indices(len(self.x), r.batch, r.seed, k - 1) for k in steps]
            times = [draw_times(self.s, r.seed, k, r.batch, r.times) for k in steps]
            plans = [rows, times]
            if self.labels is not None:
                plans.append(
                    [
                        draw_labels(self.labels[i], r.label_dropout, r.seed, k)
                        for i, k in zip(rows, steps)
                    ]
                )
            self.planned = first, [self.ops.asarray(np.stack(plan)) for plan in plans]
        return [plan[step - 1 - first] for plan in self.planned[1]]

    def step(self):
        """One step of Ho20 Algorithm 1 with AdamW; returns {"step", "loss", "grad_norm", "lr"}.

        Raises TinyDDPMError where the loss or the gradient is no longer finite; theta is then still
        the last good. A lazy backend's loss and norm are not read here, so there it is for the
        caller to look (`check`).
        """
        r, state, ops = self.recipe, self.state, self.ops
        step = state.step + 1
        rows, times, *labels = self._plan(step)

        def one_part(index):
            part = self.parts[index]
            x0, t = self.x[rows[part]], times[part]
            signal, sigma = (at(self.s, table, t, x0).reshape(-1) for table in self.tables)
            xt, eps = ops.noised_drawn(x0, signal, sigma, r.seed, noise.EPS, step, part.start)
            drop = dropout_masks(r.dropout, r.seed, step, part.start, ops)
            label = labels[0][part] if labels else None
            share = len(x0) / r.batch
            self.grads[index][:] = 0
            with np.errstate(over="ignore", invalid="ignore"):  # divergence is looked for below
                return share * loss_and_grad(
                    ops,
                    self.net,
                    self.s,
                    self.p,
                    self.views[index],
                    x0,
                    t,
                    eps,
                    r.target,
                    r.min_snr,
                    drop,
                    share,
                    xt,
                    label,
                    r.vlb,
                    self.half_width,
                    self.bound,
                )

        loss = sum(self.share(one_part, range(len(self.parts))))
        grad = self.grads[0]
        for other in self.grads[1:]:
            grad += other
        scale, norm = ops.clip_scale(grad, r.clip_norm)
        lr = optim.learning_rate(step, r.steps, r.lr, r.warmup, r.decay)
        record = {"step": step, "loss": loss, "grad_norm": norm, "lr": lr}
        if not ops.lazy:
            record = check(record)
        factors = (*optim.adamw_factors(step, lr, r.weight_decay), optim.ema_weight(step, r.ema))
        ops.adamw_ema(state.theta, grad, state.m, state.v, state.ema, scale, factors)
        state.step = step
        return record


def check(record):
    """A step's record with its numbers read. Raises TinyDDPMError where loss or gradient is not
    finite.
    """
    read = {**record, "loss": float(record["loss"]), "grad_norm": float(record["grad_norm"])}
    if not (math.isfinite(read["loss"]) and math.isfinite(read["grad_norm"])):
        raise TinyDDPMError(
            f"training diverged at step {read['step']}: loss {read['loss']}, gradient norm "
            f"{read['grad_norm']}; try a smaller learning rate than {read['lr']:.3g}"
        )
    return read
