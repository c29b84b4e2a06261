"""Where a new run starts: at random weights, or at a trained model's, which it fine-tunes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..model import Model
from ..process import Array
from ..training import TrainState

VLB = 0.001  # of Nichol21, for a model with a variance whose own weight is not known


@dataclass(frozen=True)
class Start:
    """A network, its schedule, and its first weights."""

    net: Any  # as of `new.network`
    schedule: Any  # as of `new.noise_schedule`
    theta: Array | None = None  # None: random ones
    meta: dict[str, Any] = field(default_factory=dict)  # what the run keeps of the model's own

    def state(self, net: Any, seed: int) -> TrainState:
        """The state before the first step."""
        if self.theta is None:
            return TrainState.fresh(net, seed)
        theta = np.array(self.theta, np.float32)
        return TrainState(0, theta, theta.copy(), np.zeros_like(theta), np.zeros_like(theta))


def start(model: Model | None, recipe: dict[str, Any], net: Any, schedule: Any) -> Start:
    """Where a run starts; what it must share with the model it starts from is put into `recipe`.

    Args:
        model: the model, or None.
        recipe: fields of `settings.Recipe`.
        net: the network asked for, or None.
        schedule: the schedule asked for, or None.

    Raises:
        InputError: the model has another network, schedule, target or output.
    """
    if model is None:
        return Start(net, schedule)
    if net is not None or schedule is not None:
        raise InputError("a run that starts from a model has its network and its schedule")
    own: dict[str, Any] = {"target": model.target}
    if not model.learns_variance:
        own["vlb"] = 0.0
    elif not recipe.get("vlb"):
        recipe["vlb"] = model.meta.get("recipe", {}).get("vlb") or VLB
    if not getattr(model.net, "no_label", True):
        own["label_dropout"] = 0.0
    for name, value in own.items():
        if recipe.setdefault(name, value) != value:
            raise InputError(
                f"the model to start from has {name} = {value}, and {recipe[name]} was asked for"
            )
    names: tuple[str, ...] = ("sampling", "scheduler")
    kept = {name: model.meta[name] for name in names if name in model.meta}
    return Start(model.net, model.schedule, model.ops.to_host(model.theta), kept)
