"""Philox's known answers on the device, and what a launch costs by each way to it."""

import statistics

import numpy as np
from numba import cuda
from tinyddpm.kernels.gpu import fused_steps
from tinyddpm.kernels.gpu.launch import parameters
from tinyddpm.kernels.gpu.philox import encipher
from tinyddpm.kernels.gpu.signatures import SIGNATURES

from .bench import WrongAnswer
from .clock import reading

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
CALLS, READINGS, SIZE, THREADS = 500, 21, 256, 64


def known_answers():
    """Hold the device's Philox against the published words, bit for bit; returns how many.

    Raises WrongAnswer.
    """
    counters = np.array([counter for counter, _ in KNOWN], np.uint64)
    words = np.zeros((len(KNOWN), 4), np.uint64)
    encipher[1, 4](counters, words)  # Numba copies both there and back
    want = np.array([answer for _, answer in KNOWN], np.uint64)
    if not np.array_equal(words & np.uint64(0xFFFFFFFF), want):
        raise WrongAnswer(f"Philox on the device gives {words.tolist()}, not {want.tolist()}")
    return want.size


def overhead(bench):
    """{way: microseconds a launch} of one small kernel.

    The median of readings, each of CALLS launches and one wait.
    """
    z = bench.ops.xp.empty(SIZE, np.float32)
    kernel, grid, block = fused_steps.KERNELS[True].normal, (1, 1), (THREADS, 1)
    words, clock = bench.ops._counter(1, 1, 0, 0, 0)
    scalars = np.int32(1), np.int32(SIZE), words, cuda.as_cuda_array(clock, sync=False)
    ready = cuda.as_cuda_array(z, sync=False)
    ways = {
        # an array handed over as it is has its stream waited for: Numba follows the interface's
        # letter
        "numba, CuPy array, stream synchronised": lambda: kernel[grid, block, 0](z, *scalars),
        "numba, array wrapped without synchronising": lambda: kernel[grid, block, 0](
            cuda.as_cuda_array(z, sync=False), *scalars
        ),
        "numba, array wrapped before": lambda: kernel[grid, block, 0](ready, *scalars),
        "backend cuda, ops.normal": lambda: bench.ops.normal((1, SIZE), 1),
    }
    ways["numba, array wrapped before"]()
    want = bench.ops.to_host(z)
    raw = bench.ops._function("normal", wide=True)
    arguments = parameters(SIGNATURES["normal"], (z, *scalars[:3], clock))
    z[:] = 0
    raw(grid, block, arguments)
    if not np.array_equal(bench.ops.to_host(z), want):
        raise WrongAnswer(
            "the cubin launched by cupy.RawModule gives other numbers than Numba's launch"
        )
    ways["cupy.RawModule, the same cubin"] = lambda: raw(grid, block, arguments)
    found = {}
    for way, launch in ways.items():
        launch()
        found[way] = 1e6 * statistics.median(
            reading(launch, bench.wait, CALLS) for _ in range(READINGS)
        )
    return found
