"""The U-Net against an independent peer, and against finite differences."""

import json

import numpy as np
import pytest
from gradients import check_gradient

from tinyddpm import params
from tinyddpm.errors import InputError
from tinyddpm.ops import Forget, Ops
from tinyddpm.unet import UNet

OPS = Ops()


def peer_net(config):
    """Our settings for the peer's configuration."""
    base = config["block_out_channels"][0]
    return UNet(
        channels=config["in_channels"], base=base, mults=tuple(c // base for c in config["block_out_channels"]),
        blocks=config["layers_per_block"], attention=tuple("Attn" in kind for kind in config["down_block_types"]),
        groups=config["norm_num_groups"], pad={0: "right", 1: "both"}[config["downsample_padding"]],
        tol=config["norm_eps"])


def peer_name(ours, net):
    """The peer's dotted name for one of our parameters."""
    part, kind = ours.rsplit(".", 1)
    kind = {"w": "weight", "b": "bias"}[kind]
    keys = part.split(".")
    top = {"time1": "time_embedding.linear_1", "time2": "time_embedding.linear_2", "conv_in": "conv_in",
           "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    inner = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
             "short": "conv_shortcut"}
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
    if len(keys) == 1:
        return f"{top[part]}.{kind}"
    if keys[0] == "mid":
        block, index, rest = "mid_block", {"first": 0, "second": 1}[keys[1]], keys[2:]
    elif keys[2] == "sample":
        return f"{keys[0]}_blocks.{keys[1]}.{keys[0]}samplers.0.conv.{kind}"
    else:
        block, index, rest = f"{keys[0]}_blocks.{keys[1]}", keys[3], keys[4:]
    if rest[0] == "attention":
        return f"{block}.attentions.{index}.{attention[rest[1]]}.{kind}"
    return f"{block}.resnets.{index}.{inner[rest[0]]}.{kind}"


def from_peer(array):
    """The peer's (O, C, k, k) or (O, I) weights in our order, (k, k, C, O) or (I, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


@pytest.mark.parametrize("name", ["diffusers_unet_tiny", "diffusers_unet_cifar_shape"])
def test_output_and_every_gradient_agree_with_the_peer(name, golden):
    peer = golden(name)
    net = peer_net(json.loads(str(peer["config"])))
    spec = net.spec()
    theta, grad = np.empty(params.size(spec)), np.zeros(params.size(spec))
    flat, offset, names = theta, 0, []
    for ours, param in params.named(spec):
        value = from_peer(peer[f"param/{peer_name(ours, net)}"])
        assert value.shape == param.shape, ours
        flat[offset:offset + value.size] = value.ravel()
        offset += value.size
        names.append(peer_name(ours, net))
    assert sorted(f"param/{n}" for n in names) == sorted(k for k in peer if k.startswith("param/"))

    x, target = (peer[k].transpose(0, 2, 3, 1) for k in ("x", "target"))
    tape = []
    y = net.forward(OPS, params.views(spec, theta), x, peer["t"], tape)
    loss = OPS.mse(y, target, 1.0, tape)
    dy = OPS.mse_backward(1.0, tape)
    g = params.views(spec, grad)
    dx = net.backward(OPS, g, dy, tape)

    # 1e-5 relative to the largest entry of each array: the peer embeds t in float32
    assert_close(y, peer["y"].transpose(0, 2, 3, 1))
    assert_close(loss, peer["loss"])
    assert_close(dx, peer["dx"].transpose(0, 2, 3, 1))
    offset = 0
    largest = max(np.abs(peer[f"grad/{n}"]).max() for n in names)
    for (ours, param), theirs in zip(params.named(spec), names):
        size = int(np.prod(param.shape))
        expected = from_peer(peer[f"grad/{theirs}"])
        ours_grad = grad[offset:offset + size].reshape(param.shape)
        offset += size
        # a key's bias moves every score of a row alike, so its true gradient is 0 and both sides hold rounding
        scale = largest if np.abs(expected).max() < 1e-12 * largest else np.abs(expected).max()
        assert np.abs(ours_grad - expected).max() <= 1e-5 * scale, (ours, theirs)


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
