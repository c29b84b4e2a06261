"""The U-Net against an independent peer, and against finite differences."""

import json
import math

import numpy as np
import pytest
from support.gradients import (
    OPS,
    Labelled,
    check_net,
    check_net_habits,
    net_gradients,
    random_theta,
    run_net,
)

from tinyddpm.errors import InputError
from tinyddpm.interop.weights import their_name, turned
from tinyddpm.nn import params
from tinyddpm.nn.ops import Forget, Ops
from tinyddpm.nn.unet import UNet
from tinyddpm.training import dropout_masks


def peer_net(config):
    """Our settings for the peer's configuration."""
    base = config["block_out_channels"][0]
    return UNet(
        channels=config["in_channels"],
        base=base,
        mults=tuple(c // base for c in config["block_out_channels"]),
        blocks=config["layers_per_block"],
        attention=tuple("Attn" in kind for kind in config["down_block_types"]),
        groups=config["norm_num_groups"],
        pad={0: "right", 1: "both"}[config["downsample_padding"]],
        tol=config["norm_eps"],
    )


@pytest.mark.parametrize("name", ["diffusers_unet_tiny", "diffusers_unet_cifar_shape"])
def test_output_and_every_gradient_agree_with_the_peer(name, golden):
    peer = golden(name)
    net = peer_net(json.loads(str(peer["config"])))
    spec = net.spec()
    theta, grad = np.empty(params.size(spec)), np.zeros(params.size(spec))
    flat, offset, names = theta, 0, []
    for ours, param in params.named(spec):
        window = flat[offset : offset + math.prod(param.shape)].reshape(param.shape)
        place, value = turned(ours, window), peer[f"param/{their_name(ours)}"]
        assert place.shape == value.shape, ours
        place[...] = value
        offset += window.size
        names.append(their_name(ours))
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
        size = math.prod(param.shape)
        expected = peer[f"grad/{theirs}"]
        ours_grad = turned(ours, grad[offset : offset + size].reshape(param.shape))
        offset += size
        # a key's bias moves every score of a row alike, so its true gradient is 0 and both sides
        # hold rounding
        scale = largest if np.abs(expected).max() < 1e-12 * largest else np.abs(expected).max()
        assert np.abs(ours_grad - expected).max() <= 1e-5 * scale, (ours, theirs)


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_a_network_of_absurd_depth_is_refused_in_one_short_line():
    """2^20,000 has more digits than Python turns into text."""
    deep = 20_001
    with pytest.raises(InputError, match=r"multiples of 2\^20000 ") as refused:
        UNet(base=4, groups=2, mults=(1,) * deep, attention=(False,) * deep).check_size(8, 8)
    assert len(str(refused.value)) < 200


# --- finite differences and what every net promises, over many shapes

SMALL = {"base": 4, "groups": 2, "blocks": 1}
NETS = {
    "one level": UNet(**SMALL, mults=(1,), attention=(False,)),
    "one level, attention": UNet(**SMALL, mults=(1,), attention=(True,), heads=2, channels=3),
    "two levels, pad both": UNet(**SMALL, mults=(1, 2), attention=(False, False), pad="both"),
    "two levels, two blocks, heads": UNet(
        **(SMALL | {"blocks": 2}), mults=(1, 2), attention=(True, True), heads=2
    ),
    "two levels, wide first": UNet(
        **SMALL, mults=(2, 1), attention=(True, False), channels=2, out=5
    ),
    "three levels": UNet(
        **SMALL, mults=(1, 2, 1), attention=(False, True, False), channels=3, out=6
    ),
    "three levels, groups of one": UNet(
        **(SMALL | {"groups": 4}),
        mults=(1, 1, 3),
        attention=(True, False, True),
        pad="both",
        heads=4,
        tol=1e-3,
    ),
    "the ways up attend elsewhere, heads of two, all of the peer's embedding": UNet(
        **SMALL,
        mults=(1, 2),
        attention=(True, False),
        up_attention=(False, True),
        head_dim=2,
        center=True,
        t_offset=-1,
        freq_shift=0,
        cos_first=True,
        pad="both",
        tol=1e-5,
    ),
    "widths of any ratio": UNet(**SMALL, mults=(1, 1), attention=(True, False), widths=(6, 4)),
    "no attention in the middle": UNet(
        **SMALL,
        mults=(1, 1),
        attention=(False, True),
        mid_attention=False,
        up_attention=(True,) * 2,
    ),
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
T_OF_SAMPLE = np.array([1, 400, 1000])


def images(net, batch=3):
    """Not square, and odd at the coarsest level."""
    factor = 2 ** (len(net.mults) - 1)
    return np.random.Generator(np.random.PCG64(2)).standard_normal(
        (batch, 3 * factor, factor, net.channels)
    )


@every_net
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_gradients(net, rate):
    check_net(net, images(net), T_OF_SAMPLE, lambda: dropout_masks(rate, 3, 5, 0))


@every_net
def test_habits(net):
    check_net_habits(net, images(net))


def test_gradients_with_labels():
    net = UNet(base=4, groups=2, blocks=1, classes=2, out=2)
    check_net(Labelled(net, np.array([1, -1, 0])), images(net), T_OF_SAMPLE)


@every_net
def test_starts_at_zero_and_keeps_the_images_shape(net):
    x = images(net).astype(np.float32)
    y = run_net(net, params.init(net.spec()), x, T_OF_SAMPLE, Forget())
    assert y.shape == (*x.shape[:3], net.out or net.channels)
    assert not y.any()


def test_a_net_without_a_row_for_no_label():
    net = UNet(base=4, groups=2, blocks=1, classes=2, no_label=False)
    assert params.named(net.spec()) and net.spec()["label"]["w"].shape == (2, 16)
    check_net(Labelled(net, np.array([1, 1, 0])), images(net), T_OF_SAMPLE)
    with pytest.raises(InputError, match="without a class"):
        run_net(net, random_theta(net), images(net), T_OF_SAMPLE, [])


def test_what_the_options_of_the_input_mean():
    """center: 2 x - 1; t_offset: t is less; both against the net without them."""
    plain = UNet(**SMALL)
    centred = UNet(**SMALL, center=True, t_offset=-1)
    theta, x = random_theta(plain), images(plain)
    y = run_net(centred, theta, x, T_OF_SAMPLE, [])
    assert np.array_equal(y, run_net(plain, theta, 2 * x - 1, T_OF_SAMPLE - 1, []))
    same = [run_net(centred, theta, x, t, Forget()) for t in (400, np.array([400]))]
    assert np.array_equal(*same) and np.array_equal(
        same[0], run_net(plain, theta, 2 * x - 1, 399, Forget())
    )


def test_inputs_are_left_alone():
    net = NETS["two levels, two blocks, heads"]
    theta, x = random_theta(net), images(net)
    dy = x[::-1].copy()
    before = theta.copy(), x.copy(), dy.copy()
    net_gradients(net, theta, x, T_OF_SAMPLE, dy, dropout_masks(0.4, 0, 0, 0))
    for array, copy in zip((theta, x, dy), before, strict=True):
        assert np.array_equal(array, copy)


def test_dropout_is_asked_once_a_block_with_its_shape():
    net, asked = NETS["three levels"], []

    def drop(shape, dtype):
        asked.append(shape)
        return np.ones(shape, dtype)

    theta, x = random_theta(net), images(net)
    dropped = run_net(net, theta, x, T_OF_SAMPLE, [], drop)
    assert np.array_equal(dropped, run_net(net, theta, x, T_OF_SAMPLE, []))
    sides = [
        (12, 4),
        (6, 2),
        (3, 1),
        (3, 1),
        (3, 1),
        (3, 1),
        (3, 1),
        (6, 2),
        (6, 2),
        (12, 4),
        (12, 4),
    ]
    widths = [4, 8, 4, 4, 4, 4, 4, 8, 8, 4, 4]
    assert asked == [(3, *side, width) for side, width in zip(sides, widths, strict=True)]


def test_every_norm_and_attention_gets_the_nets_settings():
    """The peer's files have one head and the default tol, so these two are recorded here."""
    net, seen = NETS["three levels, groups of one"], []

    class Watched(Ops):
        def groupnorm(self, x, p, groups, tape, tol=None):
            seen.append(("norm", groups, tol))
            return super().groupnorm(x, p, groups, tape, tol or 1.0)

        def attention(self, q, k, v, heads, tape):
            seen.append(("attention", heads))
            return super().attention(q, k, v, heads, tape)

    run_net(net, random_theta(net), images(net), T_OF_SAMPLE, [], ops=Watched())
    blocks, attending = 3 + 2 + 6, 2 + 1 + 4  # down, middle and up
    assert seen.count(("attention", 4)) == attending
    assert seen.count(("norm", 4, 1e-3)) == 2 * blocks + attending + 1
    assert set(seen) == {("attention", 4), ("norm", 4, 1e-3)}


def test_every_parameter_matters():
    """With random theta no gradient is all 0, but for what softmax or a norm takes off again.

    The bias of a key moves a row's scores alike; a bias before a norm of groups of one channel is
    its mean.
    """
    for net in NETS.values():
        if net.groups == net.base:
            continue
        x = images(net)
        theta = random_theta(net)
        dy = run_net(net, theta, x, T_OF_SAMPLE, [])
        _, grad, _ = net_gradients(net, theta, x, T_OF_SAMPLE, dy)
        offset = 0
        for name, param in params.named(net.spec()):
            size = int(np.prod(param.shape))
            if not name.endswith("attention.k.b"):
                assert np.abs(grad[offset : offset + size]).max() > 1e-12 * np.abs(grad).max(), name
            offset += size


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"mults": (), "attention": ()}, "level"),
        ({"blocks": 0}, "blocks"),
        ({"blocks": -1}, "blocks"),
        ({"channels": 0}, "channels"),
        ({"heads": 0}, "heads"),
        ({"groups": 0}, "groups"),
        ({"out": 0}, "out"),
        ({"mults": (1, 1.5)}, "whole"),
        ({"mults": (1, 0)}, "mults"),
        ({"mults": (1, -2)}, "mults"),
        ({"base": 32.0}, "whole"),
        ({"blocks": 2.0}, "whole"),
        ({"heads": 1.0}, "whole"),
        ({"channels": 1.0}, "whole"),
        ({"attention": (True,)}, "attention"),
        ({"attention": (True, False, True)}, "attention"),
        ({"base": 7, "groups": 1}, "even"),
        ({"base": 2, "groups": 1}, "at least 4"),
        ({"groups": 5}, "groups"),
        ({"base": 12, "mults": (2, 4), "groups": 8}, "groups"),
        ({"heads": 3}, "heads"),
        ({"heads": 3, "attention": (False, False)}, "heads"),
        ({"classes": -1}, "classes"),
        ({"classes": 1.0}, "classes"),
        ({"up_attention": (True,)}, "up_attention"),
        ({"head_dim": 5}, "head_dim"),
        ({"head_dim": 0}, "head_dim"),
        ({"head_dim": 8.0}, "head_dim"),
        ({"freq_shift": 2}, "freq_shift"),
        ({"t_offset": 0.5}, "t_offset"),
        ({"pad": "left"}, "pad"),
        ({"pad": None}, "pad"),
    ],
)
def test_a_net_that_cannot_be_built_is_refused(bad, words):
    with pytest.raises(InputError, match=words):
        UNet(**bad)


def test_sizes_that_do_not_halve_are_refused():
    net = NETS["three levels"]
    net.check_size(8, 4)
    for size in ((6, 8), (8, 6), (7, 7), (0, 8)):
        with pytest.raises(InputError):
            net.check_size(*size)
    NETS["one level"].check_size(7, 5)
