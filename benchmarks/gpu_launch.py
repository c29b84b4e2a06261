"""Philox's known answers on the device, and what a launch costs by each way to it."""

import statistics

import numpy as np
from numba import cuda
from tinyddpm.kernels.gpu import fused_steps, launch
from tinyddpm.kernels.gpu.philox import encipher
from tinyddpm.kernels.gpu.signatures import SIGNATURES

from . import gpu_clock
from .bench import WrongAnswer

# Counter (4 words) and key (2) -> words: the Random123 distribution's known answers for philox4x32,
# 10 rounds.
KNOWN = (
    ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
CALLS, READINGS, SIZE = 500, 21, 64


def known_answers():
    """Hold the device's Philox against the published words, bit for bit; returns how many.

    Raises WrongAnswer.
    """
    counters = np.array([counter for counter, _ in KNOWN], np.uint64)
    words = np.zeros((len(KNOWN), 4), np.uint64)
    encipher[len(KNOWN), 1](counters, words)  # Numba copies both there and back
    want = np.array([answer for _, answer in KNOWN], np.uint64)
    if not np.array_equal(words & np.uint64(0xFFFFFFFF), want):
        raise WrongAnswer(f"Philox on the device gives {words.tolist()}, not {want.tolist()}")
    return want.size


def overhead(session, bench, peer, calls=CALLS, readings=READINGS):
    """{way: {"host_us", "device_us"}} of one launch of something small.

    Args:
        session: a Session.
        bench: the backend `cuda`.
        peer: whether PyTorch's launches are timed too.
        calls: launches of a reading, and nodes of the graph.
        readings: of which the median is taken.
    """
    found = {}
    for makers in (_numba, _raw, _cupy, _graph, *((_torch,) if peer else ())):
        made = session.attempt(f"launches of {makers.__name__.strip('_')}", makers, bench, calls)
        for way, (call, number) in (made or {}).items():
            row = session.attempt(way, _timed, bench, call, number, calls, readings)
            if row:
                found[way] = row
    return found


def _timed(bench, call, number, calls, readings):
    """The row of one way, whose call is so many launches; PyTorch's lie on the same stream."""
    marks, calls = gpu_clock.events(bench), max(1, calls // number)
    call()
    each = [gpu_clock.reading(call, marks, calls) for _ in range(readings)]
    return {
        "host_us": 1e6 * statistics.median(r.host for r in each) / number,
        "device_us": 1e6 * statistics.median(r.device for r in each) / number,
    }


def _small(bench):
    """(the grid, the block, the kernel's arguments) of the kernel `normal` on a few numbers."""
    z = bench.ops.xp.zeros(SIZE, np.float32)
    words, clock = bench.ops._counter(1, 1, 0, 0, 0)
    threads, tiles = launch.tiles_for(SIZE // 4, launch.STEP_THREADS)
    return (1, tiles), (threads, 1), (z, np.int32(1), np.int32(SIZE), words, clock)


def _numba(bench, calls):
    """Numba's own launch; an array handed over as it is has its stream waited for."""
    kernel = fused_steps.KERNELS[True].normal
    grid, block, (z, rows, size, words, clock) = _small(bench)
    clock, ready = (cuda.as_cuda_array(x, sync=False) for x in (clock, z))
    scalars = rows, size, words, clock

    def wrapped():
        kernel[grid, block, 0](cuda.as_cuda_array(z, sync=False), *scalars)

    return {
        "numba, CuPy array, stream synchronised": (lambda: kernel[grid, block](z, *scalars), 1),
        "numba, array wrapped without synchronising": (wrapped, 1),
        "numba, array wrapped before": (lambda: kernel[grid, block, 0](ready, *scalars), 1),
    }


def _raw(bench, calls):
    """The compiled kernel by CuPy's launch, its answer compared with the backend's."""
    grid, block, given = _small(bench)
    raw = bench.ops._function("normal", wide=True)
    arguments = launch.parameters(SIGNATURES["normal"], given)
    raw(grid, block, arguments)
    want = bench.ops.to_host(bench.ops.normal((1, SIZE), 1))[0]
    if not np.array_equal(bench.ops.to_host(given[0]), want):
        raise WrongAnswer(
            "the cubin launched by cupy.RawModule gives other numbers than ops.normal"
        )
    return {
        # the default argument keeps the arrays whose addresses are in the words
        "cupy.RawModule, the same cubin": (lambda kept=given: raw(grid, block, arguments), 1),
        "backend cuda, ops.normal": (lambda: bench.ops.normal((1, SIZE), 1), 1),
    }


def _cupy(bench, calls):
    """CuPy's own kernels, and products by it and by nvmath."""
    xp, products = bench.ops.xp, bench.ops.products
    x, a = xp.zeros(SIZE, np.float32), xp.zeros((16, 16), np.float32)
    y, out = xp.zeros_like(x), xp.zeros_like(a)
    return {
        "cupy, add": (lambda: xp.add(x, x, out=y), 1),
        "cupy, sum over an axis": (lambda: a.sum(axis=0), 1),
        "cupy, matmul": (lambda: xp.matmul(a, a, out=out), 1),
        f"{type(products).__name__}, product": (lambda: products.product(a, a, out=out), 1),
    }


def _graph(bench, calls):
    """A graph of that many nodes, all the same kernel; one launch of it is so many launches."""
    xp, cuda_ = bench.ops.xp, bench.ops.xp.cuda
    stream, before = cuda_.Stream(non_blocking=True), cuda_.get_current_stream()
    with stream, cuda_.using_allocator(cuda_.MemoryPool().malloc):
        x = xp.zeros(SIZE, np.float32)
        xp.add(x, x, out=x)
        stream.begin_capture()
        for _ in range(calls):
            xp.add(x, x, out=x)
        graph = stream.end_capture()
    stream.synchronize()

    def replay(kept=x):
        graph.launch(before)

    return {f"a node of a graph of {calls}": (replay, calls)}


def _torch(bench, calls):
    """PyTorch's add and mm, on the default stream, which CuPy's events lie on too."""
    import torch

    from . import torch_card

    x = torch.zeros((16, 16), device=torch_card.device())
    y = torch.zeros_like(x)
    return {
        "torch, add": (lambda: torch.add(x, x, out=y), 1),
        "torch, mm": (lambda: torch.mm(x, x, out=y), 1),
    }


def table(rows):
    """The rows as text."""
    lines = [f"\n{'launches, microseconds each':52}{'host':>9}{'device':>9}"]
    for way, row in rows.items():
        lines.append(f"    {way:48}{row['host_us']:9.2f}{row['device_us']:9.2f}")
    return "\n".join(lines)
