"""How a run is kept, watched and computed: what is no part of its recipe."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..model import Model
from ..settings import check_settings, setting
from ..shards import ALONE, Alone
from .load import load
from .progress import Progress
from .source import Pair

Stop = Callable[[], bool]  # called after each step: True ends the run early
KINDS = {
    "progress": "True, False, None or a function of a step's record",
    "stop": "a function without arguments, or None",
    "team": "what tinyddpm.parallel.join gives",
    "start": "a Model, the path of a run, or None",
    "meta": "a dict, or None",
    "data": "a dict, or None",
}


@dataclass(frozen=True)
class RunSettings:
    """How a run is kept, watched and computed. Raises InputError for counts that cannot be."""

    save_every: int = setting(500, "steps between checkpoints", low=1, metavar="N")
    log_every: int = setting(10, "steps between lines of the log", low=1, metavar="N")
    keep: int = setting(2, "how many of the newest checkpoints stay", low=1, metavar="K")
    # None: numpy, or when a run goes on the one that it was trained with
    backend: str | None = setting(None, "a name in backend.NAMES")
    # one of backend.PRECISIONS; None: the run's, which is fp32 for a new one
    precision: str | None = setting(None, "of the backend's products")
    # of the images, as of `sets.from_array`: (0, 255) for bytes, (-1, 1) for floats
    value_range: Pair | None = setting(None, "what the images' numbers span")
    # True shows a line of progress, None only in a notebook
    progress: Progress | bool | None = setting(None, "whether to show it, or what is to be told")
    stop: Stop | None = setting(None, "called after each step; True ends the run early")
    team: Alone = setting(ALONE, "the processes that share the work")
    # or the run that has it
    start: Model | None = setting(None, "a model to fine-tune: its network, schedule and target")
    limit: int | None = setting(None, "the most bytes that training may take", low=1)
    # kept in the checkpoint, under these names, beside the run's own settings: JSON's kinds
    meta: dict[str, Any] | None = None  # the user's own
    data: dict[str, Any] | None = None  # how to find the data again: the fields of `Source`

    def __post_init__(self) -> None:
        check_settings(self)
        if isinstance(self.start, str | os.PathLike):
            object.__setattr__(self, "start", load(self.start))
        progress, stop = self.progress, self.stop
        good = {
            "progress": (progress is None or isinstance(progress, bool) or callable(progress)),
            "stop": stop is None or callable(stop),
            "team": isinstance(self.team, Alone),
            "start": self.start is None or isinstance(self.start, Model),
            "meta": self.meta is None or isinstance(self.meta, dict),
            "data": self.data is None or isinstance(self.data, dict),
        }
        for name, right in good.items():
            if not right:
                value = getattr(self, name)
                raise InputError(f"{name} must be {KINDS[name]}, got {value!r:.80}")

    @property
    def counts(self) -> dict[str, int]:
        """What a checkpoint keeps of these settings."""
        return {"log_every": self.log_every, "save_every": self.save_every, "keep": self.keep}
