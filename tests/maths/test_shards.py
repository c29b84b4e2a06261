"""A batch in shards: each sample in one shard, and gradients added in an order that is fixed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm import schedule, shards
from tinyddpm.nn.mlp import MLP
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

S = schedule.cosine(50)
NET = MLP(hidden=8, layers=1)
POINTS = np.linspace(-0.9, 0.9, 22, dtype=np.float32).reshape(11, 2)


def trainer(batch, parts):
    """A fresh run on eleven points."""
    recipe = Recipe(steps=9, batch=batch, shards=parts, levels=0)
    return Trainer(NET, S, POINTS, recipe, TrainState.fresh(NET, 0))


@given(st.integers(1, 50), st.integers(1, 60))
def test_each_sample_is_in_one_shard_and_none_is_empty(batch, count):
    parts = shards.cuts(batch, count)
    assert len(parts) == min(batch, count)
    assert [i for part in parts for i in range(batch)[part]] == list(range(batch))
    sizes = [part.stop - part.start for part in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 40))
def test_every_part_is_added_once_and_the_tree_is_no_deeper_than_it_must_be(count):
    tree = shards.additions(count)
    assert sorted(j for _, j in tree) == list(range(1, count))
    depth = [0] * count
    for i, j in tree:
        depth[i] = 1 + max(depth[i], depth[j])
    assert depth[0] == (count - 1).bit_length()
    parts = [np.array([Fraction(1, k + 1)]) for k in range(count)]  # exact: any order is right
    shards.add(parts, tree)
    assert parts[0][0] == sum(Fraction(1, k + 1) for k in range(count))


def test_neighbours_are_added_first():
    """Written out for six parts; for two it is the one sum there is."""
    assert shards.additions(6) == [(0, 1), (2, 3), (4, 5), (0, 2), (0, 4)]
    assert shards.additions(2) == [(0, 1)] and shards.additions(1) == []
    a, b, c, d = np.float32([1, 2**24, 1, -(2**24)]).reshape(4, 1)
    parts = [x.copy() for x in (a, b, c, d)]
    shards.add(parts, shards.additions(4))
    assert parts[0] == (a + b) + (c + d) != ((a + b) + c) + d


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_the_shards_of_a_batch_add_up_to_its_gradient(parts):
    """The gradient of a batch does not depend on its shards, but for rounding in float32."""
    whole, cut = trainer(8, 1), trainer(8, parts)
    records = [each.step() for each in (whole, cut)]
    assert len(cut.grads) == parts
    assert np.allclose(cut.grads[0], whole.grads[0], rtol=1e-4, atol=1e-6)
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-5)
    assert np.abs(whole.grads[0]).max() > 1e-2


def test_a_shard_computed_elsewhere_is_not_computed_here():
    """A team takes the middle two of four shards here and has the others from somewhere else."""
    alone, split = trainer(8, 4), trainer(8, 4)
    numbers = alone._numbers(1, 0.0)
    alone._make_room(range(4))
    losses = [alone._part(numbers, i) for i in range(4)]
    elsewhere = {i: alone.grads[i].copy() for i in (0, 3)}

    class Half(shards.Alone):
        def mine(self, count):
            assert count == 4
            return range(1, 3)

        def total(self, grads, found):
            assert list(grads) == [1, 2] and found == losses[1:3]
            return super().total(grads | elsewhere, losses)

    record = split.step(team=Half())
    assert record == alone.step() and list(split.grads) == [1, 2]
    for name, vector in alone.state.arrays().items():
        assert np.array_equal(split.state.arrays()[name], vector)


@pytest.mark.filterwarnings("error")
def test_gradients_that_are_not_finite_are_added_in_silence():
    """Who reads the sum sees it, and says so in its own words."""
    parts = [np.array([np.inf, 3e38], np.float32), np.array([-np.inf, 3e38], np.float32)]
    shards.add(parts, shards.additions(2))
    assert np.isnan(parts[0][0]) and np.isposinf(parts[0][1])
