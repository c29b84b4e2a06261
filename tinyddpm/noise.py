"""Counter-based noise: every random number is a pure function of (seed, purpose, step, sample,
element).

Nothing here has a state, so a batch may be split, a run stopped and resumed, or a backend changed
without changing one bit of the noise. The counter of Philox4x32-10 holds (block of elements,
sample, step, purpose) and its key holds the seed.
"""

import math

import numpy as np

from .errors import InputError
from .formulas import MASK, SHIFT, numpy_formulas

# What a number is drawn for. Two purposes never share a counter, so they are independent.
EPS, REVERSE, PRIOR, TIME, ORDER, DROPOUT, INIT, DATA = range(8)
LANGEVIN, KNOWN, RENOISE, LABEL, PROBE, DEQUANTISE, BOUND, EXACT = range(8, 16)


def words(samples, blocks, seed, purpose, step, first_sample, xp=np):
    """Philox's counter and key for each (sample, block of four elements): six uint64s, the first
    two (samples, blocks).

    Raises InputError where a number does not fit its word.
    """
    for name, value, bits in (
        ("seed", seed, 64),
        ("purpose", purpose, 32),
        ("step", step, 32),
        ("first_sample", first_sample, 32),
        ("the last sample", first_sample + samples - 1, 32),
    ):
        if not (isinstance(value, int | np.integer) and (0 <= value < 2**bits or samples == 0)):
            raise InputError(f"{name} must be a whole number in 0..2**{bits} - 1, got {value!r}")
    key = np.uint64(seed)
    element = xp.arange(blocks, dtype=np.uint64)[None, :]
    sample = xp.arange(first_sample, first_sample + samples, dtype=np.uint64)[:, None]
    element, sample = xp.broadcast_arrays(element, sample)
    return element, sample, np.uint64(step), np.uint64(purpose), key & MASK, key >> SHIFT


def _fill(draws, shape, xp):
    """Lay four draws per block side by side and cut the last block: (samples, blocks) x 4 -> shape."""
    size = math.prod(shape[1:])
    return xp.stack(draws, axis=-1).reshape(shape[0], 4 * _blocks(shape))[:, :size].reshape(shape)


def _blocks(shape):
    """How many blocks of four elements one sample needs."""
    return -(-math.prod(shape[1:]) // 4)


def normal(shape, seed=0, purpose=EPS, step=0, first_sample=0, xp=np, formulas=numpy_formulas):
    """Independent N(0, 1) values, float32 of the given shape, whose first axis counts samples.

    Element e of sample i depends on (seed, purpose, step, first_sample + i, e) alone: Philox4x32-10
    (Salmon11) and Box-Muller (Box58). xp and formulas: the module whose arrays are drawn, and the
    formulas over them. Raises InputError where an argument does not fit its counter word.
    """
    counter = words(shape[0], _blocks(shape), seed, purpose, step, first_sample, xp)
    return _fill(formulas.normals(*counter), shape, xp)


def bits(shape, seed=0, purpose=EPS, step=0, first_sample=0, xp=np, formulas=numpy_formulas):
    """Independent uniform 32-bit words, as uint64 of the given shape, keyed like `normal`."""
    counter = words(shape[0], _blocks(shape), seed, purpose, step, first_sample, xp)
    return _fill(formulas.philox(*counter), shape, xp)


def uniform(shape, seed=0, purpose=EPS, step=0, first_sample=0, xp=np, formulas=numpy_formulas):
    """Independent U(0, 1) values, float64 of the given shape, never 0 or 1, keyed like `normal`."""
    return (bits(shape, seed, purpose, step, first_sample, xp, formulas) + 0.5) * 2.0**-32


def integers(shape, high, seed=0, purpose=EPS, step=0, first_sample=0):
    """Independent integers, uniform on 0..high-1 up to a bias below high / 2**32, keyed like
    `normal`.

    A word w becomes floor(w high / 2**32) (Lemire19 without the rejection, so that one counter is
    one draw). Raises InputError unless 1 <= high <= 2**32.
    """
    if not 1 <= high <= 2**32:
        raise InputError(f"high must be in 1..2**32, got {high}")
    return ((bits(shape, seed, purpose, step, first_sample) * np.uint64(high)) >> SHIFT).astype(
        np.int64
    )


def permutation(n, seed=0, purpose=ORDER, step=0):
    """A permutation of 0..n-1, int64: the order that sorts n random words (ties keep their place)."""
    return np.argsort(bits((n, 1), seed, purpose, step)[:, 0], kind="stable")
