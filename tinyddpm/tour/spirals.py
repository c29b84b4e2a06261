"""The tour's data and its network: two spiral arms whose density is known exactly, and a perceptron
that learns them.

The arms are a mixture of Gaussians, so beside everything that the network says stands the truth.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from .. import noise
from ..backend import get
from ..exact import GaussianMixture
from ..model import Model
from ..nn.mlp import MLP
from ..runs import threads
from ..schedule import Schedule, cosine
from ..settings import Recipe
from ..training import Trainer, TrainState, check

TURNS, INNER, OUTER = 0.6, 0.2, 0.85  # an arm: how far it winds, and its radii
PARTS = 14  # Gaussians in an arm
# their deviations: across the arm, and along it in distances of two
ACROSS, ALONG = 0.05, 0.6
T = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much the tour computes; the defaults are the committed figures'. A test takes less."""

    steps: int = 6000  # of training
    batch: int = 128
    hidden: int = 64  # the perceptron's width
    points: int = 4096  # to train on
    checks: int = 40  # times that training is measured
    cloud: int = 600  # points in the pictures, and in the page's animations
    frames: int = 60  # of the reverse process
    grid: int = 44  # a side of the density's grid
    walk: int = 60  # steps of the density's ODE
    solved: int = 128  # points that the solvers are compared on
    fine: int = 400  # steps that find where the ODE goes
    bounded: int = 1024  # points that the bound's gap is measured on
    longest: int = 150  # the most steps of the chains that it is measured for


class Chapter(NamedTuple):
    """One chapter: its file's name, title, figure, what the figure shows, its text, and what to
    read.

    lines: sentences, where one that does not end with a full stop or a bracket goes on in the next.
    """

    name: str
    title: str
    figure: Image.Image
    alt: str
    lines: list
    read: str

    def sentences(self):
        """The lines, put together to whole sentences."""
        whole = []
        for line in self.lines:
            if whole and whole[-1][-1] not in ".)":
                whole[-1] += " " + line
            else:
                whole.append(line)
        return whole


class Learnt(NamedTuple):
    """What training leaves: the schedule, the truth, the net before, after (EMA and raw), and how
    it went.
    """

    s: Schedule
    truth: GaussianMixture
    setting: Setting
    seed: int
    fresh: Model
    raw: Model
    ema: Model
    losses: np.ndarray  # (steps,)
    # (checks, 3): step, and the raw and the averaged net's distance to the truth
    checks: np.ndarray


def spirals(s):
    """Two spiral arms in the plane, the one the other turned by half a turn, as a GaussianMixture
    under schedule s.
    """
    u = np.linspace(0, 1, 4001)
    radius, angle = INNER + (OUTER - INNER) * u, 2 * math.pi * TURNS * u
    arm = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(arm, axis=0).T))])
    chosen = np.searchsorted(length, (np.arange(PARTS) + 0.5) / PARTS * length[-1])
    means = np.concatenate([arm[chosen], -arm[chosen]])
    ahead = np.gradient(arm, axis=0)[chosen]
    ahead /= np.hypot(*ahead.T)[:, None]
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    along = ALONG * length[-1] / PARTS
    covs = [
        along**2 * np.outer(a, a) + ACROSS**2 * np.outer(b, b) for a, b in zip(ahead, aside)
    ] * 2
    return GaussianMixture(np.full(2 * PARTS, 0.5 / PARTS), means, covs, s)


def learn(setting=None, seed=0, backend="numpy", progress=None):
    """Train the perceptron on draws of `spirals` (Ho20 Algorithm 1), on a backend; returns
    `Learnt`.

    The trained nets come back to the host: the figures are the reference's. progress: called with
    each step's record. Raises InputError where the backend is not there.
    """
    setting, s, ops = setting or Setting(), cosine(T), get(backend)
    truth = spirals(s)
    recipe = Recipe(
        steps=setting.steps, batch=setting.batch, lr=5e-3, levels=0, seed=seed, shards=2
    )
    net = MLP(hidden=setting.hidden)
    x = truth.sample(setting.points, seed).astype(np.float32)
    state = TrainState.fresh(net, seed).on(ops)

    def model(theta):
        return Model(net, np.array(ops.to_host(theta)), s, (2,), recipe.target)

    fresh, losses, checks = model(state.theta), [], []
    often = set(
        np.rint(np.geomspace(min(10, setting.steps), setting.steps, setting.checks))
        .astype(int)
        .tolist()
    )
    test = _test(truth, seed)
    with threads.workers(recipe.shards) as share:
        trainer = Trainer(net, s, x, recipe, state, share, ops)
        for step in range(1, setting.steps + 1):
            record = check(trainer.step())
            losses.append(record["loss"])
            if step in often:
                checks.append(
                    (
                        step,
                        distance(model(state.theta), s, test),
                        distance(model(state.ema), s, test),
                    )
                )
            if progress is not None:
                progress(record)
    return Learnt(
        s,
        truth,
        setting,
        seed,
        fresh,
        model(state.theta),
        model(state.ema),
        np.array(losses),
        np.array(checks),
    )


def _test(truth, seed):
    """[(t, x_t, the exact eps_hat)] at 16 times, x_t drawn apart from training's."""
    times = [int(t) for t in np.linspace(truth.s.T / 32, truth.s.T * 31 / 32, 16)]
    return [(t, x, truth(x, t)) for t in times for x in [truth.sample(128, seed + 1, t)]]


def distance(denoise, s, test):
    """The mean of |v_hat - v_exact|^2, which is |eps_hat - eps_exact|^2 / alpha_bar_t (Salimans22):
    a number.

    What the expected loss is above its least, as the loss is least at the conditional mean.
    """
    return float(
        np.mean(
            [((denoise(x, t) - eps_hat) ** 2).mean() / s.alpha_bar[t] for t, x, eps_hat in test]
        )
    )


def start(learnt, n, first_sample=0):
    """x_T ~ N(0, I) for the figures, float64 (n, 2)."""
    return noise.normal((n, 2), learnt.seed, noise.PRIOR, 0, first_sample).astype(np.float64)
