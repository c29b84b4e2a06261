"""The statistics of the noise: distribution, moments, correlation.

Every test has a fixed seed and a limit that a correct generator passes but for one time in a
million, unless it says otherwise because it makes many comparisons.
"""

import numpy as np
import pytest
from scipy import stats
from support.checks import FALSE_ALARM

from tinyddpm import noise

Z_LIMIT = stats.norm.isf(FALSE_ALARM / 2)
ONES = 0xFFFFFFFF


AXES = {
    "elements": lambda: noise.normal((1, 400_000), seed=3).ravel(),
    "samples": lambda: noise.normal((400_000,), seed=3),
    "steps": lambda: np.concatenate([noise.normal((100,), seed=3, step=t) for t in range(2000)]),
    "purposes": lambda: np.concatenate(
        [noise.normal((100,), seed=3, purpose=p) for p in range(2000)]
    ),
    "seeds": lambda: np.concatenate([noise.normal((100,), seed=i) for i in range(2000)]),
    "high words of seeds": lambda: np.concatenate(
        [noise.normal((100,), seed=i << 32) for i in range(2000)]
    ),
}


@pytest.mark.parametrize("axis", AXES)
def test_normals_are_normal_along(axis):
    z = AXES[axis]().astype(np.float64)
    assert stats.kstest(z, "norm").pvalue > FALSE_ALARM
    # E z^k and Var z^k of N(0, 1): 0, 1, 0, 3 and 1, 2, 15, 96.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - mean) < Z_LIMIT * np.sqrt(variance / z.size)


@pytest.mark.parametrize("lane", range(4))
def test_each_of_the_four_lanes_is_normal(lane):
    z = noise.normal((100_000, 4), seed=5)[:, lane]
    assert stats.kstest(z, "norm").pvalue > FALSE_ALARM


NEIGHBOURS = {
    "elements": {},
    "samples": {"first_sample": 1},
    "far samples": {"first_sample": 2**16},
    "steps": {"step": 1},
    "purposes": {"purpose": noise.REVERSE},
    "seeds": {"seed": 10},
    "high words of seeds": {"seed": 9 + 2**32},
}


@pytest.mark.parametrize("by", NEIGHBOURS)
def test_neighbours_are_uncorrelated(by):
    # Both the values and their squares, at every offset of up to 8 elements: 34 correlations of
    # mean 0 and variance 1 / n, each beyond its limit by chance once in a million: false alarms
    # below 4e-5.
    one = noise.normal((20_000, 16), seed=9).astype(np.float64)
    two = noise.normal((20_000, 16), **{"seed": 9} | NEIGHBOURS[by]).astype(np.float64)
    for offset in range(-8, 9):
        if by == "elements" and offset == 0:
            continue
        a, b = (
            one[:, max(0, -offset) : 16 - max(0, offset)],
            two[:, max(0, offset) : 16 + min(0, offset)],
        )
        for x, y in ((a, b), (a**2, b**2)):
            assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) * np.sqrt(x.size) < Z_LIMIT


def test_pairs_fill_the_plane_evenly():
    # The two members of a Box-Muller pair: angle uniform, radius squared exponential, and
    # independent.
    x, y = noise.normal((200_000, 2), seed=4).astype(np.float64).T
    square, turn = 1 - np.exp(-(x**2 + y**2) / 2), np.arctan2(y, x) / (2 * np.pi) + 0.5
    assert stats.kstest(square, "uniform").pvalue > FALSE_ALARM
    assert stats.kstest(turn, "uniform").pvalue > FALSE_ALARM
    assert (
        stats.chisquare(np.histogram2d(square, turn, 10, [[0, 1], [0, 1]])[0].ravel()).pvalue
        > FALSE_ALARM
    )


def test_every_bit_is_a_fair_coin():
    # 32 coins of 100,000 throws: false alarms below 4e-5.
    found = noise.bits((100_000,), seed=6)
    assert found.max() < 2**32
    for bit in range(32):
        heads = np.count_nonzero(found >> np.uint64(bit) & np.uint64(1))
        assert abs(heads - 50_000) < Z_LIMIT * np.sqrt(25_000)


def test_uniform_is_uniform_and_open(monkeypatch):
    u = noise.uniform((200_000,), seed=7)
    assert stats.kstest(u, "uniform").pvalue > FALSE_ALARM
    monkeypatch.setattr(noise, "bits", lambda shape, *key: np.array([0, ONES], np.uint64))
    low, high = noise.uniform((2,))
    assert 0 < low < high < 1


@pytest.mark.parametrize("high", [1, 2, 3, 10, 1000])
def test_integers_are_uniform(high):
    found = noise.integers((50_000,), high, seed=8)
    assert found.min() >= 0
    assert found.max() < high
    if high > 1:
        assert stats.chisquare(np.bincount(found, minlength=high)).pvalue > FALSE_ALARM


def test_permutations_are_uniform():
    # All 24 orders of 4, over 4800 steps.
    codes = [
        int("".join(map(str, noise.permutation(4, seed=2, step=step)))) for step in range(4800)
    ]
    _, counts = np.unique(codes, return_counts=True)
    assert counts.size == 24
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
