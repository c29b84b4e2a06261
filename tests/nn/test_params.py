"""The spec, the flat vector and its named windows; the first values and their statistics."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from support.checks import FALSE_ALARM

from tinyddpm.nn import params
from tinyddpm.nn.unet import UNet

SPEC = {
    "first": params.linear(2, 3),
    "blocks": [
        {"conv": params.conv(3, 2, 4), "short": None},
        {"conv": params.conv(1, 4, 2), "short": params.norm(5)},
    ],
    "last": params.linear(3, 2, gain=0.0),
}
NAMES = {
    "first.w": (2, 3),
    "first.b": (3,),
    "blocks.0.conv.w": (3, 3, 2, 4),
    "blocks.0.conv.b": (4,),
    "blocks.1.conv.w": (1, 1, 4, 2),
    "blocks.1.conv.b": (2,),
    "blocks.1.short.w": (5,),
    "blocks.1.short.b": (5,),
    "last.w": (3, 2),
    "last.b": (2,),
}


def test_names_shapes_and_size_in_order():
    assert [(name, param.shape) for name, param in params.named(SPEC)] == list(NAMES.items())
    assert params.size(SPEC) == sum(math.prod(shape) for shape in NAMES.values())


def test_views_are_windows_in_the_same_order():
    flat = np.arange(params.size(SPEC), dtype=np.float64)
    tree = params.views(SPEC, flat)
    assert isinstance(tree, SimpleNamespace) and isinstance(tree.blocks, list)
    assert tree.blocks[0].short is None
    offset = 0
    for name, shape in NAMES.items():
        node = tree
        for key in name.split("."):
            node = node[int(key)] if key.isdigit() else getattr(node, key)
        assert node.shape == shape
        assert np.shares_memory(node, flat)
        expected = np.arange(offset, offset + node.size)
        assert np.array_equal(node.ravel(), expected), name
        node += 1
        assert np.array_equal(flat[offset : offset + node.size], expected + 1), name
        offset += node.size
    assert offset == flat.size


@pytest.mark.parametrize("shape", [(0,), (112,), (114,), (1, 113), (113, 1)])
def test_a_vector_of_another_size_is_refused(shape):
    assert params.size(SPEC) == 113
    with pytest.raises(ValueError, match="the spec holds 113"):
        params.views(SPEC, np.zeros(shape))


@pytest.mark.parametrize(
    "spec, fan",
    [
        ({"linear": params.linear(200, 300)}, 250),
        ({"conv": params.conv(3, 40, 80)}, 9 * 60),
        ({"conv": params.conv(1, 300, 100)}, 200),
        ({"half": params.linear(200, 300, gain=0.5)}, 500),
    ],
)
def test_first_weights_are_uniform_with_variance_gain_over_mean_fan(spec, fan):
    """Each of the four cases draws 3 tests: false alarms below 1.2e-5 in all."""
    n = next(math.prod(param.shape) for _, param in params.named(spec))
    theta = params.init(spec, seed=5)
    w, b = theta[:n].astype(np.float64), theta[n:]
    bound = math.sqrt(3 / fan)  # a uniform's variance is bound^2 / 3
    assert theta.dtype == np.float32
    assert np.abs(w).max() <= bound * (1 + 1e-7)
    assert not b.any()
    limit = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(w.mean()) < limit * bound / math.sqrt(3 * n)
    assert abs((w**2).mean() - 1 / fan) < limit * bound**2 * math.sqrt(4 / 45 / n)
    assert stats.kstest(w / bound, stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


def test_norms_start_at_one_and_last_layers_at_zero():
    tree = params.views(SPEC, params.init(SPEC))
    assert np.all(tree.blocks[1].short.w == 1) and not tree.blocks[1].short.b.any()
    assert not tree.last.w.any() and not tree.last.b.any()
    assert tree.first.w.all() and tree.blocks[0].conv.w.all()


def test_first_values_depend_on_the_seed_and_the_parameter_alone():
    a, again, b = (params.init(SPEC, seed) for seed in (1, 1, 2))
    assert np.array_equal(a, again)
    tree, other = params.views(SPEC, a), params.views(SPEC, b)
    assert not np.any(tree.first.w == other.first.w)
    same = params.init({"a": params.linear(8, 8), "b": params.linear(8, 8)})
    assert not np.any(same[:64] == same[72:136]), "two layers start alike"
    near_double = params.init(SPEC, 1, np.float64)
    assert near_double.dtype == np.float64
    assert np.array_equal(near_double.astype(np.float32), a)


def test_the_unets_spec_gives_every_name_once():
    net = UNet()
    names = [name for name, _ in params.named(net.spec())]
    assert len(set(names)) == len(names)
    assert {
        "time1.w",
        "conv_in.b",
        "down.0.blocks.1.norm2.w",
        "mid.first.attention.q.w",
        "up.0.resize.w",
    } <= set(names)
