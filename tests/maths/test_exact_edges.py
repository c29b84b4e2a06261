"""The closed forms where they could break: clean data, alpha_bar = 0, far away, other dtypes,
blocks, bad input.
"""

import tracemalloc

import numpy as np
import pytest
from support.checks import close
from support.exact_checks import KINDS, POINTS, answers, check_density, gaussian, grid, points

import tinyddpm as td
from tinyddpm import exact, noise
from tinyddpm.datasets import sets as data
from tinyddpm.errors import InputError
from tinyddpm.exact import Gaussian, GaussianMixture, PointSet

S = td.linear(50)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# --- edges


@every_kind
def test_where_alpha_bar_is_0_x_t_says_nothing_of_x_0(kind):
    s = td.linear(20).zero_terminal_snr()
    case = kind(s)
    x = np.random.Generator(np.random.PCG64(1)).standard_normal((6, case.means.shape[1]))
    np.testing.assert_allclose(
        case.model.x0_hat(x, 20), np.tile(case.weights @ case.means, (6, 1)), atol=1e-15
    )
    np.testing.assert_allclose(case.model(x, 20), x, atol=1e-15)
    check_density(case, x, 20, case.model.log_density)


@every_kind
def test_clean_data_needs_no_denoising(kind):
    case = kind(S)
    x = case.means + 0.1
    np.testing.assert_array_equal(case.model(x, 0), np.zeros_like(x))
    np.testing.assert_array_equal(case.model.x0_hat(x, 0), x)
    np.testing.assert_array_equal(case.model.vjp(x, 0, x)[1], np.zeros_like(x))


@pytest.mark.parametrize("kind", ["singular", "points"])
@pytest.mark.parametrize("method", ["log_density", "score"])
def test_clean_data_on_fewer_dimensions_has_no_density(kind, method):
    case = KINDS[kind](S)
    with pytest.raises(InputError, match="at t = 0"):
        getattr(case.model, method)(case.means, 0)


@every_kind
@pytest.mark.parametrize("t", [1, 50])
def test_points_far_away_give_finite_answers_in_the_right_direction(kind, t):
    """Where every component's density underflows, and where squares reach 1e200; eps_hat then is
    x_t's direction.
    """
    case = kind(S)
    D = case.means.shape[1]
    for size in (1e2, 1e6, 1e100):
        x = size * np.stack([np.ones(D), -np.ones(D), np.eye(D)[0]])
        assert all(np.all(np.isfinite(answer)) for answer in answers(case.model, x, t))
        assert np.all(np.sum(case.model(x, t) * x, axis=1) > 0)
        assert np.all(np.sum(case.model.score(x, t) * x, axis=1) < 0)


@every_kind
def test_dtype_and_shape_are_those_of_xt(kind):
    """float32 in, float32 out, but computed in float64: the answer is the float64 answer, rounded
    once.
    """
    model = kind(S).model
    x = grid(kind(S), 5, n=8).astype(np.float32)
    for single, double in zip(answers(model, x, 5), answers(model, x.astype(np.float64), 5)):
        assert single.dtype == np.float32
        np.testing.assert_array_equal(single, double.astype(np.float32))
    assert model(np.zeros((4, model.D), np.int64), 5).dtype == np.float64


def test_images_keep_their_shape():
    images = data.load("digits").x[:6]
    model = PointSet(images, S)
    assert model.sample(3, 0, 4).shape == (3, 8, 8, 1)
    flat = images.reshape(6, 64)
    for in_shape, in_rows in zip(answers(model, images, 9), answers(PointSet(flat, S), flat, 9)):
        np.testing.assert_array_equal(in_shape.reshape(in_rows.shape), in_rows)


@pytest.mark.parametrize("block", [1, 7, 40, 10**6])
def test_the_block_size_changes_nothing(monkeypatch, block):
    """In blocks of one sample, of blocks that do not divide the batch, and of all at once: to
    rounding.
    """
    x = grid(points(S), 20, n=23)
    expected = answers(points(S).model, x, 20)
    monkeypatch.setattr(exact, "BLOCK", block)
    for found, whole in zip(answers(points(S).model, x, 20), expected):
        close(found, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batch", [500, 5000])
def test_all_digits_and_a_large_batch_fit_in_100_megabytes(batch):
    """5,000 by 1,797 distances are 72 MB, and more than one such matrix is needed: only blocks keep
    below.
    """
    model = PointSet(data.load("digits").x, S)
    x = noise.normal((batch, 8, 8, 1), 1)
    tracemalloc.start()
    model.vjp(x, 20, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# --- what is refused


REFUSED = {
    "schedule": lambda: Gaussian([0.0], 1.0, S.beta),
    "mean": lambda: Gaussian(0.0, 1.0, S),
    "mean of text": lambda: Gaussian(["a"], 1.0, S),
    "mean of nan": lambda: Gaussian([np.nan], 1.0, S),
    "mean of nothing": lambda: Gaussian([], 1.0, S),
    "cov shape": lambda: Gaussian([0.0, 0.0], np.eye(3), S),
    "cov not symmetric": lambda: Gaussian([0.0, 0.0], [[1.0, 0.2], [0.1, 1.0]], S),
    "cov indefinite": lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], S),
    "variance below 0": lambda: Gaussian([0.0, 0.0], [1.0, -1e-9], S),
    "number below 0": lambda: Gaussian([0.0, 0.0], -1.0, S),
    "weights sum": lambda: GaussianMixture([0.5, 0.4], np.zeros((2, 1)), [1, 1], S),
    "weights below 0": lambda: GaussianMixture([1.5, -0.5], np.zeros((2, 1)), [1, 1], S),
    "one cov": lambda: GaussianMixture([0.5, 0.5], np.zeros((2, 1)), 1.0, S),
    "too few covs": lambda: GaussianMixture([0.5, 0.5], np.zeros((2, 1)), [1.0], S),
    "means shape": lambda: GaussianMixture([0.5, 0.5], np.zeros(2), [1.0, 1.0], S),
    "component's cov": lambda: GaussianMixture([0.5, 0.5], np.zeros((2, 1)), [1.0, -1.0], S),
    "no points": lambda: PointSet(np.zeros((0, 2)), S),
    "a number for points": lambda: PointSet(1.0, S),
    "ragged points": lambda: PointSet([[1.0], [1.0, 2.0]], S),
    "xt shape": lambda: points(S).model(np.zeros((4, 3)), 1),
    "xt without a batch": lambda: points(S).model(np.float64(0), 1),
    "xt complex": lambda: points(S).model(np.zeros((4, 2), complex), 1),
    "t of float": lambda: points(S).model(POINTS, 1.0),
    "t of many": lambda: points(S).model.x0_hat(POINTS, np.ones(5, int)),
    "t too large": lambda: points(S).model(POINTS, 51),
    "t below 0": lambda: gaussian(S).model.marginal(-1),
    "u shape": lambda: points(S).model.vjp(POINTS, 1, POINTS[:3]),
    "n": lambda: points(S).model.sample(0),
    "sample's t": lambda: points(S).model.sample(3, 0, 51),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_one_line(wrong):
    with pytest.raises(InputError) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_what_rounding_did_to_a_covariance_is_forgiven():
    """A singular covariance from float32 data, whose zero eigenvalue came out as -1e-8, and weights
    in float32.
    """
    a = np.array([[0.3, 0.7, -0.9]], np.float32)
    cov = a.T @ a
    turned = Gaussian(np.zeros(3), cov, S)
    assert np.linalg.eigvalsh(turned.marginal(0)[1]).min() > -1e-15
    with pytest.raises(InputError, match="singular"):
        turned.score(np.zeros((1, 3)), 0)
    GaussianMixture(np.full(3, 1 / 3, np.float32), np.zeros((3, 1)), [1, 1, 1], S)
