"""The Numba backend's backward passes that add other gradients to what they give."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from support.float32 import backwards, random, spread, within

pytest.importorskip("numba")
numba_ops = importlib.import_module("tinyddpm.kernels.cpu.ops")
NUMBA = numba_ops.make("numba")


def beside(x):
    """The same values, as the second of two images joined by their channels."""
    return np.concatenate([x, x], axis=-1)[..., x.shape[-1] :]


@pytest.mark.parametrize("layout", [np.array, beside, spread, backwards])
@pytest.mark.parametrize("channels", [6, 32])
@pytest.mark.parametrize("name, shape, options", [
    ("conv2d", (3, 3), ()),
    ("conv2d", (3, 3), (2, (0, 1))),
    ("conv2d", (1, 1), (1, (0, 0))),
    ("groupnorm", (), (2,)),
    ("groupnorm_silu", (), (2,)),
], ids=str)  # fmt: skip
def test_a_backward_adds_the_inputs_gradients_from_elsewhere(
    name, shape, options, channels, layout
):
    """One, two and three of them: an addition rounds once, of numbers not above the sum of all."""
    norm = name != "conv2d"
    x = random(3, 6, 5, channels)
    more = [layout(random(*x.shape, seed=i)) for i in (5, 6, 7)]
    shape = (channels,) if norm else (*shape, channels, channels)
    p = SimpleNamespace(w=random(*shape, seed=2), b=random(channels, seed=3))
    found = []
    for count in range(4):
        tape, g = [], SimpleNamespace(w=np.zeros_like(p.w), b=np.zeros_like(p.b))
        given = (*options, tape) if norm else (tape, *options)
        y = getattr(NUMBA, name)(layout(x), p, *given)
        dy = layout(random(*y.shape, seed=4))
        found.append(getattr(NUMBA, f"{name}_backward")(dy, g, tape, *more[:count]))
        assert not tape
    size = np.abs(found[0]) + sum(map(np.abs, more))
    for count, dx in enumerate(found):
        within(dx, found[0].astype(float) + sum(map(np.float64, more[:count])), size)
