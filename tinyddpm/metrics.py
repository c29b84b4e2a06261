"""Sample quality against held-out data, measured on the pixels, without a feature network.

Read several together. A model that copies its training data has the best Frechet distance (the copy
ratio shows it); the mean image of each of ten classes has the best precision and density (recall
and coverage show it).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

BLOCK = 256  # rows of a distance matrix computed at a time
MEASURES = 5  # computations that `evaluate` tells of
FEWEST = 6  # images in each set that it needs: one more than its k
PAIRS = 4096  # pairs subtracted directly at a time
# below this fraction of |a|^2 + |b|^2, the expanded square has lost half its digits
CANCELLATION = 1e-6

Points = NDArray[np.float64]  # (N, D)


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of images.

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))    (Heusel17 eq. 6), squared as FID reports it

    a (N, ...), b (M, ...) -> float. Raises InputError on unequal shapes, fewer than two images, NaN
    or inf.
    """
    a, b = _flatten(a, b, fewest=2)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    # S1 S2 has the eigenvalues of the symmetric R S2 R, R = S1^(1/2); rounding may make a zero
    # negative.
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    squared = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(max(squared, 0.0))


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one.

    f(x, X) = 1 if |x - x'| <= |x' - NN_k(x')| for some x' in X    (Kynkaanniemi19 eq. 1)
    precision = mean f(fake, real), recall = mean f(real, fake)    (eq. 2)

    real (N, ...), fake (M, ...) -> (precision, recall). Raises InputError on unequal shapes, fewer
    than k + 1 images, NaN or inf.
    """
    real, fake = _flatten(real, fake, _checked_k(k) + 1)
    precision, recall = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    radius_real, radius_fake = _radius(real, k), _radius(fake, k)
    for rows, squared in _distance_blocks(real, fake):
        precision |= (squared <= radius_real[rows, None]).any(0)
        recall[rows] = (squared <= radius_fake).any(1)
    return float(precision.mean()), float(recall.mean())


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """How many real k-NN balls hold each fake, and what share of the real balls hold a fake.

    density  = 1/(k M) sum_j sum_i 1[ |fake_j - real_i| <= NND_k(real_i) ]    (Naeem20 eq. 3)
    coverage = 1/N sum_i 1[ some j has |fake_j - real_i| <= NND_k(real_i) ]    (eq. 4)

    real (N, ...), fake (M, ...) -> (density, coverage); density may pass 1. Raises InputError on
    unequal shapes, fewer than k + 1 images, NaN or inf.
    """
    real, fake = _flatten(real, fake, _checked_k(k) + 1)
    radius = _radius(real, k)
    inside = np.empty(len(real))
    for rows, squared in _distance_blocks(real, fake):
        inside[rows] = (squared <= radius[rows, None]).sum(1)
    return float(inside.sum() / (k * len(fake))), float((inside > 0).mean())


def one_nn_accuracy(a: ArrayLike, b: ArrayLike) -> float:
    """Leave-one-out accuracy of a 1-NN classifier that separates two sets: 0.5 if it cannot.

    mean over x in a and b of 1[ label(nearest other point) = label(x) ]    (LopezPaz17 eq. 2, 1-NN)

    An equidistant pair counts as half, so a copy of a point, at distance 0, favours neither set by
    its order. a (N, ...), b (M, ...) -> float. Raises InputError on unequal shapes, fewer than two
    images, NaN or inf.
    """
    a, b = _flatten(a, b, fewest=2)
    score = 0.0
    for own, other in ((a, b), (b, a)):
        # > 0: the nearest other point is of the own set
        gap = _nearest(own, other) - _radius(own, 1)
        score += np.sum(gap > 0) + 0.5 * np.sum(gap == 0)
    return float(score / (len(a) + len(b)))


def copy_ratio(samples: ArrayLike, fit: ArrayLike, held: ArrayLike) -> float:
    """How near samples are to the fitted images, relative to images that were held out.

    median |sample - NN(sample in fit)| / median |sample - NN(sample in held)|

    About 1 for a model that does not copy when the halves are alike, near 0 for copies. 0/0 counts
    as 1, c/0 as inf. samples (N, ...), fit, held (M, ...) -> float. Raises InputError on unequal
    shapes, no images, NaN or inf.
    """
    to_fit, to_held = (
        np.median(np.sqrt(_nearest(*_flatten(samples, half, fewest=1)))) for half in (fit, held)
    )
    if to_held == 0:
        return 1.0 if to_fit == 0 else float("inf")
    return float(to_fit / to_held)


def label_agreement(
    samples: ArrayLike, asked: ArrayLike, real: ArrayLike, labels: ArrayLike
) -> float:
    """How often the nearest real image has the label that the sample was asked for.

    mean over samples x of 1[ label(NN(x)) = asked ]. The classifier (1-NN on pixels) is independent
    of the network.

    Args:
        samples: images (N, ...).
        asked: the label that each was asked for, (N,).
        real: images (M, ...) of the same shape.
        labels: the label of each, (M,).

    Returns:
        The share of the samples, from 0 to 1.

    Raises:
        InputError: as by the other measures.
    """
    samples, real = _flatten(samples, real, fewest=1)
    nearest = np.concatenate([squared.argmin(1) for _, squared in _distance_blocks(samples, real)])
    return float(np.mean(np.asarray(labels)[nearest] == asked))


def evaluate(
    samples: ArrayLike,
    fit: ArrayLike,
    held: ArrayLike,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Every measure of this module in one dict, with the held-out images as the real ones; k = 5.

    samples, fit, held (N, ...) in [0, 1] -> dict of floats. progress: called MEASURES times, each
    after a part of the work. Raises InputError as the measures do.
    """
    found = {"frechet": frechet(held, samples)}
    progress()
    found["precision"], found["recall"] = precision_recall(held, samples)
    progress()
    found["density"], found["coverage"] = density_coverage(held, samples)
    progress()
    found["one_nn"] = one_nn_accuracy(held, samples)
    progress()
    found["copy_ratio"] = copy_ratio(samples, fit, held)
    progress()
    return found


def _flatten(a: ArrayLike, b: ArrayLike, fewest: int) -> tuple[Points, Points]:
    """Two sets of images as float64 (N, D) and (M, D), checked."""
    sets = []
    for images in (a, b):
        images = np.asarray(images, dtype=np.float64)
        if images.ndim < 2:
            raise InputError(f"metrics need images of shape (N, ...), got {images.shape}")
        if len(images) < fewest:
            raise InputError(
                f"metrics need at least {fewest} images in each set, got {len(images)}"
            )
        if not np.isfinite(images).all():
            raise InputError("metrics need finite images, got NaN or inf")
        sets.append(images)
    if sets[0].shape[1:] != sets[1].shape[1:]:
        raise InputError(
            f"metrics need images of one shape, got {sets[0].shape[1:]} and {sets[1].shape[1:]}"
        )
    a, b = (images.reshape(len(images), -1) for images in sets)
    return a, b


def _checked_k(k):
    if k != int(k) or k < 1:
        raise InputError(f"metrics need a whole number of neighbours, 1 or more, got k = {k}")
    return int(k)


def _distance_blocks(a, b):
    """Yield (slice of a's rows, squared distances (rows, M)), few rows at a time for memory."""
    norm_b = np.sum(b * b, axis=1)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        scale = np.sum(a[rows] ** 2, axis=1)[:, None] + norm_b
        squared = scale - 2 * (a[rows] @ b.T)
        # Near-equal images cancel: subtract those few directly, so that a copy has distance 0.
        close = np.nonzero(squared <= CANCELLATION * scale)
        for first in range(0, len(close[0]), PAIRS):
            i, j = (index[first : first + PAIRS] for index in close)
            squared[i, j] = np.sum((a[rows][i] - b[j]) ** 2, axis=1)
        yield rows, squared


def _nearest(a, b):
    """Squared distance from each of a's points to its nearest in b, (N,)."""
    return np.concatenate([squared.min(1) for _, squared in _distance_blocks(a, b)])


def _radius(a, k):
    """Squared distance from each point to its k-th nearest other point of the same set, (N,)."""
    # A point is its own nearest, at distance exactly 0, so the k-th other one stands at index k.
    return np.concatenate(
        [np.partition(squared, k, axis=1)[:, k] for _, squared in _distance_blocks(a, a)]
    )
