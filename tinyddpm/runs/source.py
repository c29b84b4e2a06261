"""Where a run's data is: kept in its checkpoint, read again, and held against what it was."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..datasets import sets
from ..datasets.untrusted import LIMIT
from ..errors import InputError
from ..process import Array
from . import checkpoint

Pair = tuple[float, float]


@dataclass(frozen=True)
class Source:
    """Where data is, and how it is read and split. Raises InputError for what cannot be.

    How much of it may be read is the user's to say, each time: no checkpoint raises the limit.
    """

    spec: str  # a name or a path, as of `sets.load`
    holdout: float  # the part that is held out
    range: Pair | None = None  # what the file's numbers span, where it was declared
    restore: Pair = (-1.0, 1.0)  # the range to bring samples back to
    size: int | None = None  # of the squares that pictures are made
    gray: bool = False  # whether pictures are made grey

    def __post_init__(self) -> None:
        good = {
            "spec": type(self.spec) is str,
            "holdout": _number(self.holdout),
            "range": self.range is None or _pair(self.range),
            "restore": _pair(self.restore),
            "size": self.size is None or type(self.size) is int,
            "gray": type(self.gray) is bool,
        }
        for name, right in good.items():
            if not right:
                value = getattr(self, name)
                raise InputError(f"the {name} of the run's data cannot be {value!r:.80}")

    @classmethod
    def of(cls, meta: dict[str, Any], run: str | Path) -> "Source":
        """The source in a checkpoint's settings.

        Raises InputError where they have none, or one that no run keeps.
        """
        about = meta.get("data")
        check_trained(meta, run)
        if about is None:
            raise InputError(
                "this run was trained on an array: only the library can resume or judge it"
            )
        if not isinstance(about, dict) or not {"spec", "holdout"} <= set(about):
            raise InputError(f"{run} does not say where its data is: {about!r:.80}")
        with checkpoint.content_errors_as_input(run):
            known = {field.name for field in dataclasses.fields(cls)} & set(about)
            values: dict[str, Any] = {name: about[name] for name in known}
            values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
            return cls(**values)

    def read(self, limit: int = LIMIT, need_labels: bool = True) -> tuple[sets.Data, sets.Data]:
        """The data that is fitted, and that held out.

        Args:
            limit: the most bytes that the samples may take.
            need_labels: whether labels that cannot be used are an error.
        """
        data = sets.load(
            self.spec, limit, self.range, size=self.size, gray=self.gray, need_labels=need_labels
        )
        return sets.split(data, self.holdout)


def labels_of(data: sets.Data, classes: tuple[int | str, ...]) -> Array | None:
    """The labels of data as a model of these classes calls them: by their names, or by number."""
    if data.labels is None or not classes:
        return None
    if isinstance(classes[0], int):  # a run from before classes had names
        return data.labels
    return np.array(data.classes)[data.labels] if data.classes else data.labels


def as_trained(
    images: ArrayLike, labels: ArrayLike | None, value_range: Pair | None = None
) -> sets.Data:
    """Images or points as float32 and labels as int64 or None, after the checks of training."""
    return sets.from_array(images, labels, "the images", value_range)


def check_trained(meta: dict[str, Any], run: str | Path) -> None:
    """Raise InputError for a run that was imported, with what can be done with it."""
    if "digest" not in meta:
        raise InputError(
            f"{run} was imported and has no data and no moments of its own: "
            "fine-tune it with train --from, judge it with eval --data"
        )


def check_digest(run: str | Path, meta: dict[str, Any], data: sets.Data) -> None:
    """Raise InputError unless the data is what a run was trained on."""
    check_trained(meta, run)
    with checkpoint.content_errors_as_input(run):
        if sets.digest(data) != meta["digest"]:
            raise InputError(f"the data is not what {run} was trained on")


def _number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _pair(value):
    return isinstance(value, tuple) and len(value) == 2 and all(map(_number, value))
