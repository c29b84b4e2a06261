"""The stand-in's part of CuPy that runs kernels: RawModule, streams, pools, graphs.

A kernel is launched with what CUDA would be handed, word by word: `RawModule` takes the words apart
as the compiled code does, by the types of its arguments, finds the arrays by their addresses, and
runs the same kernel in Numba's simulator. While a stream is captured, nothing runs: what would have
run becomes a node of the graph, and results hold garbage until the graph is launched. What a word
means is proved apart, by the compiled
kernels' own lists of parameters (test_ptx.py).
"""

import contextlib
import ctypes
import itertools
import pathlib
import threading
import time
from typing import NamedTuple

import numpy as np

# What CuPy computes by its own calls of cuBLAS, which it refuses while a stream is captured.
CUBLAS = {"matmul", "dot", "vdot", "inner", "outer", "einsum", "tensordot", "norm", "kron"}


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where the driver refuses."""


class Node(NamedTuple):
    """One operation of a graph."""

    name: str
    run: object  # a function without arguments


class Stream:
    """cupy.cuda.Stream: everything runs at once, in the order of the program."""

    pointers = itertools.count(1)

    def __init__(self, null=False, non_blocking=False):
        self.ptr = 0 if null else 4096 * next(self.pointers)
        self.nodes = self.kept = None  # of what is being captured

    def __enter__(self):
        state.streams.append(self)
        return self

    def __exit__(self, *error):
        state.streams.pop()

    def begin_capture(self):
        assert self.ptr, "the default stream cannot be captured"
        assert state.capturing is None and state.streams[-1] is self
        self.nodes, self.kept, state.capturing = [], [], self
        state.pool = state.allocator
        assert state.pool is not None, "a capture needs a pool of its own"

    def end_capture(self):
        nodes, self.nodes, state.capturing = self.nodes, None, None
        return Graph(nodes, self.kept)

    def is_capturing(self):
        return self.nodes is not None

    def synchronize(self):
        refuse("waiting for a stream")
        state.wait()

    def record(self, event=None):
        refuse("an event")
        return ("event", self.ptr)

    def wait_event(self, event):
        refuse("an event")
        assert event[0] == "event"


class Event:
    """cupy.cuda.Event: when it was recorded, by the host's clock."""

    def __init__(self):
        self.seconds = None

    def record(self, stream=None):
        refuse("an event")
        self.seconds = time.perf_counter()

    def synchronize(self):
        state.wait()


def get_elapsed_time(first, last):
    """cupy.cuda.get_elapsed_time: milliseconds."""
    return 1e3 * (last.seconds - first.seconds)


class Graph:
    """cupy.cuda.Graph: a list of nodes, run again at each launch."""

    launches = 0

    def __init__(self, nodes, kept):
        self.nodes, self.kept = nodes, kept

    def launch(self, stream=None):
        assert state.capturing is None
        Graph.launches += 1
        with np.errstate(all="ignore"):
            for node in self.nodes:
                node.run()


class MemoryPool:
    """cupy.cuda.MemoryPool: of interest is only who allocates from it."""

    def malloc(self, size):
        raise AssertionError("the stand-in's arrays are NumPy's")

    def free_all_blocks(self):
        refuse("giving memory back")


class State(threading.local):
    """The current stream, pool and device, and what is being captured: a thread has its own."""

    launched = 0  # operations that no graph holds, of all threads

    def __init__(self):
        self.streams, self.capturing, self.allocator, self.pool = [Stream(null=True)], None, None, 0
        self.device = 0

    def wait(self):
        """Count a wait for the device; strict_cupy puts its own here."""


state = State()


@contextlib.contextmanager
def using_allocator(malloc):
    """cupy.cuda.using_allocator."""
    before, state.allocator = state.allocator, malloc.__self__ if malloc else None
    try:
        yield
    finally:
        state.allocator = before


def refuse(what):
    """Refuse what a capture forbids."""
    if state.capturing is not None:
        raise CUDARuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} while a stream is captured"
        )


def submit(name, run):
    """Run an operation of the device, or make it a node of the graph that is being captured."""
    if state.capturing is None:
        State.launched += 1
        run()
        return
    assert state.streams[-1] is state.capturing, "an operation on another stream than the captured"
    state.capturing.nodes.append(Node(name, run))


def allocated(array):
    """A new array of the device: while a stream is captured, of its own pool, holding garbage."""
    if state.capturing is not None:
        assert state.allocator is state.pool, "an allocation outside of the captured pool"
        state.capturing.kept.append(array)  # nodes know its address alone
        array[...] = np.nan if array.dtype.kind == "f" else 0  # an index has to be one
    return array


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


class OneThread:
    """In place of the simulator's BlockManager: a block of one thread, on the thread that asks."""

    def __init__(self, function, grid, block, debug):
        assert set(block) == {1}
        self.function = function

    def run(self, place, *arguments):
        thread = threading.current_thread()
        thread.blockIdx, thread.threadIdx = Dim3(*place), Dim3(0, 0, 0)
        thread.syncthreads = lambda: None
        self.function(*arguments)


def one_thread_a_block(monkeypatch):
    """Let the simulator run blocks of one thread alone, some ten times faster."""
    from numba.cuda.simulator import kernel, kernelapi
    from numba.np.numpy_support import as_dtype

    monkeypatch.setattr(kernel, "BlockManager", OneThread)
    shared = kernelapi.FakeCUDAShared
    monkeypatch.setattr(shared, "array", lambda self, n, kind: np.zeros(n, as_dtype(kind)))


class Dim3(NamedTuple):
    """A place in a grid or a block."""

    x: int
    y: int
    z: int


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
        kernel = signatures.kernel(self.name, self.wide)
        # the simulator's kernel[grid, block] is the kernel itself, and remembers only the last
        submit(self.name, lambda: kernel[grid, block](*arguments))
