"""Data to fit: the built-in digits, toys in the plane, the user's own files; splits and batches."""

import dataclasses
import hashlib
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import noise
from ..errors import InputError
from . import readers
from .folders import PICTURES
from .untrusted import LIMIT, DataWarning, check_size, file_errors_as_input

DIGITS = Path(__file__).parent / "digits.npz"
TOYS = ("moons", "swissroll", "rings")
TOY_SIZE, TOY_EXTENT, TOY_SIGMA = 4096, 0.9, 0.02  # 0.9 + 5 sigma is still inside [-1, 1]
# `split` draws with purpose DATA too, from step 0 up: the two must not share numbers
TOY_STEP = 2**32 - 2


@dataclasses.dataclass(frozen=True)
class Data:
    """Samples in [-1, 1], and what is needed to write such samples back in the range they had."""

    x: NDArray[np.float32]  # (N, H, W, C) or (N, D)
    labels: NDArray[np.int64] | None = None  # (N,)
    name: str = "array"  # as errors name it
    low: float = -1.0  # the original range: from here ...
    high: float = 1.0  # ... to here
    levels: int = 0  # how many values the range has, 256 for bytes; 0 if they are no whole numbers
    classes: tuple[str, ...] = ()  # the name of each label from 0 up, where they have names

    def restore(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map samples to the original range: x (high - low)/2 + (high + low)/2, float32."""
        half, middle = self.high / 2 - self.low / 2, self.high / 2 + self.low / 2
        return np.float32(half) * x + np.float32(middle)


def load(
    spec: str | os.PathLike[str] = "digits",
    limit: int = LIMIT,
    value_range: tuple[float, float] | None = None,
    *,
    size: int | None = None,
    gray: bool = False,
    need_labels: bool = True,
) -> Data:
    """Load data by name ('digits', 'moons', 'swissroll', 'rings') or from a path.

    Warns with DataWarning of what was left out, and of floats that look like another range.

    Args:
        spec: a name, or a path that `readers.read` takes.
        limit: the most bytes that the samples may take.
        value_range: (low, high), as for `from_array`.
        size: for pictures: resize the shorter side to this and keep the centre square.
        gray: for pictures: make them grey.
        need_labels: whether labels that cannot be used are an error, or are left out.

    Raises:
        InputError: the name or file cannot be used.
    """
    spec = str(spec)
    if spec == "digits" or spec in TOYS:
        if value_range is not None:
            raise InputError(f"{spec} has a range of its own; one is declared for files only")
        if size is not None or gray:
            raise InputError(f"{spec}: size and gray are for folders of pictures")
        return _built_in(spec, limit)
    if not _exists(spec):
        raise InputError(
            f"no data named {spec!r}: give digits, {', '.join(TOYS)}, or the path of a .npy, "
            f".npz, IDX or CIFAR file or of a folder of {PICTURES}"
        )
    found = readers.read(spec, limit, size, gray)
    data = from_array(found.array, None, spec, value_range)
    labels, trouble = None, found.trouble
    if found.labels is not None:
        try:
            labels = _labels(found.labels, len(data.x), spec)
        except InputError as error:
            trouble = str(error).removeprefix(f"{spec}: ")
    if trouble and need_labels:
        raise InputError(f"{spec}: {trouble}")
    left = (f"labels left out: {trouble}",) if trouble else ()
    for note in (*found.notes, *left):
        warnings.warn(f"{spec}: {note}", DataWarning, stacklevel=2)
    return dataclasses.replace(data, labels=labels, classes=found.classes)


def from_array(
    array: ArrayLike,
    labels: ArrayLike | None = None,
    name: str = "array",
    value_range: tuple[float, float] | None = None,
) -> Data:
    """Bring an array of samples to float32 in [-1, 1]: x = (a - (high + low)/2) / ((high - low)/2).

    Args:
        array: samples (N, H, W), (N, H, W, C) with C in 1..4, or (N, D), of real numbers.
        labels: (N,) or (N, 1) integers, or names, or None.
        name: what errors call the array.
        value_range: (low, high), by default (0, 255) for uint8, (0, 1) for bool and (-1, 1) for
            floats; other integers must declare it.

    Returns:
        The Data.

    Raises:
        InputError: another shape or dtype, no samples, NaN or inf, or values outside the range.
    """
    with file_errors_as_input(name):  # such as rows of several lengths
        array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: holds {array.dtype}, not real numbers")
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim not in (2, 4) or images.ndim == 4 and images.shape[3] > 4 or images.size == 0:
        raise InputError(
            f"{name}: has shape {array.shape}; expected (N, H, W), (N, H, W, C) with C in 1..4, "
            f"or (N, D), nothing empty{_channels_first(array.shape)}"
        )
    low, high = _range(images, name, value_range)
    # Half-precision and bytes fit in float32; wider types are scaled as float64, then rounded once.
    narrow = array.dtype.itemsize <= 2
    x = images.astype(np.float32 if narrow else np.result_type(array.dtype, np.float32))
    x -= high / 2 + low / 2
    x /= high / 2 - low / 2
    x = np.ascontiguousarray(x.clip(-1, 1, out=x), np.float32)
    whole = array.dtype.kind != "f" and low.is_integer() and high.is_integer()
    levels = int(high - low) + 1 if whole else 0
    classes: tuple[str, ...] = ()
    if labels is not None and np.asarray(labels).dtype.kind == "U":
        names, labels = np.unique(np.asarray(labels), return_inverse=True)
        classes = tuple(names.tolist())
    return Data(x, _labels(labels, len(x), name), name, low, high, levels, classes)


def _channels_first(shape):
    """Advice for (N, C, H, W), as other programs lay images out; "" for any other shape."""
    if len(shape) == 4 and 1 <= shape[1] <= 4:
        return "; it looks like (N, C, H, W): transpose it, x.transpose(0, 2, 3, 1)"
    return ""


def split(data: Data, holdout: float, seed: int = 0) -> tuple[Data, Data]:
    """Split into (fit, held): a fraction `holdout` is held out, the same of each label.

    Each class is permuted by (seed, class index), so the split is a pure function of its arguments;
    both parts keep the order of the data, and one member of each class at least is in the first.
    Raises InputError unless 0 <= holdout < 1 and a sample remains to fit.
    """
    n = len(data.x)
    if not (0 <= holdout < 1 and round(holdout * n) < n):
        raise InputError(
            f"holdout must be in 0 <= holdout < 1 and leave a sample, got {holdout} of {n}"
        )
    kinds, held = np.zeros(n, np.int64), np.zeros(n, bool)
    if data.labels is not None:
        kinds = np.unique(data.labels, return_inverse=True)[1]
    seen = taken = 0
    for k in range(kinds.max() + 1):
        members = np.flatnonzero(kinds == k)
        # What the rounded running total lacks: each class is within one of its share, and the total
        # is exact, but that one member of each stays to be fitted.
        seen += len(members)
        count = min(round(holdout * seen) - taken, len(members) - 1)
        taken += count
        held[members[noise.permutation(len(members), seed, noise.DATA, step=k)[:count]]] = True

    def part(chosen):
        labels = None if data.labels is None else data.labels[chosen]
        return dataclasses.replace(data, x=data.x[chosen], labels=labels)

    return part(~held), part(held)


def digest(data: Data) -> str:
    """SHA-256 of data.x and data.labels, in hex: tells a resumed run if its data changed."""
    sha = hashlib.sha256(f"{data.x.shape} {data.x.dtype.str}".encode())
    sha.update(np.ascontiguousarray(data.x).data)
    if data.labels is not None:
        sha.update(data.labels.data)
        sha.update("".join(f"\0{name}" for name in data.classes).encode())
    return sha.hexdigest()


def to_unit(x: ArrayLike) -> NDArray[np.floating[Any]]:
    """Map [-1, 1] to [0, 1], clipped: the range in which `metrics` compares images."""
    return np.clip((np.asarray(x) + 1) / 2, 0, 1)


def to_uint8(x: ArrayLike) -> NDArray[np.uint8]:
    """Map [-1, 1] to 0..255, clipped and rounded to the nearest."""
    return np.rint(to_unit(x) * 255).astype(np.uint8)


def _exists(spec):
    with file_errors_as_input(spec):  # such as a name with a NUL in it
        return Path(spec).exists()


def _range(array, name, value_range):
    """The declared or default (low, high), after the check that every value lies in it."""
    least, most = array.min(), array.max()  # NaN and inf survive min and max
    if not (np.isfinite(least) and np.isfinite(most)):
        raise InputError(f"{name}: contains NaN or inf")
    found = f"{name}: {array.dtype} values from {least:.6g} to {most:.6g}"
    how = "declare the range with --range LOW HIGH (value_range=(low, high) in Python)"
    kind = array.dtype.kind
    if value_range is None and kind in "iu" and array.dtype != np.uint8:
        raise InputError(f"{found} have no natural range; {how}")
    default = (-1, 1) if kind == "f" else (0, 1) if kind == "b" else (0, 255)
    try:
        low, high = map(float, default if value_range is None else value_range)
    except (TypeError, ValueError):
        raise InputError(f"a range needs two numbers, LOW and HIGH, got {value_range!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"a range needs two finite numbers, LOW below HIGH, got {low:g} and {high:g}"
        )
    if least < low or most > high:
        raise InputError(f"{found} leave the range {low:g} to {high:g}; {how}")
    if value_range is None and kind == "f" and 0 <= least < most:
        warnings.warn(
            f"{found} are taken to span -1 to 1, and nothing is below 0: is the range 0 1? Then "
            f"{how}",
            DataWarning,
            stacklevel=3,
        )
    return low, high


def _labels(labels, n, name):
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape == (n, 1):  # as MedMNIST and Keras keep them
        labels = labels[:, 0]
    if labels.shape != (n,) or labels.dtype.kind not in "biu":
        raise InputError(
            f"{name}: labels must be {n} integers, got {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _built_in(name, limit):
    data = _digits() if name == "digits" else _toy(name)
    with file_errors_as_input(name):
        check_size(data.x.shape, data.x.itemsize, limit)
    return data


def _digits():
    """1,797 grey images of 8 x 8 pixels with values 0..16 (UCI, CC BY 4.0: LICENSE-digits.txt)."""
    found = readers.read(DIGITS)
    return from_array(found.array, found.labels, "digits", (0, 16))


def _toy(name):
    """4096 points near a curve, the same in every run: a uniform parameter u, then noise."""
    pick, u = noise.uniform((TOY_SIZE, 2), purpose=noise.DATA, step=TOY_STEP).T
    if name == "moons":  # two half circles, one hanging into the other
        labels = pick < 0.5
        a = math.pi * u
        x = np.where(labels, np.cos(a), 1 - np.cos(a)) - 0.5
        y = np.where(labels, np.sin(a), 0.5 - np.sin(a)) - 0.25
    elif name == "swissroll":  # the spiral r = a over one and a half turns
        labels = None
        a = 1.5 * math.pi * (1 + 2 * u)
        x, y = a * np.cos(a), a * np.sin(a)
    else:  # radii 1, 2, 3, chosen in proportion so that all are equally dense
        labels = np.searchsorted([1 / 6, 3 / 6], pick)
        x, y = (labels + 1) * np.cos(2 * math.pi * u), (labels + 1) * np.sin(2 * math.pi * u)
    points = np.stack([x, y], axis=1)
    points *= TOY_EXTENT / np.abs(points).max()
    points += TOY_SIGMA * noise.normal(points.shape, purpose=noise.DATA, step=TOY_STEP + 1)
    return from_array(points, labels, name)
