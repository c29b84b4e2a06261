"""Counts of a network's numbers, without its spec, against the spec and a true forward pass."""

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.nn import params, sizes
from tinyddpm.nn.ops import Ops, Recompute

NETS = [
    (td.MLP(dim=3, hidden=8, layers=1), (3,)),
    (td.MLP(dim=2, hidden=6, layers=7, classes=3, out=4), (2,)),
    (td.UNet(base=8, mults=(1,), blocks=1, groups=4, attention=(False,)), (5, 3, 1)),
    (td.UNet(3, 8, (1, 2, 3), blocks=4, groups=4, attention=(True, False, True)), (8, 4, 3)),
    (td.UNet(1, 8, (2, 1), blocks=2, groups=4, classes=2), (4, 4, 1)),
]


class Counted(list):
    """A tape that counts the numbers of the arrays put on it."""

    count = 0

    def append(self, item):
        for part in item if isinstance(item, tuple) else (item,):
            self.count += getattr(part, "size", 0)


@pytest.mark.parametrize("net, shape", NETS)
def test_parameters_are_those_of_the_spec(net, shape):
    assert sizes.parameters(net) == params.size(net.spec())


class CountedBlocks(Counted, Recompute):
    """The same of the tape on which a block leaves its input."""


@pytest.mark.parametrize("net, shape", NETS[2:])
def test_a_tape_of_blocks_keeps_their_inputs(net, shape):
    """Those, and the inputs of the few convolutions between them."""
    theta, x = params.init(net.spec()), np.zeros((6, *shape), np.float32)
    counts = []
    for tape in (CountedBlocks(), Counted()):
        net.forward(Ops(), params.views(net.spec(), theta), x, np.ones(6, np.int64), tape)
        counts.append(tape.count / 6)
    assert sizes.kept(net, shape, recompute=True) <= counts[0] < 0.5 * counts[1]


@pytest.mark.parametrize("net, shape", NETS)
def test_a_tape_keeps_at_least_what_is_counted_and_not_many_times_more(net, shape):
    theta, tape = params.init(net.spec()), Counted()
    x = np.zeros((6, *shape), np.float32)
    net.forward(Ops(), params.views(net.spec(), theta), x, np.ones(6, np.int64), tape)
    assert sizes.kept(net, shape) <= tape.count / 6 < 30 * sizes.kept(net, shape) + 3 * theta.size


def test_a_depth_that_no_spec_could_hold_is_counted():
    """(in, hidden, out) = (2, 4, 2): 12 + 20 + 10 and 60 for each layer, worked out by hand."""
    assert sizes.parameters(td.MLP(hidden=4, layers=10**12)) == 42 + 60 * 10**12
    assert sizes.parameters(td.UNet(base=8, blocks=10**12)) > 10**12
