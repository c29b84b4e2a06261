"""A run: training with a folder that remembers it, and going on from there.

RUN/checkpoint.npz holds the whole state, RUN/log.jsonl one line of JSON for each logged step.
"""

import pathlib
from dataclasses import asdict, replace

import numpy as np

from . import checkpoint, data, machine, model, runlog
from .backend import get
from .errors import InputError
from .mlp import MLP
from .schedule import cosine
from .train import Recipe, Trainer, TrainState, check
from .unet import UNet


def default_net(shape):
    """The net for samples of a shape: an MLP for (D,), a U-Net for (H, W, C), its levels as the sides halve.

    Below 16 pixels two levels, base 24, one block; from there three levels, base 32, two blocks; fewer levels where
    a side is odd. The coarsest level attends.
    """
    if len(shape) == 1:
        return MLP(dim=shape[0])
    height, width, channels = shape
    large = min(height, width) >= 16
    levels = 1
    while levels < (3 if large else 2) and not (height % 2**levels or width % 2**levels):
        levels += 1
    return UNet(channels=channels, base=32 if large else 24, mults=(1, 2, 2)[:levels], blocks=2 if large else 1,
                attention=(False,) * (levels - 1) + (levels > 1,))


def train(images, steps=Recipe.steps, seed=0, out=None, *, net=None, schedule=None, save_every=500, log_every=10,
          progress=None, stop=None, meta=None, backend="numpy", **recipe):
    """Train on images (N, H, W, C) or points (N, D) in [-1, 1] (Ho20 Algorithm 1); returns the Model, EMA weights.

    out: a new run folder for checkpoints and the log, or None; net: a UNet or MLP, by default one that fits;
    schedule: by default cosine(1000); the other settings are `Recipe`'s. progress: called with each step's
    record; stop: asked after each step, True ends the run early; meta: JSON's kinds, kept in the checkpoint; backend:
    who computes (`backend.get`).
    Raises InputError for bad data or settings and TinyDDPMError where training diverges or the disk refuses.
    """
    ops = get(backend)
    recipe = Recipe(**{"shards": ops.shards, **recipe, "steps": steps, "seed": seed})
    if save_every < 1 or log_every < 1:
        raise InputError(f"save_every and log_every must be at least 1, got {save_every} and {log_every}")
    x = _checked(images)
    net = net or default_net(x.shape[1:])
    s = schedule or cosine(1000)
    _check_net(net, x.shape[1:])
    about = {"net": model.net_to_meta(net), "recipe": asdict(recipe), "shape": list(x.shape[1:]),
             "digest": data.digest(data.Data(x)), "log_every": log_every, "save_every": save_every, **(meta or {})}
    if out is not None and (pathlib.Path(out) / checkpoint.NAME).exists():
        raise InputError(f"{out} already holds a run: resume it, or choose another folder")
    return _go(x, net, s, recipe, TrainState.fresh(net, seed), out, about, progress, stop, ops)


def resume(out, images, steps=None, *, progress=None, stop=None, backend="numpy"):
    """Go on with the run in folder `out`, on the same images, to its own number of steps or to `steps`.

    Bit for bit the run that was never interrupted, where `steps` and the backend are not changed. Returns the
    Model. Raises InputError where the folder holds no run, or the images are not those it was trained on.
    """
    arrays, meta = checkpoint.load(out)
    trained = model.from_checkpoint(arrays, meta)
    x = _checked(images)
    if data.digest(data.Data(x)) != meta["digest"]:
        raise InputError(f"the data is not what {out} was trained on")
    state = TrainState(meta["step"], *(arrays[name].copy() for name in ("theta", "ema", "m", "v")))
    recipe = Recipe(**meta["recipe"])
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    if recipe.steps < state.step:
        raise InputError(f"{out} has already reached step {state.step}, beyond {recipe.steps}")
    about = {**meta, "recipe": asdict(recipe)}
    return _go(x, trained.net, trained.schedule, recipe, state, out, about, progress, stop, get(backend))


def _checked(images):
    """Images or points as float32, after the checks that training needs."""
    return data.from_array(np.asarray(images), name="the images", value_range=(-1, 1)).x


def _check_net(net, shape):
    """Raises InputError unless the net takes samples of this shape."""
    if isinstance(net, UNet):
        if len(shape) != 3 or shape[2] != net.channels:
            raise InputError(f"this U-Net takes (H, W, {net.channels}), the data holds {shape}")
        net.check_size(*shape[:2])
    elif tuple(shape) != (net.dim,):
        raise InputError(f"this MLP takes ({net.dim},), the data holds {shape}")


def _go(x, net, s, recipe, state, out, about, progress, stop, ops):
    """The loop: step, log, save; at the end, or when asked to stop, save and return the model."""
    state = state.on(ops)
    record = None

    def save():
        if out is not None:
            if record is not None:
                check(record)               # a lazy backend's step has not been looked at yet
            arrays = {name: ops.to_host(vector) for name, vector in state.arrays().items()}
            checkpoint.save(pathlib.Path(out) / checkpoint.NAME, {**arrays, "beta": s.beta},
                            {**about, "step": state.step})

    log = None
    if out is not None:
        try:
            pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {out}: {error.strerror}") from None
        log = runlog.RunLog(out, state.step)
    machine.keep_pages()
    try:
        with machine.workers(recipe.shards) as share:
            trainer = Trainer(net, s, x, recipe, state, share, ops)
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
    finally:
        if log:
            log.close()
    return model.Model(net, state.ema, s, x.shape[1:], recipe.target, {**about, "step": state.step}, ops)
