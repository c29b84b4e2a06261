"""Philox's published answers, Box-Muller's accuracy, noise as a pure function of its arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm import noise
from tinyddpm.errors import InputError
from tinyddpm.formulas import numpy_formulas

ONES = 0xFFFFFFFF
ARGUMENTS = ("seed", "purpose", "step", "first_sample")
keys = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "purpose": st.integers(0, 2**32 - 1),
        "step": st.integers(0, 2**32 - 1),
        "first_sample": st.integers(0, 2**32 - 100),
    }
)
tails = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def words(*values):
    return [np.uint64(v) for v in values]


def philox_by_hand(counter, key):
    """Salmon11 section 3.2 in Python's unbounded integers: ten rounds of multiply, swap and xor."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        (high0, low0), (high1, low1) = (
            divmod(0xD2511F53 * c0, 2**32),
            divmod(0xCD9E8D57 * c2, 2**32),
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


# --- Philox


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter, key, expected):
    # The vectors that Random123 publishes for philox4x32-10.
    assert [int(w) for w in numpy_formulas.philox(*words(*counter), *words(*key))] == list(expected)
    arrays = [np.full((2, 3), c, np.uint64) for c in counter]
    for w, answer in zip(numpy_formulas.philox(*arrays, *words(*key)), expected, strict=True):
        assert w.dtype == np.uint64
        assert np.all(w == answer)


@given(keys)
def test_counter_and_key_hold_what_the_docstring_says(key):
    seed, purpose, step, sample = (key[name] for name in ARGUMENTS)
    found = noise.bits((2, 6), **key)
    for i in range(2):
        expected = []
        for block in range(2):
            expected += philox_by_hand(
                (block, sample + i, step, purpose), (seed % 2**32, seed >> 32)
            )
        assert found[i].tolist() == expected[:6]


# --- Box-Muller


def box_muller_in_float64(u, w):
    """sqrt(-2 log U) (cos, sin)(2 pi W) with U = (u' + 1/2) / 2^23 and W = w' / 2^24, no float32
    anywhere.
    """
    radius = np.sqrt(-2 * np.log(((u >> np.uint64(9)).astype(np.float64) + 0.5) / 2**23))
    angle = 2 * np.pi * (w >> np.uint64(8)).astype(np.float64) / 2**24
    return radius * np.cos(angle), radius * np.sin(angle)


def test_box_muller_agrees_with_float64():
    # Four roundings of half a unit, and a logarithm good to about two: 4 units in the last place.
    corners = np.array(
        [0, 1, 511, 512, 2**30, 2**31, 3 * 2**30, ONES - 512, ONES - 1, ONES], np.uint64
    )
    u, w = (a.ravel() for a in np.meshgrid(corners, corners))
    u = np.concatenate([u, noise.bits((500_000,), seed=1)])
    w = np.concatenate([w, noise.bits((500_000,), seed=2)])
    for found, exact in zip(
        numpy_formulas.box_muller(u, w), box_muller_in_float64(u, w), strict=True
    ):
        assert found.dtype == np.float32
        # cos(pi/2) is 6e-17 in float64, and its error is what the absolute part allows for.
        assert np.all(np.abs(found - exact) <= 4 * np.finfo(np.float32).eps * np.abs(exact) + 1e-14)


def test_box_muller_is_finite_at_its_extremes():
    largest = np.sqrt(2 * np.log(2.0**24))
    for w in (0, 2**30, 2**31, 3 * 2**30, ONES):
        for z in numpy_formulas.box_muller(
            np.array([0, ONES], np.uint64), np.array([w, w], np.uint64)
        ):
            assert np.all(np.isfinite(z))
            assert np.all(np.abs(z) <= largest * (1 + 1e-6))
    at_zero, at_ones = numpy_formulas.box_muller(
        np.array([0, ONES], np.uint64), np.zeros(2, np.uint64)
    )[0]
    # u = 0 is the rarest, u = 2^32 - 1 the middle
    assert at_zero == pytest.approx(largest, rel=1e-6)
    assert at_ones == pytest.approx(np.sqrt(-2 * np.log1p(-(2.0**-24))), rel=1e-6)


def test_four_normals_come_from_two_pairs():
    counter = [np.arange(5, dtype=np.uint64) + np.uint64(i) for i in range(4)] + words(7, 8)
    w = numpy_formulas.philox(*counter)
    expected = [*numpy_formulas.box_muller(w[0], w[1]), *numpy_formulas.box_muller(w[2], w[3])]
    np.testing.assert_array_equal(numpy_formulas.normals(*counter), expected)


# --- a pure function of its arguments


@given(keys, tails, st.lists(st.integers(0, 7), max_size=4))
def test_splitting_a_batch_changes_no_bit(key, tail, parts):
    for draw in (noise.normal, noise.bits, noise.uniform):
        whole = draw((sum(parts), *tail), **key)
        first = key["first_sample"]
        for size in parts:
            part = draw((size, *tail), **key | {"first_sample": first})
            start = first - key["first_sample"]
            np.testing.assert_array_equal(part, whole[start : start + size])
            first += size


@given(keys, st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
def test_elements_do_not_depend_on_the_shape(key, some, more, samples):
    long = noise.normal((samples, some + more), **key)
    np.testing.assert_array_equal(noise.normal((samples, some), **key), long[:, :some])
    images = noise.normal((samples, 2, 3), **key)
    np.testing.assert_array_equal(images, noise.normal((samples, 6), **key).reshape(-1, 2, 3))


@given(keys, st.integers(0, 5), tails)
def test_any_shape(key, samples, tail):
    shape = (samples, *tail)
    for draw, dtype in (
        (noise.normal, np.float32),
        (noise.bits, np.uint64),
        (noise.uniform, np.float64),
    ):
        assert draw(shape, **key).shape == shape
        assert draw(shape, **key).dtype == dtype
    whole = noise.integers(shape, 5, **key)
    assert whole.shape == shape
    assert whole.dtype == np.int64


@given(keys)
def test_every_argument_matters(key):
    z = noise.normal((4, 5), **key)
    np.testing.assert_array_equal(z, noise.normal((4, 5), **key))
    for name, change in (
        ("seed", 1),
        ("seed", 2**32),
        ("purpose", 1),
        ("step", 1),
        ("first_sample", 64),
    ):
        other = key | {name: key[name] ^ change}
        if other["first_sample"] <= 2**32 - 4:
            assert np.all(np.any(noise.normal((4, 5), **other) != z, axis=1))


def test_nothing_touches_the_global_generator():
    state = np.random.get_state()[1].copy()
    noise.normal((10, 10))
    noise.permutation(10)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_purposes_are_all_different():
    purposes = (
        noise.EPS,
        noise.REVERSE,
        noise.PRIOR,
        noise.TIME,
        noise.ORDER,
        noise.DROPOUT,
        noise.INIT,
        noise.DATA,
    )
    assert len(set(purposes)) == 8


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"purpose": -1},
        {"purpose": 2**32},
        {"step": -1},
        {"step": 2**32},
        {"first_sample": -1},
        {"first_sample": 2**32},
        {"first_sample": 2**32 - 1},
    ],
    ids=str,
)
def test_what_does_not_fit_its_word_is_refused(bad):
    for draw in (noise.normal, noise.bits, noise.uniform):
        with pytest.raises(InputError, match="must be a whole number in 0") as caught:
            draw((2, 3), **bad)
        assert "\n" not in str(caught.value)


@given(keys, st.integers(1, 2**32))
def test_integers_are_scaled_words(key, high):
    found, w = noise.integers((3, 2), high, **key), noise.bits((3, 2), **key)
    assert found.tolist() == [[int(a) * high // 2**32 for a in row] for row in w]


@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_permutation_is_one(n, seed, step):
    found = noise.permutation(n, seed, step=step)
    assert sorted(found.tolist()) == list(range(n))
    np.testing.assert_array_equal(found, noise.permutation(n, seed, step=step))
