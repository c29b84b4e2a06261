"""python -m benchmarks gpu, whole, on stand-ins for a card: CuPy's, cuBLAS's, the driver's and
PyTorch's, with the kernels in Numba's simulator; test_gpu_path.py runs this file.

Answers are compared as on a card. Times mean nothing.
"""

import importlib
import importlib.util
import json
import runpy
import sys

import pytest
from tinyddpm.kernels.gpu import cubins, launch

import tinyddpm.backend
from support import strict_cuda, strict_cupy, strict_driver, strict_nccl
from support.sim_stand_ins import stand_ins  # noqa: F401 (a fixture)

GROUP = ("gpu", "--tiny", "--seconds", "0.001", "--backend", "cuda", "cupy")
STEPS = {"normal", "noised_drawn", "reverse_drawn", "adamw_ema"}
OURS = {"cuda", "cuda, one by one"}
TORCHS = {"torch", "torch, graph", "torch nhwc", "torch nhwc, graph"}
A, C = "a: 2x2x1, one level, batch 2", "c: points, MLP of width 4, batch 3"


@pytest.fixture(autouse=True)
def card(stand_ins, monkeypatch):  # noqa: F811
    """A card, as far as the backend looks; batches are drawn anew often, which no graph can."""
    strict_driver.install(monkeypatch)
    if importlib.util.find_spec("mpi4py"):
        from mpi4py import MPI

        strict_nccl.install(MPI.COMM_SELF, 1)
    monkeypatch.setattr(tinyddpm.backend, "_simulating", lambda: False)
    monkeypatch.setattr(tinyddpm.backend, "NEEDS", dict.fromkeys(tinyddpm.backend.NAMES, ()))
    monkeypatch.setattr(importlib.import_module("tinyddpm.training"), "PLAN", 3)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """A function (*options) -> (exit code, what was printed, figures)."""

    def run(*options):
        path = tmp_path / "figures.json"
        given = ["benchmarks", *GROUP, "--json", str(path), *options]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("benchmarks", run_name="__main__")
        return ended.value.code, capsys.readouterr().out, json.loads(path.read_text())["gpu"]

    return run


def positive(rows):
    """Whether every row has times."""
    return all(0 < row["min_ms"] <= row["median_ms"] and row["host_ms"] > 0 for row in rows)


@pytest.fixture
def faults(monkeypatch, tmp_path):
    """What fails, and the words of its line: a kernel does not compile, memory is full, PyTorch
    loses the card behind network a.
    """
    from support import strict_torch

    graphs = strict_torch.Graph
    strict_torch.install(monkeypatch, lambda: graphs.captured < 8)
    monkeypatch.setattr(graphs, "captured", 0)
    monkeypatch.setattr(launch.Launcher, "functions", {})
    monkeypatch.setattr(cubins, "folder", lambda: tmp_path)
    xp, empty = strict_cupy.strict(), strict_cupy.strict().empty

    def build(name, wide, cc):
        if name == "noised":
            raise ValueError("ptxas: no registers\nleft")
        return strict_cuda.code(name, wide, cc)

    def full(shape, *given, **named):
        if shape == (3, 2, 2, 128):
            raise xp.cuda.memory.OutOfMemoryError("Out of memory allocating 9 bytes")
        return empty(shape, *given, **named)

    monkeypatch.setattr(cubins, "build", build)
    monkeypatch.setattr(xp, "empty", full, raising=False)
    compiling, memory = "ValueError: ptxas: no registers left", "OutOfMemoryError: Out of memory"
    return {
        "noised, a few numbers on cuda": compiling,
        "noised on cuda": compiling,
        **{f"groupnorm_silu 3x2x2x128 {way} on cuda": memory for way in ("forward", "backward")},
        **{f"{C}, {precision}, torch": "sees no CUDA device" for precision in ("fp32", "tf32")},
    }


def test_all_of_it_but_what_fails(command, faults, tmp_path):
    """What fails is one line, and the rest goes on."""
    picture = tmp_path / "curves.png"
    code, shown, figures = command("--peer", "torch", "--plot", str(picture))
    assert set(figures["failed"]) == set(faults) and figures["dropped"] == {} and code == 1
    for what, words in faults.items():
        line = figures["failed"][what]
        assert words in line and shown.count(f"{what}: failed: {line}\n") == 1
    assert shown.endswith(f"\nfailed: {'; '.join(figures['failed'])}\n\ndropped: nothing\n")
    assert "Philox, known answers: 12 words, bit for bit" in shown

    one_rank = figures["one rank"]
    assert one_rank.get("parameters") == "the same bytes" or "mpi4py" in one_rank["one rank"]
    assert all(row["host_us"] > 0 < row["device_us"] for row in figures["launches"].values())
    ways = {"cupy.RawModule, the same cubin", "a node of a graph of 2", "torch, add"}
    assert ways < set(figures["launches"])
    assert set(figures["crossover"]["curves"]) == STEPS
    assert [n for n, _ in figures["crossover"]["curves"]["normal"]["cuda"]] == [16, 64]
    assert picture.read_bytes().startswith(b"\x89PNG")

    kernels = figures["kernels"]
    assert STEPS | {"noised", "reverse", "im2col"} < set(kernels)
    for case, rows in kernels.items():
        assert positive(rows.values()) and set(rows) - {"cuda"} == {"cupy"}
        assert ("cuda" in rows) == (f"{case} on cuda" not in faults)
        share = rows["cupy"]["rate"] / figures["ceilings"]["GB/s"]
        assert rows["cupy"]["share"] == pytest.approx(share)

    assert [*figures["steps"]] == [f"{net}, {p}" for net in (A, C) for p in ("fp32", "tf32")]
    for what, found in figures["steps"].items():
        fp32, peers = "fp32" in what, TORCHS if what.startswith(A) else set()
        for kind in ("train", "sampling"):
            rows, model = found[f"{kind} step"], found["predicted"][kind]
            assert set(rows) == OURS | peers | ({"numpy", "cupy"} if fp32 else set())
            assert positive(rows.values()) and set(rows["cuda"]["ratio"]) == peers
            error = model["ms"] / rows["cuda"]["median_ms"] - 1
            assert model["error"] == pytest.approx(error)
            # a launched step makes a few numbers anew that a recorded one, which is what the model
            # counts, keeps
            if fp32:
                assert abs(sum(found["nodes"][kind].values()) - model["nodes"]) <= 4
        times = figures["kernels of a step"][what]["ms"]
        layers = [n for kind, (_, n) in times.items() if kind.startswith(("product", "dense"))]
        assert times["adamw_ema"][1] == 1 and sum(layers) > 10


def test_a_spent_budget_drops_what_is_left(command):
    code, shown, figures = command("--budget", "0.000001", "--networks", "c")
    assert code == 0 and figures["failed"] == {} and figures["kernels"] == figures["steps"] == {}
    assert {"ceilings", "Philox, known answers", "curves, 2^4"} < set(figures["dropped"])
    for what, line in figures["dropped"].items():
        assert line == "dropped: the budget of 1e-06 s is spent" and f"{what}: {line}\n" in shown
