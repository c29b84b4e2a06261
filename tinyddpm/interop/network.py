"""A U-Net's configuration: diffusers' UNet2DModel as our UNet, and ours as theirs."""

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..nn.unet import UNet
from .config import Config, is_number, is_whole

DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # whether each attends
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
PADDING = {0: "right", 1: "both"}
# The entries of which one value alone is supported, the default, or also these.
FIXED = (
    ("act_fn", "silu", "swish"),
    ("time_embedding_type", "positional"),
    ("mid_block_type", "UNetMidBlock2D"),
    ("mid_block_scale_factor", 1),
    ("downsample_type", "conv"),
    ("upsample_type", "conv"),
    ("resnet_time_scale_shift", "default"),
    ("class_embed_type", None),
)
MOST = 64  # levels and blocks a level: more are no published network, and endless work


@dataclass(frozen=True)
class Published:
    """What a UNet2DModel's configuration says."""

    net: UNet
    shape: tuple[int, int, int]  # of a sample, (H, W, C)
    dropout: float  # in training


def read_network(entries: Any, name: str) -> Published:
    """The network of a configuration. Raises InputError, naming the entry that is not supported.

    Args:
        entries: the parsed unet/config.json.
        name: the file's, for errors.
    """
    c = Config(entries, name)
    if c.left.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise c.refuse("_class_name", c.left["_class_name"], "is not supported; UNet2DModel is")
    height, width = _size(c)
    dropout = c.take("dropout", 0.0, lambda v: is_number(v) and 0 <= v < 1, "in [0, 1)")
    net = UNet(**_levels(c), **_details(c))
    c.only("time_embedding_dim", None, None, 4 * net.base)
    c.only("attn_norm_num_groups", None, None, net.groups)
    for key, default, *others in FIXED:
        c.only(key, default, default, *others)
    c.finish("num_train_timesteps")
    net.check_size(height, width)
    return Published(net, (height, width, net.channels), float(dropout))


def _levels(c):
    """The levels' settings of a UNet: widths, blocks, what attends."""
    widths = _list(c, "block_out_channels", (224, 448, 672, 896), is_whole, "whole numbers")
    if min(widths) < 1:
        raise c.refuse("block_out_channels", widths, "are not all at least 1")
    even = not any(w % widths[0] for w in widths)
    blocks = c.take("layers_per_block", 2, lambda v: is_whole(v) and 0 < v <= MOST, f"in 1..{MOST}")
    down = _attends(c, "down_block_types", DOWN, len(widths))
    up = _attends(c, "up_block_types", UP, len(widths))[::-1]
    return {
        "base": widths[0],
        "mults": tuple(w // widths[0] for w in widths) if even else (1,) * len(widths),
        "widths": None if even else tuple(widths),
        "blocks": blocks,
        "attention": down,
        "up_attention": None if up == down else up,
        "mid_attention": c.flag("add_attention", True),
        "head_dim": c.take("attention_head_dim", 8, _whole_or_none, "a whole number or null"),
    }


def _details(c):
    """The other settings of a UNet."""
    channels, out = c.whole("in_channels", 3), c.whole("out_channels", 3)
    pad = c.take("downsample_padding", 1, lambda v: is_whole(v) and v in PADDING, "0 or 1")
    classes = c.take("num_class_embeds", None, _whole_or_none, "a whole number or null")
    shift = c.take("freq_shift", 0, lambda v: is_number(v) and v in (0, 1), "0 or 1")
    return {
        "channels": channels,
        "out": None if out == channels else out,
        "groups": c.whole("norm_num_groups", 32),
        "tol": c.number("norm_eps", 1e-5),
        "pad": PADDING[pad],
        "classes": classes or 0,
        "no_label": False,
        "center": c.flag("center_input_sample", False),
        "t_offset": -1,
        "freq_shift": int(shift),
        "cos_first": c.flag("flip_sin_to_cos", True),
    }


def _whole_or_none(value):
    return value is None or is_whole(value) and value >= 1


def _list(c, key, default, fits, what):
    """An entry that is a list of 1 to MOST values of one kind."""

    def good(value):
        return isinstance(value, list | tuple) and 0 < len(value) <= MOST and all(map(fits, value))

    return list(c.take(key, default, good, f"a list of 1 to {MOST} {what}"))


def _attends(c, key, known, levels):
    """For each of a list of blocks, whether it attends."""
    first, second = known
    default = (first, second, second, second) if known is DOWN else (second, second, second, first)
    kinds = _list(c, key, default, lambda v: isinstance(v, str), "words")
    for kind in kinds:
        if kind not in known:
            raise c.refuse(key, kind, f"is not supported; {', '.join(known)} are")
    if len(kinds) != levels:
        raise c.refuse(key, kinds, f"names {len(kinds)} levels, block_out_channels {levels}")
    return tuple(known[kind] for kind in kinds)


def _size(c):
    """(H, W) of a sample."""
    value = c.left.pop("sample_size", None)
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(is_whole(n) and 1 <= n <= 2**16 for n in sides):
        raise c.refuse("sample_size", value, "is not the side of an image, or two of them")
    return sides


def write_network(net: Any, shape: tuple[int, ...], dropout: float = 0.0) -> dict[str, Any]:
    """The configuration of a network. Raises InputError for what UNet2DModel cannot be.

    Args:
        net: the network.
        shape: of a sample, (H, W, C).
        dropout: in training.
    """
    if not isinstance(net, UNet):
        raise InputError("only a U-Net can be exported, and this network is none")
    widths = list(net.channels_of_levels)
    if widths[0] != net.base:
        raise InputError(f"UNet2DModel's first level has base channels, {net.base}, not {widths}")
    up = net.attention if net.up_attention is None else net.up_attention
    height, width, channels = shape
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": net.mid_attention,
        "attention_head_dim": _head_dim(net, widths, up),
        "block_out_channels": widths,
        "center_input_sample": net.center,
        "class_embed_type": None,
        "down_block_types": [list(DOWN)[attends] for attends in net.attention],
        "downsample_padding": 0 if net.pad == "right" else 1,
        "dropout": dropout,
        "flip_sin_to_cos": net.cos_first,
        "freq_shift": net.freq_shift,
        "in_channels": channels,
        "layers_per_block": net.blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": net.tol,
        "norm_num_groups": net.groups,
        "num_class_embeds": net.classes + net.no_label if net.classes else None,
        "out_channels": net.out or channels,
        "resnet_time_scale_shift": "default",
        "sample_size": height if height == width else [height, width],
        "time_embedding_type": "positional",
        "up_block_types": [list(UP)[attends] for attends in up[::-1]],
    }


def _head_dim(net, widths, up):
    """Their channels of a head; null is one head."""
    if net.head_dim is not None or net.heads == 1:
        return net.head_dim
    attending = {w for w, down, up in zip(widths, net.attention, up) if down or up}
    attending |= {widths[-1]} if net.mid_attention else set()
    if not attending:
        return None
    if len(attending) != 1:
        raise InputError(
            f"UNet2DModel has heads of one size: {net.heads} heads at each of the widths "
            f"{sorted(attending)} are none"
        )
    return attending.pop() // net.heads
