"""Steps recorded as graphs by the backend `cuda` over the stand-in, replayed, and held to the same
steps launched one by one.

Numba's simulator runs the kernels, so networks are tiny; test_cuda_sim.py runs this file.
"""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from tinyddpm.kernels.gpu import capture, cubins, cuda_ops

import tinyddpm as td
import tinyddpm.backend
from support import strict_cublas, strict_cuda, strict_cupy
from support.sim_stand_ins import stand_ins  # noqa: F401 (a fixture)
from support.strict_cupy import Counted
from tinyddpm.nn import params
from tinyddpm.nn.device import Clock, StepNumbers
from tinyddpm.settings import Recipe
from tinyddpm.training import Trainer, TrainState

XP = strict_cupy.strict()
UNET = td.UNet(channels=1, base=4, mults=(1,), blocks=1, attention=(False,), groups=2)
POINTS = td.MLP(dim=2, hidden=4, layers=1)


@pytest.fixture(autouse=True)
def simulated(stand_ins):  # noqa: F811
    """All of it on stand-ins."""


def random(*shape, seed=1):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def backend(recorded=True, precision="fp32"):
    ops = cuda_ops.make("cuda", precision)
    assert isinstance(ops.products, cuda_ops.products.Cublas)
    ops.recorded = recorded
    return ops


def trainer(ops, net=POINTS, x=None, labels=None, **recipe):
    x = random(12, 2).clip(-1, 1) if x is None else x
    recipe = Recipe(**{"steps": 40, "batch": 3, "shards": 1, **recipe})
    state = TrainState.fresh(net, 0).on(ops)
    return Trainer(net, td.cosine(20), x, recipe, state, ops, labels)


def steps(run, count):
    """What `count` steps leave: losses, norms, theta, ema."""
    records = [run.step() for _ in range(count)]
    read = [[float(record[name]) for record in records] for name in ("loss", "grad_norm")]
    return [*read, *(run.ops.to_host(x) for x in run.state.arrays().values())]


LABELLED = td.MLP(dim=2, hidden=4, layers=1, classes=2)
SETTINGS = [
    {},
    {"min_snr": 5.0, "target": "v"},
    {"shards": 2},
    {"shards": 3, "accumulate": 2, "batch": 4},
    {"clip_norm": 0.0, "times": "independent"},
    {"net": LABELLED, "labels": np.arange(12) % 2, "label_dropout": 0.5},
    {"net": td.MLP(dim=2, hidden=4, layers=1, out=4), "vlb": 0.01},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_recorded_steps_give_the_numbers_of_steps_launched_one_by_one(settings):
    recorded, launched = (steps(trainer(backend(way), **settings), 6) for way in (True, False))
    for got, want in zip(recorded, launched):
        assert np.array_equal(got, want)
    assert len(set(recorded[0])) == 6  # each step has rows, times and noise of its own


@pytest.mark.parametrize("fewest", [0, np.inf], ids=["by tiles", "by patches"])
def test_a_unet_with_dropout_and_attention_is_recorded(fewest, monkeypatch):
    monkeypatch.setattr(cuda_ops.CudaOps, "fewest", fewest)
    levels = {"mults": (1, 1), "attention": (False, True)} if fewest else {}
    net = replace(UNET, **levels)
    x = random(3, 2, 2, 1).clip(-1, 1)
    how = {"batch": 1, "dropout": 0.5, "flip": True}
    runs = [trainer(backend(way), net, x, **how) for way in (True, False)]
    recorded, launched = (steps(run, 3) for run in runs)
    for got, want in zip(recorded, launched):
        assert np.array_equal(got, want)
    (recording,) = runs[0]._whole.recordings.values()
    assert recording.graph is not None


def test_a_recorded_step_is_one_launch_and_neither_waits_nor_copies():
    run = trainer(backend())
    steps(run, 3)
    launches = strict_cuda.Graph.launches
    with Counted() as seen:
        for _ in range(4):
            run.step()
    assert strict_cuda.Graph.launches == launches + 4 and not any(seen.all.values())


def test_a_plan_that_is_drawn_anew_is_read_by_the_recorded_step(monkeypatch):
    monkeypatch.setattr(importlib.import_module("tinyddpm.training"), "PLAN", 2)
    recorded, launched = (steps(trainer(backend(way)), 7) for way in (True, False))
    for got, want in zip(recorded, launched):
        assert np.array_equal(got, want)


def test_a_run_a_resumed_run_and_a_loaded_one(tmp_path, monkeypatch):
    """By name, as a user has it; the resumed run's graph is another, its numbers are the same."""
    monkeypatch.setattr(tinyddpm.backend, "_simulating", lambda: False)
    monkeypatch.setattr(tinyddpm.backend, "NEEDS", {"cuda": ()})
    common = {"net": POINTS, "batch": 3, "backend": "cuda", "seed": 3, "schedule": td.cosine(8)}
    points = random(12, 2).clip(-1, 1)
    straight = td.train(points, steps=8, **common)
    asked = iter([False] * 4 + [True])
    td.train(points, steps=8, out=tmp_path, stop=lambda: next(asked), **common)
    resumed = td.resume(tmp_path, points, backend="cuda")
    assert np.array_equal(straight.theta.get(), resumed.theta.get())
    loaded = td.load(tmp_path, "cuda")
    assert loaded.ops.name == "cuda" and loaded.ops.recorded
    images = td.sample(loaded, 3, steps=5)
    assert np.array_equal(images, td.sample(straight, 3, steps=5))


def test_a_run_in_tf32_says_so_and_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tinyddpm.backend, "_simulating", lambda: False)
    monkeypatch.setattr(tinyddpm.backend, "NEEDS", {"cuda": ()})
    monkeypatch.setattr(cuda_ops.CudaOps, "most_dense", 0)  # small layers are fp32 in any case
    common = {"net": POINTS, "batch": 3, "backend": "cuda", "log_every": 1}
    points = random(12, 2).clip(-1, 1)
    exact = td.train(points, steps=2, **common)
    asked = iter([False, True])
    first = td.train(
        points, steps=4, out=tmp_path, stop=lambda: next(asked), precision="tf32", **common
    )
    again = td.resume(tmp_path, points, backend="cuda")
    assert first.ops.precision == again.ops.precision == again.meta["precision"] == "tf32"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["precision"] for line in lines] == ["tf32"] * 4
    assert exact.meta["precision"] == "fp32" and not np.array_equal(
        exact.theta.get(), first.theta.get()
    )
    assert td.load(tmp_path, "cuda", "tf32").ops.precision == "tf32"
    assert td.load(tmp_path, "cuda").ops.precision == "fp32"


# Sampling.


def model(ops, net=POINTS, shape=(2,), target="eps"):
    theta = 0.3 * random(params.size(net.spec()), seed=4)
    return td.Model(net, ops.asarray(theta), td.cosine(8), shape, target, {}, ops)


LEARNED = td.MLP(dim=2, hidden=4, layers=1, out=4)
SAMPLERS = [
    {"sampler": "ancestral"},
    {"sampler": "ancestral", "clip": None, "label": [1, 0], "guidance": 2.0},
    {"sampler": "ancestral", "variance": "learned"},
    {"sampler": "ddim", "steps": 6, "eta": 0.5},
    {"sampler": "langevin"},
    {"sampler": "euler", "steps": 6},
    {"sampler": "heun", "steps": 6},
    {"sampler": "dpmpp_2m", "steps": 6},
]


def net_for(how):
    if "label" in how:
        return LABELLED
    return LEARNED if how.get("variance") == "learned" else POINTS


@pytest.mark.parametrize("how", SAMPLERS, ids=str)
def test_every_sampler_gives_the_numbers_of_steps_launched_one_by_one(how):
    net, launches = net_for(how), strict_cuda.Graph.launches
    recorded, launched = (
        td.sample(model(backend(way), net), 2, seed=3, **how) for way in (True, False)
    )
    assert np.array_equal(recorded, launched) and np.isfinite(recorded).all()
    assert strict_cuda.Graph.launches > launches
    reference = td.sample(model(td.backend.get("numpy"), net), 2, seed=3, **how)
    assert np.abs(recorded - reference).max() <= 1e-3 * max(1, np.abs(reference).max())


@pytest.mark.parametrize("labels", [(), ([1, 0], 0.0), ([1, 0], 2.0)], ids=str)
def test_the_derivative_of_a_model_is_recorded(labels):
    """Of a class and guided too; for each t there is one graph, of float64 points as well."""
    net = LABELLED if labels else POINTS
    found, launches = [], strict_cuda.Graph.launches
    for ops in (backend(), backend(recorded=False), td.backend.get("numpy")):
        trained = model(ops, net, target="v")
        trained = trained.conditioned(*labels) if labels else trained
        for kind in (np.float32, np.float64):
            x, u = (ops.asarray(random(2, 2, seed=i).astype(kind)) for i in (1, 2))
            found.append([map(ops.to_host, trained.vjp(x, t, u)) for t in (2, 7, 3, 5, 8)])
    found = [[list(pair) for pair in each] for each in found]
    assert strict_cuda.Graph.launches == launches + 2 * 3 * (1 + bool(labels and labels[1]))
    for kind in (0, 1):
        recorded, launched, reference = (np.array(found[i + kind]) for i in (0, 2, 4))
        assert np.array_equal(recorded, launched) and recorded.dtype == (np.float32, float)[kind]
        assert np.abs(recorded - reference).max() <= 1e-4 * np.abs(reference).max()


# Of one step of each of SAMPLERS: graphs replayed, and what is launched beside them. Each graph
# goes with three launches, four of a class: what it reads and its numbers are copied in, its result
# is copied out. The rest is a sampler's own arithmetic, of which `sample` then tells.
BESIDE = [(1, 3), (1, 4), (1, 18), (1, 3), (2, 18), (1, 3), (2, 31), (1, 14)]


@pytest.mark.parametrize("how, beside", [*zip(SAMPLERS, BESIDE)], ids=str)
def test_what_a_samplers_step_launches(how, beside, monkeypatch, capsys):
    """docs/9-gpu.md has this table."""
    counts = []
    sample = importlib.import_module("tinyddpm.runs.sample")
    sample._say_once.cache_clear()
    monkeypatch.setattr(cubins, "_notice", lambda: None)
    for taken in (4, 7):
        trained = model(backend(), net_for(how))
        before = strict_cuda.Graph.launches, strict_cuda.State.launched
        td.sample(trained, 2, **{**how, "steps": taken})
        after = strict_cuda.Graph.launches, strict_cuda.State.launched
        counts.append([b - a for a, b in zip(before, after)])
    assert [(b - a) / 3 for a, b in zip(*counts)] == list(beside)
    name = "a learned variance" if "variance" in how else how["sampler"]
    line = f"tinyddpm: {name}: the network is one graph, the rest of a step is launched by itself\n"
    assert capsys.readouterr().err == (line if beside[1] > 4 else "")
    plain = model(backend(recorded=False), net_for(how))
    monkeypatch.setattr(capture, "say", lambda line: None)
    sample._say_once.cache_clear()
    td.sample(plain, 2, **{**how, "steps": 2})
    assert capsys.readouterr().err == ""


def test_one_recording_serves_every_chunk_class_and_seed(monkeypatch):
    """The label, the seed and the samples' numbers are read by the graph, not recorded in it."""
    monkeypatch.setattr(importlib.import_module("tinyddpm.runs.sample"), "CHUNK", 2)
    trained = model(backend(), LABELLED)
    how = {"sampler": "ancestral", "guidance": 1.0}
    got = [td.sample(trained, 4, seed=seed, label=[0, 1, 1, 0], **how) for seed in (5, 2**40)]
    (repeated,) = trained.repeats.values()
    assert len(repeated.recordings) == 1
    plain = model(backend(recorded=False), LABELLED)
    for seed, images in zip((5, 2**40), got):
        assert np.array_equal(images, td.sample(plain, 4, seed=seed, label=[0, 1, 1, 0], **how))


def test_a_samplers_loop_neither_waits_nor_copies():
    trained = model(backend())
    td.sample(trained, 2, sampler="ancestral")
    with Counted() as seen:
        td.sample(trained, 2, sampler="ancestral")
    assert seen.all == {"synchronisations": 1, "uploads": 0, "downloads": 1}


def test_inside_the_users_own_stream_and_pool():
    """The graph runs on his stream; what he gets is from his pool, and he may keep it."""
    ops, pool, kept = backend(), XP.cuda.MemoryPool(), []
    trained, xt = model(ops), ops.asarray(random(2, 2))
    with XP.cuda.Stream() as stream, XP.cuda.using_allocator(pool.malloc):
        for t in range(8, 2, -1):
            kept.append(trained(xt, t))
            assert XP.cuda.get_current_stream() is stream
            assert strict_cuda.state.allocator is pool
    plain = model(backend(recorded=False))
    for t, got in zip(range(8, 2, -1), kept):
        assert np.array_equal(ops.to_host(got), ops.to_host(plain(xt, t)))
    trained(xt, 3)  # and on the default stream, after it


def test_a_capture_of_the_program_around_holds_the_kernels_themselves(capsys):
    ops = backend()
    trained, xt = model(ops), ops.asarray(random(2, 2))
    with XP.cuda.Stream() as stream, XP.cuda.using_allocator(XP.cuda.MemoryPool().malloc):
        want = ops.to_host(trained(xt, 3))
        plain = model(backend(recorded=False))
        plain(xt, 3)  # makes this stream's handle
        stream.begin_capture()
        got = plain(xt, 3)
        graph = stream.end_capture()
    graph.launch()
    assert np.array_equal(ops.to_host(got), want)


def test_without_nvmath_steps_are_launched_one_by_one_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr(cuda_ops.products.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(capture.say, "__defaults__", (set(),))
    run = trainer(cuda_ops.make("cuda"))
    steps(run, 4)
    assert run._whole.recordings == {}
    said = "tinyddpm: steps are launched kernel by kernel: nvmath-python is not installed; "
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_a_step_that_cannot_be_recorded_is_launched_and_it_is_said(monkeypatch, capsys):
    """One that reads a number back: the third call would record it; no call is lost or doubled."""
    monkeypatch.setattr(capture.say, "__defaults__", (set(),))
    ops, calls = backend(), XP.asarray(np.zeros(1, np.float32))

    def step(numbers, x):
        calls[:] = calls + 1
        return (x * float(x.sum()),)

    repeated, x = ops.repeated(step), XP.asarray(np.float32([1, 2]))
    for count in range(1, 6):
        (y,) = repeated(StepNumbers(Clock(0, 0, 0)), x)
        assert y.get().tolist() == [3, 6] and calls.get() == [count]
    said = capsys.readouterr().err.splitlines()
    words = "tinyddpm: steps are launched kernel by kernel: cudaErrorStreamCaptureUnsupported: "
    assert len(said) == 1 and said[0].startswith(words)


# What the stand-in refuses, so that the tests above mean something.


def test_what_a_capture_refuses():
    x, m = XP.asarray(random(3)), XP.asarray(random(3, 3))
    refused = [
        lambda: m @ m,
        lambda: XP.matmul(m, m),
        lambda: XP.matmul(m, m, out=m),
        lambda: m.dot(m),
        lambda: XP.dot(x, x),
        lambda: XP.einsum("ij,jk->ik", m, m),
        lambda: XP.tensordot(m, m),
        lambda: XP.linalg.norm(x),
        lambda: float(x[0]),
        lambda: x.get(),
        lambda: bool(x[0] > 0),
        lambda: x[x > 0],
        lambda: XP.asarray(np.ones(2)),
        lambda: XP.array([1.0]),
        lambda: XP.cuda.Stream().synchronize(),
        lambda: XP.cuda.get_current_stream().synchronize(),
        lambda: strict_cublas.create(),
    ]
    for act in refused:
        with pytest.raises((RuntimeError, NotImplementedError)):
            captured(act)

    def foreign():
        with XP.cuda.Stream():
            x + 1

    def outside():
        with XP.cuda.using_allocator(None):
            x + 1

    for act, words in ((foreign, "another stream"), (outside, "outside of the captured pool")):
        with pytest.raises(AssertionError, match=words):
            captured(act)


def captured(act):
    """The graph of what `act` does."""
    stream = XP.cuda.Stream(non_blocking=True)
    with stream, XP.cuda.using_allocator(XP.cuda.MemoryPool().malloc):
        stream.begin_capture()
        try:
            act()
        finally:
            graph = stream.end_capture()
    return graph


def test_a_capture_computes_nothing_until_it_is_launched():
    x = XP.asarray(np.arange(3, dtype=np.float32))
    found = {}

    def act():
        found["y"] = x + 1
        found["y"] *= 2
        found["view"] = found["y"][1:]
        x[:] = 5

    graph = captured(act)
    assert np.isnan(found["y"].get()).all() and x.get().tolist() == [0, 1, 2]
    assert [node.name for node in graph.nodes] == ["add", "multiply", "setitem"]
    graph.launch()
    assert found["view"].get().tolist() == [4, 6] and x.get().tolist() == [5, 5, 5]
    graph.launch()
    assert found["y"].get().tolist() == [12, 12, 12]
