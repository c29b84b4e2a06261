"""What a recorded step consists of: its graph's nodes, and where the device's time goes."""

import contextlib
import ctypes
import math
import re
from collections import Counter
from dataclasses import replace

from tinyddpm.kernels.gpu.cuda_ops import CudaOps

from . import gpu_clock, network

DRIVER = "libcuda.so.1"
KINDS = {0: "kernel", 1: "copy", 2: "memset"}  # CUgraphNodeType; all others are "other"
CALLS = 5  # steps under the profiler
ENOUGH = 0.5  # of a step's time must be found under the profiler


def count(bench, step):
    """{kind: number} of the nodes of a step's graph, which is captured here and not carried out.

    Args:
        bench: a backend that launches its kernels one by one.
        step: a function without arguments.
    """
    cuda = bench.ops.xp.cuda
    stream = cuda.Stream(non_blocking=True)
    bench.wait()  # for what the step reads: this stream waits for no other
    with stream, cuda.using_allocator(cuda.MemoryPool().malloc):
        for again in (True, False):
            step(), step()  # what this stream needs is made, and its memory lies in the pool
            stream.begin_capture()
            try:
                step()
                return _captured(stream.ptr)
            except cuda.runtime.CUDARuntimeError:
                if not again:
                    raise  # a step in some sixty draws batches on the host: not so the next one
            finally:
                with contextlib.suppress(cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                stream.synchronize()


def _captured(stream):
    """{kind: number} of the nodes so far of the graph that a stream captures.

    CuPy tells nothing of a graph, and keeps only what can be launched: the driver is asked.
    """
    driver = ctypes.CDLL(DRIVER)
    status, identity, graph = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_void_p()
    number = ctypes.c_size_t()
    given = map(ctypes.byref, (status, identity, graph))
    handle = ctypes.c_void_p(stream)
    _asked(driver.cuStreamGetCaptureInfo_v2(handle, *given, None, None))
    _asked(driver.cuGraphGetNodes(graph, None, ctypes.byref(number)))
    nodes, kinds = (ctypes.c_void_p * number.value)(), Counter()
    _asked(driver.cuGraphGetNodes(graph, nodes, ctypes.byref(number)))
    for node in nodes:
        kind = ctypes.c_int()
        _asked(driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
        kinds[KINDS.get(kind.value, "other")] += 1
    return dict(kinds)


def _asked(code):
    """Raises OSError where the driver did not answer."""
    if code:
        raise OSError(f"the driver refuses: error {code}")


def kind(name):
    """What a kernel is counted as, from the name that CUPTI gives it."""
    ours = re.fullmatch(r"tinyddpm_(\w+)", name)
    if ours:
        return ours[1]
    for words, found in (
        ("gemm|gemv|splitk|cutlass|cublas", "product"),
        ("memset", "memset"),
        ("memcpy|cupy_copy", "copy"),
        ("cupy_.*sum|reduce", "sum"),
        ("cupy_", "elementwise"),
    ):
        if re.search(words, name, re.IGNORECASE):
            return found
    return "other"


def by_profiler(step, wait):
    """{kind: [seconds, kernels]} of a step, by CUPTI through PyTorch's profiler.

    Args:
        step: what is called; it may replay a graph.
        wait: returns when the device is done.
    """
    from torch.profiler import ProfilerActivity, profile, supported_activities

    if ProfilerActivity.CUDA not in supported_activities():
        return {}
    wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(CALLS):
            step()
        wait()
    times = {}
    for event in found.key_averages():
        if event.self_device_time_total:
            seconds, number = times.setdefault(kind(event.key), [0.0, 0.0])
            seconds += event.self_device_time_total / 1e6 / CALLS
            times[kind(event.key)] = [seconds, number + event.count / CALLS]
    return times


class Marked(CudaOps):
    """The backend `cuda`, launched one by one, with an event before and after what it launches."""

    recorded = False

    def __init__(self, cupy, precision, mark):
        super().__init__(cupy, precision)
        self.mark, self.spans = mark, []
        for name in ("product", "add_rows"):
            setattr(self.products, name, self._within("product", getattr(self.products, name)))

    def _within(self, name, function):
        def marked(*arguments, **options):
            first = self.mark()
            result = function(*arguments, **options)
            self.spans.append((name, first, self.mark()))
            return result

        return marked

    def _launch(self, name, *arguments, **options):
        self._within(name, super()._launch)(name, *arguments, **options)


def by_events(case, bench, busy, host):
    """{kind: [seconds, kernels]} of a train step's own kernels and products; not of CuPy's.

    Args:
        case: a network.Net.
        bench: the backend `cuda`.
        busy: (seconds) -> keeps the device busy for as long, so that no kernel waits for its
            launch, and returns at once.
        host: seconds that the host needs to launch a step.
    """
    marks = gpu_clock.events(bench)
    ops = Marked(bench.ops.xp, bench.ops.precision, marks.mark)
    train, *_ = network.ours(case, replace(bench, ops=ops))  # takes a step, to begin with
    bench.wait()
    ops.spans.clear()
    busy(3 * host)  # the events are launched as well
    train()
    times = {}
    for name, first, last in ops.spans:
        seconds, number = times.get(name, (0.0, 0))
        times[name] = [seconds + marks.seconds(first, last), number + 1]
    return times


def shares(step, case, bench, busy, row, profiled):
    """{"by": how, "ms": {kind: [ms, kernels]}} of a train step, the longest first.

    Args:
        step: the recorded step.
        case, bench, busy: as `by_events`'.
        row: (seconds of the step on the device, seconds of the host's for it launched one by one).
        profiled: whether PyTorch's profiler may be tried.
    """
    device, host = row
    how, times = "CUPTI, a graph replayed", by_profiler(step, bench.wait) if profiled else {}
    if math.fsum(seconds for seconds, _ in times.values()) < ENOUGH * device:
        how, times = "events, launched one by one", by_events(case, bench, busy, host)
    ms = {name: [1e3 * seconds, number] for name, (seconds, number) in times.items()}
    return {"by": how, "ms": dict(sorted(ms.items(), key=lambda item: -item[1][0]))}
