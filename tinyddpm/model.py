"""A trained network as a denoiser: load it, call it, sample from it."""

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from . import checkpoint, machine, noise, params, samplers
from .backend import get
from .errors import InputError
from .mlp import MLP
from .ops import Forget, Ops
from .process import TARGETS, TO_EPS, TO_X0, x0_weights
from .schedule import Schedule
from .unet import UNet

NETS = {"unet": UNet, "mlp": MLP}
CHUNK = 128                 # images that go through a sampler together


def net_to_meta(net):
    """A net's settings as JSON's kinds, with its kind's name."""
    return {"kind": next(kind for kind, cls in NETS.items() if isinstance(net, cls)), **asdict(net)}


def net_from_meta(meta):
    """The net that `net_to_meta` described. Raises InputError for settings that no net has."""
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in meta.items() if k != "kind"}
    try:
        return NETS[meta["kind"]](**settings)
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint's network is not one this program knows: {error}") from None


@dataclass(frozen=True, eq=False)
class Model:
    """A net with its parameters, theta (P,), and its schedule: model(xt, t) -> eps_hat is a denoiser.

    shape: one sample's, (H, W, C) or (D,); target: what the net was trained to say, "eps", "x0" or "v"; meta:
    the run's settings, as the checkpoint holds them.
    """

    net: object
    theta: np.ndarray           # or the backend's own array
    schedule: Schedule
    shape: tuple
    target: str = "eps"
    meta: dict = field(default_factory=dict)
    ops: Ops = field(default_factory=Ops)

    @cached_property
    def p(self):
        """The named views of theta."""
        return params.views(self.net.spec(), self.theta)

    def output(self, xt, t):
        """What the net says of xt (B, ...) at t, an int or (B,) ints: its target, in the dtype of xt."""
        t = t if getattr(t, "ndim", 0) else int(t)
        y = self.net.forward(self.ops, self.p, xt.astype(self.theta.dtype, copy=False), t, Forget())
        return y.astype(xt.dtype, copy=False)

    def __call__(self, xt, t):
        """eps_hat, from whatever the net predicts (Ho20 eq. 4, Salimans22 section 4)."""
        return TO_EPS[self.target](self.schedule, xt, t, self.output(xt, t))

    def x0_hat(self, xt, t):
        """x0_hat, from whatever the net predicts (Ho20 eq. 15, Salimans22 section 4)."""
        return TO_X0[self.target](self.schedule, xt, t, self.output(xt, t))

    def reverse(self, xt, t, coefficients, clip, seed, first_sample):
        """One whole step of a sampler on this model's backend: the net's output, then `formulas.reverse`, z drawn."""
        weights = x0_weights(self.schedule, t, self.target)
        bound = math.inf if clip is None else clip
        return self.ops.reverse_drawn(xt, self.output(xt, t), (*weights, bound, *coefficients), seed, noise.REVERSE, t,
                                      first_sample)


def load(run, backend="numpy"):
    """The model of a run folder or checkpoint file, with its averaged (EMA) parameters, on a backend.

    Raises InputError for a file that is no checkpoint or a backend that is not there.
    """
    arrays, meta = checkpoint.load(run)
    return from_checkpoint(arrays, meta, get(backend))


def from_checkpoint(arrays, meta, ops=None):
    """The model in a loaded checkpoint. Raises InputError where its parts do not fit each other."""
    ops = ops or Ops()
    try:
        net, target, shape = net_from_meta(meta["net"]), meta["recipe"]["target"], tuple(meta["shape"])
        ema, schedule = arrays["ema"], Schedule(arrays["beta"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint lacks a part: {error}") from None
    if target not in TARGETS or ema.shape != (params.size(net.spec()),):
        raise InputError("the checkpoint's parameters do not fit its network")
    return Model(net, ops.asarray(ema), schedule, shape, target, meta, ops)


def sample(model, n=64, seed=0, sampler="ddim", steps=50, eta=0.0, variance="beta_tilde", clip=1.0, trajectory=0):
    """n samples of a model, float32 (n, *shape), near [-1, 1]; sample i depends on (seed, i) alone, up to rounding.

    sampler: "ddim" (Song21a eq. 12; `steps`, `eta`) or "ancestral" (Ho20 Algorithm 2, all T steps; `variance`);
    clip: bound on |x0_hat|, or None. With trajectory = k also returns k frames of x_t from noise to data,
    (k, n, *shape). Raises InputError for settings that make no sense.
    """
    if n < 1 or trajectory < 0 or trajectory == 1:
        raise InputError(f"n must be at least 1 and trajectory 0 or at least 2, got n = {n}, trajectory = {trajectory}")
    if sampler not in ("ddim", "ancestral"):
        raise InputError(f"sampler must be ddim or ancestral, got {sampler!r}")
    s, ops = model.schedule, model.ops
    steps = s.T if sampler == "ancestral" else min(steps, s.T)
    kept = set(np.rint(np.linspace(0, steps, trajectory)).astype(int).tolist())

    size = min(CHUNK, math.ceil(n / ops.shards))

    def one_chunk(first):
        shape = (min(size, n - first), *model.shape)
        xT = ops.normal(shape, seed, noise.PRIOR, 0, first)
        frames, done = ([ops.to_host(xT)] if 0 in kept else []), 0

        def watch(t_prev, xt, x0_hat):
            nonlocal done
            done += 1
            if done in kept:
                frames.append(ops.to_host(xt))

        common = {"clip": clip, "seed": seed, "first_sample": first, "watch": watch}
        if sampler == "ddim":
            x0 = samplers.ddim(model, s, xT, steps, eta, **common)
        else:
            x0 = samplers.ancestral(model, s, xT, variance, **common)
        return ops.to_host(x0), frames

    machine.keep_pages()
    with machine.workers(ops.shards) as share:
        parts = share(one_chunk, range(0, n, size))
    images = np.concatenate([x0 for x0, _ in parts])
    if not trajectory:
        return images
    return images, np.stack([np.concatenate(frames) for frames in zip(*(frames for _, frames in parts))])
