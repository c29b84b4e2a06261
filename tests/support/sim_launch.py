"""The backend `cuda` over the stand-in: kernels are launched by cupy.RawModule, word by word.

Numba's simulator runs the kernels; test_cuda_sim.py runs this file.
"""

import numpy as np
import pytest
from tinyddpm.kernels.gpu import cubins
from tinyddpm.kernels.gpu.cuda_ops import CudaOps, CudaSimOps
from tinyddpm.kernels.gpu.launch import parameters

from support import strict_cuda, strict_cupy
from support.device_checks import check_diffusion_steps, check_noise, check_operation
from tinyddpm.nn import optim

XP = strict_cupy.strict()
OPS, SIM = CudaOps(XP), CudaSimOps()


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path_factory):
    """Files that name their kernel, in a folder of their own."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(cubins, "build", strict_cuda.code)
    monkeypatch.setattr(cubins, "folder", lambda: folder)
    return folder


def random(*shape, seed=1):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def test_noise_and_the_steps_of_diffusion():
    check_noise(OPS, [(3, 5, 2), (4, 1), (2, 8)])
    check_diffusion_steps(OPS)


@pytest.mark.parametrize("size", [1, 12, 131])
def test_the_optimisers_step(size):
    vectors, grad = [random(size, seed=i) ** 2 for i in range(4)], random(size, seed=5)
    device = [OPS.asarray(x) for x in vectors]
    factors = optim.adamw_factors(3, 2e-3, 0.1)
    scale = np.float32([0.5])
    OPS.adamw_ema(optim.Vectors(*device), OPS.asarray(grad), OPS.asarray(scale), factors, 0.05)
    SIM.adamw_ema(optim.Vectors(*vectors), grad, scale, factors, 0.05)
    for got, want in zip(device, vectors):
        assert np.array_equal(OPS.to_host(got), want)


@pytest.mark.parametrize("name", ["groupnorm in 2", "groupnorm_silu", "conv 3x3"])
def test_operations(name):
    check_operation(OPS, name)


def test_a_launch_moves_nothing_between_host_and_device():
    x, z = OPS.asarray(random(2, 8)), OPS.asarray(random(2, 8, seed=2))
    OPS.normal((2, 8))
    with strict_cupy.Counted() as seen:
        OPS.normal((2, 8), seed=3)
        OPS.reverse_drawn(x, z, (1.0, 0.5, 1.0, 0.5, 0.5, 0.1), step=3)
    assert not any(seen.all.values())


def test_a_clock_on_the_device_moves_the_noise_on():
    """Every word of the counter but the purpose's can lie on the device."""
    seed, step, first = 0x1234567890ABCDEF, 77, 5
    clock = OPS.asarray(np.array([seed & 0xFFFFFFFF, seed >> 32, 0, step, first], np.uint32))
    got = OPS.normal((3, 6), seed=0, step=clock)
    want = OPS.normal((3, 6), seed=seed, step=step, first_sample=first)
    assert np.array_equal(OPS.to_host(got), OPS.to_host(want))


def test_the_words_of_a_launch():
    """Seven words an array: the stand-in reads them as the compiled code does."""
    from numba import types

    array = types.Array(types.float32, 1, "C", aligned=True)
    x = OPS.asarray(random(6))
    signature = array, types.int64, types.UniTuple(types.uint32, 2), types.float32
    words = parameters(signature, (x, 3, (1, 2**32 - 1), 0.5))
    assert words == (0, 0, 6, 4, x.data.ptr, 6, 4, 3, 1, 2**32 - 1, 0.5)
    read = strict_cuda.unpacked(signature, words)
    assert np.array_equal(read[0], OPS.to_host(x)) and read[1:] == [3, (1, 2**32 - 1), 0.5]
    for wrong in (words[1:], (*words, 1), (*words[:-1], 0.5 + 0j), (0.0, *words[1:])):
        with pytest.raises((AssertionError, IndexError)):
            strict_cuda.unpacked(signature, wrong)


def test_a_kernel_is_compiled_once(kept, monkeypatch):
    built = []
    monkeypatch.setattr(cubins, "build", lambda *how: built.append(how) or strict_cuda.code(*how))
    monkeypatch.setattr(cubins, "folder", lambda: kept / "once")
    (kept / "once").mkdir()
    for _ in range(2):
        CudaOps.functions.clear()
        OPS.normal((2, 8))
    assert built == [("normal", True, (9, 0))]
    assert [path.name for path in (kept / "once").iterdir()] == ["normal-wide-sm_90.cubin"]
