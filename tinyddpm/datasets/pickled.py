"""CIFAR-10's Python version, read without unpickling: its pickles' opcodes are walked as data."""

import gzip
import pickletools
import tarfile
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import InputError
from .folders import Found
from .untrusted import FAILURES, PIECE, check_size, file_errors_as_input, open_regular, read_exactly

BATCH = 2**26  # bytes; a real batch has 31 MB, as Python 3 writes it in protocol 2 up to 46 MB
ROWS = 10_000
# bytes of a pickle for one image, at most: a pixel takes one or, as text, two; its name, its label
WRITTEN = 2 * 3072 + 256
OPCODES = 100_000  # a real batch has some 40,000
KEYS, KEY = 16, 64  # the entries of a batch, and the length of their names; there are 4, of 11
BLOCK = 512  # bytes; tar's unit
MEMBERS, UNPACKED = 64, 2**29  # files and bytes of an archive: the real one has 9, of 190 MB
NAMES = [f"data_batch_{i}" for i in range(1, 6)]
GLOBALS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
}
STRINGS = {"BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
INTEGERS = {"BININT", "BININT1", "BININT2", "LONG1"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Call:
    """A call that the pickle asks for and nobody makes: its name, arguments and state."""

    def __init__(self, name, args):
        self.name, self.args, self.state = name, args, None


class _Global(str):
    """The name of a global, which nothing imports."""


def _walk(data):
    """The object that a pickle describes, of dicts, lists, tuples, strings, integers and calls.

    Each opcode takes a time that depends on what it reads alone: what lies since a mark is a list
    of its own, the last of `stacks`.
    """
    stacks, memo = [[]], {}
    for count, (opcode, value, _) in enumerate(pickletools.genops(data)):
        name, stack = opcode.name, stacks[-1]
        if count >= OPCODES:
            raise InputError("its pickle has more opcodes than a CIFAR-10 batch")
        if name == "STOP":
            break
        if name in STRINGS or name in INTEGERS:
            stack.append(value)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            stacks.append([])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "GLOBAL" and value in GLOBALS:
            stack.append(_Global(value))
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items = stacks.pop()
            _gather(name, items, stacks[-1])
        elif name != "PROTO":
            _combine(name, value, stack)
    (stack,) = stacks
    (found,) = stack
    return found


def _gather(name, items, stack):
    """The opcodes that put what lies since a mark into one object."""
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS":
        list.extend(stack[-1], items)
    else:
        _set_items(stack[-1], items[::2], items[1::2])


def _set_items(batch, keys, values):
    if not all(type(key) in (str, bytes, _Call) for key in keys):
        raise InputError("its pickle has keys that are no names")
    dict.update(batch, zip(keys, values, strict=True))
    if len(batch) > KEYS:
        raise InputError("its pickle has more entries than a CIFAR-10 batch")


def _combine(name, value, stack):
    """The opcodes that make one object of the last ones; any other raises InputError."""
    if name in TUPLES:
        items = [stack.pop() for _ in range(TUPLES[name])]
        stack.append(tuple(items[::-1]))
    elif name == "APPEND":
        item = stack.pop()
        list.append(stack[-1], item)
    elif name == "SETITEM":
        item, key = stack.pop(), stack.pop()
        _set_items(stack[-1], [key], [item])
    elif name == "REDUCE":
        args, function = stack.pop(), stack.pop()
        if type(function) is not _Global or type(args) is not tuple:
            raise InputError("its pickle calls what is no array")
        stack.append(_Call(function, args))
    elif name == "BUILD":
        state = stack.pop()
        if type(stack[-1]) is not _Call:
            raise InputError("its pickle sets the state of what is no array")
        stack[-1].state = state
    else:
        shown = f"{name} {value}" if type(value) is str else name
        raise InputError(f"its pickle has {shown[:60]!a}, which no CIFAR-10 batch has: not run")


def _bytes(value, longest):
    """Bytes, as Python 3 writes them in protocol 2 (a call of _codecs.encode) or as themselves.

    None where it is neither, nor a text, or has more bytes than `longest`.
    """
    if type(value) is _Call and value.name == "_codecs encode" and value.args[1:] == ("latin1",):
        value = value.args[0]
    if type(value) not in (str, bytes) or len(value) > longest:
        return None
    return value if type(value) is bytes else value.encode("latin-1")


def read_batch(data: bytes | bytearray) -> Found:
    """Read one batch's pickle: uint8 images (N, 32, 32, 3) and labels (N,); nothing is unpickled.

    Raises InputError where an opcode, a shape or a label is not as in CIFAR-10's batches.
    """
    try:
        return _found(_walk(data))
    except InputError:
        raise
    except FAILURES as error:  # an empty stack, an argument that is missing or cut off
        raise InputError("its pickle is damaged, or no batch of CIFAR-10") from error


def _found(batch):
    """The images and labels of what a pickle describes."""
    if type(batch) is not dict:
        raise InputError("its pickle is no dict")
    keys = {_bytes(key, KEY): value for key, value in batch.items()}
    array, labels = keys.get(b"data"), keys.get(b"labels")
    if type(array) is not _Call or not array.name.endswith("_reconstruct"):
        raise InputError("its pickle holds no array named data")
    _, shape, dtype, fortran, pixels = array.state
    whole = type(shape) is tuple and len(shape) == 2 and all(type(n) is int for n in shape)
    if not whole or shape[1] != 3072 or not 1 <= shape[0] <= ROWS or fortran is not False:
        raise InputError("its data are not of shape (10000, 3072) in C order")
    if type(dtype) is not _Call or dtype.name != "numpy dtype" or dtype.args[0] != "u1":
        raise InputError("its data are not uint8")
    pixels = _bytes(pixels, shape[0] * 3072)
    if pixels is None or len(pixels) != shape[0] * 3072:
        raise InputError(f"its data are not the {shape[0] * 3072:,} bytes of its shape")
    if type(labels) is not list or len(labels) != shape[0]:
        raise InputError("its labels are not one for each image")
    if not all(type(each) is int and 0 <= each < 10 for each in labels):
        raise InputError("its labels are not integers from 0 to 9")
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Found(images, np.array(labels, np.uint8))


class _Batches:
    """The batches read so far; each is held against the limit before and after it is read."""

    def __init__(self, limit):
        self.limit, self.found, self.n = limit, {}, 0

    def _check(self, n):
        check_size((n, 32, 32, 3), 1, self.limit)

    def read(self, name, stream, size):
        """Read the batch of a name from a stream, of which it claims `size` bytes."""
        if size > BATCH:
            raise InputError(f"{name}: is larger than a batch of CIFAR-10")
        self._check(self.n + max(1, size // WRITTEN))
        with file_errors_as_input(name):
            self.found[name] = read_batch(read_exactly(stream, size))
        self.n += len(self.found[name].array)
        self._check(self.n)

    def joined(self):
        """All batches in the order of their names."""
        found = [self.found[name] for name in NAMES if name in self.found]
        images = np.concatenate([each.array for each in found])
        return Found(images, np.concatenate([each.labels for each in found]))


def read_batches(paths: list[Path], limit: int) -> Found:
    """Read the files data_batch_1 to 5 of the unpacked archive, in the order of their names."""
    batches = _Batches(limit)
    for path in paths:
        with open_regular(path) as file:
            batches.read(path.name, file, path.stat().st_size)
    return batches.joined()


def _members(stream):
    """(name, size) of each plain file of a tar, which the caller reads; links are not followed."""
    unpacked = 0
    for _ in range(MEMBERS):
        head = bytes(read_exactly(stream, BLOCK))
        if not any(head):
            return
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise InputError(f"is gzipped, but what it holds is no tar: {error}") from error
        unpacked += max(info.size, 0)
        if info.size < 0 or unpacked > UNPACKED:
            raise InputError("holds more than CIFAR-10's archive")
        yield (info.name.rpartition("/")[2] if info.isreg() else ""), info.size
    raise InputError("holds more files than CIFAR-10's archive")


def _skip(stream, size):
    while size > 0:
        piece = len(stream.read(min(PIECE, size)))
        if not piece:
            raise InputError("ends early")
        size -= piece


def read_archive(file: IO[bytes], limit: int) -> Found:
    """Read the five training batches of cifar-10-python.tar.gz from an open file.

    Raises InputError where a member claims more than a batch can have, or all more than `limit`.
    """
    batches = _Batches(limit)
    with gzip.open(file) as stream:
        for name, size in _members(stream):
            if name in batches.found:
                raise InputError(f"holds {name} twice")
            if name in NAMES:
                batches.read(name, stream, size)
            else:
                _skip(stream, size)
            _skip(stream, -size % BLOCK)
        if len(stream.read(PIECE)) == PIECE:  # to its end, where gzip checks its sum
            raise InputError("goes on after its last file")
    if not batches.found:
        raise InputError("holds no data_batch_1 to 5 of CIFAR-10's Python version")
    return batches.joined()
