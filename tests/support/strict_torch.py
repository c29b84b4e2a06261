"""PyTorch on the host in a GPU's place: its CPU is the accelerator, graphs are replayed for real.

While a graph is captured every operation is noted as PyTorch dispatches it, the backward's and the
optimiser's too; a replay does them again and writes what they give where it was at first. What it
cannot show: whether CUDA captures an operation, streams, speed.
"""

import contextlib
import time
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Event:
    """torch.cuda.Event, by the host's clock."""

    def __init__(self, enable_timing=False):
        assert enable_timing, "an event without time"

    def record(self, stream=None):
        self.seconds = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, last):
        return 1e3 * (last.seconds - self.seconds)


class Noted(TorchDispatchMode):
    """Notes each operation that is done inside, with what it was given and what came of it."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        self.done.append((function, arguments, named or {}, result))
        return result


class Graph:
    """torch.cuda.CUDAGraph."""

    captured = 0

    def __init__(self):
        self.noted = Noted()

    def replay(self):
        assert self.noted.done, "nothing was captured"
        with torch.no_grad():
            for function, arguments, named, result in self.noted.done:
                again = tree_leaves(function(*arguments, **named))
                for old, new in zip(tree_leaves(result), again, strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


@contextlib.contextmanager
def graph(made):
    """torch.cuda.graph."""
    with made.noted:
        yield
    Graph.captured += 1


def install(monkeypatch, there):
    """Make PyTorch's CPU its GPU; there: a function that says whether it finds one."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "is_available": there,
        "Event": Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda one: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: cpu)
