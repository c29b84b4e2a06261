"""The parts of a new run: its network, schedule and recipe, judged before anything is made."""

import dataclasses
import math
from typing import Any

import numpy as np

from ..datasets import sets
from ..errors import InputError, did_you_mean
from ..nn import sizes
from ..nn.mlp import MLP
from ..nn.ops import Ops
from ..nn.unet import UNet
from ..process import Array
from ..schedule import KINDS, Schedule
from ..settings import Recipe
from ..training import PLAN, Trainer
from . import memory
from .load import NETS, check_net
from .start import Start

TABLES = 10  # float64 arrays (T + 1,) that a schedule and a trainer hold, at least


def default_net(shape: tuple[int, ...], classes: int = 0, learn_variance: bool = False) -> Any:
    """The network for samples of a shape: an MLP for (D,), a U-Net for (H, W, C).

    Below 16 pixels two levels, base 24, one block; from there three levels, base 32, two blocks;
    fewer levels where a side is odd. The coarsest level attends.

    Args:
        shape: of one sample.
        classes: how many labels it knows.
        learn_variance: whether the output is of twice the width (Nichol21 eq. 15).
    """
    out = 2 * shape[-1] if learn_variance else None
    if len(shape) == 1:
        return MLP(dim=shape[0], classes=classes, out=out)
    height, width, channels = shape
    large = min(height, width) >= 16
    levels = 1
    while levels < (3 if large else 2) and not (height % 2**levels or width % 2**levels):
        levels += 1
    return UNet(
        channels=channels,
        base=32 if large else 24,
        mults=(1, 2, 2)[:levels],
        blocks=2 if large else 1,
        attention=(False,) * (levels - 1) + (levels > 1,),
        classes=classes,
        out=out,
    )


def noise_schedule(schedule: Any) -> Schedule:
    """The schedule itself, or one of 1000 steps by its name; None is cosine."""
    if isinstance(schedule, Schedule):
        return schedule
    name = "cosine" if schedule is None else schedule
    if not isinstance(name, str) or name not in KINDS:
        near = did_you_mean(name, KINDS)
        raise InputError(
            f"schedule must be a Schedule or one of {', '.join(KINDS)}, got {name!r:.80}{near}"
        )
    return KINDS[name](1000)


def network(net: Any, shape: tuple[int, ...], classes: int, learns_variance: bool) -> Any:
    """The network itself, or the default one for the data: None, or the name of its kind.

    Args:
        net: a UNet, an MLP, None, "unet" or "mlp".
        shape: of one sample.
        classes: how many labels there are.
        learns_variance: whether the loss needs a learned variance.

    Raises:
        InputError: it is none of these, or does not fit the data.
    """
    if net is None or (isinstance(net, str) and net in NETS):
        default = default_net(shape, classes, learns_variance)
        if net is not None and not isinstance(default, NETS[net]):
            raise InputError(f"samples of shape {shape} do not go through a net of kind {net}")
        return default
    if not isinstance(net, UNet | MLP):
        near = did_you_mean(net, NETS)
        raise InputError(f"net must be a UNet, an MLP, unet or mlp, got {net!r:.80}{near}")
    check_net(net, shape, classes, learns_variance)
    return net


def fresh_trainer(
    data: sets.Data,
    given: dict[str, Any],
    begun: Start,
    ops: Ops,
    limit: int | None,
    show: bool = False,
) -> Trainer:
    """The trainer of a new run.

    Args:
        data: all of it.
        given: the fields of Recipe that were given.
        begun: the network, the schedule and the first weights.
        ops: the backend.
        limit: the most bytes that training may take, or None for the free memory alone.
        show: whether to say what it takes of a card's memory.

    Raises:
        InputError: a network that does not fit the data, settings that cannot be, or more memory
            than is free.
    """
    levels = data.levels or (Recipe.levels if data.x.ndim == 4 else 0)
    recipe = Recipe(**{"shards": ops.shards, "levels": levels, **given})
    for name in ("shards", "accumulate"):
        if name in given and getattr(recipe, name) > recipe.batch:
            raise InputError(f"{name} must be at most batch = {recipe.batch}, got {given[name]}")
    if "shards" not in given:
        recipe = dataclasses.replace(recipe, shards=ops.shards * recipe.accumulate)
    if recipe.flip and data.x.ndim != 4:
        raise InputError(f"flip mirrors images, and the data holds samples {data.x.shape[1:]}")
    shape = data.x.shape[1:]
    classes = 0 if data.labels is None else len(np.unique(data.labels))
    net = network(begun.net, shape, classes, recipe.vlb > 0)
    if classes and recipe.label_dropout and not getattr(net, "no_label", True):
        raise InputError("label_dropout must be 0 for a network without a row for no label")
    if recipe.dropout and isinstance(net, MLP):
        raise InputError("dropout is of residual blocks: an MLP has none")
    if recipe.recompute and isinstance(net, MLP):
        raise InputError("recompute is of a U-Net's residual blocks: an MLP has none")
    if not classes and given.get("label_dropout"):
        raise InputError("label_dropout needs labels: without them there is none to drop")
    s = noise_schedule(begun.schedule)
    check_memory(net, recipe, s, data.x, ops, limit, show)
    state = begun.state(net, recipe.seed).on(ops)
    return Trainer(net, s, data.x, recipe, state, ops, numbered(data.labels))


def check_memory(
    net: Any, recipe: Recipe, s: Schedule, x: Array, ops: Ops, limit: int | None, show: bool
) -> None:
    """Raise InputError where training takes more memory than is free, here or on a card.

    Args:
        net: the network.
        recipe: the settings.
        s: the schedule.
        x: the data.
        ops: the backend.
        limit: the most bytes that training may take, or None for the free memory alone.
        show: whether to say what it takes of a card's memory.
    """
    memory.check("this run", needs(net, recipe, s, x.shape[1:], ops), limit)
    memory.check_card(net, recipe, x, ops, show)


def needs(
    net: Any, recipe: Recipe, s: Schedule, shape: tuple[int, ...], ops: Ops
) -> dict[str, int]:
    """At least how many bytes of this machine's memory a run takes beside its data, by their use.

    Args:
        net: the network.
        recipe: its batch, cut in shards and taken in turns.
        s: the schedule.
        shape: of one sample.
        ops: the backend; a device has memory of its own for the vectors and the batch.
    """
    vectors = 4 if ops.lazy else 5  # theta, its average, Adam's moments; a gradient
    kept = 0 if ops.lazy else 3 * math.prod(shape)  # x_0, eps and x_t
    kept += 0 if ops.lazy else sizes.kept(net, shape, recipe.recompute)
    parameters, turns = sizes.parameters(net), recipe.accumulate
    return {
        f"{parameters:,} parameters": 4 * vectors * parameters,
        f"a batch of {recipe.batch:,}": recipe.batch * (4 * kept // turns + 2 * 8 * PLAN),
        f"the tables of T = {s.T:,}": 8 * TABLES * (s.T + 1),
    }


def numbered(labels: Array | None) -> Array | None:
    """Each label's place in the list of those there are, or None."""
    return None if labels is None else np.unique(labels, return_inverse=True)[1]
