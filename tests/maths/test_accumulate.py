"""Large batches in turns, and images shown mirrored."""

import dataclasses

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm import shards, training
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

NET = td.UNet(base=4, groups=2, blocks=1, mults=(1, 2), attention=(False, True))
X = np.random.Generator(np.random.PCG64(3)).uniform(-1, 1, (24, 4, 4, 1)).astype(np.float32)
RECIPE = Recipe(steps=20, batch=12, lr=1e-2, warmup=0, seed=5)


def trainer(**changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    return Trainer(NET, td.cosine(50), X, recipe, TrainState.fresh(NET, recipe.seed))


@pytest.mark.parametrize(
    "count, turns, most", [(8, 4, 4), (8, 8, 4), (6, 3, 4), (5, 2, 4), (12, 4, 5), (3, 9, 3)]
)
def test_turns_give_the_bits_of_one_and_hold_fewer_gradients(count, turns, most):
    """Over three steps, so that room is used again: by hand, a tree of neighbours needs no more."""
    one, many = trainer(shards=count), trainer(shards=count, accumulate=turns)
    for _ in range(3):
        assert one.step() == many.step()
        assert np.array_equal(one.state.theta, many.state.theta)
        assert np.array_equal(one.state.ema, many.state.ema)
    assert len(one.grads) == count and len(many.grads) + len(many.spare) <= most


def test_turns_equal_the_large_batch_to_rounding():
    one, many = trainer(shards=1), trainer(shards=4, accumulate=4)
    losses = [[each.step()["loss"] for _ in range(3)] for each in (one, many)]
    assert np.allclose(*losses, rtol=1e-5)


def test_without_shards_there_are_as_many_more():
    model = td.train(X, steps=2, net=NET, batch=12, accumulate=3)
    again = td.train(X, steps=2, net=NET, batch=12, shards=6)
    assert model.meta["recipe"]["shards"] == 6 and np.array_equal(model.theta, again.theta)


def test_no_addition_is_ready_before_its_parts():
    for count in range(1, 20):
        tree, seen = shards.additions(count), []
        for done in range(1, count + 1):
            now = [pair for pair in shards.ready(tree, count, done) if pair not in seen]
            standing = {j for _, j in seen}
            assert all(max(pair) < done and not standing & {*pair} for pair in now)
            seen += now
        assert sorted(seen) == sorted(tree)


def test_half_of_the_images_are_mirrored(monkeypatch):
    """The false alarm is at most 1e-6: 4,000 coins, 2,000 give or take 155."""
    flips = np.concatenate([training.draw_flips(40, 1, step) for step in range(100)])
    assert flips.dtype == bool and abs(flips.sum() - 2000) < 155
    seen = []

    def look(ops, net, p, g, s, batch, objective):
        seen.append(batch)
        return np.float32(0)

    monkeypatch.setattr(training, "loss_and_grad", look)
    for flip in (False, True):
        made = trainer(flip=flip, shards=3)
        made.step()
        rows = training.batch_indices(len(X), 12, RECIPE.seed, 0)
        want, batches = X[rows].copy(), seen[-3:]
        mirrored = training.draw_flips(12, RECIPE.seed, 1)
        assert 0 < mirrored.sum() < 12
        if flip:
            want[mirrored] = want[mirrored][..., ::-1, :]
        assert np.array_equal(np.concatenate([each.x0 for each in batches]), want)
        # the noise is that of an image that is not
        xt = td.q_sample(made.schedule, want[:4], batches[0].t, batches[0].eps)
        assert np.allclose(batches[0].xt, xt, atol=1e-6)


def test_points_have_no_left_and_right():
    with pytest.raises(td.InputError, match="flip"):
        td.train(np.zeros((4, 2)), steps=1, flip=True)


def test_a_small_colour_set_is_learned():
    """Pictures that are red on the left: so are its samples, to an eighth of the range."""
    rng = np.random.Generator(np.random.PCG64(0))
    data = np.full((32, 4, 4, 3), -0.8)
    data[:, :, :2, 0] = 0.8
    data += 0.1 * rng.standard_normal(data.shape)
    net = td.UNet(channels=3, base=8, groups=4, blocks=1, mults=(1, 2), attention=(False, True))
    data, how = data.clip(-1, 1).astype(np.float32), {"batch": 16, "lr": 6e-3, "dropout": 0.1}
    model = td.train(data, 120, net=net, warmup=10, ema=0.9, **how)
    x = td.sample(model, 16, steps=10)
    left, right = x[:, :, :2].mean(axis=(0, 1, 2)), x[:, :, 2:].mean(axis=(0, 1, 2))
    assert np.abs(left - [0.8, -0.8, -0.8]).max() < 0.25
    assert np.abs(right - [-0.8, -0.8, -0.8]).max() < 0.25
