"""A trained network as a denoiser: eps_hat, x0_hat, the learned variance, and the derivative."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from . import noise as counter_noise
from .errors import InputError
from .guidance import guide
from .nn import params
from .nn.device import Clock, FusedStep, StepNumbers
from .nn.ops import Forget, Ops
from .noise import Noise
from .process import (
    Array,
    Coefficients,
    Time,
    checked_time,
    eps_from_prediction,
    eps_weights,
    split_output,
    x0_from_prediction,
    x0_weights,
)
from .schedule import Schedule


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its parameters and its schedule: model(xt, t) -> eps_hat is a denoiser."""

    net: Any  # a UNet or an MLP
    theta: Array  # (P,), on the backend
    schedule: Schedule
    shape: tuple[int, ...]  # of one sample, (H, W, C) or (D,)
    target: str = "eps"  # what the network predicts: "eps", "x0" or "v"
    meta: dict[str, Any] = field(default_factory=dict)  # the run's settings, as in the checkpoint
    ops: Ops = field(default_factory=Ops)
    label: Array | None = None  # (B,) or (1,) ints below net.classes, set by `conditioned`
    guidance: float = 0.0  # the weight of Ho22 eq. 6, set by `conditioned`
    # model.sample(n, seed, ...) is td.sample(model, n, seed, ...), which stands above and sets it
    sample: ClassVar[Callable[..., Any]]

    def __repr__(self) -> str:
        shape, kind = "x".join(map(str, self.shape)), type(self.net).__name__
        text = f"Model({kind} for {shape}, {self.theta.size:,} parameters, T = {self.schedule.T}"
        classes = f", {self.net.classes} classes" if self.net.classes else ""
        return f"{text}, target {self.target}{classes})"

    # what the backend repeats, shared by the models that `conditioned` makes of this one
    repeats: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def p(self) -> Any:
        """The named views of theta."""
        return params.views(self.net.spec(), self.theta)

    @property
    def learns_variance(self) -> bool:
        """Whether the output is twice as wide as the input: a prediction and a variance."""
        return bool(self.net.out == 2 * self.shape[-1])

    @property
    def classes(self) -> tuple[int | str, ...]:
        """The labels that this model knows, as the data names them; () for none."""
        return tuple(self.meta.get("classes", range(self.net.classes)))

    def conditioned(self, label: ArrayLike, guidance: float = 0.0) -> "Model":
        """This model, conditioned on classes (Ho22 eq. 6).

        Args:
            label: one of `classes`, or (B,) of them.
            guidance: the weight w.

        Raises:
            InputError: the model does not know a label.
        """
        known = {name: index for index, name in enumerate(self.classes)}
        names = np.atleast_1d(label).tolist()
        if not known:
            raise InputError("this model knows no classes: it was trained without labels")
        if not set(names) <= set(known):
            unknown = ", ".join(str(name) for name in sorted(set(names) - set(known), key=str))
            raise InputError(
                f"this model knows the classes {', '.join(map(str, known))}; "
                f"it was asked for {unknown}"
            )
        if not math.isfinite(guidance):
            raise InputError(f"guidance must be a finite number, got {guidance}")
        numbers = self.ops.asarray(np.array([known[name] for name in names]))
        return replace(self, label=numbers, guidance=guidance)

    def predict(self, xt: Array, t: Time) -> tuple[Array, Array | None]:
        """The network's prediction at xt, guided, and mix, Nichol21 eq. 15's v, or None.

        Args:
            xt: (B, ...).
            t: an int or (B,) ints in 1..T.

        Returns:
            The prediction, of what `target` names, in the dtype of xt; and mix, likewise.

        Raises:
            InputError: xt holds no floats, or is of another shape than this model takes; t is
                none of 1..T.
        """
        self._check(xt)
        t = when = checked_time(self.schedule, t, xt)
        times = (when,) if when.ndim else ()
        numbers = StepNumbers(Clock(0, 0, 0), () if times else (int(t),))
        prediction, *mix = self._repeated(self._predict)(numbers, xt, *times, *self._labels())
        return prediction, mix[0] if mix else None

    def _check(self, xt):
        """Raises InputError for what can be no x_t: bytes would pass for numbers near 100."""
        if not hasattr(xt, "dtype"):
            raise InputError(f"x_t must be an array of floats, got a {type(xt).__name__}")
        if xt.dtype.kind != "f":
            raise InputError(
                f"x_t must be floats, images in [-1, 1] with noise, got {xt.dtype}; bytes are "
                "brought there by x / 127.5 - 1"
            )
        if xt.ndim != 1 + len(self.shape) or xt.shape[-1] != self.shape[-1]:
            raise InputError(
                f"this model takes samples of shape {self.shape}, got {tuple(xt.shape[1:])}"
            )
        if xt.ndim == 4:
            self.net.check_size(*xt.shape[1:3])

    def _repeated(self, function):
        """A method of this model that is called with every step, as the backend repeats it.

        It reads neither the label, which is an argument, nor anything else that `conditioned`
        changes but the guidance: a recorded step serves every class.
        """
        same = map(id, (self.net, self.theta, self.ops))
        key = function.__name__, self.guidance, *same
        if key not in self.repeats:
            self.repeats[key] = self.ops.repeated(function)
        return self.repeats[key]

    def _labels(self):
        return () if self.label is None else (self.label,)

    def _predict(self, numbers, xt, *others):
        """(prediction, and mix where it was learned).

        others: t, unless it is a number; the label, if there is one.
        """
        left = list(others)
        t = numbers.whole[0] if numbers.whole else left.pop(0)
        prediction, mix = self._forward(xt, t, left[0] if left else None)
        if self.guidance:
            prediction = guide(prediction, self._forward(xt, t, None)[0], self.guidance)
        return (prediction,) if mix is None else (prediction, mix)

    def _forward(self, xt, t, label):
        t = t if getattr(t, "ndim", 0) else int(t)
        x = xt.astype(self.theta.dtype, copy=False)
        y = self.net.forward(self.ops, self.p, x, t, Forget(), label=label)
        return split_output(y.astype(xt.dtype, copy=False), self.learns_variance)

    def __call__(self, xt: Array, t: Time) -> Array:
        """eps_hat, from what the network predicts (Ho20 eq. 4, Salimans22 section 4)."""
        return eps_from_prediction(self.schedule, xt, t, self.predict(xt, t)[0], self.target)

    def x0_hat(self, xt: Array, t: Time) -> Array:
        """x0_hat, from what the network predicts (Ho20 eq. 15, Salimans22 section 4)."""
        return x0_from_prediction(self.schedule, xt, t, self.predict(xt, t)[0], self.target)

    def x0_and_mix(self, xt: Array, t: Time) -> tuple[Array, Array]:
        """(x0_hat, mix) from one evaluation. Raises InputError where no variance was learned."""
        prediction, mix = self.predict(xt, t)
        if mix is None:
            raise InputError("this model did not learn the variance: choose beta or beta_tilde")
        return x0_from_prediction(self.schedule, xt, t, prediction, self.target), mix

    def vjp(self, xt: Array, t: int, u: Array) -> tuple[Array, Array]:
        """(eps_hat, u^T d eps_hat / d xt), by the network's backward.

        Args:
            xt: (B, ...).
            t: an int in 1..T.
            u: like xt.
        """
        self._check(xt)
        eps_hat, product = self._vjp(xt, t, u, self.label)
        if self.guidance:
            other_eps_hat, other_product = self._vjp(xt, t, u, None)
            eps_hat = guide(eps_hat, other_eps_hat, self.guidance)
            product = guide(product, other_product, self.guidance)
        return eps_hat.astype(xt.dtype, copy=False), product.astype(xt.dtype, copy=False)

    def _vjp(self, xt, t, u, label):
        a_xt, a_prediction = eps_weights(self.schedule, t, self.target)
        numbers = StepNumbers(Clock(0, 0, 0), (int(t),))
        known = () if label is None else (label,)
        prediction, dx = self._repeated(self._gradient)(numbers, xt, u, *known)
        return a_xt * xt + a_prediction * prediction, a_xt * u + a_prediction * dx

    def _gradient(self, numbers, xt, u, *label):
        """(prediction, u^T d prediction / d xt), as the network's numbers."""
        xp, x, count = self.ops.xp, xt.astype(self.theta.dtype, copy=False), len(xt)
        no_label, t = getattr(self.net, "no_label", True), numbers.whole[0]
        known = params.known_label(xp, label[0] if label else None, no_label)
        label, t = xp.broadcast_to(known, (count,)).copy(), xp.zeros(count, np.int64) + t
        tape = []
        y = self.net.forward(self.ops, self.p, x, t, tape, label=label)
        prediction, mix = split_output(y, self.learns_variance)
        dy = u.astype(y.dtype, copy=False)
        dy = dy if mix is None else xp.concatenate([dy, xp.zeros_like(dy)], axis=-1)
        g = params.views(self.net.spec(), xp.zeros_like(self.theta))
        return prediction, self.net.backward(self.ops, g, dy, tape)

    @property
    def xp(self) -> Any:
        """The module of this model's arrays: NumPy or CuPy."""
        return self.ops.xp

    def normal(
        self, shape: tuple[int, ...], seed: int, purpose: int, step: int, first_sample: int
    ) -> Array:
        """`noise.normal` on the device of this model's arrays; the arguments are the same."""
        return self.ops.normal(shape, seed, purpose, step, first_sample)

    def reverse(
        self, xt: Array, t: int, c: Coefficients, clip: float | None, noise: Noise
    ) -> Array:
        """A whole step of a sampler, fused on the backend: x_{t_prev} from x_t.

        Args:
            xt: x_t, (B, ...).
            t: an int in 1..T.
            c: the step's coefficients.
            clip: bound on |x0_hat|, or None.
            noise: what z is drawn from.
        """
        self._check(xt)
        a_xt, a_prediction = x0_weights(self.schedule, t, self.target)
        bound = math.inf if clip is None else clip
        fused = FusedStep(a_xt, a_prediction, bound, c.c_x0, c.c_xt, c.sigma)
        numbers = StepNumbers(Clock(noise.seed, t, noise.first_sample), (t,), fused)
        (xs,) = self._repeated(self._reverse)(numbers, xt, *self._labels())
        return xs

    def _reverse(self, numbers, xt, *label):
        """(x_{t_prev},) of `reverse`."""
        (seed, step, first), c = numbers.clock, numbers.real
        prediction = self._predict(numbers, xt, *label)[0]
        where = seed, counter_noise.REVERSE, step, first
        return (self.ops.reverse_drawn(xt, prediction, c, *where),)
