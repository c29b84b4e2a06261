"""Arrays by name in .safetensors files: sizes are judged by the header before anything is read."""

import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.untrusted import file_errors_as_input, open_regular
from ..errors import InputError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NEEDS = "safetensors is not installed; pip install 'tinyddpm[interop]'"


def package() -> Any:
    """The package safetensors. Raises InputError where it is not installed, with the command."""
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError(NEEDS) from None
    return safetensors


def refuse_pickle(path: Path) -> InputError:
    """The error for a file of pickled weights."""
    return InputError(
        f"{path}: is a pickle, and to read one is to execute the code in it; "
        "ask for its .safetensors, or convert it with safetensors' own tools"
    )


class TensorFile:
    """An open .safetensors file: its shapes and kinds, and then its arrays.

    Args:
        path: the file.
        limit: the most bytes that its numbers may take, as float32 or as stored.

    Raises:
        InputError: it is no such file, holds other numbers, or is too large.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.package = path, package()
        if path.suffix in PICKLES:
            raise refuse_pickle(path)
        with self._errors_as_input():
            with open_regular(path):
                pass
            self.file = self.package.safe_open(os.fspath(path), framework="numpy")
            slices = {name: self.file.get_slice(name) for name in self.file.keys()}  # noqa: SIM118
            self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            self.kinds = {name: each.get_dtype() for name, each in slices.items()}
        for name, kind in self.kinds.items():
            if kind not in BYTES:
                raise InputError(
                    f"{path}: {name:.80} holds {kind}; F64, F32, F16 and BF16 are read"
                )
        sizes = (math.prod(self.shapes[n]) * max(4, BYTES[k]) for n, k in self.kinds.items())
        total = sum(sizes)
        if total > limit:
            raise InputError(
                f"{path}: its numbers would take {total:,} bytes; the limit is {limit:,} (--limit)"
            )
        self.raw: dict[str, Any] = {}
        if "BF16" in self.kinds.values():  # NumPy has no such kind: its bytes are read instead
            with self._errors_as_input():
                self.raw = dict(self.package.deserialize(path.read_bytes()))

    def _errors_as_input(self) -> AbstractContextManager[None]:
        return file_errors_as_input(self.path, self.package.SafetensorError)

    def read(self, name: str) -> NDArray[Any]:
        """An array, F64 as float64 and all others as float32.

        Raises InputError where it cannot be read, or a number in it is not finite.
        """
        with self._errors_as_input():
            if self.kinds[name] == "BF16":
                halves = np.frombuffer(self.raw[name]["data"], "<u2").astype(np.uint32) << 16
                array = halves.view(np.float32).reshape(self.shapes[name])
            else:
                array = self.file.get_tensor(name)
        if not np.isfinite(array).all():
            raise InputError(f"{self.path}: {name:.80} holds numbers that are not finite")
        return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a .safetensors file; the package would write other layouts wrongly."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = package().numpy.save(whole, metadata={"format": "pt"})
    return data
