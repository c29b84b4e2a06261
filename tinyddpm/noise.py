"""Counter-based random numbers: pure functions of (seed, purpose, step, sample, element).

Nothing here has a state, so a batch may be split, a run stopped and resumed, or a backend changed
without changing one bit of the noise. The counter of Philox4x32-10 holds (block of elements,
sample, step, purpose) and its key holds the seed.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .formulas import MASK, SHIFT, numpy_formulas

# What a number is drawn for. Two purposes never share a counter, so they are independent.
EPS, REVERSE, PRIOR, TIME, ORDER, DROPOUT, INIT, DATA = range(8)
LANGEVIN, KNOWN, RENOISE, LABEL, PROBE, DEQUANTISE, BOUND, EXACT = range(8, 16)
FLIP = 16


@dataclass(frozen=True)
class Noise:
    """The z of a sampler: Philox normals, a function of (seed, t, sample, element) alone.

    Raises InputError for what is no whole number in its range.
    """

    seed: int = 0  # of every number drawn, 0..2**64 - 1
    first_sample: int = 0  # the number of the batch's first sample, 0..2**32 - 1

    def __post_init__(self) -> None:
        _check_word("seed", self.seed, 64)
        _check_word("first_sample", self.first_sample, 32)

    @classmethod
    def of(cls, noise: "int | Noise | None") -> "Noise":
        """A `Noise` of this seed, of 0 for None; a `Noise` is returned as it is.

        Raises InputError for anything else.
        """
        if isinstance(noise, Noise):
            return noise
        if not isinstance(noise, int | np.integer | None):
            raise InputError(f"noise must be a seed, a Noise or a callable, got {noise!r}")
        return cls(0 if noise is None else int(noise))


def words(
    samples: int, blocks: int, seed: int, purpose: int, step: int, first_sample: int, xp: Any = np
) -> tuple[Any, ...]:
    """Philox's four counter words and two key words for each block of four elements.

    Args:
        samples, blocks: how many samples, and how many blocks each of them has.
        seed, purpose, step, first_sample: as `normal`'s.
        xp: the module whose arrays are made.

    Returns:
        Six uint64 values below 2**32; the first two are arrays (samples, blocks).

    Raises:
        InputError: a number does not fit its word.
    """
    for name, value, bits in (
        ("seed", seed, 64),
        ("purpose", purpose, 32),
        ("step", step, 32),
        ("first_sample", first_sample, 32),
        ("the last sample", first_sample + samples - 1, 32),
    ):
        if samples or not isinstance(value, int | np.integer):
            _check_word(name, value, bits)
    key = np.uint64(seed)
    element = xp.arange(blocks, dtype=np.uint64)[None, :]
    sample = xp.arange(first_sample, first_sample + samples, dtype=np.uint64)[:, None]
    element, sample = xp.broadcast_arrays(element, sample)
    return element, sample, np.uint64(step), np.uint64(purpose), key & MASK, key >> SHIFT


def _check_word(name, value, bits):
    """Raises InputError unless the value is a whole number of so many bits."""
    if not isinstance(value, int | np.integer) or not 0 <= value < 2**bits:
        raise InputError(f"{name} must be a whole number in 0..2**{bits} - 1, got {value!r:.40}")


def _fill(draws, shape, xp):
    """Four draws for each block (samples, blocks), side by side, the last block cut to shape."""
    size = math.prod(shape[1:])
    return xp.stack(draws, axis=-1).reshape(shape[0], 4 * _blocks(shape))[:, :size].reshape(shape)


def _blocks(shape):
    """How many blocks of four elements one sample needs."""
    return -(-math.prod(shape[1:]) // 4)


def normal(
    shape: tuple[int, ...],
    seed: int = 0,
    purpose: int = EPS,
    step: int = 0,
    first_sample: int = 0,
    xp: Any = np,
    formulas: SimpleNamespace = numpy_formulas,
) -> npt.NDArray[np.float32]:
    """Independent N(0, 1) values: Philox4x32-10 (Salmon11) and Box-Muller (Box58).

    Element e of sample i depends on (seed, purpose, step, first_sample + i, e) alone.

    Args:
        shape: of the result; the first axis counts samples.
        seed: 0..2**64 - 1.
        purpose: what the numbers are for, a constant of this module, such as EPS; 0..2**32 - 1.
        step: the t of a sampler, the step of a training run; 0..2**32 - 1.
        first_sample: the number of the first sample, so that a part of a batch gets its own noise.
        xp: the module whose arrays are made, NumPy or CuPy.
        formulas: the formulas over its arrays.

    Returns:
        float32 of the given shape.

    Raises:
        InputError: an argument is no whole number in its range.
    """
    counter = words(shape[0], _blocks(shape), seed, purpose, step, first_sample, xp)
    return _fill(formulas.normals(*counter), shape, xp)


def bits(
    shape: tuple[int, ...],
    seed: int = 0,
    purpose: int = EPS,
    step: int = 0,
    first_sample: int = 0,
    xp: Any = np,
    formulas: SimpleNamespace = numpy_formulas,
) -> npt.NDArray[np.uint64]:
    """Independent uniform 32-bit words.

    Args:
        shape, seed, purpose, step, first_sample, xp, formulas: as `normal`'s.

    Returns:
        uint64 values below 2**32, of the given shape.

    Raises:
        InputError: an argument is no whole number in its range.
    """
    counter = words(shape[0], _blocks(shape), seed, purpose, step, first_sample, xp)
    return _fill(formulas.philox(*counter), shape, xp)


def uniform(
    shape: tuple[int, ...],
    seed: int = 0,
    purpose: int = EPS,
    step: int = 0,
    first_sample: int = 0,
    xp: Any = np,
    formulas: SimpleNamespace = numpy_formulas,
) -> npt.NDArray[np.float64]:
    """Independent U(0, 1) values, never 0 or 1.

    Args:
        shape, seed, purpose, step, first_sample, xp, formulas: as `normal`'s.

    Returns:
        float64 of the given shape.

    Raises:
        InputError: an argument is no whole number in its range.
    """
    word = bits(shape, seed, purpose, step, first_sample, xp, formulas)
    return (word + np.float64(0.5)) * np.float64(2.0**-32)


def integers(
    shape: tuple[int, ...],
    high: int,
    seed: int = 0,
    purpose: int = EPS,
    step: int = 0,
    first_sample: int = 0,
) -> npt.NDArray[np.int64]:
    """Independent integers, uniform on 0..high-1 up to a bias below high / 2**32.

    A word w becomes floor(w high / 2**32): Lemire19 without the rejection, so that one counter is
    one draw.

    Args:
        shape, seed, purpose, step, first_sample: as `normal`'s.
        high: how many integers there are to draw from, 1..2**32.

    Returns:
        int64 of the given shape.

    Raises:
        InputError: high or another argument is out of its range.
    """
    if not 1 <= high <= 2**32:
        raise InputError(f"high must be in 1..2**32, got {high}")
    word = bits(shape, seed, purpose, step, first_sample)
    return ((word * np.uint64(high)) >> SHIFT).astype(np.int64)


def permutation(
    n: int, seed: int = 0, purpose: int = ORDER, step: int = 0
) -> npt.NDArray[np.int64]:
    """A random order of 0..n-1: the one that sorts n random words (ties keep their place).

    Args:
        n: how many.
        seed, purpose, step: as `normal`'s.

    Returns:
        int64, (n,).
    """
    return np.argsort(bits((n, 1), seed, purpose, step)[:, 0], kind="stable")
