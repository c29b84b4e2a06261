"""training.batch_indices: which samples a step takes, from its number alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm import noise, training
from tinyddpm.errors import InputError
from tinyddpm.training import batch_indices


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**32))
def test_batches_cover_each_sample_once_an_epoch(n, batch, seed):
    steps = -(-3 * n // batch)
    batches = [batch_indices(n, batch, seed, step) for step in range(steps)]
    assert all(indices.shape == (batch,) and indices.dtype == np.int64 for indices in batches)
    epochs = np.concatenate(batches)[: 3 * n].reshape(3, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    training._epoch_order.cache_clear()
    assert np.array_equal(batch_indices(n, batch, seed, steps - 1), batches[-1])


def test_batches_follow_the_epochs_permutations():
    together = batch_indices(10, 20, seed=3, step=0)
    assert np.array_equal(together[10:], noise.permutation(10, 3, noise.ORDER, step=1))
    assert not np.array_equal(together[:10], together[10:])
    with pytest.raises(InputError, match="n and batch"):
        batch_indices(0, 1, 0, 0)
