"""PyTorch's train and sampling steps on a GPU: eager, and replayed as its own CUDA graph."""

import contextlib
import math

import torch

from tinyddpm.errors import InputError

from . import torch_steps
from .bench import WrongAnswer
from .gpu_clock import Events

WARM = 3  # steps before a graph is captured, as PyTorch's documentation asks for


def device():
    """PyTorch's GPU. Raises InputError where it has none."""
    if not torch.cuda.is_available():
        raise InputError(f"PyTorch {torch.__version__} sees no CUDA device")
    return torch.accelerator.current_accelerator()


@contextlib.contextmanager
def products(precision):
    """A context in which matrix products and convolutions have a precision, "fp32" or "tf32"."""
    matrices, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32, cudnn.benchmark = precision == "tf32", True  # it tries its ways first
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matrices)
        cudnn.allow_tf32, cudnn.benchmark = before


def events():
    """Events of PyTorch's own."""

    def mark():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(first, last):
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    return Events(mark, seconds)


def steps(case, theta, name, reference, limit=None):
    """{"train": {title: step}, "sampling": {title: step}} in one layout, eager and as a graph.

    Args:
        case: a network.Net.
        theta: its parameters.
        name: the layout's, as `torch_steps.layouts` has them.
        reference: the Net whose batch the answers are compared at.
        limit: as `bench.compare`'s.

    Raises:
        WrongAnswer, InputError: the networks disagree; there is no GPU.
    """
    layout, place = torch_steps.layouts(case)[name], device()
    found = {"train": {}, "sampling": {}}
    for title in (name, f"{name}, graph"):
        twin = torch_steps.twin_of(case, theta, layout, place)
        torch_steps.check(title, twin, reference, theta, limit)
        ways = {"train": torch_steps.training, "sampling": torch_steps.sampling}
        for kind, way in ways.items():
            step = way(twin, case, layout)
            found[kind][title] = captured(title, step) if title != name else step
    return found


def captured(title, step):
    """A function that replays a step as one CUDA graph.

    Raises WrongAnswer where what the graph computes is not finite or does not differ from one
    replay to the next, which draws other noise.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(float(result.square().mean()))
    if not all(map(math.isfinite, seen)) or seen[0] == seen[1]:
        raise WrongAnswer(f"{title}: two replays of one graph give {seen}")

    def replay():
        graph.replay()
        return result

    return replay
