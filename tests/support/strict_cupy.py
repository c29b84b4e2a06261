"""A stand-in for CuPy over NumPy, as strict as a device, that counts what would make one wait.

`strict()` gives a module to use as xp or to put into sys.modules as "cupy". It has no name that
the real CuPy lacks (golden/cupy_names.txt), refuses what CuPy refuses (implicit conversion to
NumPy, host arrays among device arrays) and counts in `counts` synchronisations, uploads and
downloads. What it cannot show: CuPy's own rounding, memory layouts and speed; test_gpu.py looks at
the real one.
"""

import functools
import operator
import pathlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np

from support import strict_cuda

NAMES = {
    line
    for line in (pathlib.Path(__file__).parents[1] / "golden" / "cupy_names.txt")
    .read_text()
    .splitlines()
    if not line.startswith("#")
}
# Functions for which CuPy reads something back, to learn how large the answer is.
WAITING = {
    "nonzero",
    "flatnonzero",
    "argwhere",
    "unique",
    "compress",
    "extract",
    "allclose",
    "array_equal",
}
BINARY = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
METHODS = (
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "astype",
    "clip",
    "copy",
    "cumsum",
    "dot",
    "fill",
    "flatten",
    "max",
    "mean",
    "min",
    "prod",
    "ravel",
    "repeat",
    "reshape",
    "round",
    "sort",
    "squeeze",
    "std",
    "sum",
    "swapaxes",
    "take",
    "trace",
    "transpose",
    "var",
    "view",
)
PLAIN = ("shape", "strides", "dtype", "ndim", "size", "nbytes", "itemsize")
counts = {"synchronisations": 0, "uploads": 0, "downloads": 0}


class Counted:
    """`with Counted() as c:` ... c.all holds what was counted inside."""

    def __enter__(self):
        self.before = dict(counts)
        return self

    def __exit__(self, *error):
        self.all = {name: counts[name] - self.before[name] for name in counts}


def wait(download=False):
    strict_cuda.refuse("a wait for the device")
    counts["synchronisations"] += 1
    counts["downloads"] += download


def lower(value):
    """The NumPy array behind a device array, in lists and tuples too; refuses host arrays."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array among device arrays")
    if isinstance(value, list | tuple):
        return type(value)(map(lower, value))
    return value


def lift(value):
    """NumPy's answer as the device's: scalars become arrays (), which is what CuPy returns."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, list | tuple):
        return type(value)(map(lift, value))
    return value


def call(function, *arguments, **options):
    name = getattr(function, "__name__", "operation")
    given = [lower(value) for value in arguments]
    named = {key: lower(value) for key, value in options.items()}
    if strict_cuda.state.capturing is None:
        answer = function(*given, **named)
        inputs = [x for x in _flattened((*given, *named.values())) if isinstance(x, np.ndarray)]
        view = any(np.may_share_memory(answer, x) for x in inputs if x.size)
        strict_cuda.State.launched += not view and name not in ("empty", "empty_like")
        return options["out"] if isinstance(options.get("out"), ndarray) else lift(answer)
    return _recorded(name, function, given, named, options.get("out"))


def _recorded(name, function, given, named, out):
    """The answer of a function that becomes a node: a view is one already, a new array garbage."""
    if name in strict_cuda.CUBLAS:
        raise NotImplementedError(f"{name}: CuPy's cuBLAS while a stream is captured")
    if isinstance(out, ndarray):
        strict_cuda.submit(name, lambda: function(*given, **named))
        return out
    with np.errstate(all="ignore"):
        answer = function(*given, **named)  # for its shape and type
    if isinstance(answer, list | tuple):
        raise AssertionError(f"{name} gives several arrays: not recorded here")
    fresh = np.asarray(answer)
    inputs = [x for x in _flattened((*given, *named.values())) if isinstance(x, np.ndarray)]
    if any(np.may_share_memory(fresh, x) for x in inputs if x.size) or name in ("empty",):
        return lift(fresh if inputs else strict_cuda.allocated(fresh))
    fresh = strict_cuda.allocated(np.array(fresh))
    strict_cuda.submit(name, lambda: np.copyto(fresh, function(*given, **named)))
    return ndarray(fresh)


def _flattened(values):
    for value in values:
        yield from _flattened(value) if isinstance(value, list | tuple) else (value,)


def change(name, function):
    """Something that is written into an array that is there already."""
    strict_cuda.submit(name, function)


class ndarray:
    """A device array; its NumPy array is `_host`, which nothing but this file may touch."""

    __hash__ = None
    __array_priority__ = 100

    def __init__(self, host):
        assert type(host) is np.ndarray
        self._host = host

    # What would come back to the host.

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self):
        wait(download=True)
        return self._host.copy()

    def item(self, *index):
        wait(download=True)
        return self._host.item(*index)

    def tolist(self):
        wait(download=True)
        return self._host.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.get())

    def __format__(self, how):
        return format(self.item() if self.ndim == 0 else self.get(), how)

    def __repr__(self):
        return repr(self.get())

    def __iter__(self):
        # no wait in itself, but a kernel for each row, and the next thing is to read it
        wait()
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return len(self._host)

    # What stays on the device.

    def __getitem__(self, key):
        _look(key)
        return call(operator.getitem, self, key)

    def __setitem__(self, key, value):
        _look(key)
        host, key, value = self._host, lower(key), lower(value)
        change("setitem", lambda: host.__setitem__(key, value))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__" or ufunc.__name__ not in NAMES:
            return NotImplemented
        return call(ufunc, *inputs, **options)

    def __array_function__(self, function, types, arguments, options):
        if function.__name__ not in NAMES or not all(issubclass(t, ndarray) for t in types):
            return NotImplemented
        return getattr(strict(), function.__name__)(*arguments, **options)

    @property
    def T(self):
        return lift(self._host.T)

    @property
    def flags(self):
        return SimpleNamespace(
            c_contiguous=self._host.flags.c_contiguous, f_contiguous=self._host.flags.f_contiguous
        )

    @property
    def data(self):
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "version": 3,
        }


def _look(key):
    """Count a wait where a key's answer is of a size that has to be known."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, ndarray) and part.dtype == bool:
            wait()


def _fill(self, value):
    host, value = self._host, lower(value)
    change("fill", lambda: host.fill(value))


def _define():
    """Operators and methods, each NumPy's on the arrays behind."""

    def binary(function, swapped=False):
        def method(self, other):
            if not isinstance(other, ndarray | int | float | complex | np.generic | np.ndarray):
                return NotImplemented
            return call(function, other, self) if swapped else call(function, self, other)

        return method

    def in_place(function):
        def method(self, other):
            if function.__name__ in strict_cuda.CUBLAS:
                strict_cuda.refuse(function.__name__)
            host, other = self._host, lower(other)
            run = functools.partial(function, host, other, out=host, casting="same_kind")
            change(function.__name__, run)
            return self

        return method

    numpy_name = {
        "sub": "subtract",
        "mul": "multiply",
        "truediv": "true_divide",
        "floordiv": "floor_divide",
        "pow": "power",
        "and": "bitwise_and",
        "or": "bitwise_or",
        "xor": "bitwise_xor",
        "lshift": "left_shift",
        "rshift": "right_shift",
    }
    for name in BINARY:
        function = getattr(np, numpy_name.get(name, name))
        setattr(ndarray, f"__{name}__", binary(function))
        setattr(ndarray, f"__r{name}__", binary(function, swapped=True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", in_place(function))
    for name in COMPARE:
        setattr(ndarray, f"__{name}__", binary(getattr(operator, name)))
    for name in ("neg", "pos", "abs", "invert"):
        setattr(ndarray, f"__{name}__", lambda self, name=name: call(getattr(operator, name), self))
    for name in METHODS:
        method = getattr(np.ndarray, name)
        setattr(ndarray, name, lambda self, *a, method=method, **k: call(method, self, *a, **k))
    setattr(ndarray, "fill", _fill)  # noqa: B010
    for name in PLAIN:
        setattr(ndarray, name, property(lambda self, name=name: getattr(self._host, name)))


_define()


def _upload(value, dtype=None, **options):
    """cupy.array and cupy.asarray: a host's array or number is copied to the device."""
    if isinstance(value, ndarray):
        return lift(np.asarray(value._host, dtype))
    strict_cuda.refuse("a copy from the host")
    assert not any(
        isinstance(part, ndarray) for part in (value if isinstance(value, list | tuple) else ())
    )
    counts["uploads"] += 1
    return ndarray(np.array(value, dtype, order="C"))


def _asnumpy(value, *options, **more):
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


class _Cupy(ModuleType):
    """The module: CuPy's names, done by NumPy's functions of the same name."""

    def __getattr__(self, name):
        if name.startswith("__") or name not in NAMES:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):  # types, newaxis, pi, inf
            return found

        def function(*arguments, **options):
            if name in WAITING:
                wait()
            return call(found, *arguments, **options)

        return function


class OutOfMemoryError(MemoryError):
    """What CuPy raises where the device's memory is full."""


_module = _Cupy("cupy")
_module.__spec__ = ModuleSpec("cupy", None)
_module.ndarray, _module.array, _module.asarray, _module.asnumpy = (
    ndarray,
    _upload,
    _upload,
    _asnumpy,
)
_module.lib = SimpleNamespace(
    stride_tricks=SimpleNamespace(
        as_strided=lambda x, shape=None, strides=None: call(
            np.lib.stride_tricks.as_strided, x, shape, strides
        )
    )
)
memory = {"free": 1 << 30, "total": 1 << 31, "pool": 0}  # bytes; a test may change them
_module.RawModule = strict_cuda.RawModule
_module.linalg = SimpleNamespace(norm=lambda *a, **k: call(np.linalg.norm, *a, **k))
strict_cuda.State.wait = staticmethod(wait)
_pool = strict_cuda.MemoryPool()
_pool.free_bytes = lambda: memory["pool"]
_module.get_default_memory_pool = lambda: _pool
_module.cuda = SimpleNamespace(
    Stream=strict_cuda.Stream,
    Event=strict_cuda.Event,
    get_elapsed_time=strict_cuda.get_elapsed_time,
    MemoryPool=strict_cuda.MemoryPool,
    using_allocator=strict_cuda.using_allocator,
    get_current_stream=lambda: strict_cuda.state.streams[-1],
    Device=lambda *number: SimpleNamespace(compute_capability="90", synchronize=wait),
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDevice=lambda: strict_cuda.state.device,
        setDevice=lambda number: setattr(strict_cuda.state, "device", number),
        deviceGetPCIBusId="0000:{:02x}:00.0".format,
        memGetInfo=lambda: (memory["free"], memory["total"]),
        CUDARuntimeError=strict_cuda.CUDARuntimeError,
        getDeviceProperties=lambda index: {"name": b"strict stand-in"},
    ),
)


def strict():
    """The module, always the same one."""
    return _module


def install(monkeypatch):
    """Put the stand-in where `import cupy` finds it, until the test is over."""
    monkeypatch.setitem(sys.modules, "cupy", _module)
    return _module
