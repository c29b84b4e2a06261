"""UNet2DModel's names and layouts for our parameters."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nn import params
from ..nn.unet import UNet
from .tensors import TensorFile

TOP = {
    "time1": "time_embedding.linear_1",
    "time2": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "short": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
# what files before diffusers 0.17 call them
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def their_name(name: str) -> str:
    """UNet2DModel's name of one of a U-Net's parameters, as `params.named` has it."""
    if name == "label.w":
        return "class_embedding.weight"
    part, kind = name.rsplit(".", 1)
    kind = {"w": "weight", "b": "bias"}[kind]
    keys = part.split(".")
    if len(keys) == 1:
        return f"{TOP[part]}.{kind}"
    if keys[0] == "mid":
        block, index, rest = "mid_block", {"first": 0, "second": 1}[keys[1]], keys[2:]
    elif keys[2] == "resize":
        return f"{keys[0]}_blocks.{keys[1]}.{keys[0]}samplers.0.conv.{kind}"
    else:
        block, index, rest = f"{keys[0]}_blocks.{keys[1]}", int(keys[3]), keys[4:]
    if rest[0] == "attention":
        return f"{block}.attentions.{index}.{ATTENTION[rest[1]]}.{kind}"
    return f"{block}.resnets.{index}.{RESNET[rest[0]]}.{kind}"


def turned(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array of ours in their layout, as a view: (k, k, C, O) -> (O, C, k, k), (I, O) -> (O, I).

    The labels' table alone lies the same way in both.
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if name != "label.w" else array


def _parts(net: UNet, theta: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """(our name, its window on theta) of every parameter."""
    offset = 0
    for name, param in params.named(net.spec()):
        size = math.prod(param.shape)
        yield name, theta[offset : offset + size].reshape(param.shape)
        offset += size


def read_weights(net: UNet, file: TensorFile) -> NDArray[Any]:
    """theta from a UNet2DModel's weights; float64 where one of them is, else float32.

    Raises InputError where one is missing, has another shape, or is of another network.
    """
    # No setting of this network exceeds the numbers of its file: one that does could make its spec
    # endless.
    held = sum(math.prod(shape) for shape in file.shapes.values())
    if max(net.channels, *net.channels_of_levels, net.classes, net.out or 1) > held:
        raise InputError(f"{file.path}: holds {held:,} numbers, too few for its configuration")
    size = params.size(net.spec())
    if size != held:
        raise InputError(
            f"{file.path}: holds {held:,} numbers, its configuration needs {size:,}"
            f"{_difference(net, file)}"
        )
    theta = np.empty(size, np.float64 if "F64" in file.kinds.values() else np.float32)
    for name, window in _parts(net, theta):
        theirs, place = _found(name, file), turned(name, window)
        shape = file.shapes[theirs]
        if shape != place.shape and shape != (*place.shape, 1, 1):  # the oldest attention layers
            raise InputError(f"{file.path}: {theirs} has shape {shape}, it needs {place.shape}")
        place[...] = file.read(theirs).reshape(place.shape)
    return theta


def _found(name, file):
    """Their name of a parameter, as this file has it."""
    theirs = their_name(name)
    if theirs in file.shapes:
        return theirs
    for new, old in OLD.items():
        if theirs.replace(new, old) in file.shapes:
            return theirs.replace(new, old)
    raise InputError(f"{file.path}: lacks {theirs}")


def _difference(net, file):
    """The first tensor that is missing, or the first too many, in words."""
    wanted = [their_name(name) for name, _ in params.named(net.spec())]
    known = {
        old for name in wanted for old in (name, *(name.replace(*pair) for pair in OLD.items()))
    }
    extra = next((name for name in file.shapes if name not in known), None)
    missing = next((name for name in wanted if name not in file.shapes), None)
    if extra is not None:
        return f"; it holds {extra:.80}, which its configuration lacks"
    return "" if missing is None else f"; it lacks {missing}"


def write_weights(net: UNet, theta: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """UNet2DModel's weights of a network whose embedding is of t - 1, as theirs is."""
    return {their_name(name): turned(name, window) for name, window in _parts(net, theta)}


def plain_weights(net: Any, theta: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The parameters under our own names and in our own layouts."""
    return dict(_parts(net, theta))


def embed_t_less_one(net: UNet, theta: NDArray[Any]) -> NDArray[Any]:
    """theta of the network that embeds t - 1 and predicts the same as this one, which embeds t.

    sin(w t) and cos(w t) are those of w (t - 1) turned by the angle w, so the first layer's rows
    are turned back by it: with t = u + 1 and rows S and C of its weights,
    sin(w t) S + cos(w t) C = sin(w u) (S cos w - C sin w) + cos(w u) (S sin w + C cos w).
    """
    theta = theta.copy()
    w = dict(_parts(net, theta))["time1.w"]
    half = net.base // 2
    angle = (1 + net.t_offset) * 10000.0 ** (-np.arange(half) / (half - net.freq_shift))[:, None]
    sin, cos = np.sin(angle), np.cos(angle)
    s, c = np.array(w[:half], float), np.array(w[half:], float)
    s, c = (c, s) if net.cos_first else (s, c)
    s, c = s * cos - c * sin, s * sin + c * cos
    w[:half], w[half:] = (c, s) if net.cos_first else (s, c)
    return theta
