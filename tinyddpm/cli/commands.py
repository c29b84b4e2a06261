"""The commands: train, sample, eval, backends and tour.

Each reads its options, calls the library and prints what was done. Exit codes: 0 done; 1 failed; 2
wrong use or bad input, one line on standard error; 130 and 143 interrupted.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import secrets
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backend, likelihood, metrics
from ..datasets import sets
from ..datasets.untrusted import LIMIT
from ..errors import InputError, counted
from ..runs import checkpoint, log, run
from ..runs.files import check_writable, save_array, write_atomic
from ..runs.load import load
from ..runs.progress import Bar
from ..runs.sample import sample as draw_samples
from ..runs.source import Source, check_digest, labels_of
from ..settings import Recipe
from ..solvers import steps_taken
from . import data, given, judging, opening, options, published, running

# Plots are imported where they are drawn, for no other command needs Pillow or matplotlib.

FRAMES = 48  # of the reverse process in the GIF
# how the samples of `eval` were drawn, in the order of eval.json
RECORDED = ("seed", "sampler", "steps", "eta", "spacing", "offset", "variance", "guidance", "clip")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    functions = train, sample, evaluate, backends, tour, published.read, published.write
    return running.main(options.parser(*functions), argv)


# Commands.


def train(args: argparse.Namespace) -> int:
    """tinyddpm train: fit, keep the run, and draw what it learned."""
    out, fit, held, trained = _resumed_run(args) if args.resume else _new_run(args)
    step, args.stopped.signal = trained.meta["step"], args.team.most(args.stopped.signal)
    if args.stopped.signal:
        more = [] if args.limit is None else ["--limit", str(args.limit)]
        again = f"go on with: tinyddpm train --resume {shlex.join([str(out), *more])}"
        raise KeyboardInterrupt(f"stopped at step {step} and saved; {again}")
    _draw_run(args, out, trained, fit)
    files = "samples.png, reverse.gif, loss.png, log.jsonl, checkpoint.npz"
    args.say(f"{out}: {counted(step, 'step')}; {files}")
    if min(len(held.x), len(fit.x)) >= metrics.FEWEST:
        args.say(f"judge it by the data it never saw: tinyddpm eval {shlex.quote(str(out))}")
    return 0


def _new_run(args):
    """(folder, fitted data, what is held out, model) of a new run, as far as it got."""
    if args.moved:
        raise InputError("--data goes with --resume: a new run takes DATA by itself")
    if args.label_dropout is not None and not args.classes:
        raise InputError("--label-dropout needs --classes: without labels there is none to drop")
    limit, start, args = args.limit, given.fine_tuned(args), options.filled(args)
    s = None if start else given.noise_schedule(args)
    fit, held, about = data.to_fit(args)
    if args.classes and fit.labels is None:
        raise InputError(f"--classes needs labels, and {fit.name} has none")
    labels = labels_of(fit, fit.classes or (0,)) if args.classes else None
    out = pathlib.Path(args.out or args.team.once(lambda: _free_folder(fit.name)))
    net = None if start else given.network(args, fit.x.shape[1:], labels)
    ops = backend.get(args.backend, args.precision or "fp32")
    computed = opening.model_line(start.net if start else net, ops, args.shards, args.team)
    args.say(f"{opening.data_line(fit, held)}; {computed}")
    with args.stopped.waiting():
        trained = run.train(
            fit.x,
            labels=labels,
            net=net,
            schedule=s,
            out=out,
            progress=not args.quiet,
            stop=args.stopped,
            team=args.team,
            data=about,
            backend=args.backend,
            precision=args.precision,
            value_range=data.FITTED,
            levels=fit.levels,
            start=start,
            limit=limit,
            **options.of_names(args, [*given.RECIPE, *given.COUNTS]),
        )
    return out, fit, held, trained


def _resumed_run(args):
    """(folder, fitted data, what is held out, model) of the run of --resume, as far as it got."""
    out, limit, spec = pathlib.Path(args.resume), args.limit, args.moved or args.data
    if args.out or args.start:
        raise InputError("--resume takes its folder from the run: give no --out and no --from")
    if args.moved and args.data:
        raise InputError("give the data once, as DATA or by --data")
    trained = load(out, args.backend or "numpy", args.precision or "fp32", args.team)
    with checkpoint.content_errors_as_input(out):
        given.check_run(args, out, trained)
    args = argparse.Namespace(**{**vars(args), "data": spec, "limit": limit or LIMIT})
    fit, held = data.of_run(args, trained, out)
    ops = run.goes_on_with(args.backend, args.precision, trained.meta)
    computed = opening.model_line(trained.net, ops, trained.meta["recipe"]["shards"], args.team)
    args.say(f"{opening.data_line(fit, held)}; {computed}")
    place = None if spec is None else {**trained.meta["data"], "spec": data.place(spec)}
    with args.stopped.waiting():
        trained = run.resume(
            out,
            fit.x,
            args.steps,
            labels=labels_of(fit, trained.classes),
            progress=not args.quiet,
            stop=args.stopped,
            team=args.team,
            backend=args.backend,
            precision=args.precision,
            value_range=data.FITTED,
            data=place,
            limit=limit,
            **options.of_names(args, given.COUNTS),
        )
    return out, fit, held, trained


def sample(args: argparse.Namespace) -> int:
    """tinyddpm sample: a picture of new samples, and their numbers or their path where asked."""
    from ..plots import images

    for path, kind in ((args.out, ".png"), (args.gif, ".gif"), (args.array, ".npy")):
        if path and pathlib.Path(path).suffix.lower() not in ("", kind):
            raise InputError(f"{path}: what is written there is a {kind} file, name it so")
    trained = load(args.run, args.backend, args.precision or "fp32", args.team)
    restore = data.FITTED
    if trained.meta.get("data") is not None:
        restore = Source.of(trained.meta, args.run).restore
    seed = args.team.once(lambda: secrets.randbits(31)) if args.seed is None else args.seed
    step = trained.meta.get("step", 0)
    out = args.out or _folder(args.run) / given.picture_name(args, seed, step)
    for path in filter(None, (out, args.gif, args.array)):
        args.team.once(functools.partial(check_writable, path))
    drawn = opening.samples_line(args.n, trained.shape, trained.classes)
    computed = opening.model_line(trained.net, trained.ops, team=args.team)
    args.say(f"{drawn}; {computed}")
    shown = FRAMES if args.gif else 0
    found: Any = draw_samples(
        trained,
        args.n,
        seed,
        label=data.asked(args.label, trained.classes),
        guidance=args.guidance,
        trajectory=shown,
        progress=not args.quiet,
        team=args.team,
        **options.how(args),
    )
    if not args.team.first:
        return 0
    x, frames = found if shown else (found, np.empty(0))
    if args.seed is None:
        args.say(f"seed {seed}")
    images.save_png(out, images.picture(x))
    args.say(out)
    if args.gif:
        _draw_process(args, args.gif, frames)
        args.say(args.gif)
    if args.array:
        low, high = restore
        save_array(args.array, sets.Data(x, low=low, high=high).restore(x))
        args.say(args.array)
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """tinyddpm eval: sample quality against the held-out data, printed and kept in eval.json."""
    trained = load(args.run, args.backend, args.precision or "fp32", args.team)
    fit, held = data.of_run(args, trained, args.run)
    if trained.classes and held.labels is None:
        raise InputError(
            f"{args.run} was trained with labels, and {args.data} has none to judge it by"
        )
    if "digest" in trained.meta:
        check_digest(args.run, trained.meta, data.as_fitted(fit, trained))
    computed = opening.model_line(trained.net, trained.ops, team=args.team)
    args.say(f"{opening.data_line(fit, held)}; {computed}")
    n = len(held.x) if args.n is None else args.n
    judging.check(n, fit, held)
    known = held.labels if trained.classes else None
    named = labels_of(held, trained.classes)
    asked, label = (None if each is None else np.resize(each, n) for each in (known, named))
    settings, variance = given.judged(args, trained)
    if args.guidance and not trained.classes:
        raise InputError("--guidance needs a run with --classes: without a class there is no guide")
    how = {**dataclasses.asdict(settings), "seed": args.seed, "guidance": args.guidance}
    if not args.quiet:
        steps = steps_taken(settings.sampler, trained.schedule, settings.steps)
        args.say(
            judging.forecast(
                trained, n, steps * (2 if args.guidance else 1), len(held.x), args.team
            )
        )
    x = draw_samples(trained, n, label=label, team=args.team, progress=not args.quiet, **how)
    chain = _chain(args, trained, variance, settings.clip)
    if args.team.size > 1:
        args.team.same({"the data's digest": sets.digest(held)[:16]})
    bound = judging.bound(trained, held.x, args.seed, chain, args.quiet, args.team)
    if not args.team.first:
        return 0
    scores, reference = judging.both(x, fit, held, asked, args.quiet)
    scores |= bound
    record = {"step": trained.meta.get("step"), "n": len(x)}
    record |= {name: how[name] for name in RECORDED} | {"bound_variance": variance}
    record |= judging.finite(scores) | {"fit data": judging.finite(reference)}
    text = json.dumps(record, indent=1) + "\n"
    try:
        write_atomic(_folder(args.run) / "eval.json", text.encode())
    finally:  # what took minutes is shown, be it that it cannot be kept
        for line in judging.table(scores, reference, args.say.can):
            args.say(line)
    return 0


def _chain(args, trained, variance, clip):
    """The reverse chain whose bound `eval` takes."""
    with checkpoint.content_errors_as_input(args.run):
        levels = Recipe(**trained.meta["recipe"]).levels
    return likelihood.Chain(variance, clip, 1 / (levels - 1) if levels else None)


def backends(args: argparse.Namespace) -> int:
    """tinyddpm backends: one line each, with versions and device, or what is missing."""
    for name, there, words in backend.listing():
        args.say(f"{name:10}{'yes' if there else 'no':5}{words}")
    return 0


def tour(args: argparse.Namespace) -> int:
    """tinyddpm tour: the nine chapters, their figures and their page in a folder."""
    from ..tour import chapters, spirals

    setting = spirals.Setting()
    with Bar(setting.steps, "train", show=not args.quiet) as bar:

        def progress(record):
            bar.record(record)
            if record["step"] == setting.steps:  # the chapters' text goes on below
                bar.close()

        chapters.tour(args.out, args.seed, args.backend, args.say.raw, setting, progress)
    args.say(f"{args.out}: nine figures and index.html, a page to open in a browser")
    return 0


# What the commands share.


def _free_folder(name):
    """runs/NAME, or runs/NAME-2, -3, ...: the first that does not exist."""
    stem = pathlib.Path("runs") / (pathlib.Path(name).stem or "data")
    candidates = (stem if i == 1 else stem.with_name(f"{stem.name}-{i}") for i in range(1, 10**6))
    return next(folder for folder in candidates if not folder.exists())


def _folder(run_path):
    path = pathlib.Path(run_path)
    return path if path.is_dir() else path.parent


def _draw_run(args, out, trained, fit):
    """The pictures of a finished run: samples, how they came about, and the loss."""
    from ..plots import figures, images

    pixels = len(trained.shape) == 3
    seed = trained.meta["recipe"]["seed"]
    show, count = not args.quiet, 64 if pixels else 1024
    x, frames = draw_samples(trained, count, seed, trajectory=FRAMES, progress=show, team=args.team)
    if not args.team.first:
        return
    reference = None if pixels else fit.x
    images.save_png(out / "samples.png", images.picture(x, reference))
    _draw_process(args, out / "reverse.gif", frames, reference)
    records = log.read(out)
    curve = figures.loss_curve([r["step"] for r in records], [r["loss"] for r in records])
    images.save_png(out / "loss.png", figures.to_image(curve))


def _draw_process(args, path, frames, reference=None):
    """The animation of how samples came about, under a line of progress."""
    from ..plots import images

    with Bar(len(frames), "draw", "frame", show=not args.quiet) as bar:
        images.save_gif(path, images.small(frames, reference), progress=bar)
