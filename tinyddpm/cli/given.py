"""What was given on the command line, as the library's settings: of a network, a run, a sampler."""

import argparse
import dataclasses
from typing import Any

import numpy as np

from .. import schedule
from ..errors import InputError
from ..model import Model
from ..nn.unet import UNet
from ..process import Array
from ..runs import new
from ..runs.load import load
from ..runs.sample import how_to_sample
from ..schedule import Schedule
from ..settings import Recipe, Sampling
from . import options

# the recipe's fields that are handed on as they are; the data and the backend give the last two,
# --shards but where it is not given
RECIPE = [
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("steps", "seed", "levels", "shards")
]


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
    net = new.default_net(shape, 0 if labels is None else len(np.unique(labels)), args.vlb > 0)
    kinds: list[tuple[str, ...]] = [options.UNET, options.PERCEPTRON]
    names, other = kinds if isinstance(net, UNet) else kinds[::-1]
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


def fine_tuned(args: argparse.Namespace) -> Model | None:
    """The model that --from names, or None. Raises InputError for an option that it decides."""
    if not args.start:
        return None
    defaults = {"schedule": "cosine", "T": 1000, "zero_snr": False, "target": Recipe.target}
    defaults |= dict.fromkeys((*options.UNET, *options.PERCEPTRON))
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} is decided by the run of --from")
    return load(args.start, team=args.team)


def recipe(args: argparse.Namespace, start: Model | None) -> dict[str, Any]:
    """The recipe's fields that are handed on; with --from, those alone that were given."""
    values = {name: getattr(args, name) for name in RECIPE}
    if start is None:
        return values
    return {name: value for name, value in values.items() if value != getattr(Recipe(), name)}


def expected(args: argparse.Namespace, meta: dict[str, Any]) -> dict[str, Any]:
    """The settings given beside --resume, as a checkpoint has them: what the run must have."""
    names = (*options.UNET, *options.PERCEPTRON, "shards")
    given = {name: getattr(args, name) for name in names}
    if args.attention is not None:
        given["attention"] = [level in args.attention for level in range(len(meta["net"]["mults"]))]
    for name in RECIPE:
        if getattr(args, name) != getattr(Recipe(), name):
            given[name] = getattr(args, name)
    return {name: value for name, value in given.items() if value is not None}


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
