"""The command line: train, sample, eval. It reads options, calls the library and says what
happened.

Exit codes: 0 done; 1 failed; 2 wrong use or bad input, one line on standard error; 130 and 143
interrupted.
"""

import dataclasses
import io
import json
import math
import pathlib
import signal
import warnings

import numpy as np

from .. import backend, likelihood, metrics, model, schedule
from ..datasets import readers
from ..datasets import sets as data
from ..errors import InputError, TinyDDPMError
from ..nn.unet import UNet
from ..plots import images as figures
from ..runs import checkpoint, run
from ..runs import log as runlog
from ..settings import Recipe
from ..tour import chapters as tours
from . import options
from .terminal import Progress, Stopped, complain

FRAMES = 48  # of the reverse process in the GIF
# of the T terms of the variational bound, drawn anew for each group of samples
BOUND_TIMES = 32
RECIPE = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("steps", "seed", "shards", "levels")
]
UNET = ("base", "mults", "blocks", "attention", "heads", "groups", "pad")
PERCEPTRON = ("hidden", "layers")


def main(argv=None):
    """Run one command; returns the exit code."""
    args = options.parser(train, sample, evaluate, backends, tour).parse_args(argv)
    args.stopped = Stopped()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: complain(message)
            return args.command(args)
    except InputError as error:
        return _fail(error, 2)
    except TinyDDPMError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + (args.stopped.signal or signal.SIGINT))
    finally:
        args.stopped.close()


def _fail(message, code):
    complain(message)
    return code


# Commands.


def train(args):
    """tinyddpm train: fit, keep the run, and draw what it learnt."""
    stopped = args.stopped
    if args.resume:
        out = pathlib.Path(args.resume)
        if args.data or args.out:
            raise InputError(
                "--resume takes its data and its folder from the run: give no DATA and no --out"
            )
        meta = checkpoint.load(out)[1]
        with checkpoint.fitting(out):
            fit, _ = _data_of(meta)
            progress, expect = (
                Progress(args.steps or meta["recipe"]["steps"]),
                _expected(args, meta),
            )
        with stopped.waiting():
            trained = run.resume(
                out,
                fit.x,
                args.steps,
                labels=fit.labels,
                expect=expect,
                progress=progress,
                stop=stopped,
                backend=args.backend,
            )
    else:
        fit, about = _data_to_fit(args)
        labels = fit.labels if args.classes else None
        if args.classes and labels is None:
            raise InputError(f"--classes needs labels, and {fit.name} has none")
        out = pathlib.Path(args.out) if args.out else _free_folder(fit.name)
        settings = {name: getattr(args, name) for name in RECIPE}
        steps = Recipe().steps if args.steps is None else args.steps
        progress = Progress(steps)
        net, s = _net(args, fit.x.shape[1:], labels), _schedule(args)
        with stopped.waiting():
            trained = run.train(
                fit.x,
                steps,
                args.seed,
                out,
                labels=labels,
                net=net,
                schedule=s,
                save_every=args.save_every,
                log_every=args.log_every,
                keep=args.keep,
                progress=progress,
                stop=stopped,
                meta={"data": about},
                backend=args.backend,
                levels=fit.levels,
                **settings,
            )
    progress.close()
    if stopped.signal:
        return _fail(
            f"stopped at step {trained.meta['step']} and saved; go on with: tinyddpm train --resume {out}",
            128 + stopped.signal,
        )
    _draw_run(out, trained, fit)
    print(
        f"{out}: {trained.meta['step']} steps; samples.png, reverse.gif, loss.png, log.jsonl, checkpoint.npz"
    )
    print(f"judge it by the data it never saw: tinyddpm eval {out}")
    return 0


def sample(args):
    """tinyddpm sample: a picture of new samples, and their numbers or their path where asked."""
    trained = model.load(args.run, args.backend)
    out = args.out or _folder(args.run) / f"samples-{args.seed}.png"
    x, frames = model.sample(
        trained, args.n, trajectory=FRAMES, label=args.label, **_sampler_settings(args)
    )
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
    n = args.n or len(held.x)
    if trained.classes and held.labels is None:
        raise InputError(
            f"{args.run} was trained with labels, and {args.data} has none to judge it by"
        )
    asked = np.resize(held.labels, n) if trained.classes else None
    x = model.sample(trained, n, label=asked, **_sampler_settings(args))
    in_unit = [data.to_unit(part) for part in (x, fit.x, held.x)]
    scores = metrics.evaluate(*in_unit) | _bound(args, trained, held)
    if trained.classes:
        scores["label_agreement"] = metrics.label_agreement(
            in_unit[0], asked, in_unit[2], held.labels
        )
        scores["label_agreement_fit"] = metrics.label_agreement(
            in_unit[1], fit.labels, in_unit[2], held.labels
        )
    for name, value in scores.items():
        print(f"{name:20} {value:.4f}")
    record = {"step": trained.meta["step"], "n": len(x), **_sampler_settings(args), **scores}
    checkpoint.write_atomic(
        _folder(args.run) / "eval.json", (json.dumps(record, indent=1) + "\n").encode()
    )
    return 0


def _bound(args, trained, held):
    """The variational bound on the held-out data (Ho20 eq. 5), in bits per dimension, and its
    parts, by name.
    """
    ops = trained.ops
    with checkpoint.fitting(args.run):
        levels = Recipe(**trained.meta["recipe"]).levels
    found = likelihood.bits_per_dim(
        trained,
        trained.schedule,
        ops.asarray(held.x),
        args.seed,
        "learned" if trained.learns_variance else args.variance,
        None if args.no_clip else 1.0,
        1 / (levels - 1) if levels else None,
        min(BOUND_TIMES, trained.schedule.T),
        xp=ops.xp,
    )
    return {
        "bits_per_dim": found.total,
        "bits_error": found.error,
        "bits_L_T": found.prior,
        "bits_L_between": float(found.terms[1:].sum()),
        "bits_L_0": float(found.terms[0]),
    }


def backends(args):
    """tinyddpm backends: one line each, with versions and device, or what is missing and how to get
    it.
    """
    for name, there, words in backend.listing():
        print(f"{name:10}{'yes' if there else 'no':5}{words}")
    return 0


def tour(args):
    """tinyddpm tour: the nine chapters here, their figures and their page in a folder."""
    setting = tours.Setting()
    line = Progress(setting.steps)

    def progress(record):
        line(record)
        if record["step"] == setting.steps:
            line.close()

    tours.tour(args.out, args.seed, args.backend, setting=setting, progress=progress)
    print(f"{args.out}: nine figures and index.html, a page to open in a browser")
    return 0


# What the commands share.


def _data_to_fit(args):
    """The part of the data to fit, and how to find it again."""
    spec = args.data or "digits"
    loaded = data.load(spec, args.limit, args.range)
    built_in = loaded.name in ("digits", *data.TOYS)
    holdout = (0.5 if built_in else 0.1) if args.holdout is None else args.holdout
    fit, _ = data.split(loaded, holdout)
    about = {
        "spec": spec if built_in else str(pathlib.Path(spec).resolve()),
        "holdout": holdout,
        "limit": args.limit,
        "range": args.range,
        "restore": [loaded.low, loaded.high],
    }
    return fit, about


def _data_of(meta, spec=None):
    """The fitted and the held-out part of a run's data. Raises InputError where the run has
    forgotten it.
    """
    about = meta.get("data")
    if about is None:
        raise InputError(
            "this run was trained on an array: only the library can resume or judge it"
        )
    loaded = data.load(spec or about["spec"], about.get("limit", readers.LIMIT), about["range"])
    return data.split(loaded, about["holdout"])


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
        raise InputError(
            "--zero-snr needs --target x0 or v: at alpha_bar = 0, eps says nothing about x0"
        )
    return s.zero_terminal_snr() if args.zero_snr else s


def _net(args, shape, labels):
    """The default net for this data, with what the options change."""
    net = run.default_net(shape, 0 if labels is None else len(np.unique(labels)), args.vlb > 0)
    names, other = (UNET, PERCEPTRON) if isinstance(net, UNet) else (PERCEPTRON, UNET)
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


def _expected(args, meta):
    """The settings given beside --resume, in the checkpoint's words: what the run must have."""
    given = {name: getattr(args, name) for name in (*UNET, *PERCEPTRON)}
    if args.attention is not None:
        given["attention"] = [level in args.attention for level in range(len(meta["net"]["mults"]))]
    given |= {
        name: getattr(args, name)
        for name in RECIPE
        if getattr(args, name) != getattr(Recipe(), name)
    }
    return {name: value for name, value in given.items() if value is not None}


def _sampler_settings(args):
    return {
        "seed": args.seed,
        "sampler": args.sampler,
        "steps": args.steps,
        "eta": args.eta,
        "spacing": args.spacing,
        "variance": args.variance,
        "guidance": args.guidance,
        "clip": None if args.no_clip else 1.0,
    }


def _draw_run(out, trained, fit):
    """The pictures of a finished run: samples, how they came about, and the loss."""
    images = len(trained.shape) == 3
    x, frames = model.sample(
        trained, 64 if images else 1024, trained.meta["recipe"]["seed"], trajectory=FRAMES
    )
    reference = None if images else fit.x
    figures.save_png(out / "samples.png", figures.picture(x, reference))
    figures.save_gif(out / "reverse.gif", _gif_frames(frames, reference))
    records = runlog.read(out)
    figures.loss_curve([r["step"] for r in records], [r["loss"] for r in records], out / "loss.png")


def _gif_frames(frames, reference=None):
    """The reverse process as small pictures: noise does not compress, so a large GIF of it is a
    heavy one.
    """
    if frames.ndim == 3:
        return [figures.scatter(frame, 320, reference) for frame in frames]
    columns = math.ceil(math.sqrt(frames.shape[1]))
    scale = max(1, round(288 / (columns * (frames.shape[3] + 1))))
    return [figures.grid(frame, columns, scale) for frame in frames]


def _save_array(path, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    checkpoint.write_atomic(path, buffer.getbuffer())
