"""A trained network as a denoiser: load it, call it, sample from it."""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np

from . import noise, solvers
from .backend import get
from .errors import InputError
from .guidance import guide
from .nn import params
from .nn.mlp import MLP
from .nn.ops import Forget, Ops
from .nn.unet import UNet
from .process import TARGETS, TO_EPS, TO_X0, eps_weights, split_output, x0_weights
from .runs import checkpoint
from .runs import threads as machine
from .schedule import Schedule

NETS = {"unet": UNet, "mlp": MLP}
CHUNK = 128  # images that go through a sampler together


def net_to_meta(net):
    """A net's settings as JSON's kinds, with its kind's name."""
    return {"kind": next(kind for kind, cls in NETS.items() if isinstance(net, cls)), **asdict(net)}


def net_from_meta(meta):
    """The net that `net_to_meta` described. Raises InputError for settings that no net has."""
    try:
        settings = {
            k: tuple(v) if isinstance(v, list) else v for k, v in meta.items() if k != "kind"
        }
        return NETS[meta["kind"]](**settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's network is not one this program knows: {error}"
        ) from None


@dataclass(frozen=True, eq=False)
class Model:
    """A net with its parameters, theta (P,), and its schedule: model(xt, t) -> eps_hat is a
    denoiser.

    shape: one sample's, (H, W, C) or (D,); target: what the net was trained to say, "eps", "x0" or
    "v"; meta: the run's settings, as the checkpoint holds them; label: (B,) or (1,) ints below
    net.classes, or None, and guidance, the weight of Ho22 eq. 6: set both by `conditioned`.
    """

    net: object
    theta: np.ndarray  # or the backend's own array
    schedule: Schedule
    shape: tuple
    target: str = "eps"
    meta: dict = field(default_factory=dict)
    ops: Ops = field(default_factory=Ops)
    label: np.ndarray | None = None
    guidance: float = 0.0

    @cached_property
    def p(self):
        """The named views of theta."""
        return params.views(self.net.spec(), self.theta)

    @property
    def learns_variance(self):
        """Whether the net's output is twice as wide as its input: a prediction, and Nichol21's
        variance beside it.
        """
        return self.net.out == 2 * self.shape[-1]

    @property
    def classes(self):
        """The labels that this model knows, as the data names them; () for none."""
        return tuple(self.meta.get("classes", range(self.net.classes)))

    def conditioned(self, label, guidance=0.0):
        """This model asked for classes: label, one of `classes` or (B,) of them; guidance: Ho22 eq.
        6's weight.

        Raises InputError for a label that the model does not know.
        """
        known = {name: index for index, name in enumerate(self.classes)}
        label = np.atleast_1d(label)
        if not known:
            raise InputError("this model knows no classes: it was trained without labels")
        if not set(label.tolist()) <= set(known):
            raise InputError(
                f"this model knows the classes {', '.join(map(str, known))}; it was asked for "
                f"{', '.join(str(name) for name in sorted(set(label.tolist()) - set(known)))}"
            )
        if not math.isfinite(guidance):
            raise InputError(f"guidance must be a finite number, got {guidance}")
        label = self.ops.asarray(np.array([known[name] for name in label.tolist()]))
        return replace(self, label=label, guidance=guidance)

    def output(self, xt, t):
        """What the net says of xt (B, ...) at t, an int or (B,) ints, guided: its target, in the
        dtype of xt.
        """
        return self.outputs(xt, t)[0]

    def outputs(self, xt, t):
        """(`output`, mix): mix is Nichol21 eq. 15's v, for a net that learns the variance, else
        None.
        """
        t = t if getattr(t, "ndim", 0) else int(t)
        x = xt.astype(self.theta.dtype, copy=False)

        def forward(label):
            return self.net.forward(self.ops, self.p, x, t, Forget(), label=label).astype(
                xt.dtype, copy=False
            )

        said, mix = split_output(forward(self.label), self.learns_variance)
        if self.guidance:
            said = guide(said, split_output(forward(None), self.learns_variance)[0], self.guidance)
        return said, mix

    def __call__(self, xt, t):
        """eps_hat, from whatever the net predicts (Ho20 eq. 4, Salimans22 section 4)."""
        return TO_EPS[self.target](self.schedule, xt, t, self.output(xt, t))

    def x0_hat(self, xt, t):
        """x0_hat, from whatever the net predicts (Ho20 eq. 15, Salimans22 section 4)."""
        return TO_X0[self.target](self.schedule, xt, t, self.output(xt, t))

    def x0_and_mix(self, xt, t):
        """(x0_hat, mix) from one evaluation. Raises InputError where the net does not learn the
        variance.
        """
        if not self.learns_variance:
            raise InputError("this model did not learn the variance: choose beta or beta_tilde")
        said, mix = self.outputs(xt, t)
        return TO_X0[self.target](self.schedule, xt, t, said), mix

    def vjp(self, xt, t, u):
        """(eps_hat, u^T d eps_hat / d xt), by the net's backward; xt, u (B, ...), t an int."""
        a_xt, a_output = eps_weights(self.schedule, t, self.target)
        xp, x, count = self.ops.xp, xt.astype(self.theta.dtype, copy=False), len(xt)
        g = params.views(self.net.spec(), xp.zeros_like(self.theta))
        eps_hat, product = a_xt * xt, a_xt * u
        sides = [(self.label, 1 + self.guidance), (None, -self.guidance)]  # Ho22 eq. 6
        for label, weight in sides if self.guidance else sides[:1]:
            tape = []
            label = (
                xp.full((count,), -1) if label is None else xp.broadcast_to(label, (count,)).copy()
            )
            times = xp.full((count,), t)
            y = self.net.forward(self.ops, self.p, x, times, tape, label=label)
            said, mix = split_output(y, self.learns_variance)
            dy = u.astype(y.dtype, copy=False)
            dy = dy if mix is None else xp.concatenate([dy, xp.zeros_like(dy)], axis=-1)
            eps_hat = eps_hat + weight * a_output * said
            product = product + weight * a_output * self.net.backward(self.ops, g, dy, tape)
        return eps_hat.astype(xt.dtype, copy=False), product.astype(xt.dtype, copy=False)

    def normal(self, shape, seed, purpose, step, first_sample):
        """Noise where this model's arrays live."""
        return self.ops.normal(shape, seed, purpose, step, first_sample)

    def reverse(self, xt, t, coefficients, clip, seed, first_sample):
        """One whole step of a sampler on this model's backend: the net's output, then
        `formulas.reverse`, z drawn.
        """
        weights = x0_weights(self.schedule, t, self.target)
        bound = math.inf if clip is None else clip
        return self.ops.reverse_drawn(
            xt,
            self.output(xt, t),
            (*weights, bound, *coefficients),
            seed,
            noise.REVERSE,
            t,
            first_sample,
        )


def load(run, backend="numpy"):
    """The model of a run folder or checkpoint file, with its averaged (EMA) parameters, on a
    backend.

    Raises InputError for a file that is no checkpoint or a backend that is not there.
    """
    arrays, meta = checkpoint.load(run)
    return from_checkpoint(arrays, meta, get(backend))


def from_checkpoint(arrays, meta, ops=None):
    """The model in a loaded checkpoint. Raises InputError where its parts do not fit each other."""
    ops = ops or Ops()
    try:
        net, target, shape = (
            net_from_meta(meta["net"]),
            meta["recipe"]["target"],
            tuple(meta["shape"]),
        )
        ema, schedule = arrays["ema"], Schedule(arrays["beta"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint lacks a part: {error}") from None
    classes = meta.get("classes", [])
    if not (
        isinstance(classes, list)
        and len(classes) == net.classes
        and all(isinstance(k, int) for k in classes)
    ):
        raise InputError("the checkpoint's classes do not fit its network")
    # No setting of a net exceeds its number of parameters; one that does could make its spec
    # endless. A list, because what a foreign file calls its target need not be hashable.
    if target not in list(TARGETS) or max(_numbers(asdict(net))) > ema.size:
        raise InputError("the checkpoint's parameters do not fit its network")
    size = params.size(net.spec())
    if ema.shape != (size,):
        raise InputError(f"the checkpoint's ema has shape {ema.shape}, its network needs ({size},)")
    return Model(net, ops.asarray(ema), schedule, shape, target, meta, ops)


def _numbers(settings):
    return [
        n
        for v in settings.values()
        for n in (v if isinstance(v, tuple) else [v])
        if isinstance(n, int)
    ]


def sample(
    model,
    n=64,
    seed=0,
    sampler="ddim",
    steps=None,
    eta=0.0,
    variance="beta_tilde",
    clip=1.0,
    trajectory=0,
    *,
    spacing=None,
    label=None,
    guidance=0.0,
):
    """n samples of a model, float32 (n, *shape), near [-1, 1]; sample i depends on (seed, i) alone,
    up to rounding.

    sampler: a name in `solvers.SAMPLERS`; steps: of its walk, by default 50, or T for the ancestral
    kind; spacing: where in 1..T they lie, None for the sampler's own way; eta: ddim's; variance:
    the ancestral kind's; clip: bound on |x0_hat|, or None; label: the class to ask for, or several
    that the samples take in turn; guidance: Ho22 eq. 6's weight. With trajectory = k also returns k
    frames of x_t from noise to data, (k, n, *shape). Raises InputError for settings that make no
    sense.
    """
    if n < 1 or trajectory < 0 or trajectory == 1:
        raise InputError(
            f"n must be at least 1 and trajectory 0 or at least 2, got n = {n}, trajectory = {trajectory}"
        )
    if label is None and guidance:
        raise InputError("guidance needs a class to guide to")
    s, ops = model.schedule, model.ops
    walked = solvers.steps_taken(sampler, s, steps)
    kept = set(np.rint(np.linspace(0, walked, trajectory)).astype(int).tolist())
    labels = None if label is None else np.resize(label, n)
    size = min(CHUNK, math.ceil(n / ops.shards))

    def one_chunk(first):
        denoise, count = model, min(size, n - first)
        if labels is not None:
            denoise = model.conditioned(labels[first : first + count], guidance)
        xT = ops.normal((count, *model.shape), seed, noise.PRIOR, 0, first)
        frames, done = ([ops.to_host(xT)] if 0 in kept else []), 0

        def watch(t_prev, xt, x0_hat):
            nonlocal done
            done += 1
            if done in kept:
                frames.append(ops.to_host(xt))

        x0 = solvers.sample_with(
            sampler,
            denoise,
            s,
            xT,
            walked,
            spacing=spacing,
            eta=eta,
            variance=variance,
            clip=clip,
            seed=seed,
            first_sample=first,
            watch=watch,
        )
        return ops.to_host(x0), frames

    machine.keep_pages()
    with machine.workers(ops.shards) as share:
        parts = share(one_chunk, range(0, n, size))
    images = np.concatenate([x0 for x0, _ in parts])
    if not trajectory:
        return images
    return images, np.stack(
        [np.concatenate(frames) for frames in zip(*(frames for _, frames in parts))]
    )
