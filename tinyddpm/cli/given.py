"""What was given on the command line, as the library's settings: of a network, a run, a sampler."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import schedule
from ..errors import InputError
from ..model import Model
from ..nn.unet import UNet
from ..process import Array
from ..runs import checkpoint, new
from ..runs.load import load
from ..runs.sample import how_to_sample
from ..schedule import Schedule
from ..settings import Recipe, Sampling
from . import options

# The recipe's fields that are options; the data gives the last one.
RECIPE = [field.name for field in dataclasses.fields(Recipe) if field.name != "levels"]
COUNTS = ("save_every", "log_every", "keep")


def noise_schedule(args: argparse.Namespace) -> Schedule:
    """The schedule that the options of a new run ask for."""
    s = schedule.KINDS[args.schedule](args.T)
    if args.zero_snr and args.target == "eps":
        raise InputError(
            "--zero-snr needs --target x0 or v: at alpha_bar = 0, eps says nothing about x0"
        )
    return s.zero_terminal_snr() if args.zero_snr else s


def network(args: argparse.Namespace, shape: tuple[int, ...], labels: Array | None) -> Any:
    """The default net for this data, with what the options change."""
    classes = 0 if labels is None else len(np.unique(labels))
    net = new.default_net(shape, classes, (args.vlb or 0) > 0)
    kinds: list[tuple[str, ...]] = [options.UNET, options.PERCEPTRON]
    names, other = kinds if isinstance(net, UNet) else kinds[::-1]
    for name in options.of_names(args, other):
        raise InputError(f"--{name} does not apply to samples of shape {shape}")
    changes = options.of_names(args, names)
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


def fine_tuned(args: argparse.Namespace) -> Model | None:
    """The model that --from names, or None. Raises InputError for an option that it decides."""
    if not args.start:
        return None
    decided = ("schedule", "T", "zero_snr", "target", *options.UNET, *options.PERCEPTRON)
    for name in options.of_names(args, decided):
        raise InputError(f"--{name.replace('_', '-')} is decided by the run of --from")
    return load(args.start, team=args.team)


def check_run(args: argparse.Namespace, out: Path, trained: Model) -> None:
    """Raise InputError where an option given beside --resume is not what the run has.

    Args:
        args: the options; those that may change are not looked at.
        out: the run's folder.
        trained: its model.
    """
    meta = trained.meta
    names = {*options.UNET, *options.PERCEPTRON, *RECIPE} - {"steps"}
    own = ("holdout", "range", "size", "gray")
    given = options.of_names(args, [*sorted(names), *own, "classes"])
    if args.attention is not None:
        given["attention"] = [level in args.attention for level in range(len(meta["net"]["mults"]))]
    data = {name: meta.get("data", {}).get(name) for name in own}
    saved = {**meta["net"], **meta["recipe"], **data, "classes": bool(meta["classes"])}
    differs = checkpoint.differences(saved, given) + _other_schedule(args, trained.schedule)
    if differs:
        raise InputError(f"{out} is another run: {'; '.join(differs)}")


def _other_schedule(args, s):
    """Where the schedule given is not the run's; of that, its beta alone is known."""
    zero = s.alpha_bar[-1] == 0
    if args.T not in (None, s.T):
        return [f"T: {s.T} saved, {args.T} given"]
    found = ["zero_snr: False saved, True given"] if args.zero_snr and not zero else []
    kinds = {name: kind(s.T) for name, kind in schedule.KINDS.items()}
    kinds = {name: k.zero_terminal_snr() if zero and s.T > 1 else k for name, k in kinds.items()}
    # Another NumPy's cosine may differ in the last digit.
    saved = [name for name, k in kinds.items() if np.allclose(k.beta, s.beta, rtol=1e-6, atol=0)]
    if args.schedule is not None and args.schedule not in saved:
        found.append(f"schedule: {saved[0] if saved else 'another'} saved, {args.schedule} given")
    return found


def picture_name(args: argparse.Namespace, seed: int, step: int) -> str:
    """The name of the picture of `sample`: what made it, as far as it was asked for.

    Args:
        args: the options of `sample`.
        seed: of the noise.
        step: that the run had reached.
    """
    words = {"class": "_".join(args.label or []), **options.of_names(args, options.SAMPLING)}
    words |= {"guidance": f"{args.guidance:g}" if args.guidance else ""}
    words |= {"clip": "none" if args.no_clip else "", "n": args.n}
    parts = [f"{name}_{value}" for name, value in words.items() if value not in ("", None)]
    parts = [part for part in parts if part != f"n_{options.SAMPLES}"]
    name = "-".join([f"samples-{seed}", *parts, f"at_{step}"])
    return re.sub(r"[^\w.+-]", "_", name)[:200] + ".png"


def judged(args: argparse.Namespace, trained: Model) -> tuple[Sampling, str]:
    """How the samples are drawn, and the bound's variance: --variance is of both.

    So it may be given beside a sampler that has none.
    """
    given = options.how(args)
    variance = given.pop("variance", None)
    how = how_to_sample(trained, given).filled()
    own = "learned" if trained.learns_variance else how.variance or "beta_tilde"
    if variance and how.variance:
        how = dataclasses.replace(how, variance=variance)
    return how, variance or own
