"""Several processes give the bytes of one: MPI's ranks sharing the shards of a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ranks

from tinyddpm import parallel, shards
from tinyddpm.errors import InputError
from tinyddpm.runs import checkpoint


def check_sizes(folder, processes, backend):
    """Train every case with several numbers of ranks and alone; their files must be the same."""
    code, _, err = ranks.start(processes, "-m", "support.ranks", folder, backend)
    assert code == 0, err
    for name in ranks.CASES:
        ranks.train(name, folder / name, backend)
        alone = ranks.content(folder / name)
        assert {"checkpoint.npz", "checkpoint-2.npz", "log.jsonl"} <= set(alone)
        for size in ranks.SIZES[processes]:
            assert ranks.content(folder / f"{name}-{size}") == alone, (name, size)
    theta, other = (checkpoint.load(folder / name)[0]["theta"] for name in ("points", "sum"))
    assert np.allclose(theta, other, rtol=1e-4, atol=1e-6)  # as MPI adds: the same but for rounding
    theta, other = (checkpoint.load(folder / name)[0]["theta"] for name in ("images", "early"))
    assert np.array_equal(theta, other)  # of runs with accumulation and without


def test_the_bytes_of_a_run_do_not_depend_on_the_number_of_ranks(tmp_path):
    """1, 2, 3, 4 and 6; with labels, dropout, a learned variance and accumulation too."""
    check_sizes(tmp_path, 6, "numpy")


def test_nor_do_they_on_numba(tmp_path):
    pytest.importorskip("numba")
    check_sizes(tmp_path, 3, "numba")


@pytest.mark.stress
def test_nor_do_they_with_many_ranks_on_numba(tmp_path):
    pytest.importorskip("numba")
    check_sizes(tmp_path, 6, "numba")


# What is exchanged, for more ranks than the machine has.


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 8))
def test_every_addition_is_done_once_in_its_place(each, size):
    """The ranks' own additions, then those of what they exchange, are the tree of the shards."""
    todo = parallel.plan(each * size, size)
    done = [pair for pairs in todo.local for pair in pairs] + todo.rest
    assert sorted(done) == sorted(shards.additions(each * size))
    for rank, pairs in enumerate(todo.local):
        own = range(rank * each, (rank + 1) * each)
        assert all(k in own for pair in pairs for k in pair)
        assert set(todo.heads[rank]) <= set(own)
    rng = np.random.Generator(np.random.PCG64(each + 10 * size))
    whole = list(rng.standard_normal((each * size, 3)).astype(np.float32))
    parts = [x.copy() for x in whole]
    shards.add(whole, shards.additions(len(whole)))
    for pairs in todo.local:
        shards.add(parts, pairs)
    moved = {k: parts[k] for heads in todo.heads for k in heads}
    shards.add(moved, todo.rest)
    assert np.array_equal(moved[0], whole[0])


def test_a_power_of_two_of_shards_a_rank_is_one_partial_sum():
    for size in (2, 3, 5, 6, 8):
        for each in (1, 2, 4):
            heads = parallel.plan(each * size, size).heads
            assert heads == [[rank * each] for rank in range(size)]
    assert max(map(len, parallel.plan(12, 4).heads)) == 2


ASTRAY = """
import sys
from support import ranks
from tinyddpm import parallel
from tinyddpm.training import Trainer

update = Trainer._update

def astray(self, *args):
    update(self, *args)
    self.state.theta[3] *= 1 + 1e-6

with parallel.join() as team:
    if team.rank == 1:
        Trainer._update = astray
    ranks.train("points", sys.argv[1], "numpy", team)
"""


def test_parameters_that_differ_between_ranks_are_not_saved(tmp_path):
    """One number of one rank is off in its last bits, as where a machine errs."""
    code, _, err = ranks.start(3, "-c", ASTRAY, tmp_path / "run")
    assert code == 1  # of a program with an error that it does not catch
    assert err.startswith("InputError: rank 0 and rank 1 differ in the parameters ("), err
    assert not list((tmp_path / "run").glob("checkpoint*"))


class Eight:
    """A communicator as far as it is asked: eight ranks, this one is the sixth."""

    Get_rank, Get_size, Dup = (lambda self: 5), (lambda self: 8), (lambda self: None)

    def Split_type(self, kind):
        return self


def test_shards_that_ranks_cannot_share_evenly_are_refused():
    ranks.starter()
    team = parallel.Ranks(Eight())
    assert list(team.mine(24)) == [15, 16, 17]
    for count in (2, 12):
        with pytest.raises(InputError, match=f"8 ranks cannot share {count} shards"):
            team.check(count)
    with pytest.raises(InputError, match="reduce must be one of tree, sum"):
        parallel.Ranks(Eight(), "ring")
