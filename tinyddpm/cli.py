"""The command line: train, sample, eval. It reads options, calls the library and says what happened.

Exit codes: 0 done; 1 failed; 2 wrong use or bad input, one line on standard error; 130 and 143 interrupted.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import signal
import sys
import time

import numpy as np

from . import __version__, checkpoint, data, figures, metrics, model, run, runlog, schedule
from .errors import InputError, TinyDDPMError
from .process import TARGETS
from .train import Recipe
from .unet import PADS, UNet

FRAMES = 48                 # of the reverse process in the GIF


def main(argv=None):
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
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


# Options.

class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default, except where it is None and the text itself says what happens then."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="tinyddpm", description="A denoising diffusion model written by hand in NumPy.")
    top.add_argument("--version", action="version", version=f"tinyddpm {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                                  formatter_class=_Help)
        sub.set_defaults(command=function)
        return sub

    _train_options(command("train", train, "train a network and draw samples from it"))
    sub = command("sample", sample, "draw samples from a trained run")
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    _sampler_options(sub, 64)
    files = sub.add_argument_group("files")
    files.add_argument("--out", metavar="PNG", help="the picture to write (default: RUN/samples-SEED.png)")
    files.add_argument("--array", metavar="NPY", help="also write the samples, in the data's own range")
    files.add_argument("--gif", metavar="GIF", help="also write the reverse process")
    sub = command("eval", evaluate, "judge a run's samples against the data it never saw")
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    sub.add_argument("--data", metavar="DATA", help="where the run's data is now (default: where it was)")
    _sampler_options(sub, None)
    return top


def _train_options(sub):
    r = Recipe()
    sub.add_argument("data", nargs="?", metavar="DATA", help="digits, moons, swissroll, rings, or the path of a .npy, "
                     ".npz or IDX file (.gz too) or of a folder of PNGs (default: digits)")
    group = sub.add_argument_group("run")
    group.add_argument("--out", metavar="RUN", help="the folder to make (default: runs/NAME, the first that is free)")
    group.add_argument("--resume", metavar="RUN", help="go on with this run; only --steps may change")
    group.add_argument("--save-every", type=int, default=500, metavar="N", help="steps between checkpoints")
    group.add_argument("--log-every", type=int, default=10, metavar="N", help="steps between lines of the log")
    group = sub.add_argument_group("data")
    group.add_argument("--holdout", type=float, metavar="FRACTION", help="what eval is to judge by and training never "
                       "sees (default: 0.5 of the built-in sets, 0.1 of others)")
    group.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="what the file's numbers span "
                       "(default: 0 255 for bytes, -1 1 for floats)")
    group = sub.add_argument_group("training")
    group.add_argument("--steps", type=int, metavar="N", help=f"how many steps (default: {r.steps})")
    group.add_argument("--batch", type=int, default=r.batch, metavar="N", help="samples a step")
    group.add_argument("--lr", type=float, default=r.lr, help="AdamW's peak learning rate")
    group.add_argument("--warmup", type=int, default=r.warmup, metavar="N", help="steps of linear warm-up")
    group.add_argument("--decay", choices=("cosine", "constant"), default=r.decay, help="the rate after warm-up")
    group.add_argument("--weight-decay", type=float, default=r.weight_decay, help="AdamW's decay")
    group.add_argument("--clip-norm", type=float, default=r.clip_norm, help="bound on the gradient's norm, 0 = off")
    group.add_argument("--ema", type=float, default=r.ema, help="decay of the averaged parameters")
    group.add_argument("--dropout", type=float, default=r.dropout, help="rate, in every residual block")
    group.add_argument("--seed", type=int, default=r.seed, help="of every random number")
    group = sub.add_argument_group("diffusion")
    group.add_argument("--schedule", choices=schedule.KINDS, default="linear", help="how beta rises")
    group.add_argument("--T", type=int, default=1000, help="diffusion steps")
    group.add_argument("--zero-snr", action="store_true", help="rescale to zero terminal SNR (target x0 or v)")
    group.add_argument("--target", choices=TARGETS, default=r.target, help="what the network predicts")
    group.add_argument("--min-snr", type=float, default=r.min_snr, metavar="GAMMA", help="min-SNR weighting, 0 = off")
    group = sub.add_argument_group("network", "what is not given is chosen to fit the data")
    group.add_argument("--base", type=int, help="channels of the first level (default: 32)")
    group.add_argument("--mults", type=int, nargs="+", metavar="M", help="each level's multiple of them")
    group.add_argument("--blocks", type=int, help="residual blocks a level (default: 2)")
    group.add_argument("--attention", type=int, nargs="*", metavar="LEVEL", help="the levels that attend, from 0")
    group.add_argument("--heads", type=int, help="attention heads (default: 1)")
    group.add_argument("--groups", type=int, help="groups of GroupNorm (default: 8)")
    group.add_argument("--pad", choices=PADS, help="how stride-2 convolutions are padded (default: right)")
    group.add_argument("--hidden", type=int, help="width of the perceptron for points (default: 128)")
    group.add_argument("--layers", type=int, help="residual layers of the perceptron (default: 3)")


def _sampler_options(sub, n):
    group = sub.add_argument_group("sampling")
    group.add_argument("--n", type=int, default=n, help="samples" if n else "samples (default: as many as held out)")
    group.add_argument("--seed", type=int, default=0, help="of the noise")
    group.add_argument("--sampler", choices=("ddim", "ancestral"), default="ancestral",
                       help="ddim takes --steps, ancestral every one of T")
    group.add_argument("--steps", type=int, default=50, metavar="N", help="network evaluations of ddim")
    group.add_argument("--eta", type=float, default=0.0, help="ddim: 0 adds no noise, 1 as much as ancestral")
    group.add_argument("--variance", choices=("beta", "beta_tilde"), default="beta_tilde", help="ancestral: sigma^2")
    group.add_argument("--no-clip", action="store_true", help="do not bound x0_hat to [-1, 1]")


# Commands.

def train(args):
    """tinyddpm train: fit, keep the run, and draw what it learnt."""
    stopped = _Stopped()
    if args.resume:
        out = pathlib.Path(args.resume)
        if args.data or args.out:
            raise InputError("--resume takes its data and its folder from the run: give no DATA and no --out")
        meta = checkpoint.load(out)[1]
        fit, _ = _data_of(meta)
        progress = _Progress(args.steps or meta["recipe"]["steps"])
        trained = run.resume(out, fit.x, args.steps, progress=progress, stop=stopped)
    else:
        fit, about = _data_to_fit(args)
        out = pathlib.Path(args.out) if args.out else _free_folder(fit.name)
        names = {field.name for field in dataclasses.fields(Recipe)} - {"steps", "seed", "shards"}
        settings = {name: getattr(args, name) for name in names}
        steps = Recipe().steps if args.steps is None else args.steps
        progress = _Progress(steps)
        trained = run.train(
            fit.x, steps, args.seed, out, net=_net(args, fit.x.shape[1:]), schedule=_schedule(args),
            save_every=args.save_every, log_every=args.log_every, progress=progress, stop=stopped,
            meta={"data": about}, **settings)
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
    trained = model.load(args.run)
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
    trained = model.load(args.run)
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
    x, frames = model.sample(trained, 64 if images else 1024, trained.meta["recipe"]["seed"], "ancestral",
                             trajectory=FRAMES)
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


class _Stopped:
    """True once SIGINT or SIGTERM has come; the second one interrupts at once."""

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __call__(self):
        return self.signal != 0


class _Progress:
    """One line on standard error, only on a terminal: step, loss, steps a second, time left."""

    def __init__(self, steps):
        self.steps, self.first, self.shown, self.start = steps, None, 0.0, time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, record):
        now = time.monotonic()
        if self.first is None:          # the first step warms up caches: time from its end
            self.first, self.start = record["step"], now
        if not self.live or now - self.shown < 0.2 and record["step"] < self.steps:
            return
        self.shown = now
        rate = (record["step"] - self.first) / max(now - self.start, 1e-9)
        left = f"{(self.steps - record['step']) / rate:.0f} s left" if rate else ""
        print(f"\rstep {record['step']}/{self.steps}  loss {record['loss']:.4f}  {rate:.1f} steps/s  {left}   ",
              end="", file=sys.stderr, flush=True)

    def close(self):
        """End the line."""
        if self.live:
            print(file=sys.stderr)
