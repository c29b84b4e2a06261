"""Drawing samples from a trained model, in parts that run side by side."""

import contextlib
import functools
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from .. import noise as counter_noise
from ..errors import DeviceFull, InputError, TinyDDPMError
from ..model import Model
from ..nn.unet import UNet
from ..noise import Noise
from ..process import Array
from ..settings import Sampling, of_type, split
from ..shards import ALONE, Alone
from ..solvers import sample_with, steps_taken
from . import checkpoint, memory, threads
from .load import load
from .progress import Bar

WHOLE = ("ancestral", "ddim", "euler")  # samplers whose steps a backend takes as a whole
CHUNK = 128  # samples that go through a sampler together
OWN = (
    "n",
    "seed",
    "label",
    "guidance",
    "trajectory",
    "progress",
    "team",
)  # the parameters of `sample` itself

Trained = Model | str | Path  # a model, or the run that has it


@overload
def sample(
    model: Trained,
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
    model: Trained,
    n: int = 64,
    seed: int = 0,
    *,
    label: ArrayLike | None = None,
    guidance: float = 0.0,
    trajectory: int,
    **how: Any,
) -> tuple[Array, Array]: ...


def sample(
    model: Trained,
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
        model: a trained model, or the run folder or checkpoint file to load it from.
        n: how many.
        seed: of every number drawn.
        label: the class to ask for, or several that the samples take in turn.
        guidance: the weight w of Ho22 eq. 6.
        trajectory: how many frames of x_t, from noise to data, to return as well; 0 for none.
        how: the fields of `settings.Sampling`, by default a published model's own or the field's;
            progress=True: show it; team: the processes that share the work and all get all samples.

    Returns:
        float32 (n, *shape), near [-1, 1]; with a trajectory also its frames, (k, n, *shape).

    Raises:
        InputError: for settings that make no sense, or samples beyond the free memory.
        TinyDDPMError: the samples are not finite; it names the step.
    """
    show, team = _watched(how)
    split(how, Sampling, own=OWN)  # a wrong name is told before a model is loaded
    n, trajectory = _checked(n, seed, trajectory, label, guidance)
    trained = _model(model)
    ops, steps = trained.ops, _steps(settings := how_to_sample(trained, how), trained)
    kept = np.unique(np.rint(np.linspace(0, steps, trajectory)).astype(int)).tolist()
    starts = range(0, n, together := _together(trained, n))
    images, frames = room = _room(trained, n, len(kept), min(n, together * ops.shards))
    labels = np.resize(0 if label is None else label, n)

    def drawn(first, last):
        denoise, part = trained, slice(first, last)
        if label is not None:
            denoise = trained.conditioned(labels[part], guidance)
        into = images[part], frames[:, part], kept
        return _chunk(denoise, Noise(seed, first), settings, into, bar)

    with _workers(ops, team) as share, Bar(steps * len(starts), "sample", show=show) as bar:
        chunks = share(lambda k: _fitting(drawn, k, min(k + together, n)), starts)
        _keep(list(chunks), team, *room)
    return room if trajectory else images


def _tell(settings):
    """Say once where a recorded step is no graph as a whole."""
    if settings.sampler not in WHOLE or settings.variance == "learned":
        _say_once("a learned variance" if settings.variance == "learned" else settings.sampler)


@functools.cache
def _say_once(what):
    line = f"{what}: the network is one graph, the rest of a step is launched by itself"
    print(f"tinyddpm: {line}", file=sys.stderr)


def _together(model, n):
    """How many samples are drawn at once: a chunk, or as many as a device has room for.

    Raises TinyDDPMError where it has none for one. A step of the finest level takes its maps, and a
    convolution's patches.
    """
    ops, net, most = model.ops, model.net, min(CHUNK, math.ceil(n / model.ops.shards))
    if (free := ops.free_bytes()) is None:
        return most
    patches = 2 * 9 * net.base * math.prod(model.shape[:-1]) if isinstance(net, UNet) else 0
    one = 4 * (_maps(net, model.shape) + patches)
    if one > free:
        raise TinyDDPMError(
            f"the GPU's memory does not hold a step of one sample, which takes {memory.size(one)}: "
            f"{memory.size(free)} are free"
        )
    if one * most > free:
        _say_together(most, free // one)
    return min(most, free // one)


def _say_together(most, fewer):
    print(
        f"tinyddpm: the GPU's memory does not hold {most} samples together: "
        f"they are drawn {fewer} at a time",
        file=sys.stderr,
    )


def _fitting(drawn, first, last):
    """A chunk, in halves where the device does not hold it: the samples are the same."""
    try:
        return drawn(first, last)
    except DeviceFull:
        if last - first == 1:
            raise TinyDDPMError("the GPU's memory does not hold a step of one sample") from None
    middle = (first + last) // 2
    _say_together(last - first, last - middle)
    (x0, xs), (y0, ys) = _fitting(drawn, first, middle), _fitting(drawn, middle, last)
    return np.concatenate([x0, y0]), np.concatenate([xs, ys], axis=1)


@contextlib.contextmanager
def _workers(ops, team):
    """The map over the threads of all processes of a team."""
    threads.keep_pages()
    with threads.workers(ops.shards, team.neighbours) as share:
        yield team.spread(share)


def _keep(chunks, team, images, frames):
    """Put the chunks that other processes have drawn in their places."""
    if team.size > 1:
        np.concatenate([x0 for x0, _ in chunks], out=images)
        np.concatenate([xs for _, xs in chunks], axis=1, out=frames)


Model.sample = sample


def _maps(net, shape):
    """How many numbers a network takes for one sample at least.

    What goes in and out of a block of its finest level, and the skip connections so far.
    """
    return math.prod(shape[:-1]) * (
        net.base * (net.blocks + 3) if isinstance(net, UNet) else 2 * net.hidden
    )


def _room(model, n, frames, at_once):
    """The arrays that samples and frames go to. Raises InputError where memory lacks."""
    shape = (n, *model.shape)
    size, layers = 4 * math.prod(shape), 4 * at_once * _maps(model.net, model.shape)
    parts = {"the samples": size, "the trajectory": frames * size, "the network's layers": layers}
    memory.check("sampling", parts)
    return np.empty(shape, np.float32), np.empty((frames, *shape), np.float32)


def _chunk(model, noise, settings, into, bar):
    """Fill into's images with the samples of one chunk, its frames[k] with x_t after k steps.

    Returns both.
    """
    images, parts, kept = into
    frames, ops, done = dict(zip(kept, parts)), model.ops, 0
    if ops.recorded:
        _tell(settings)
    xT = ops.normal(images.shape, noise.seed, counter_noise.PRIOR, 0, noise.first_sample)
    if 0 in frames:
        frames[0][:] = ops.to_host(xT)

    def watch(t_prev, xt, x0_hat):
        nonlocal done
        done += 1
        bar()
        if done in frames:
            frames[done][:] = ops.to_host(xt)

    def walk(watch):
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            x0 = sample_with(model, model.schedule, xT, settings, noise=noise, watch=watch)
        return ops.to_host(x0)

    x0 = walk(watch)
    if not np.isfinite(x0).all():
        walk(_Finite(model))  # once more, to find the step: on a device each look would cost
        raise TinyDDPMError("the samples are not finite")
    images[:] = x0
    return images, parts


class _Finite:
    """A watch that raises TinyDDPMError at the first step whose x_t is not finite."""

    def __init__(self, model):
        self.model = model

    def __call__(self, t_prev, xt, x0_hat):
        if not np.isfinite(self.model.ops.to_host(xt)).all():
            weight = self.model.guidance
            hint = f"; guidance {weight:g} may be too much" if weight else ""
            raise TinyDDPMError(f"the samples are not finite from t = {t_prev} on{hint}")


def _model(model: Trained) -> Model:
    """The model itself, or that of a run."""
    if isinstance(model, str | Path):
        return load(model)
    if not isinstance(model, Model):
        raise InputError(f"a Model, or the path of a run, is needed to sample; got {model!r:.80}")
    return model


def _watched(how):
    """What is shown and who shares the work, taken out of the settings of `sample`.

    Raises InputError for other kinds of values.
    """
    show, team = how.pop("progress", None), how.pop("team", ALONE)
    if not (show is None or isinstance(show, bool)):
        raise InputError(f"progress must be True, False or None, got {show!r:.80}")
    if not isinstance(team, Alone):
        raise InputError(f"team must be what tinyddpm.parallel.join gives, got {team!r:.80}")
    return show, team


def _checked(n, seed, trajectory, label, guidance):
    """n and trajectory as ints. Raises InputError for numbers that make no sense."""
    n, trajectory = of_type("n", n, int), of_type("trajectory", trajectory, int)
    if n < 1 or trajectory < 0 or trajectory == 1:
        raise InputError(
            f"n must be at least 1 and trajectory 0 or at least 2, got n = {n}, "
            f"trajectory = {trajectory}"
        )
    Noise(seed)  # refuses what is no seed
    if label is None and guidance:
        raise InputError("guidance needs a class to guide to")
    return n, trajectory


def how_to_sample(model: Model, given: dict[str, Any]) -> Sampling:
    """The settings given and, for the others, those that a published model came with.

    Raises InputError for a setting that no sampler has, or a value out of its bounds.
    """
    (asked,) = split(given, Sampling, own=OWN)
    with checkpoint.content_errors_as_input("this model"):
        own = dict(model.meta.get("sampling", {}))
        Sampling(**own)
    if asked.get("spacing"):
        own.pop("offset", None)
    sampler = asked.get("sampler", own.get("sampler", Sampling.sampler))
    for each in fields(Sampling):  # those of the model's own sampler may be none of this one's
        if sampler not in (each.metadata["samplers"] or (sampler,)):
            own.pop(each.name, None)
    return Sampling(**{**own, **asked})


def _steps(settings, model):
    """How many steps will be taken. Raises InputError for more than the schedule has."""
    T = model.schedule.T
    if settings.steps is not None and settings.steps > T:
        raise InputError(f"steps must be at most T = {T} of this model, got {settings.steps}")
    return steps_taken(settings.sampler, model.schedule, settings.steps)
