"""The command line: train, sample, eval. It reads options, calls the library and says what happened.

Exit codes: 0 done; 1 failed; 2 wrong use or bad input, one line on standard error; 130 and 143 interrupted.
"""

import dataclasses
import json
import math
import pathlib
import sys

import numpy as np

from . import backend, checkpoint, data, figures, metrics, model, options, run, runlog, schedule
from .errors import InputError, TinyDDPMError
from .terminal import Progress, Stopped
from .train import Recipe
from .unet import UNet

FRAMES = 48                 # of the reverse process in the GIF


def main(argv=None):
    """Run one command; returns the exit code."""
    args = options.parser(train, sample, evaluate, backends).parse_args(argv)
    try:
        return args.command(args)
    except InputError as error:
        return _fail(error, 2)
    except TinyDDPMError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message, code):
    print(f"tinyddpm: {' '.join(str(message).split())}", file=sys.stderr)
    return code


# Commands.

def train(args):
    """tinyddpm train: fit, keep the run, and draw what it learnt."""
    stopped = Stopped()
    if args.resume:
        out = pathlib.Path(args.resume)
        if args.data or args.out:
            raise InputError("--resume takes its data and its folder from the run: give no DATA and no --out")
        meta = checkpoint.load(out)[1]
        fit, _ = _data_of(meta)
        progress = Progress(args.steps or meta["recipe"]["steps"])
        trained = run.resume(out, fit.x, args.steps, progress=progress, stop=stopped, backend=args.backend)
    else:
        fit, about = _data_to_fit(args)
        out = pathlib.Path(args.out) if args.out else _free_folder(fit.name)
        names = {field.name for field in dataclasses.fields(Recipe)} - {"steps", "seed", "shards"}
        settings = {name: getattr(args, name) for name in names}
        steps = Recipe().steps if args.steps is None else args.steps
        progress = Progress(steps)
        trained = run.train(
            fit.x, steps, args.seed, out, net=_net(args, fit.x.shape[1:]), schedule=_schedule(args),
            save_every=args.save_every, log_every=args.log_every, progress=progress, stop=stopped,
            meta={"data": about}, backend=args.backend, **settings)
    progress.close()
    if stopped.signal and trained.meta["step"] < trained.meta["recipe"]["steps"]:
        return _fail(f"stopped at step {trained.meta['step']} and saved; go on with: tinyddpm train --resume {out}",
                     128 + stopped.signal)
    _draw_run(out, trained, fit)
    print(f"{out}: {trained.meta['step']} steps; samples.png, reverse.gif, loss.png, log.jsonl, checkpoint.npz")
    print(f"judge it by the data it never saw: tinyddpm eval {out}")
    return 0


def sample(args):
    """tinyddpm sample: a picture of new samples, and their numbers or their path where asked."""
    trained = model.load(args.run, args.backend)
    out = args.out or _folder(args.run) / f"samples-{args.seed}.png"
    x, frames = model.sample(trained, args.n, trajectory=FRAMES, **_sampler_settings(args))
    figures.save_png(out, figures.picture(x))
    print(out)
    if args.gif:
        figures.save_gif(args.gif, _gif_frames(frames))
        print(args.gif)
    if args.array:
        low, high = trained.meta.get("data", {}).get("restore", (-1, 1))
        _save_array(args.array, data.Data(x, low=low, high=high).restore(x))
        print(args.array)
    return 0


def evaluate(args):
    """tinyddpm eval: sample quality against the held-out data, printed and kept in RUN/eval.json."""
    trained = model.load(args.run, args.backend)
    fit, held = _data_of(trained.meta, args.data)
    if not len(held.x):
        raise InputError(f"{args.run} held nothing out: train with --holdout to judge by it")
    x = model.sample(trained, args.n or len(held.x), **_sampler_settings(args))
    scores = metrics.evaluate(*(data.to_unit(part) for part in (x, fit.x, held.x)))
    for name, value in scores.items():
        print(f"{name:12} {value:.4f}")
    record = {"step": trained.meta["step"], "n": len(x), **_sampler_settings(args), **scores}
    checkpoint.write_atomic(_folder(args.run) / "eval.json", (json.dumps(record, indent=1) + "\n").encode())
    return 0


def backends(args):
    """tinyddpm backends: one line each, with versions and device, or what is missing and how to get it."""
    for name, there, words in backend.listing():
        print(f"{name:10}{'yes' if there else 'no':5}{words}")
    return 0


# What the commands share.

def _data_to_fit(args):
    """The part of the data to fit, and how to find it again."""
    spec = args.data or "digits"
    loaded = data.load(spec, value_range=args.range)
    built_in = loaded.name in ("digits", *data.TOYS)
    holdout = (0.5 if built_in else 0.1) if args.holdout is None else args.holdout
    fit, _ = data.split(loaded, holdout)
    about = {"spec": spec if built_in else str(pathlib.Path(spec).resolve()), "holdout": holdout, "range": args.range,
             "restore": [loaded.low, loaded.high]}
    return fit, about


def _data_of(meta, spec=None):
    """The fitted and the held-out part of a run's data. Raises InputError where the run has forgotten it."""
    about = meta.get("data")
    if about is None:
        raise InputError("this run was trained on an array: only the library can resume or judge it")
    return data.split(data.load(spec or about["spec"], value_range=about["range"]), about["holdout"])


def _free_folder(name):
    """runs/NAME, or runs/NAME-2, -3, ...: the first that does not exist."""
    stem = pathlib.Path("runs") / (pathlib.Path(name).stem or "data")
    candidates = (stem if i == 1 else stem.with_name(f"{stem.name}-{i}") for i in range(1, 10**6))
    return next(folder for folder in candidates if not folder.exists())


def _folder(run_path):
    path = pathlib.Path(run_path)
    return path if path.is_dir() else path.parent


def _schedule(args):
    s = schedule.KINDS[args.schedule](args.T)
    if args.zero_snr and args.target == "eps":
        raise InputError("--zero-snr needs --target x0 or v: at alpha_bar = 0, eps says nothing about x0")
    return s.zero_terminal_snr() if args.zero_snr else s


def _net(args, shape):
    """The default net for this data, with what the options change."""
    net = run.default_net(shape)
    names = ("base", "mults", "blocks", "attention", "heads", "groups", "pad")
    other = ("hidden", "layers")
    if not isinstance(net, UNet):
        names, other = other, names
    misplaced = [name for name in other if getattr(args, name) is not None]
    if misplaced:
        raise InputError(f"--{misplaced[0]} does not apply to samples of shape {shape}")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "mults" in changes:
        changes["mults"] = tuple(changes["mults"])
    if isinstance(net, UNet):
        levels = len(changes.get("mults", net.mults))
        chosen = changes.get("attention")
        if chosen is not None:
            if not all(0 <= level < levels for level in chosen):
                raise InputError(f"--attention takes levels from 0 to {levels - 1}, got {chosen}")
            changes["attention"] = tuple(level in chosen for level in range(levels))
        elif levels != len(net.mults):
            changes["attention"] = (False,) * (levels - 1) + (levels > 1,)
    return dataclasses.replace(net, **changes)


def _sampler_settings(args):
    return {"seed": args.seed, "sampler": args.sampler, "steps": args.steps, "eta": args.eta,
            "variance": args.variance, "clip": None if args.no_clip else 1.0}


def _draw_run(out, trained, fit):
    """The pictures of a finished run: samples, how they came about, and the loss."""
    images = len(trained.shape) == 3
    x, frames = model.sample(trained, 64 if images else 1024, trained.meta["recipe"]["seed"], trajectory=FRAMES)
    reference = None if images else fit.x
    figures.save_png(out / "samples.png", figures.picture(x, reference))
    figures.save_gif(out / "reverse.gif", _gif_frames(frames, reference))
    records = runlog.read(out)
    figures.loss_curve([r["step"] for r in records], [r["loss"] for r in records], out / "loss.png")


def _gif_frames(frames, reference=None):
    """The reverse process as small pictures: noise does not compress, so a large GIF of it is a heavy one."""
    if frames.ndim == 3:
        return [figures.scatter(frame, 320, reference) for frame in frames]
    columns = math.ceil(math.sqrt(frames.shape[1]))
    scale = max(1, round(288 / (columns * (frames.shape[3] + 1))))
    return [figures.grid(frame, columns, scale) for frame in frames]


def _save_array(path, array):
    try:
        with open(path, "wb") as file:
            np.save(file, array)
    except OSError as error:
        raise TinyDDPMError(f"cannot write {path}: {error.strerror}") from None
