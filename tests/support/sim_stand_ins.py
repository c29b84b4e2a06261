"""The fixture that puts stand-ins in the place of a card, for what runs under the simulator."""

import pytest
from numba import cuda
from tinyddpm.kernels.gpu import cubins, cuda_ops, launch, layers, linear, tiled

from support import strict_cublas, strict_cuda, strict_cupy


@pytest.fixture
def stand_ins(monkeypatch, tmp_path_factory):
    """`install`, until the test is over."""
    install(monkeypatch, tmp_path_factory.getbasetemp())


def install(monkeypatch, folder):
    """CuPy, cuBLAS and the compiled kernels, in blocks of one thread, which the simulator likes."""
    strict_cupy.install(monkeypatch)
    strict_cublas.install(monkeypatch)
    monkeypatch.setattr(cubins, "build", strict_cuda.code)
    monkeypatch.setattr(cubins, "folder", lambda: folder)
    for module, name in (
        (launch, "STEP_THREADS"),
        (layers, "STEP_THREADS"),
        (tiled, "STEP_THREADS"),
        (linear, "DENSE_THREADS"),
        (layers, "SUM_THREADS"),
        (layers, "BLOCKS"),
        (cuda_ops, "STEP_THREADS"),
        (cuda_ops, "NORM_THREADS"),
    ):
        monkeypatch.setattr(module, name, 1)
    strict_cuda.one_thread_a_block(monkeypatch)
    # what the simulator lacks
    monkeypatch.setattr(cuda, "as_cuda_array", lambda x, sync=True: x._host, raising=False)
