"""A training process is killed thirty times at random moments; the long form is `python -m
benchmarks.kill`.
"""

from benchmarks import kill


def test_thirty_kills_lose_nothing(tmp_path):
    """Every check is in `kill.campaign`; that kills did fall into saves and damage was done is
    checked here.
    """
    found = kill.campaign(tmp_path, 30)
    assert found["damaged"] >= 1 and found["steps"] > 5
