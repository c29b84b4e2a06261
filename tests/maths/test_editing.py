"""Paths between two images, and inpainting: exact where the map is affine, which it is for Gaussian
data.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checks import TOL, close

from tinyddpm import exact, noise
from tinyddpm.editing import RePaint, inpaint, interpolate, slerp
from tinyddpm.errors import InputError
from tinyddpm.samplers import Noise, ancestral
from tinyddpm.schedule import linear, spaced
from tinyddpm.solvers import decode, encode

MEAN = np.array([0.3, -0.4])
COVARIANCE = np.array([[0.8, 0.5], [0.5, 0.6]])
# the 7 is not known, and must not matter
FIRST_KNOWN, KNOWN = np.array([1.0, 0.0]), np.array([[1.1, 7.0]])


def gaussian(s):
    return exact.Gaussian(MEAN, COVARIANCE, s)


# --- interpolation


@given(st.floats(0, 1), st.floats(0.01, 3.1), st.floats(0.1, 10))
def test_slerp_is_a_rotation(w, angle, length):
    # In the plane: the point that lies w of the angle on, whatever the common length (and in any
    # shape).
    a, b, expected = (length * np.array([[np.cos(x), np.sin(x)]]) for x in (0.0, angle, w * angle))
    close(slerp(a, b, w), expected, rtol=0, atol=1e-9 * length)


def test_slerp_of_vectors_of_two_lengths():
    # Song21a eq. 67 by hand, at a right angle: cos and sin of w pi / 2 on the two.
    a, b = np.array([2.0, 0.0]), np.array([0.0, 5.0])
    close(slerp(a, b, 1 / 3), [2 * np.cos(np.pi / 6), 5 * np.sin(np.pi / 6)])
    close(slerp(a, b, 0), a, atol=TOL)
    close(slerp(a, b, 1), b, atol=TOL)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slerp_keeps_its_dtype_and_the_length_of_gaussian_draws(dtype):
    a, b = noise.normal((2, 4000), 1).astype(dtype)
    middle = slerp(a, b, 0.5)
    assert middle.dtype == dtype
    # |a|^2 of 4000 normals is 4000 within 5.5 sqrt(8000) = 490 (false alarms below 1e-6); the
    # chord's is 2000.
    for x in (a, b, middle):
        assert abs(float(np.sum(x**2)) - 4000) < 490


def test_slerp_where_there_is_no_arc_is_straight():
    a = np.array([0.3, -2.0])
    for b in (a, 2 * a, -a, 0 * a):
        close(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_interpolate_goes_from_one_image_to_the_other():
    s = linear(400)
    data, (a, b) = gaussian(s), np.array([[[1.1], [-0.2]], [[-0.9], [0.4]]])
    path = interpolate(data, s, a, b, 5, steps=200)
    assert path.shape == (5, 2, 1)
    # The ends' error is encode's, of first order: each doubling halves it.
    far = [
        np.abs(interpolate(data, s, a, b, 2, steps=steps) - [a, b]).max()
        for steps in (100, 200, 400)
    ]
    assert far[2] < 0.02
    assert all(0.45 < less / more < 0.55 for more, less in pairwise(far))
    xT = encode(data, s, np.stack([a, b]), steps=200)
    for i in range(5):
        x0 = decode(data, s, slerp(xT[0], xT[1], i / 4)[None], steps=200)[0]
        close(path[i], x0, atol=TOL)
    # Straight in x_T is straight here in the data too, for every map is affine; the arc is not.
    assert np.abs(path[2] - (path[0] + path[4]) / 2).max() > 0.05


def test_interpolate_hands_on_its_options():
    s = linear(60)
    a, b = np.array([1.5, -0.2]), np.array([-0.9, 0.4])
    how = {"steps": spaced(s, 9, "quadratic"), "clip": 0.7}
    xT = encode(gaussian(s), s, np.stack([a, b]), **how)
    expected = decode(gaussian(s), s, slerp(xT[0], xT[1], 0.5)[None], **how)[0]
    close(interpolate(gaussian(s), s, a, b, 3, **how)[1], expected)


# --- inpainting


class Unit(exact.Gaussian):
    """The Gaussian's denoiser, whose noise is one unit vector for each number asked for: row 0 sees
    none of it.
    """

    def __init__(self, s, draws):
        super().__init__(MEAN, COVARIANCE, s)
        self.rows, self.asked = 1 + 2 * draws, {}

    def normal(self, shape, seed, purpose, step, first_sample):
        assert (purpose, step) not in self.asked, "the same noise twice"
        place = 1 + 2 * self.asked.setdefault((purpose, step), len(self.asked))
        z = np.zeros(shape)
        z[place : place + 2] = np.eye(2)
        return z


def push_inpaint(s, repeats, mask=FIRST_KNOWN, **options):
    """Mean and covariance of what inpaint gives, its affine map read off: no draw is made."""
    denoise = Unit(s, 3 * s.T * repeats + 1)
    found = inpaint(
        denoise, s, np.tile(KNOWN, (denoise.rows, 1)), mask, method=RePaint(repeats), **options
    )
    columns = found[1:] - found[0]
    return found[0], columns.T @ columns, denoise.asked


def by_hand(s, repeats, times):
    """Lugmayr22 Algorithm 1 as a recursion of mean and covariance, the first component known."""
    free, held = np.diag([0.0, 1.0]), np.diag([1.0, 0.0])
    mean, covariance = np.zeros(2), np.eye(2)
    for t, t_prev in zip(times, [*times[1:], 0], strict=True):
        now, then = s.alpha_bar[t], s.alpha_bar[t_prev]
        alpha = now / then
        # E[x_0 | x_t] by regression, and Ho20 eq. 7 on the chain of these times.
        gain = np.sqrt(now) * COVARIANCE @ np.linalg.inv(now * COVARIANCE + (1 - now) * np.eye(2))
        on_x0 = np.sqrt(then) * (1 - alpha) / (1 - now)
        matrix = on_x0 * gain + np.sqrt(alpha) * (1 - then) / (1 - now) * np.eye(2)
        offset = on_x0 * (np.eye(2) - np.sqrt(now) * gain) @ MEAN
        variance = (1 - then) / (1 - now) * (1 - alpha)
        for repeat in range(repeats if t_prev > 0 else 1):
            if repeat:
                mean, covariance = (
                    np.sqrt(alpha) * mean,
                    alpha * covariance + (1 - alpha) * np.eye(2),
                )
            mean = free @ (matrix @ mean + offset) + held @ (np.sqrt(then) * KNOWN[0])
            covariance = (
                free @ (matrix @ covariance @ matrix.T + variance * np.eye(2)) @ free
                + (1 - then) * held
            )
    return mean, covariance


@pytest.mark.parametrize("repeats", [1, 2, 5])
@pytest.mark.parametrize(
    "steps, spacing", [(30, "uniform"), (8, "uniform"), (8, "quadratic"), (1, "uniform")]
)
def test_inpainting_a_gaussian_follows_the_recursion(repeats, steps, spacing):
    s = linear(30)
    times = spaced(s, steps, spacing)
    mean, covariance, asked = push_inpaint(s, repeats, steps=times)
    expected = by_hand(s, repeats, times)
    close(mean, expected[0], atol=TOL)
    close(covariance, expected[1], atol=TOL)
    # x_T; a z and a known part for each jump but the last; a step back before each jump but the
    # first of its t.
    assert len(asked) == 1 + (steps - 1) * (2 * repeats + repeats - 1)
    assert {purpose for purpose, _ in asked} <= {
        noise.PRIOR,
        noise.REVERSE,
        noise.KNOWN,
        noise.RENOISE,
    }


def test_repeats_bring_the_unknown_part_to_its_conditional_mean():
    # E[x_2 | x_1] = m_2 + C_21 / C_11 (x_1 - m_1). Each doubling of repeats about halves the bias
    # of the plain replacement, until the bias of beta_tilde at this T is left. (The spread keeps
    # that of beta_tilde, too narrow.)
    s = linear(100)
    right = MEAN[1] + COVARIANCE[1, 0] / COVARIANCE[0, 0] * (KNOWN[0, 0] - MEAN[0])
    bias = [abs(push_inpaint(s, repeats)[0][1] - right) for repeats in (1, 2, 4, 8)]
    assert bias[0] > 0.15
    assert all(less < 0.6 * more for more, less in pairwise(bias))


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("steps, spacing", [(None, "uniform"), (9, "logsnr")])
def test_a_mask_of_zeros_is_ancestral_sampling(variance, steps, spacing):
    s, known, mask, seen = linear(40), np.full((5, 2), 3.0, np.float32), np.zeros((1, 1)), []
    times = spaced(s, steps or 40, spacing)
    how, own = {"noise": Noise(7, 4), "steps": steps and times}, RePaint(1, variance, clip=1.5)
    xT = noise.normal((5, 2), 7, noise.PRIOR, 0, 4)
    expected = ancestral(gaussian(s), s, xT, variance=variance, clip=1.5, **how)
    watch = {"watch": lambda t, *_: seen.append(t)}
    found = inpaint(gaussian(s), s, known, mask, method=own, **how, **watch)
    np.testing.assert_array_equal(found, expected)
    assert seen == [*times[1:], 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("repeats", [1, 3])
def test_known_pixels_come_out_exactly(dtype, repeats):
    s, known = linear(20), noise.normal((4, 3, 2), 2).astype(dtype)
    data = exact.Gaussian(np.zeros(6), 0.3, s)
    some = np.array([[1, 0], [0, 1], [1, 1]])
    found = inpaint(data, s, known, some, method=RePaint(repeats), steps=7)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, some == 1], known[:, some == 1])
    assert np.all(found[:, some == 0] != known[:, some == 0])
    np.testing.assert_array_equal(
        inpaint(data, s, known, np.ones((3, 2), bool), method=RePaint(repeats)), known
    )


def test_inpainting_is_a_function_of_seed_and_sample():
    s, known = linear(20), noise.normal((5, 2), 2)

    def run(known, noise):
        return inpaint(gaussian(s), s, known, FIRST_KNOWN, steps=6, method=RePaint(3), noise=noise)

    whole = run(known, 3)
    parts = [run(known[:2], Noise(3)), run(known[2:], Noise(3, first_sample=2))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert np.all(run(known, 4)[:, 1] != whole[:, 1])


def test_a_watch_is_told_of_each_step_once():
    s, seen = linear(20), []
    inpaint(
        gaussian(s),
        s,
        np.ones((2, 2)),
        FIRST_KNOWN,
        steps=4,
        method=RePaint(3),
        watch=lambda t, xt, x0_hat: seen.append((t, xt.shape, x0_hat.shape)),
    )
    assert seen == [(t, (2, 2), (2, 2)) for t in [*spaced(s, 4)[1:], 0]]


def test_inpainting_starts_from_pure_noise():
    s = linear(30).zero_terminal_snr()
    assert np.all(np.isfinite(inpaint(gaussian(s), s, KNOWN, FIRST_KNOWN, method=RePaint(2))))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_known_may_be_anything(repeats, value):
    s, known = linear(20), noise.normal((4, 3, 2), 2).astype(np.float64)
    data, mask = exact.Gaussian(np.zeros(6), 0.3, s), np.array([[1, 0], [0, 1], [1, 1]])
    found, expected = (
        inpaint(data, s, np.where(mask, known, x), mask, method=RePaint(repeats), steps=7)
        for x in (value, 0.0)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: interpolate(gaussian(s), s, x[0], x[0], 1),
        lambda s, x: interpolate(gaussian(s), s, x[0], x[0], 2.5),
        lambda s, x: interpolate(gaussian(s), s, x[0], x, 3),
        lambda s, x: interpolate(gaussian(s), s, x[0], x[0], 3, steps=[1, 5, 10]),
        lambda s, x: inpaint(gaussian(s), s, x, x, steps=[10, 5, 5, 1]),
        lambda s, x: inpaint(gaussian(s), s, x, x, method=RePaint(0)),
        lambda s, x: inpaint(gaussian(s), s, x, x, method=RePaint(1.5)),
        lambda s, x: inpaint(gaussian(s), s, x.astype(int), x),
        lambda s, x: inpaint(gaussian(s), s, x[0], x[0]),
        lambda s, x: inpaint(gaussian(s), s, x, np.ones(3)),
        lambda s, x: inpaint(gaussian(s), s, x, np.ones((1, 2, 2))),
        lambda s, x: inpaint(gaussian(s), s, x, 0.5 * x),
        lambda s, x: inpaint(gaussian(s), s, x, np.nan * x),
        lambda s, x: inpaint(gaussian(s), s, np.nan * x, x),
        lambda s, x: inpaint(gaussian(s), s, x, x, method=RePaint(variance="learned")),
        lambda s, x: inpaint(gaussian(s), s, x, x, steps=0),
    ],
)
def test_bad_options_are_refused(call):
    with pytest.raises(InputError, match="must ") as caught:
        call(linear(10), np.ones((2, 2)))
    assert "\n" not in str(caught.value)
