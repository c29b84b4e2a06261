"""Drawing samples from a trained model, in parts that run side by side."""

import math
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from .. import noise as counter_noise
from ..errors import InputError, TinyDDPMError
from ..model import Model
from ..noise import Noise
from ..process import Array
from ..settings import Sampling, split
from ..solvers import sample_with, steps_taken
from . import threads

CHUNK = 128  # samples that go through a sampler together


@overload
def sample(
    model: Model,
    n: int = 64,
    seed: int = 0,
    *,
    label: ArrayLike | None = None,
    guidance: float = 0.0,
    trajectory: Literal[0] = 0,
    **how: Any,
) -> Array: ...


@overload
def sample(
    model: Model,
    n: int = 64,
    seed: int = 0,
    *,
    label: ArrayLike | None = None,
    guidance: float = 0.0,
    trajectory: int,
    **how: Any,
) -> tuple[Array, Array]: ...


def sample(
    model: Model,
    n: int = 64,
    seed: int = 0,
    *,
    label: ArrayLike | None = None,
    guidance: float = 0.0,
    trajectory: int = 0,
    **how: Any,
) -> Array | tuple[Array, Array]:
    """n samples of a model; sample i depends on (seed, i) alone, up to rounding.

    Args:
        model: a trained model.
        n: how many.
        seed: of every number drawn.
        label: the class to ask for, or several that the samples take in turn.
        guidance: the weight w of Ho22 eq. 6.
        trajectory: how many frames of x_t, from noise to data, to return as well; 0 for none.
        how: the fields of `settings.Sampling`: sampler, steps, spacing, eta, variance, clip. What
            is not given is a published model's own, or the field's default.

    Returns:
        float32 (n, *shape), near [-1, 1]; with a trajectory also its frames, (k, n, *shape).

    Raises:
        InputError: for settings that make no sense.
        TinyDDPMError: the samples are not finite; it names the step.
    """
    _check(n, trajectory, label, guidance)
    settings, ops = how_to_sample(model, how), model.ops
    steps = steps_taken(settings.sampler, model.schedule, settings.steps)
    kept = set(np.rint(np.linspace(0, steps, trajectory)).astype(int).tolist())
    labels = None if label is None else np.resize(label, n)
    size = min(CHUNK, math.ceil(n / ops.shards))

    def one_chunk(first):
        denoise, count = model, min(size, n - first)
        if labels is not None:
            denoise = model.conditioned(labels[first : first + count], guidance)
        return _chunk(denoise, count, Noise(seed, first), settings, kept)

    threads.keep_pages()
    with threads.workers(ops.shards) as share:
        parts = share(one_chunk, range(0, n, size))
    images = np.concatenate([x0 for x0, _ in parts])
    if not trajectory:
        return images
    frames = [np.concatenate(pieces) for pieces in zip(*(frames for _, frames in parts))]
    return images, np.stack(frames)


def _chunk(model, count, noise, settings, kept):
    """(samples, frames) of one chunk, on the host; kept: the steps whose x_t are frames."""
    ops, first = model.ops, noise.first_sample
    xT = ops.normal((count, *model.shape), noise.seed, counter_noise.PRIOR, 0, first)
    frames, done = ([ops.to_host(xT)] if 0 in kept else []), 0

    def watch(t_prev, xt, x0_hat):
        nonlocal done
        done += 1
        if done in kept:
            frames.append(ops.to_host(xt))

    def walk(watch):
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            x0 = sample_with(model, model.schedule, xT, settings, noise=noise, watch=watch)
        return ops.to_host(x0)

    x0 = walk(watch)
    if not np.isfinite(x0).all():
        walk(_Finite(model))  # once more, to find the step: on a device each look would cost
        raise TinyDDPMError("the samples are not finite")
    return x0, frames


class _Finite:
    """A watch that raises TinyDDPMError at the first step whose x_t is not finite."""

    def __init__(self, model):
        self.model = model

    def __call__(self, t_prev, xt, x0_hat):
        if not np.isfinite(self.model.ops.to_host(xt)).all():
            weight = self.model.guidance
            hint = f"; guidance {weight:g} may be too much" if weight else ""
            raise TinyDDPMError(f"the samples are not finite from t = {t_prev} on{hint}")


def _check(n, trajectory, label, guidance):
    """Raises InputError for numbers that make no sense."""
    if n < 1 or trajectory < 0 or trajectory == 1:
        raise InputError(
            f"n must be at least 1 and trajectory 0 or at least 2, got n = {n}, "
            f"trajectory = {trajectory}"
        )
    if label is None and guidance:
        raise InputError("guidance needs a class to guide to")


def how_to_sample(model: Model, given: dict[str, Any]) -> Sampling:
    """The settings given and, for the others, those that a published model came with.

    Raises InputError for a setting that no sampler has, or a value out of its bounds.
    """
    own = dict(model.meta.get("sampling", {}))
    if given.get("spacing"):
        own.pop("offset", None)
    return Sampling(**split({**own, **given}, Sampling)[0])
