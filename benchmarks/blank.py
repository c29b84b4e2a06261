"""Arrays of a device that is not there: a shape, a type and strides, but no values.

What is done with them is noted, a node for each thing that CuPy would start, and not computed.
Bytes are those that must move: each input read once, each output written once.
"""

import math
import warnings
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np


class Node(NamedTuple):
    """One thing that a device is told to do."""

    kind: str  # a kernel's name; or product, elementwise, sum, copy, memset
    bytes: int
    operations: int = 0  # of a product: two for each multiplication


class Work(NamedTuple):
    """All nodes of one kind in a step."""

    nodes: int
    bytes: int
    operations: int


def total(nodes):
    """{kind: Work} of a step's nodes."""
    number, moved, done = Counter(), Counter(), Counter()
    for kind, size, operations in nodes:
        number[kind] += 1
        moved[kind] += size
        done[kind] += operations
    return {kind: Work(number[kind], moved[kind], done[kind]) for kind in number}


def shape_of(x):
    """The shape of an operand; () of a number."""
    return getattr(x, "shape", ())


def reach(x):
    """The bytes of an operand: what a broadcast repeats counts once, a number of the host not."""
    if not isinstance(x, np.ndarray):
        return 0
    return x.itemsize * math.prod(n for n, step in zip(x.shape, x.strides) if step or n == 0)


def reduced(shape, axis, keep):
    """The shape of a sum over one axis, several, or all (None)."""
    axes = range(len(shape)) if axis is None else [i % len(shape) for i in np.atleast_1d(axis)]
    left = (1,) if keep else ()
    return tuple(m for i, n in enumerate(shape) for m in (left if i in axes else (n,)))


class Blank(np.ndarray):
    """An array without values: its memory is asked for and never touched."""

    __cuda_array_interface__ = None  # what has one lies on a device and is not looked into

    def __array_finalize__(self, other):
        self.nodes = getattr(other, "nodes", None)

    def new(self, shape, dtype):
        """Another one, whose nodes are noted in the same list."""
        return blank(self.nodes, shape, dtype)

    def note(self, kind, out, *read):
        """Note a node that reads some operands and writes out, which is returned."""
        self.nodes.append(Node(kind, sum(map(reach, read)) + reach(out)))
        return out

    # What NumPy calls for its functions.

    def __array_ufunc__(self, ufunc, method, *inputs, out=(None,), **options):
        known = next(x for x in (*inputs, *out) if isinstance(x, Blank))
        if method == "reduce":
            shape = reduced(inputs[0].shape, options.get("axis", 0), options.get("keepdims"))
            return known.note("sum", known.new(shape, inputs[0].dtype), inputs[0])
        if method != "__call__":
            raise NotImplementedError(f"{ufunc.__name__}.{method} is not counted")
        types = [getattr(x, "dtype", type(x)) for x in inputs]
        dtype, result = ufunc.resolve_dtypes((*types, None))[-1], out[0]
        if ufunc is np.matmul:
            return known.product(*inputs, result, dtype)
        if result is None:
            result = known.new(np.broadcast_shapes(*map(shape_of, inputs)), dtype)
        return known.note("elementwise", result, *inputs)

    def product(self, a, b, out, dtype):
        """Note a b, a product of matrices or of batches of them."""
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        out = self.new(shape, dtype) if out is None else out
        moved = reach(a) + reach(b) + reach(out)
        self.nodes.append(Node("product", moved, 2 * math.prod(shape) * a.shape[-1]))
        return out

    def __array_function__(self, function, types, arguments, options):
        if function.__name__ not in FUNCTIONS:
            raise NotImplementedError(f"numpy.{function.__name__} is not counted")
        return FUNCTIONS[function.__name__](*arguments, **options)

    # Its indices and methods.

    def __getitem__(self, index):
        places = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(i, np.ndarray | list) for i in places):
            return super().__getitem__(index)
        if len(places) != 1:
            raise NotImplementedError("an index of several arrays is not counted")
        result = self.new((*shape_of(places[0]), *self.shape[1:]), self.dtype)
        self.nodes.append(Node("copy", reach(places[0]) + 2 * reach(result)))
        return result

    def __setitem__(self, index, value):
        kind = "copy" if isinstance(value, np.ndarray) else "memset"
        self.note(kind, super().__getitem__(index), value)

    def reshape(self, *shape, **options):
        """A view where there is one, else a copy."""
        shape = tuple(shape[0]) if isinstance(shape[0], tuple | list) else shape
        if self.flags.c_contiguous:
            return super().reshape(shape)
        view = self.view()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                view.shape = shape
            return view
        except AttributeError:  # no strides give this shape
            return self.copy().reshape(shape)

    def copy(self, order="C"):
        """The same in memory of its own."""
        return self.note("copy", self.new(self.shape, self.dtype), self)

    def astype(self, dtype, copy=True, **options):
        """Of another type; itself where it is of that type and needs no copy."""
        if self.dtype == dtype and not copy:
            return self
        return self.note("copy", self.new(self.shape, dtype), self)

    def repeat(self, count, axis):
        """Each element several times."""
        shape = [count * n if i == axis else n for i, n in enumerate(self.shape)]
        return self.note("copy", self.new(shape, self.dtype), self)

    def mean(self, axis=None, keepdims=False, **options):
        """One node, as CuPy's."""
        shape = reduced(self.shape, axis, keepdims)
        return self.note("sum", self.new(shape, self.dtype), self)


def blank(nodes, shape, dtype=np.float64):
    """A Blank that notes in the list `nodes`."""
    made = np.empty(shape, dtype).view(Blank)
    made.nodes = nodes
    return made


def _concatenate(parts, axis=0):
    shape = list(parts[0].shape)
    shape[axis] = sum(x.shape[axis] for x in parts)
    return parts[0].note("copy", parts[0].new(shape, parts[0].dtype), *parts)


def _where(condition, a, b):
    shape = np.broadcast_shapes(*map(shape_of, (condition, a, b)))
    return condition.note("elementwise", condition.new(shape, a.dtype), condition, a, b)


def _broadcast_to(x, shape, subok=False):
    missing = len(shape) - x.ndim
    kept = zip(x.shape, shape[missing:], x.strides)
    steps = [0] * missing + [step if n == m else 0 for n, m, step in kept]
    return np.lib.stride_tricks.as_strided(x, shape, steps, subok=True)


# NumPy's functions that are counted, beside those that it calls on every element (ufuncs).
FUNCTIONS = {
    "concatenate": _concatenate,
    "where": _where,
    "broadcast_to": _broadcast_to,
    "dot": lambda a, b: a.note("sum", a.new((), a.dtype), a, b),  # of vectors
    "ones_like": lambda x: x.note("copy", x.new(x.shape, x.dtype)),
    "zeros_like": lambda x: x.note("memset", x.new(x.shape, x.dtype)),
    "empty_like": lambda x: x.new(x.shape, x.dtype),
}


class Module:
    """What stands for CuPy: NumPy's functions, and makers of Blanks."""

    ndarray = Blank
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0),
        get_current_stream=lambda: SimpleNamespace(ptr=0),
    )

    def __init__(self, nodes):
        self.nodes = nodes

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        """Memory alone is no node."""
        return blank(self.nodes, shape, dtype)

    def zeros(self, shape, dtype=np.float64):
        """Memory, and a node that clears it."""
        return self._filled("memset", shape, dtype)

    def ones(self, shape, dtype=np.float64):
        """Memory, and a kernel that fills it; so do the next two."""
        return self._filled("copy", shape, dtype)

    def full(self, shape, value, dtype=None):
        """Like `ones`."""
        return self._filled("copy", shape, dtype or np.asarray(value).dtype)

    def arange(self, count, dtype=np.int64):
        """Like `ones`."""
        return self._filled("copy", count, dtype)

    def _filled(self, kind, shape, dtype):
        made = blank(self.nodes, shape, dtype)
        return made.note(kind, made)

    def asarray(self, x, dtype=None):
        """x as a Blank; what the host sends is sent before the step, and is no node of it."""
        return x if isinstance(x, Blank) else blank(self.nodes, np.shape(x), np.asarray(x).dtype)

    def ascontiguousarray(self, x):
        """x itself, or a copy."""
        return x if x.flags.c_contiguous else x.copy()
