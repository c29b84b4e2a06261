"""Loading a trained model from a run folder or a checkpoint file."""

import math
import types
import typing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import about, get
from ..errors import InputError
from ..model import Model
from ..nn import params
from ..nn.mlp import MLP
from ..nn.ops import Ops
from ..nn.unet import UNet
from ..process import Array
from ..schedule import Schedule
from ..settings import TARGETS
from ..shards import ALONE, Alone
from . import checkpoint

NETS: dict[str, Any] = {"unet": UNet, "mlp": MLP}


def load(
    run: str | Path, backend: str = "numpy", precision: str = "fp32", team: Alone = ALONE
) -> Model:
    """The model of a run folder or checkpoint file, with its averaged (EMA) parameters.

    Args:
        run: the folder or the file.
        backend: a name in `backend.NAMES`.
        precision: of the backend's products, as of `backend.get`.
        team: the processes that load it; the first one reads the file.

    Raises:
        InputError: the file is no checkpoint, or the backend is not there.
    """
    arrays, meta = team.once(lambda: checkpoint.load(run))
    if team.size > 1:
        team.same({backend: about(backend), "precision": precision})
    return from_checkpoint(arrays, meta, team.use(get(backend, precision)))


def from_checkpoint(
    arrays: dict[str, Array], meta: dict[str, Any], ops: Ops | None = None
) -> Model:
    """The model in a loaded checkpoint. Raises InputError where its parts do not fit each other.

    Args:
        arrays: the checkpoint's arrays by name.
        meta: its settings.
        ops: the backend, by default NumPy's.
    """
    ops = ops or Ops()
    try:
        net, target = net_from_meta(meta["net"]), meta["recipe"]["target"]
        shape, ema, schedule = tuple(meta["shape"]), arrays["ema"], Schedule(arrays["beta"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint lacks a part: {error}") from None
    if not shape or not all(type(side) is int and side >= 1 for side in shape):
        raise InputError(f"the checkpoint's samples cannot have the shape {shape!r:.80}")
    if type(step := meta.get("step", 0)) is not int or step < 0:
        raise InputError(f"the checkpoint's step cannot be {step!r:.80}")
    classes = meta.get("classes", [])
    kinds = {type(k) for k in classes} if isinstance(classes, list) else {None}
    if kinds not in (set(), {int}, {str}) or len(set(classes)) != net.classes:
        raise InputError("the checkpoint's classes do not fit its network")
    check_net(net, shape, net.classes, net.out == 2 * shape[-1])
    if target not in TARGETS or least_size(net) > ema.size:
        raise InputError("the checkpoint's parameters do not fit its network")
    size = params.size(net.spec())
    if ema.shape != (size,) or ema.dtype != np.float32:
        raise InputError(
            f"the checkpoint's ema is {ema.dtype} {ema.shape}, its network needs float32 ({size},)"
        )
    return Model(net, ops.asarray(ema), schedule, shape, target, meta, ops)


def check_net(net: Any, shape: tuple[int, ...], classes: int, learns_variance: bool) -> None:
    """Raise InputError unless a network fits the samples, the labels and the loss.

    Args:
        net: the network.
        shape: of one sample.
        classes: how many labels there are.
        learns_variance: whether the loss needs a learned variance.
    """
    if net.classes != classes:
        raise InputError(f"this net knows {net.classes} classes, the labels name {classes}")
    if net.out not in ((2 * shape[-1],) if learns_variance else (None, shape[-1])):
        raise InputError(
            f"with vlb {'above' if learns_variance else 'at'} 0, a net for {tuple(shape)} needs "
            f"out = {shape[-1] * (1 + learns_variance)}, got {net.out}"
        )
    if isinstance(net, UNet):
        if len(shape) != 3 or shape[2] != net.channels:
            raise InputError(f"this U-Net takes (H, W, {net.channels}), the data holds {shape}")
        net.check_size(*shape[:2])
    elif tuple(shape) != (net.dim,):
        raise InputError(f"this MLP takes ({net.dim},), the data holds {shape}")


def net_to_meta(net: Any) -> dict[str, Any]:
    """A network's settings and kind, as JSON's kinds of values."""
    kind = next(kind for kind, cls in NETS.items() if isinstance(net, cls))
    return {"kind": kind, **asdict(net)}


def net_from_meta(meta: dict[str, Any]) -> Any:
    """The network that `net_to_meta` described. Raises InputError for settings that no net has."""
    try:
        items = ((name, value) for name, value in meta.items() if name != "kind")
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in items}
        net = NETS[meta["kind"]]
        for field in fields(net):
            if field.name in settings and not _is(settings[field.name], field.type):
                raise TypeError(f"its {field.name} is {settings[field.name]!r:.80}")
        return net(**settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's network is not one this program knows: {error}"
        ) from None


def least_size(net: Any) -> int:
    """A number of parameters that a network has at least: the weights of its blocks' two layers.

    Its spec is as long as the network is deep, so this is asked before one from foreign hands is
    made.
    """
    if isinstance(net, UNet):
        blocks = len(net.mults) * (2 * net.blocks + 1) + 2
        return blocks * 18 * min(net.channels_of_levels) ** 2
    return int(net.layers * 3 * net.hidden**2)


def _is(value, kind):
    """Whether a value is of the type that a field declares; whole numbers pass for others."""
    if isinstance(kind, types.UnionType):
        return any(_is(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is(part, each) for part in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind or kind is bool and type(value) is int
