"""Ranks on graphics cards, by the strict stand-ins for CuPy and NCCL: the bytes of one process."""

import sys
from types import SimpleNamespace

import pytest
from support import ranks, strict_cupy, strict_nccl
from tinyddpm.kernels.gpu import nccl
from tinyddpm.kernels.gpu.cupy_ops import CupyOps

from tinyddpm.errors import InputError

CASES = [
    pytest.param("cuda", ["points"], id="cuda"),
    pytest.param("cupy", ["points", "images"], id="cupy", marks=pytest.mark.stress),
]


@pytest.mark.parametrize(("backend", "cases"), CASES)
def test_the_bytes_of_a_run_do_not_depend_on_the_cards(tmp_path, monkeypatch, backend, cases):
    """1, 2 and 3; with `cuda` NCCL's calls are in the recorded step (support/card_ranks.py)."""
    if backend == "cuda":
        pytest.importorskip("numba")
        monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    code, _, err = ranks.start(3, "-m", "support.card_ranks", tmp_path, backend)
    assert code == 0, err
    for name in cases:
        alone = ranks.content(tmp_path / name)
        assert {"checkpoint.npz", "checkpoint-2.npz", "log.jsonl"} <= set(alone)
        for size in ranks.SIZES[3]:
            assert ranks.content(tmp_path / f"{name}-{size}") == alone, (name, size)
    assert ranks.content(tmp_path / "sum").keys() == alone.keys()


class Two:
    """A communicator as far as it is asked: two ranks, both here."""

    Get_rank, Get_size = (lambda self: 1), (lambda self: 2)

    def __init__(self, other):
        self.other = other

    def allgather(self, own):
        return [self.other, own]

    def bcast(self, value):
        return b"a name"


def test_two_ranks_on_one_card_are_refused(monkeypatch):
    cupy = strict_cupy.install(monkeypatch)
    monkeypatch.setattr(nccl.platform, "node", lambda: "here")
    for devices, other, fits in (
        (2, ("here", "0000:00:00.0"), True),
        (1, ("here", "0000:00:00.0"), False),
        (1, ("there", "0000:00:00.0"), True),
    ):
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda devices=devices: devices)
        if fits:
            assert isinstance(CupyOps(cupy).between(Two(other), 1), nccl.Nccl)
            assert cupy.cuda.runtime.getDevice() == 1 % devices
        else:
            with pytest.raises(InputError, match="^ranks 0 and 1 have one GPU: each rank needs"):
                CupyOps(cupy).between(Two(other), 1)
        cupy.cuda.runtime.setDevice(0)


def test_ranks_on_cards_without_nccl_are_refused(monkeypatch):
    cupy = strict_cupy.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)  # as if it were not there
    with pytest.raises(InputError, match="NCCL, and rank 1 has none: pip install nvidia-nccl"):
        nccl.Nccl(cupy, Two(True)).Barrier()

    class Refused(RuntimeError):
        """What NCCL raises."""

    def refuse(size, name, rank):
        raise Refused("NCCL_ERROR_SYSTEM_ERROR")

    fake = SimpleNamespace(available=True, NcclError=Refused, NcclCommunicator=refuse)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", fake)
    with pytest.raises(InputError, match="NCCL does not connect the ranks: NCCL_ERROR_SYSTEM"):
        nccl.Nccl(cupy, Two(True)).Barrier()


def test_the_stand_in_has_no_name_that_nccl_lacks():
    names = {name[10:] for name in strict_cupy.NAMES if name.startswith("cuda.nccl.")}
    link = "NcclCommunicator"
    methods = {f"{link}.{name}" for name in vars(strict_nccl.NcclCommunicator) if name[0] != "_"}
    assert {*strict_nccl.OWN, *methods} <= names


ONE = """
from mpi4py import MPI
from support import strict_cupy, strict_nccl
import pytest

strict_cupy.install(pytest.MonkeyPatch())
strict_nccl.install(MPI.COMM_SELF, 1)
from benchmarks import gpu_ranks, sizes
from tinyddpm import MLP
from tinyddpm.backend import get

case = sizes.Net(MLP(hidden=4, layers=1), (2,), 6)
print(gpu_ranks.one_rank(get("cupy"), lambda: None, 0.01, case)["parameters"])
assert ["send", "recv"] in strict_nccl.ended
"""


def test_the_benchmark_of_one_rank_on_one_card():
    assert ranks.start(1, "-c", ONE) == (0, "the same bytes\n", "")
