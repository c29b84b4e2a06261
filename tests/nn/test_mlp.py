"""The multilayer perceptron: its formula, its gradients and what every net promises."""

import numpy as np
import pytest
from support.gradients import (
    OPS,
    Labelled,
    check_net,
    check_net_habits,
    near,
    random_theta,
    run_net,
)

from tinyddpm.errors import InputError
from tinyddpm.nn import params
from tinyddpm.nn.mlp import MLP

T_OF_SAMPLE = np.array([1, 17, 400, 999, 1000])


def points(dim=2):
    return np.random.Generator(np.random.PCG64(1)).standard_normal((len(T_OF_SAMPLE), dim))


def silu(x):
    return x / (1 + np.exp(-x))


def test_output_is_the_formula():
    net, x = MLP(dim=2, hidden=6, layers=2), points()
    theta = random_theta(net)
    p = params.views(net.spec(), theta)
    e = silu(OPS.time_embedding(T_OF_SAMPLE, 6, np.float64) @ p.time.w + p.time.b)
    h = x @ p.input.w + p.input.b
    for block in p.blocks:
        u = h @ block.a.w + block.a.b + e @ block.time.w + block.time.b
        h = h + silu(u) @ block.b.w + block.b.b
    near(run_net(net, theta, x, T_OF_SAMPLE, []), silu(h) @ p.output.w + p.output.b)


@pytest.mark.parametrize(
    "net", [MLP(), MLP(dim=3, hidden=4, layers=1), MLP(dim=1, hidden=10, layers=2)]
)
def test_gradients_and_habits(net):
    check_net(net, points(net.dim), T_OF_SAMPLE)
    check_net_habits(net, points(net.dim))


def test_gradients_with_labels():
    net = MLP(dim=2, hidden=6, layers=2, classes=3, out=4)
    check_net(Labelled(net, np.array([0, 2, 2, -1, 1])), points(), T_OF_SAMPLE)


def test_no_label_is_the_label_minus_one_and_each_class_says_something_else():
    net, x = MLP(hidden=6, layers=1, classes=3), points()
    theta, outputs = random_theta(net), []
    for label in (-1, 0, 1, 2):
        outputs.append(run_net(Labelled(net, np.full(len(x), label)), theta, x, T_OF_SAMPLE, []))
        near(run_net(Labelled(net, np.array([label])), theta, x, T_OF_SAMPLE, []), outputs[-1])
    near(run_net(net, theta, x, T_OF_SAMPLE, []), outputs[0])
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(outputs) for b in outputs[:i])


def test_starts_at_zero():
    net = MLP()
    assert not run_net(
        net, params.init(net.spec()), points().astype(np.float32), T_OF_SAMPLE, []
    ).any()


@pytest.mark.parametrize(
    "bad",
    [
        {"hidden": 7},
        {"hidden": 2},
        {"hidden": 8.0},
        {"dim": 0},
        {"layers": -1},
        {"classes": -1},
        {"classes": 2.5},
        {"out": 0},
    ],
)
def test_refuses_what_cannot_be_built(bad):
    with pytest.raises(InputError):
        MLP(**bad)
