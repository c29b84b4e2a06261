"""The tour's data and network: two spiral arms and a perceptron that learns them.

The arms are a mixture of Gaussians, whose density is known exactly: every prediction of the network
can be held against the truth.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import noise
from ..backend import get
from ..exact import GaussianMixture
from ..model import Model
from ..nn.mlp import MLP
from ..process import Array
from ..runs import threads
from ..samplers import Denoiser
from ..schedule import Schedule, cosine
from ..settings import Recipe
from ..training import Trainer, TrainState, read_record

TURNS, INNER, OUTER = 0.6, 0.2, 0.85  # an arm: how far it winds, and its radii
PARTS = 14  # Gaussians in an arm
# their deviations: across the arm, and along it in distances of two
ACROSS, ALONG = 0.05, 0.6
T = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much the tour computes: the committed figures by default, less in a test."""

    steps: int = 6000  # of training
    batch: int = 128
    hidden: int = 64  # the perceptron's width
    points: int = 4096  # to train on
    checks: int = 40  # times that training is measured
    cloud: int = 600  # points in the pictures, and in the page's animations
    frames: int = 60  # of the reverse process
    grid: int = 44  # a side of the density's grid
    ode_steps: int = 60  # of the density's ODE
    solved: int = 128  # points that the solvers are compared on
    fine: int = 400  # steps that find where the ODE goes
    bounded: int = 1024  # points that the bound's gap is measured on
    longest: int = 150  # the most steps of the chains that it is measured for


class Chapter(NamedTuple):
    """One chapter of the tour."""

    name: str  # its file's name
    title: str
    figure: Figure
    alt: str  # what the figure shows, in words
    lines: list[str]  # one that does not end with a full stop or a bracket goes on in the next
    read: str  # the names of the code to read, with commas between

    def sentences(self) -> list[str]:
        """The lines, put together to whole sentences."""
        whole: list[str] = []
        for line in self.lines:
            if whole and whole[-1][-1] not in ".)":
                whole[-1] += " " + line
            else:
                whole.append(line)
        return whole


class Learned(NamedTuple):
    """What training leaves: the nets before and after, the truth, and how it went."""

    s: Schedule
    truth: GaussianMixture
    setting: Setting
    seed: int
    fresh: Model  # before training
    raw: Model  # after it, the weights themselves
    ema: Model  # after it, their average
    losses: NDArray[np.float64]  # (steps,)
    checks: NDArray[np.float64]  # (checks, 3): step, the raw and the averaged net's `distance`


def spirals(s: Schedule) -> GaussianMixture:
    """Two spiral arms in the plane, each the other turned by half a turn, under schedule s."""
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


def learn(
    setting: Setting | None = None,
    seed: int = 0,
    backend: str = "numpy",
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Learned:
    """Train the perceptron on draws of `spirals` (Ho20 Algorithm 1).

    Args:
        setting: how much to compute.
        seed: of every random number.
        backend: where to train; the nets come back to the host, and NumPy draws the figures.
        progress: called with the record of each step.

    Raises:
        InputError: the backend is not there.
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
    often = np.rint(np.geomspace(min(10, setting.steps), setting.steps, setting.checks))
    test = _test(truth, seed)
    with threads.workers(recipe.shards) as share:
        trainer = Trainer(net, s, x, recipe, state, ops)
        for step in range(1, setting.steps + 1):
            record = read_record(trainer.step(share))
            losses.append(record["loss"])
            if step in often:
                nets = model(state.theta), model(state.ema)
                checks.append((step, *(distance(net, s, test) for net in nets)))
            if progress is not None:
                progress(record)
    raw, ema = model(state.theta), model(state.ema)
    return Learned(s, truth, setting, seed, fresh, raw, ema, np.array(losses), np.array(checks))


def _test(truth, seed):
    """[(t, x_t, the exact eps_hat)] at 16 times, x_t drawn apart from training's."""
    times = [int(t) for t in np.linspace(truth.s.T / 32, truth.s.T * 31 / 32, 16)]
    return [(t, x, truth(x, t)) for t in times for x in [truth.sample(128, seed + 1, t)]]


def distance(denoise: Denoiser, s: Schedule, test: list[tuple[int, Array, Array]]) -> float:
    """The mean of |v_hat - v_exact|^2 = |eps_hat - eps_exact|^2 / alpha_bar_t (Salimans22).

    By so much is the expected loss above its least, which the conditional mean has. test: rows of
    (t, x_t, the exact eps_hat).
    """
    errors = [((denoise(x, t) - eps_hat) ** 2).mean() / s.alpha_bar[t] for t, x, eps_hat in test]
    return float(np.mean(errors))


def start(learned: Learned, n: int, first_sample: int = 0) -> Array:
    """x_T ~ N(0, I) for the figures, float64 (n, 2)."""
    return noise.normal((n, 2), learned.seed, noise.PRIOR, 0, first_sample).astype(np.float64)


def grid(row: Array) -> Array:
    """All points of the plane whose x and y are in the row, x changing fastest: (n^2, 2)."""
    return np.stack(np.meshgrid(row, row), axis=-1).reshape(-1, 2)
