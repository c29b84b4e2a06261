"""The data that a command is about: what its options name, or what the run was trained on."""

import argparse
import dataclasses
import pathlib
from typing import Any

from ..datasets import sets
from ..errors import InputError
from ..model import Model
from ..runs.source import Source, as_trained, labels_of

UNSEEN = 0.1  # the part of an imported run's --data that it is judged by
FITTED = (-1.0, 1.0)  # the range of data that has been read, whatever its own was


def to_fit(args: argparse.Namespace) -> tuple[sets.Data, sets.Data, dict[str, Any]]:
    """The part of the data to fit, that held out, and how a checkpoint keeps where they are.

    Args:
        args: the options of `tinyddpm train`.
    """
    spec = args.data or "digits"
    loaded = sets.load(
        spec, args.limit, args.range, size=args.size, gray=args.gray, need_labels=args.classes
    )
    built_in = loaded.name in ("digits", *sets.TOYS)
    holdout = (0.5 if built_in else 0.1) if args.holdout is None else args.holdout
    fit, held = sets.split(loaded, holdout)
    source = Source(
        place(spec),
        holdout,
        None if args.range is None else tuple(args.range),
        (loaded.low, loaded.high),
        args.size,
        args.gray,
    )
    return fit, held, dataclasses.asdict(source)


def place(spec: str) -> str:
    """Where data are, for another working directory too: a built-in name, or the whole path."""
    return spec if spec in ("digits", *sets.TOYS) else str(pathlib.Path(spec).resolve())


def of_run(
    args: argparse.Namespace, trained: Model, run: str | pathlib.Path
) -> tuple[sets.Data, sets.Data]:
    """The fitted and the held-out part of a run's data, read again.

    Args:
        args: the options of the command: --limit, and --data where it has that.
        trained: the run's model.
        run: its folder or checkpoint.

    Raises:
        InputError: the run does not know where its data is, or it cannot be read.
    """
    spec = getattr(args, "data", None)
    if spec and "digest" not in trained.meta:  # imported: it was trained on data that we have not
        source = Source(spec, UNSEEN)
    else:
        source = Source.of(trained.meta, run)
        source = dataclasses.replace(source, spec=spec) if spec else source
    fit, held = source.read(args.limit, need_labels=bool(trained.classes))
    if fit.x.shape[1:] != trained.shape:
        raise InputError(
            f"the samples of {run} have the shape {trained.shape}, those of its data "
            f"{fit.x.shape[1:]}"
        )
    return fit, held


def as_fitted(fit: sets.Data, trained: Model) -> sets.Data:
    """The fitted data as training keeps it, to be held against its digest."""
    return as_trained(fit.x, labels_of(fit, trained.classes), FITTED)


def asked(labels: list[str] | None, classes: tuple[int | str, ...]) -> list[int | str] | None:
    """The classes that --class names, as numbers where the run's classes are numbers."""
    if labels is None or any(isinstance(each, str) for each in classes):
        return None if labels is None else [*labels]
    return [int(each) if each.lstrip("-").isdecimal() else each for each in labels]
