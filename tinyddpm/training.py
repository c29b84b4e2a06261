"""Training (Ho20 Algorithm 1): draw x_0, t and eps, follow the gradient of |eps - eps_theta|^2.

Every number drawn is a pure function of (seed, step, sample), so a state is theta, its average,
Adam's two moments and the step: nothing else has to be kept for a run to go on as if it had never
stopped.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import noise, shards
from .draws import draw_flips, draw_labels, dropout_masks
from .errors import InputError, TinyDDPMError
from .likelihood import Tables, bound_tables, vb_loss_and_slope
from .nn import optim, params
from .nn.device import Clock, StepNumbers
from .nn.ops import Ops, Recompute
from .process import (
    Array,
    at,
    min_snr_weight,
    q_sample,
    split_output,
    target_from,
    x0_from_prediction,
)
from .schedule import Schedule
from .settings import Recipe
from .shards import ALONE, Alone, Share

NUMPY = Ops()
PLAN = 64  # steps whose batches are drawn together


# Ho20 Algorithm 1, lines 2 to 5.


@dataclass(frozen=True)
class Batch:
    """What one step of Algorithm 1 draws, or the part of it that one worker takes."""

    x0: Array  # data, (B, ...)
    t: Array  # (B,) ints in 1..T
    eps: Array  # N(0, I), like x0
    xt: Array | None = None  # x0 noised, where it is known already
    label: Array | None = None  # (B,) ints, -1 for no label, or None
    drop: Callable[..., Array] | None = None  # (shape, dtype) -> dropout mask
    share: float = 1.0  # of the whole batch: how much its gradient counts
    ready: Callable[[], object] | None = None  # called when the decoder's gradient is complete


@dataclass(frozen=True)
class Objective:
    """What a network is trained to predict, and how the error is weighted."""

    target: str = "eps"  # "eps", "x0" or "v" (Salimans22)
    min_snr: float = 0.0  # Hang23's gamma; 0 is weight 1
    vlb: float = 0.0  # lambda of Nichol21 eq. 16; above 0 the output holds a variance too
    tables: Tables | None = None  # of the bound, where t lives if that is a device
    recompute: bool = False  # whether a U-Net's blocks are computed again in the backward pass


def loss_and_grad(
    ops: Ops, net: Any, p: Any, g: Any, s: Schedule, batch: Batch, objective: Objective
) -> Any:
    """L_simple (Ho20 eq. 14, a mean per element) of a batch; its gradient is added to g.

    With objective.vlb it is L_hybrid = L_simple + lambda L_vlb (Nichol21 eq. 16).

    Args:
        ops: the backend.
        net: the network.
        p: its parameters, named views of theta.
        g: its gradients, views of the same names; batch.share times the gradient is added.
        s: the schedule, its tables where batch.t lives.
        batch: x_0, t and eps (Algorithm 1, lines 2 to 4).
        objective: what the network predicts.

    Returns:
        The loss, not scaled by batch.share.
    """
    x0, t, eps = batch.x0, batch.t, batch.eps
    tape: list[Any] = Recompute() if objective.recompute else []
    xt = q_sample(s, x0, t, eps) if batch.xt is None else batch.xt  # eq. 4
    y = net.forward(ops, p, xt, t, tape, batch.drop, batch.label)  # eps_theta(x_t, t)
    prediction, mix = split_output(y, objective.vlb > 0)
    weight = y.dtype.type(1)
    if objective.min_snr:
        weight = min_snr_weight(s, y, t, objective.target, objective.min_snr)
    target = target_from(s, x0, t, eps, objective.target)
    loss = ops.mse(prediction, target, weight, tape)  # eq. 14
    dy = ops.mse_backward(batch.share, tape)
    if objective.vlb:
        vlb, dmix = _vlb(ops, s, batch, objective, xt, prediction, mix)
        loss, dy = loss + vlb, ops.xp.concatenate([dy, dmix], axis=-1)
    net.backward(ops, g, dy, tape, *filter(None, [batch.ready]))  # line 5's gradient
    return loss


def _vlb(ops, s, batch, objective, xt, prediction, mix):
    """lambda L_vlb (Nichol21 eq. 16), and its gradient in the half of the output that mix is."""
    x0_hat = x0_from_prediction(s, xt, batch.t, prediction, objective.target)
    x0, t, tables = batch.x0, batch.t, objective.tables
    bits, slope = vb_loss_and_slope(s, x0, t, x0_hat, mix, tables, ops.xp)
    # T times the mean over t is the whole bound; mix is half of the output, and 1/2.
    slope = slope * (batch.share * objective.vlb * s.T / len(batch.x0) / 2)
    return objective.vlb * s.T * bits.mean(), slope


# What is drawn.


def batch_indices(n: int, batch: int, seed: int, step: int) -> Array:
    """The samples of batch `step`, int64 (batch,): without replacement, epoch after epoch.

    Place i of the batch has position p = step batch + i, which is place p mod n of the permutation
    of epoch floor(p / n): a run resumes by knowing its step alone.

    Args:
        n: how many samples there are.
        batch: how many are drawn.
        seed: of every number drawn.
        step: counted from 0.

    Raises:
        InputError: n or batch is below 1.
    """
    if n < 1 or batch < 1:
        raise InputError(f"n and batch must be at least 1, got n = {n}, batch = {batch}")
    epoch, place = np.divmod(step * batch + np.arange(batch), n)
    indices = np.empty(batch, np.int64)
    for e in range(int(epoch[0]), int(epoch[-1]) + 1):
        indices[epoch == e] = _epoch_order(n, seed, e)[place[epoch == e]]
    return indices


@functools.lru_cache(maxsize=4)
def _epoch_order(n, seed, epoch):
    order = noise.permutation(n, seed, noise.ORDER, step=epoch)
    order.flags.writeable = False
    return order


def draw_times(s: Schedule, seed: int, step: int, batch: int, times: str = "independent") -> Array:
    """t of each sample, (batch,) ints, each uniform on 1..T (Ho20 Algorithm 1, line 3).

    "independent" as in the paper; "stratified" lays one shared u ~ U(0, 1) and its shifts by
    i / batch over 1..T (Kingma21 Appendix I.1): t_i = 1 + floor(T ((u + i / batch) mod 1)), the
    same expectation with less variance.

    Args:
        s: the schedule.
        seed: of every number drawn.
        step: of training.
        batch: how many.
        times: "independent" or "stratified".
    """
    if times == "stratified":
        u = noise.uniform((1, 1), seed, noise.TIME, step)[0, 0]
        return 1 + np.floor(s.T * ((u + np.arange(batch) / batch) % 1)).astype(np.int64)
    return 1 + noise.integers((batch, 1), s.T, seed, noise.TIME, step)[:, 0]


# The state of a run, and its step.


@dataclass
class TrainState:
    """All that a run is: the step it has reached and five flat vectors, (P,) float32."""

    step: int
    theta: Array  # the parameters
    ema: Array  # their average
    m: Array  # Adam's first moment
    v: Array  # Adam's second moment

    @classmethod
    def fresh(cls, net: Any, seed: int) -> "TrainState":
        """The state before the first step."""
        theta = params.init(net.spec(), seed)
        return cls(0, theta, theta.copy(), np.zeros_like(theta), np.zeros_like(theta))

    def arrays(self) -> dict[str, Array]:
        """The vectors by name, for a checkpoint."""
        return {"theta": self.theta, "ema": self.ema, "m": self.m, "v": self.v}

    def on(self, ops: Ops) -> "TrainState":
        """This state with its vectors on a backend."""
        return TrainState(self.step, *map(ops.asarray, self.arrays().values()))


class Trainer:
    """One run's state on a backend, and the step of Ho20 Algorithm 1 that moves it on.

    Args:
        net: the network.
        s: the schedule.
        x: all of the data, (N, ...).
        recipe: how to train.
        state: where to start; it is changed in place.
        ops: the backend.
        labels: (N,) ints below net.classes, for a network that knows classes, or None.
    """

    def __init__(
        self,
        net: Any,
        s: Schedule,
        x: Array,
        recipe: Recipe,
        state: TrainState,
        ops: Ops = NUMPY,
        labels: Array | None = None,
    ) -> None:
        self.net, self.schedule, self.recipe = net, s, recipe
        self.state, self.ops = state, ops
        self.x, self.labels = ops.asarray(x), labels if net.classes else None
        # The tables are where the times are, so that neither has to be fetched from a device.
        self.s = s.on(ops.asarray)
        self.root, self.rest = ops.xp.sqrt(self.s.alpha_bar), ops.xp.sqrt(1 - self.s.alpha_bar)
        half_width = 1 / (recipe.levels - 1) if recipe.levels else None
        tables = bound_tables(s, half_width).on(ops.asarray) if recipe.vlb else None
        r = recipe
        self.objective = Objective(r.target, r.min_snr, r.vlb, tables, r.recompute)
        self.planned: tuple[int, dict[str, Array]] | None = None
        self.p = params.views(net.spec(), state.theta)
        self.parts = shards.cuts(recipe.batch, recipe.shards)
        self.grads: dict[int, Array] = {}  # of the parts that this process computes
        self.views: dict[int, Any] = {}
        self.spare: list[Array] = []  # room for gradients
        self.team, self._whole = ALONE, ops.repeated(self._descend)

    def step(self, share: Share = map, team: Alone = ALONE) -> dict[str, Any]:
        """Take one step of Ho20 Algorithm 1 with AdamW.

        On a lazy backend loss and norm are not read here: `read_record` does it.

        Args:
            share: the map that runs the parts of a batch, such as `runs.threads.workers` gives.
            team: the processes that compute the parts.

        Returns:
            {"step", "loss", "grad_norm", "lr"}.

        Raises:
            TinyDDPMError: loss or gradient is no longer finite; theta is still the last good one.
        """
        r, ops, step = self.recipe, self.ops, self.state.step + 1
        lr = optim.learning_rate(step, r.steps, r.lr, r.warmup, r.decay)
        numbers = self._numbers(step, lr)  # lines 2 and 3

        def record(loss, norm):
            one = {"step": step, "loss": loss, "grad_norm": norm, "lr": lr}
            return one if ops.lazy else read_record(one)

        if self.team is not team:
            self.team, self._whole = team, ops.repeated(functools.partial(self._descend, team=team))
        # where nothing is read a device may record it all
        found = self._whole(numbers) if ops.lazy else self._descend(numbers, share, team, record)
        self.state.step = step
        return record(*found)

    def _descend(self, numbers, share=map, team=ALONE, look=None):
        """A step's loss and norm; they are looked at before theta is moved."""
        grad, loss = team.total(self.grads, self._turns(numbers, share, team))
        scale, norm = self.ops.clip_scale(grad, self.recipe.clip_norm)
        if look is not None:
            look(loss, norm)
        self._update(numbers, grad, scale, share)
        return loss, norm

    def _update(self, numbers, grad, scale, share=map):
        """The optimiser's step, which parts of the vectors may take side by side."""
        ops, vectors, real = self.ops, optim.Vectors(**self.state.arrays()), numbers.real

        def update(part):
            some = optim.Vectors(*(vector[part] for vector in vectors))
            with np.errstate(over="ignore", invalid="ignore"):  # looked for before a save
                ops.adamw_ema(some, grad[part], scale, real[:6], real[6])

        length = -(-len(grad) // ops.shards)
        list(share(update, [slice(k, k + length) for k in range(0, len(grad), length)]))

    def _numbers(self, step, lr):
        """What differs in this step: where it draws, its place in the plan, the optimiser's."""
        r, place = self.recipe, self._plan(step)
        real = (*optim.adamw_factors(step, lr, r.weight_decay), optim.ema_weight(step, r.ema))
        return StepNumbers(Clock(r.seed, step, 0), (place,), real)

    def _turns(self, numbers, share, team):
        """The losses of this process's shards; grads has their gradients, or some sums of them."""
        mine, losses = team.mine(len(self.parts)), []
        self.spare += [self.grads.pop(index) for index in set(self.grads) - set(mine)]
        size = math.ceil(len(mine) / self.recipe.accumulate)
        tree, ready = team.additions(len(self.parts)), None
        if size == len(mine) and hasattr(self.net, "decoder_start"):
            ready = team.early(self.grads, len(self.parts), self.net.decoder_start())
        for turn in shards.turns(mine, size, len(self.parts), tree, self.grads, self.spare):
            self._make_room(turn)
            losses += share(functools.partial(self._part, numbers, ready=ready), turn)
        return losses

    def _make_room(self, turn):
        """A gradient for each part of a turn."""
        for index in turn:
            if index not in self.grads:
                grad = self.spare.pop() if self.spare else self.ops.xp.zeros_like(self.state.theta)
                self.grads[index], self.views[index] = grad, params.views(self.net.spec(), grad)

    def _part(self, numbers, index, ready=None):
        """One part of a batch: its share of the loss; its gradient is left in grads[index]."""
        r, ops, part, clock = self.recipe, self.ops, self.parts[index], numbers.clock
        plans, place = self.planned[1], numbers.whole[0]
        drawn = {name: plan[place].reshape(-1)[part] for name, plan in plans.items()}
        x0, t, label = self.x[drawn["rows"]], drawn["times"], drawn.get("labels")
        if r.flip:
            x0 = ops.xp.where(drawn["flips"][:, None, None, None], x0[:, :, ::-1], x0)
        c_x0, c_eps = (at(self.s, table, t, x0).reshape(-1) for table in (self.root, self.rest))
        where = clock.seed, noise.EPS, clock.step, part.start
        xt, eps = ops.noised_drawn(x0, c_x0, c_eps, *where)  # line 4
        drop = dropout_masks(r.dropout, clock.seed, clock.step, part.start, ops)
        batch = Batch(x0, t, eps, xt, label, drop, len(x0) / r.batch, ready)
        g, self.grads[index][:] = self.views[index], 0
        with np.errstate(over="ignore", invalid="ignore"):  # `read_record` looks for divergence
            loss = loss_and_grad(ops, self.net, self.p, g, self.s, batch, self.objective)
        return batch.share * loss

    def _plan(self, step):
        """A step's place in the plan of PLAN steps, always kept at one address: it is recorded."""
        r, first = self.recipe, (step - 1) // PLAN * PLAN
        if self.planned is None or self.planned[0] != first:
            steps = range(first + 1, first + PLAN + 1)
            plans = {
                "rows": [batch_indices(len(self.x), r.batch, r.seed, k - 1) for k in steps],
                "times": [draw_times(self.s, r.seed, k, r.batch, r.times) for k in steps],
            }
            if r.flip:
                plans["flips"] = [draw_flips(r.batch, r.seed, k) for k in steps]
            if self.labels is not None:
                labels = [self.labels[chosen] for chosen in plans["rows"]]
                rate = r.label_dropout
                plans["labels"] = [draw_labels(x, rate, r.seed, k) for x, k in zip(labels, steps)]
            fresh = {name: self.ops.asarray(np.stack(plan)) for name, plan in plans.items()}
            for name, old in (self.planned[1] if self.planned else {}).items():
                old[...] = fresh[name]
            self.planned = first, self.planned[1] if self.planned else fresh
        return step - 1 - first


def read_record(record: dict[str, Any]) -> dict[str, Any]:
    """A step's record with its loss and norm read off their device, as floats.

    Raises TinyDDPMError where one of them is not finite.
    """
    loss, norm = float(record["loss"]), float(record["grad_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TinyDDPMError(
            f"training diverged at step {record['step']}: loss {loss}, gradient norm {norm}; "
            f"try a smaller learning rate than {record['lr']:.3g}"
        )
    return {**record, "loss": loss, "grad_norm": norm}
