"""A run: training with a folder that remembers it, and going on from there.

RUN/checkpoint.npz holds the whole state, RUN/log.jsonl one line of JSON for each logged step.
Whatever ends the process, resuming gives the bits that a run never stopped would have: a step's log
line is on disk before the checkpoint that stands for it, and the log drops what came after the
checkpoint that a run goes on from.
"""

import contextlib
import pathlib
from dataclasses import asdict, replace

import numpy as np

from . import checkpoint, lock, threads as machine, log as runlog
from ..datasets import sets as data
from .. import model
from ..nn import params
from ..backend import get
from ..errors import InputError, TinyDDPMError
from ..nn.mlp import MLP
from ..schedule import cosine
from ..training import Trainer, TrainState, check
from ..settings import Recipe
from ..nn.unet import UNet


def default_net(shape, classes=0, learn_variance=False):
    """The net for samples of a shape: an MLP for (D,), a U-Net for (H, W, C), its levels as the
    sides halve.

    Below 16 pixels two levels, base 24, one block; from there three levels, base 32, two blocks;
    fewer levels where a side is odd. The coarsest level attends. classes: how many labels it knows;
    learn_variance: an output of twice the width (Nichol21 eq. 15).
    """
    out = 2 * shape[-1] if learn_variance else None
    if len(shape) == 1:
        return MLP(dim=shape[0], classes=classes, out=out)
    height, width, channels = shape
    large = min(height, width) >= 16
    levels = 1
    while levels < (3 if large else 2) and not (height % 2**levels or width % 2**levels):
        levels += 1
    return UNet(channels=channels, base=32 if large else 24, mults=(1, 2, 2)[:levels], blocks=2 if large else 1,
                attention=(False,) * (levels - 1) + (levels > 1,), classes=classes, out=out)


def train(images, steps=Recipe.steps, seed=0, out=None, *, labels=None, net=None, schedule=None, save_every=500,
          log_every=10, keep=2, progress=None, stop=None, meta=None, backend="numpy", **given):
    """Train on images (N, H, W, C) or points (N, D) in [-1, 1] (Ho20 Algorithm 1); returns the
    Model, EMA weights.

    labels: (N,) integers, for a model that can be asked for classes, or None; out: a new run folder
    for checkpoints and the log, or None; net: a UNet or MLP, by default one that fits; schedule: by
    default cosine(1000); save_every, log_every: in steps; keep: the newest checkpoints that stay;
    the other settings are `Recipe`'s. progress: called with each step's record; stop: asked after
    each step, True ends the run early; meta: JSON's kinds, kept in the checkpoint; backend: who
    computes (`backend.get`). Raises InputError for bad data or settings and TinyDDPMError where
    training diverges or the disk refuses.
    """
    ops = get(backend)
    recipe = Recipe(**{"shards": ops.shards, **given, "steps": steps, "seed": seed})
    _check_counts(save_every=save_every, log_every=log_every, keep=keep)
    x, labels = _checked(images, labels)
    if x.ndim == 2 and "levels" not in given:
        recipe = replace(recipe, levels=0)
    classes = [] if labels is None else np.unique(labels).tolist()
    net = net or default_net(x.shape[1:], len(classes), recipe.vlb > 0)
    s = schedule or cosine(1000)
    _check_net(net, x.shape[1:], len(classes), recipe.vlb > 0)
    about = {"net": model.net_to_meta(net), "recipe": asdict(recipe), "shape": list(x.shape[1:]), "classes": classes,
             "digest": data.digest(data.Data(x, labels)), "log_every": log_every, "save_every": save_every,
             "keep": keep, **(meta or {})}
    with _held(out):
        if out is not None and checkpoint.holds_run(out):
            raise InputError(f"{out} already holds a run: resume it, or choose another folder")
        return _go(x, labels, net, s, recipe, TrainState.fresh(net, seed), out, about, progress, stop, ops)


def resume(out, images, steps=None, *, labels=None, expect=None, progress=None, stop=None, backend="numpy"):
    """Go on with the run in folder `out`, on the same images and labels, to its own number of steps
    or to `steps`.

    Bit for bit the run that was never interrupted, where `steps` and the backend are not changed.
    expect: settings of the net and the recipe by name, which must be the run's. Returns the Model.
    Raises InputError where the folder holds no run or one of other settings (each is named), where
    another process trains there, or where the images are not those it was trained on.
    """
    if not checkpoint.holds_run(out):
        raise InputError(f"no checkpoint in the folder {out}")
    with _held(out):
        arrays, meta = checkpoint.load(out)
        trained = model.from_checkpoint(arrays, meta)
        with checkpoint.fitting(out):
            different = checkpoint.differences({**meta["net"], **meta["recipe"]}, expect or {})
            if different:
                raise InputError(f"{out} is another run: {'; '.join(different)}")
            x, labels = _checked(images, labels if trained.classes else None)
            if data.digest(data.Data(x, labels)) != meta["digest"]:
                raise InputError(f"the data is not what {out} was trained on")
            state, recipe = _state(arrays, meta, trained.net), Recipe(**meta["recipe"])
            recipe = recipe if steps is None else replace(recipe, steps=steps)
            _check_counts(**{name: meta[name] for name in ("save_every", "log_every", "keep")})
            if recipe.steps < state.step:
                raise InputError(f"{out} has already reached step {state.step}, beyond {recipe.steps}")
        about = {**meta, "recipe": asdict(recipe)}
        return _go(x, labels, trained.net, trained.schedule, recipe, state, out, about, progress, stop, get(backend))


def _state(arrays, meta, net):
    """The state in a checkpoint. Raises InputError where its vectors are not the net's."""
    state = TrainState(meta["step"], *(arrays[name] for name in ("theta", "ema", "m", "v")))
    _check_counts(step=state.step)
    size = params.size(net.spec())
    for name, vector in state.arrays().items():
        if vector.shape != (size,) or vector.dtype != np.float32:
            raise InputError(f"the checkpoint's {name} is {vector.dtype} {vector.shape}, its network needs float32 "
                             f"({size},)")
    return state


def _check_counts(**counts):
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} must be at least 1, got {value!r}")


@contextlib.contextmanager
def _held(out):
    """Hold the run folder `out`, made where it is missing, and clear what a killed process left;
    None holds nothing.
    """
    if out is None:
        yield
        return
    try:
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from None
    with lock.hold(out):
        checkpoint.clear(out)
        yield


def _checked(images, labels):
    """Images or points as float32 and labels as int64 or None, after the checks that training
    needs.
    """
    checked = data.from_array(np.asarray(images), labels, "the images", (-1, 1))
    return checked.x, checked.labels


def _check_net(net, shape, classes, learn_variance):
    """Raises InputError unless the net takes samples of this shape and these labels, and says what
    is to be learnt.
    """
    if net.classes != classes:
        raise InputError(f"this net knows {net.classes} classes, the labels name {classes}")
    if net.out not in ((2 * shape[-1],) if learn_variance else (None, shape[-1])):
        raise InputError(f"with vlb {'above' if learn_variance else 'at'} 0, a net for {tuple(shape)} needs out = "
                         f"{shape[-1] * (1 + learn_variance)}, got {net.out}")
    if isinstance(net, UNet):
        if len(shape) != 3 or shape[2] != net.channels:
            raise InputError(f"this U-Net takes (H, W, {net.channels}), the data holds {shape}")
        net.check_size(*shape[:2])
    elif tuple(shape) != (net.dim,):
        raise InputError(f"this MLP takes ({net.dim},), the data holds {shape}")


def _go(x, labels, net, s, recipe, state, out, about, progress, stop, ops):
    """The loop: step, log, save; at the end, or when asked to stop, save and return the model."""
    state = state.on(ops)
    labels = None if labels is None else np.unique(labels, return_inverse=True)[1]
    record, log, saved = None, None, state.step
    machine.keep_pages()

    def save():
        nonlocal saved
        if out is not None:
            if record is not None:
                check(record)               # a lazy backend's step has not been looked at yet
            arrays = {name: ops.to_host(vector) for name, vector in state.arrays().items()}
            log.sync()
            checkpoint.save_run(out, {**arrays, "beta": s.beta}, {**about, "step": state.step}, about["keep"])
            saved = state.step

    try:
        log = None if out is None else runlog.RunLog(out, state.step)
        with machine.workers(recipe.shards) as share:
            trainer = Trainer(net, s, x, recipe, state, share, ops, labels)
            while state.step < recipe.steps:
                record = trainer.step()
                if record["step"] % about["log_every"] == 0 or record["step"] in (1, recipe.steps):
                    record = check(record)
                    if log:
                        log.append(record)
                if progress is not None:
                    progress(record)
                if stop is not None and stop():
                    break
                if state.step % about["save_every"] == 0 and state.step < recipe.steps:
                    save()
        save()
    except InputError:
        raise
    except TinyDDPMError as error:
        if out is None:
            raise
        path = pathlib.Path(out) / checkpoint.NAME
        kept = f"{path} of step {saved} is the last good one" if saved else "no checkpoint had been saved yet"
        raise TinyDDPMError(f"{error}; {kept}") from None
    finally:
        if log:
            log.close()
    return model.Model(net, state.ema, s, x.shape[1:], recipe.target, {**about, "step": state.step}, ops)
