"""A training process is killed at random moments, and nothing is lost.

Thirty kills run with the suite; `pytest -m stress` kills 200 times, `--kills N` as often as asked.
"""

import sys

import pytest
from support import kills

linux = pytest.mark.skipif(sys.platform != "linux", reason="the ranks are found in /proc")


def check(folder, times, backend, several=False):
    """Every check but these is in `kills.campaign`, which raises where something is lost."""
    found = kills.campaign(folder, times, backend=backend, several=several)
    assert found["damaged"] == times // kills.EVERY
    # A round of damage waits until two checkpoints are there, so the run has made steps.
    assert found["steps"] > 5
    print(f"{times} kills on {backend}: {found}")


def test_thirty_kills_lose_nothing(tmp_path):
    check(tmp_path, 30, "numpy")


@pytest.mark.stress
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_many_kills_lose_nothing(tmp_path, request, backend):
    if backend == "numba":
        pytest.importorskip("numba")
    check(tmp_path, request.config.getoption("--kills"), backend)


@linux
def test_three_kills_of_one_of_three_ranks_lose_nothing(tmp_path):
    """The run that three ranks began goes on alone in the end, to the same bytes."""
    found = kills.campaign(tmp_path, 3, seed=1, several=True)
    assert found["steps"] >= 5


@linux
@pytest.mark.stress
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_many_kills_of_one_of_three_ranks_lose_nothing(tmp_path, request, backend):
    check(tmp_path, request.config.getoption("--kills"), backend, several=True)


def test_a_lost_checkpoint_is_noticed(tmp_path):
    """The checks themselves: no checkpoint where there was one, an earlier one, none in time."""
    with pytest.raises(kills.Lost, match="the checkpoint of step 8 is gone"):
        kills.newest_step(tmp_path, 8, None)
    kills.run.train(kills.POINTS, 4, out=tmp_path / "parts", **kills.SETTINGS)
    with pytest.raises(kills.Lost, match="was at step 6 and is now at step 4"):
        kills.newest_step(tmp_path / "parts", 6, None)
    (tmp_path / "parts" / "left-behind").touch()
    with pytest.raises(kills.Lost, match="left-behind"):
        kills.compare_with_whole(tmp_path, 5, "numpy")


def test_a_child_that_fails_by_itself_is_noticed(tmp_path):
    with pytest.raises(kills.Lost, match="did not start"):
        kills.kill_once(tmp_path / "parts", 0, "abacus")
