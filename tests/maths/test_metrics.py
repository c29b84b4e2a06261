"""The measures of sample quality, on cases one can work by hand, against a peer, and on known
cheats.
"""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from tinyddpm import metrics
from tinyddpm.errors import InputError

DIGITS = Path(metrics.__file__).parent / "datasets" / "digits.npz"


@pytest.fixture(scope="module")
def halves():
    """(fit, held, labels of fit): a stratified half split of the digits, in [0, 1]."""
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels = file["images"] / 16.0, file["labels"]
    rng = np.random.default_rng(0)
    fit, held = [], []
    for label in range(10):
        index = rng.permutation(np.flatnonzero(labels == label))
        fit.append(index[: len(index) // 2])
        held.append(index[len(index) // 2 :])
    fit, held = np.concatenate(fit), np.concatenate(held)
    return images[fit], images[held], labels[fit]


def line(*x):
    return np.array(x, float)[:, None]


def test_the_embedded_digits():
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 16
    assert labels.shape == (1797,) and labels.dtype == np.uint8
    # UCI's own count of each digit in its test set
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


# --- Frechet distance ---


def test_frechet_in_one_dimension():
    # Two Gaussians on a line: (m1 - m2)^2 + (s1 - s2)^2. Samples of variance 2 and 8, means 1 and
    # 4.
    assert metrics.frechet(line(0, 2), line(2, 6)) == pytest.approx(9 + 2, rel=1e-12)


def test_frechet_of_a_shift_is_its_squared_length():
    a = np.random.default_rng(1).normal(size=(50, 3, 2))
    assert metrics.frechet(a, a + 0.5) == pytest.approx(6 * 0.25, rel=1e-10)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [20, 400])  # 20 images in 30 dimensions: singular covariances
def test_frechet_agrees_with_scipy_sqrtm(n):
    rng = np.random.default_rng(2)
    a = rng.normal(size=(n, 30)) @ rng.normal(size=(30, 30))
    b = rng.normal(size=(n, 30)) @ rng.normal(size=(30, 30)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    peer = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real
    )
    # A square root halves the digits of a zero eigenvalue: 1e-8 relative where the covariances are
    # singular.
    assert metrics.frechet(a, b) == pytest.approx(peer, rel=1e-10 if n > 30 else 1e-6)
    assert metrics.frechet(a, b) == pytest.approx(
        metrics.frechet(b, a), rel=1e-10 if n > 30 else 1e-6
    )


# --- neighbours ---


def test_precision_recall_by_hand():
    real, fake = line(0, 1, 2, 10), line(0.5, 2.9, 30, 31)
    # k = 1 radii: real 1, 1, 1, 8; fake 2.4, 2.4, 1, 1.
    # Inside a real ball: 0.5 and 2.9 are, 30 and 31 are not.
    # Inside a fake ball: 0, 1 and 2 lie in [-1.9, 2.9] or [0.5, 5.3]; 10 in none.
    assert metrics.precision_recall(real, fake, k=1) == (0.5, 0.75)


def test_density_coverage_by_hand():
    real, fake = line(0, 1, 2, 10), line(0.5, 2.9, 30, 31)
    # Balls [-1, 1], [0, 2], [1, 3], [2, 18] hold 1, 1, 1 and 1 fakes: density 4 / (1 * 4), all
    # balls covered.
    assert metrics.density_coverage(real, fake, k=1) == (1.0, 1.0)
    # Twice 0.5: the first two balls hold both fakes, so 4 / (1 * 2), and half of the balls are
    # covered.
    assert metrics.density_coverage(real, line(0.5, 0.5), k=1) == (2.0, 0.5)
    assert metrics.density_coverage(real, line(50, 60), k=1) == (0.0, 0.0)


def test_one_nn_by_hand():
    assert metrics.one_nn_accuracy(line(0, 1, 2), line(10, 11, 12)) == 1.0
    # 0 and 4 see each other's set first (1 and 3); each of 1 and 3 sees 0 or 4: all four are
    # misjudged.
    assert metrics.one_nn_accuracy(line(0, 4), line(1, 3)) == 0.0
    # Each point has a copy in the other set and none in its own: misjudged, so 0.
    assert metrics.one_nn_accuracy(line(0, 1, 2), line(0, 1, 2)) == 0.0
    # 1 is as far from 0 (its own set) as from 2 (the other): half; 0 is right, 2 is wrong, 9 is
    # right.
    assert metrics.one_nn_accuracy(line(0, 1), line(2, 9)) == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_copy_ratio_by_hand():
    assert metrics.copy_ratio(line(1, 2, 5), line(0), line(9)) == pytest.approx(2 / 7)
    assert metrics.copy_ratio(line(0, 9), line(0, 9), line(3)) == 0.0
    assert metrics.copy_ratio(line(3), line(0), line(3)) == math.inf
    assert metrics.copy_ratio(line(3), line(3), line(3)) == 1.0


def test_distances_agree_with_subtraction_and_copies_are_at_zero():
    # Far from the origin the expanded square cancels: 1e3 away, gaps of 1e-3 would drown in its
    # rounding.
    rng = np.random.default_rng(3)
    a = 1e3 + rng.normal(size=(300, 5))
    b = np.concatenate([a[:7], a[:7] + 1e-3, 1e3 + rng.normal(size=(20, 5))])
    squared = np.concatenate([d for _, d in metrics._distance_blocks(a, b)])
    expected = np.sum((a[:, None] - b) ** 2, axis=2)
    assert np.all(squared[np.arange(7), np.arange(7)] == 0)
    # What stays expanded is over 1e-6 of the norms' sum; 10 ulp (2e-15) of that sum is 1e-8 of the
    # value.
    np.testing.assert_allclose(squared, expected, rtol=1e-8)


# --- on digits: what each measure can and cannot see ---


def test_a_memoriser_wins_everything_but_the_copy_ratio(halves):
    fit, held, _ = halves
    result = metrics.evaluate(fit, fit, held)
    assert result["copy_ratio"] == 0 and result["frechet"] < 0.1
    assert min(result["precision"], result["recall"], result["coverage"]) > 0.9
    assert metrics.copy_ratio(held, fit, held) == math.inf


def test_ten_class_means_win_precision_and_density_only(halves):
    fit, held, labels = halves
    means = np.repeat([fit[labels == label].mean(0) for label in range(10)], 90, axis=0)
    result, honest = metrics.evaluate(means, fit, held), metrics.evaluate(fit, fit, held)
    assert result["precision"] > honest["precision"] and result["density"] > 2 * honest["density"]
    assert result["recall"] < 0.05 and result["coverage"] < 0.5 and result["one_nn"] > 0.9
    assert result["frechet"] > 10 * honest["frechet"]


def test_one_nn_of_one_distribution_is_a_half():
    # 1,000 answers, of which mutual neighbours repeat each other: variance at most twice the
    # binomial's, a standard deviation of 0.0224. The bound is 4 of them: one false alarm in 16,000
    # seeds (fixed here).
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 500, 10))
    assert abs(metrics.one_nn_accuracy(a, b) - 0.5) < 4 * math.sqrt(2 * 0.25 / 1000)
    assert metrics.one_nn_accuracy(a, b + 1) > 0.5 + 4 * math.sqrt(2 * 0.25 / 1000)


def test_evaluate_measures_against_the_held_out_half(halves):
    fit, held, _ = halves
    samples = (fit[:200] + fit[1:201]) / 2
    result = metrics.evaluate(samples, fit, held)
    assert list(result) == [
        "frechet",
        "precision",
        "recall",
        "density",
        "coverage",
        "one_nn",
        "copy_ratio",
    ]
    assert all(type(value) is float for value in result.values())
    assert result["frechet"] == metrics.frechet(held, samples)
    assert (result["precision"], result["recall"]) == metrics.precision_recall(held, samples, k=5)
    assert (result["density"], result["coverage"]) == metrics.density_coverage(held, samples, k=5)
    assert result["one_nn"] == metrics.one_nn_accuracy(held, samples)
    assert result["copy_ratio"] == metrics.copy_ratio(samples, fit, held)


@pytest.mark.parametrize(
    "measure, fewest",
    [
        (metrics.frechet, 2),
        (metrics.precision_recall, 6),
        (metrics.density_coverage, 6),
        (metrics.one_nn_accuracy, 2),
    ],
)
def test_bad_input_is_refused(measure, fewest):
    good = np.random.default_rng(5).random((fewest, 2, 2))
    measure(good, good)
    broken = good.copy()
    broken[0, 0, 0] = np.nan
    for bad in (good[1:], broken, good[:, :1], good[:, 0, 0]):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(InputError):
                measure(*pair)


def test_bad_neighbour_counts_and_empty_sets_are_refused():
    for k in (0, 1.5, -1):
        with pytest.raises(InputError, match="neighbours"):
            metrics.precision_recall(np.eye(9), np.eye(9), k=k)
    with pytest.raises(InputError, match="at least 1"):
        metrics.copy_ratio(np.empty((0, 3)), np.eye(3), np.eye(3))


def test_identical_images_need_no_more_memory_than_a_block():
    # All-black images are all cancellation: the direct subtraction must not build (N, M, D) at
    # once.
    black = np.zeros((300, 14, 14))
    tracemalloc.start()
    assert metrics.precision_recall(black, black) == (1.0, 1.0)
    assert metrics.one_nn_accuracy(black, black) == 0.5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # 256 * 300 * 196 * 8 bytes would be 120 MB
