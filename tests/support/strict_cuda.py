"""The stand-in's part of CuPy that runs kernels: RawModule, over Numba's simulator.

A kernel is launched with what CUDA would be handed, word by word: `RawModule` takes the words apart
as the compiled code does, by the types of its arguments, finds the arrays by their addresses, and
runs the same kernel in Numba's simulator. What a word means is proved apart, by the compiled
kernels' own lists of parameters (test_ptx.py).
"""

import ctypes
import pathlib

import numpy as np

SCALARS = {"int64": int, "int32": np.int32, "uint32": np.uint32, "float32": np.float32}


def at_address(address, size, dtype):
    """The array of so many elements that begins at an address."""
    count = int(size) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * count).from_address(address), dtype)


def unpacked(signature, words):
    """The arguments of a kernel from what it was launched with; refuses what CUDA would misread."""
    from numba import types
    from numba.np.numpy_support import as_dtype

    words, arguments = list(words), []

    def scalar(kind):
        word = words.pop(0)
        wanted = SCALARS[str(kind)]
        assert type(word) is wanted, f"{kind} was handed over as {type(word)}"
        return word

    for kind in signature:
        if isinstance(kind, types.Array):
            seven, dtype = [words.pop(0) for _ in range(7)], as_dtype(kind.dtype)
            assert all(type(word) is int for word in seven), seven
            count, parent, size, itemsize, address, shape, stride = seven
            assert (count, parent, shape, stride) == (0, 0, size, itemsize)
            assert itemsize == dtype.itemsize
            arguments.append(at_address(address, size, dtype))
        elif isinstance(kind, types.UniTuple):
            arguments.append(tuple(scalar(kind.dtype) for _ in range(kind.count)))
        else:
            value = scalar(kind)
            arguments.append(np.int64(value) if type(value) is int else value)
    assert not words, f"{len(words)} words too many"
    return arguments


def code(name, wide, cc):
    """In place of `cubins.build`: a file that says which kernel it is."""
    return f"{name} {'wide' if wide else 'narrow'} {cc}".encode()


class RawModule:
    """cupy.RawModule, of files that `code` wrote."""

    def __init__(self, code=None, *, path=None):
        assert code is None
        self.name, form, _ = pathlib.Path(path).read_text().split(maxsplit=2)
        self.wide = form == "wide"

    def get_function(self, entry):
        from tinyddpm.kernels.gpu import cubins

        assert entry == cubins.entry(self.name), entry
        return self.launch

    def launch(self, grid, block, words):
        from tinyddpm.kernels.gpu import signatures

        assert type(grid) is type(block) is tuple and all(type(n) is int for n in grid + block)
        arguments = unpacked(signatures.SIGNATURES[self.name], words)
        signatures.kernel(self.name, self.wide)[grid, block](*arguments)
