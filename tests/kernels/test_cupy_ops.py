"""The CuPy backend over the strict stand-in: its answers, and that nothing waits in a loop."""

import importlib

import numpy as np
import pytest
from support import strict_cupy
from support.device_checks import (
    CASES,
    KNOWN,
    NET,
    check_diffusion_steps,
    check_masks_and_losses,
    check_network,
    check_noise,
    check_operation,
    check_optimiser,
    check_training_and_sampling,
    images,
    random,
)
from support.strict_cupy import Counted
from tinyddpm.kernels.gpu.cupy_ops import CupyOps

import tinyddpm as td
from tinyddpm import backend, noise
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.runs import checkpoint
from tinyddpm.settings import TARGETS, Recipe
from tinyddpm.training import Trainer, TrainState, read_record

XP = strict_cupy.strict()
OPS = CupyOps(XP)
NOTHING = {"synchronisations": 0, "uploads": 0, "downloads": 0}


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    return strict_cupy.install(monkeypatch)


# The stand-in.


def test_the_stand_in_refuses_what_cupy_refuses():
    x, host = XP.asarray(np.ones(3, np.float32)), np.ones(3, np.float32)
    for refused in (
        lambda: np.asarray(x),
        lambda: x + host,
        lambda: host * x,
        lambda: XP.add(x, np.array(1.0)),
        lambda: x.__setitem__(0, host),
        lambda: XP.sqrt(host),
        lambda: np.add(x, host),
        lambda: XP.concatenate([x, host]),
        lambda: x.__iadd__(host),
        lambda: XP.matmul(x, x, out=host),
    ):
        with pytest.raises(TypeError):
            refused()
    for missing in (
        lambda: XP.errstate,
        lambda: XP.geomspace,
        lambda: x.__array_namespace__,
        lambda: x.tostring,
        lambda: x.newbyteorder,
        lambda: x.ctypes,
    ):
        with pytest.raises(AttributeError):
            missing()
    assert (x * np.float32(2) + np.float32(1) * x - 1.0).dtype == np.float32


def test_the_stand_in_counts():
    x = XP.asarray(np.ones(3, np.float32))
    for act in (
        lambda: float(x[0]),
        lambda: bool(x[0] > 0),
        lambda: x.get(),
        lambda: f"{x[1]:.3f}",
        lambda: XP.asnumpy(x),
        lambda: int(x[2]),
        lambda: x.sum().item(),
    ):
        with Counted() as seen:
            act()
        assert seen.all == {"synchronisations": 1, "uploads": 0, "downloads": 1}
    for act in (lambda: list(x), lambda: x[x > 0], lambda: XP.nonzero(x)):
        with Counted() as seen:
            act()
        assert seen.all["synchronisations"] == 1
    with Counted() as seen:
        XP.asarray(np.ones(2)), XP.array([1.0])
    assert seen.all == {"synchronisations": 0, "uploads": 2, "downloads": 0}
    with Counted() as seen:
        y = np.sqrt(x) + XP.arange(3) * x.mean() - XP.full(3, 2.0)
        y[1:] += x[0]
    assert seen.all == NOTHING and isinstance(y, XP.ndarray)


def test_the_stand_ins_arrays_have_no_attribute_that_cupys_lack():
    own = {
        name
        for name in dir(XP.ndarray)
        if name not in dir(object) and name not in ("__dict__", "__weakref__")
    }
    lacking = {name for name in own if "ndarray." + name not in strict_cupy.NAMES}
    assert lacking <= {"__annotations__", "__static_attributes__", "__firstlineno__"}


def test_the_names_are_the_real_ones(monkeypatch):
    monkeypatch.undo()
    cupy = pytest.importorskip(
        "cupy", reason="the list of CuPy's names is only checked where CuPy is installed"
    )
    top = {name for name in strict_cupy.NAMES if "." not in name}
    assert top <= set(dir(cupy))
    assert {n[8:] for n in strict_cupy.NAMES if n.startswith("ndarray.")} <= set(dir(cupy.ndarray))


# The operations.


def test_philox_words_are_the_known_answers():
    counters = [XP.asarray(np.array(column, np.uint64)) for column in zip(*KNOWN)]
    words = [OPS.to_host(w) for w in OPS.formulas.philox(*counters)]
    assert [tuple(int(w) for w in row) for row in zip(*words)] == list(KNOWN.values())


def test_noise_is_drawn_on_the_device():
    check_noise(OPS, [(3, 5, 2), (4, 1), (2, 8, 8, 1), (1, 4099), (0, 4)])
    with Counted() as seen:
        OPS.normal((3, 5)), OPS.uniform((3, 5))
    assert seen.all == NOTHING
    with pytest.raises(InputError, match="step"):
        OPS.normal((2, 3), step=2**32)


@pytest.mark.parametrize("holes", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", CASES)
def test_operation(name, holes):
    check_operation(OPS, name, holes)


def test_the_rest_of_the_operations():
    check_masks_and_losses(OPS)
    check_diffusion_steps(OPS)
    check_optimiser(OPS)
    check_network(OPS)


def test_a_blocked_convolution(monkeypatch):
    monkeypatch.setattr(CupyOps, "block_bytes", 1)
    check_operation(OPS, "conv 3x3")


# Training and sampling.


def trainer(net=NET, x=None, **recipe):
    x = images() if x is None else x
    recipe = Recipe(**{"steps": 40, "batch": 8, "shards": 1, **recipe})
    state = TrainState.fresh(net, 0).on(OPS)
    return Trainer(net, td.cosine(100), x, recipe, state, OPS)


SETTINGS = [
    *({"target": target, "min_snr": gamma} for target in TARGETS for gamma in (0.0, 5.0)),
    {"dropout": 0.1},
    {"shards": 2},
    {"times": "independent"},
    {"clip_norm": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_training_step_neither_waits_nor_copies(settings, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tinyddpm.training"), "PLAN", 3)
    run = trainer(**settings)
    seen = []
    for _ in range(7):
        with Counted() as step:
            record = run.step()
        seen.append(step.all)
    planning = {**NOTHING, "uploads": 2}  # rows and times, for a plan of steps at once
    assert seen == [planning, NOTHING, NOTHING, planning, NOTHING, NOTHING, planning]
    with Counted() as reading:
        record = read_record(record)
    assert reading.all["downloads"] == 2 and np.isfinite(record["loss"])


def test_an_mlps_training_step_neither_waits_nor_copies():
    run = trainer(td.MLP(dim=2, hidden=8, layers=1), random(50, 2).clip(-1, 1))
    run.step()
    with Counted() as seen:
        run.step()
    assert seen.all == NOTHING


def test_a_run_reads_the_loss_when_it_is_logged():
    with Counted() as seen:
        td.train(images(), steps=20, net=NET, batch=4, log_every=10, backend="cupy")
    # loss and norm of steps 1, 10 and 20, and the four vectors, which have to be finite at the end;
    # the data, the schedule's four tables, four vectors, one plan of rows and times
    assert seen.all == {"synchronisations": 10, "uploads": 11, "downloads": 10}


def test_training_and_samples_are_numpys():
    model = check_training_and_sampling("cupy")
    xt, x_t = noise.normal((3, 8, 8, 1), seed=5), OPS.normal((3, 8, 8, 1), seed=5)
    reference = td.Model(
        model.net, OPS.to_host(model.theta), model.schedule, model.shape, model.target
    )
    for ask in (lambda m, x: m(x, 40), lambda m, x: m.x0_hat(x, 40)):
        assert np.allclose(OPS.to_host(ask(model, x_t)), ask(reference, xt), atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"steps": 7}, {"steps": 7, "eta": 1.0}, {"sampler": "ancestral"}], ids=str
)
def test_the_samplers_loop_neither_waits_nor_copies(settings):
    model = td.train(images(), steps=1, net=NET, batch=4, schedule=td.cosine(12), backend="cupy")
    with Counted() as seen:
        x = td.sample(model, 3, **settings)
    assert seen.all == {"synchronisations": 1, "uploads": 0, "downloads": 1} and x.shape == (
        3,
        8,
        8,
        1,
    )
    with Counted() as seen:
        td.sample(model, 3, trajectory=4, **settings)
    # 4 frames, the samples
    assert seen.all == {"synchronisations": 5, "uploads": 0, "downloads": 5}


def test_labels_and_a_learned_variance_are_numpys_and_stay_on_the_device():
    published = {"head_dim": 4, "center": True, "t_offset": -1, "freq_shift": 0, "cos_first": True}
    net = td.UNet(base=8, mults=(1, 2), blocks=1, groups=4, classes=3, out=2, **published)
    labels = np.arange(len(images())) % 3
    runs = [
        td.train(
            images(),
            steps=5,
            seed=1,
            net=net,
            labels=labels,
            vlb=0.001,
            batch=8,
            lr=1e-3,
            warmup=2,
            schedule=td.cosine(12),
            backend=name,
        )
        for name in ("cupy", "numpy")
    ]
    # the bound of check_training_and_sampling
    assert np.abs(OPS.to_host(runs[0].theta) - runs[1].theta).max() <= 1e-4
    settings = {"label": [2, 0], "guidance": 1.5, "sampler": "ancestral", "variance": "learned"}
    got, want = (td.sample(model, 4, seed=2, **settings) for model in runs)
    assert np.abs(got - want).max() <= 1e-3 * max(1, np.abs(want).max())
    x = noise.normal((2, 8, 8, 1), seed=4)
    asked = [model.conditioned([1, 2], 0.5) for model in runs]
    for ours, theirs in zip(asked[0].vjp(OPS.asarray(x), 6, OPS.asarray(x)), asked[1].vjp(x, 6, x)):
        assert np.abs(OPS.to_host(ours) - theirs).max() <= 1e-3 * max(1, np.abs(theirs).max())
    with Counted() as seen:
        td.sample(runs[0], 3, **settings)
    # the labels, once; the samples
    assert seen.all == {"synchronisations": 1, "uploads": 1, "downloads": 1}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    common = {"net": NET, "batch": 4, "backend": "cupy", "seed": 3, "save_every": 2}
    straight = td.train(images(), steps=6, out=tmp_path / "a", **common)
    asked = iter([False, False, True])
    td.train(images(), steps=6, out=tmp_path / "b", stop=lambda: next(asked), **common)
    assert checkpoint.load(tmp_path / "b")[1]["step"] == 3
    resumed = td.resume(tmp_path / "b", images(), backend="cupy")
    assert np.array_equal(OPS.to_host(straight.theta), OPS.to_host(resumed.theta))
    (first, _), (second, _) = checkpoint.load(tmp_path / "a"), checkpoint.load(tmp_path / "b")
    assert all(
        np.array_equal(first[name], second[name]) for name in ("theta", "ema", "m", "v", "beta")
    )
    loaded, host = td.load(tmp_path / "b", "cupy"), td.load(tmp_path / "b")
    assert isinstance(loaded.theta, XP.ndarray) and np.array_equal(
        OPS.to_host(loaded.theta), host.theta
    )
    assert np.allclose(td.sample(loaded, 2, steps=3), td.sample(host, 2, steps=3), atol=1e-4)


def test_a_diverged_run_is_noticed_before_it_is_saved(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(TinyDDPMError, match="diverged"):
        td.train(
            images(),
            steps=30,
            net=NET,
            batch=4,
            lr=1e30,
            warmup=0,
            clip_norm=0,
            out=tmp_path,
            save_every=7,
            log_every=1000,
            backend="cupy",
        )
    if (tmp_path / checkpoint.NAME).exists():
        assert all(np.isfinite(x).all() for x in checkpoint.load(tmp_path)[0].values())


def test_samples_that_do_not_fit_the_card_are_drawn_fewer_at_a_time(monkeypatch, capsys):
    """The card holds three at a time; the samples are those that fit together elsewhere."""
    how = {"n": 7, "steps": 3, "trajectory": 2}
    model = td.train(images(), steps=1, net=NET, batch=4, schedule=td.cosine(12), backend="cupy")
    want = td.sample(model, **how)
    draw = CupyOps.reverse_drawn

    def reverse_drawn(self, xt, *given):
        if len(xt) > 3:
            raise strict_cupy.OutOfMemoryError("Out of memory allocating 4,096 bytes.")
        return draw(self, xt, *given)

    monkeypatch.setattr(CupyOps, "reverse_drawn", reverse_drawn)
    got = td.sample(model, **how)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(got, want))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "tinyddpm: the GPU's memory does not hold 7 samples together: they are drawn 4 at a time",
        "tinyddpm: the GPU's memory does not hold 4 samples together: they are drawn 2 at a time",
    ]
    monkeypatch.setattr(CupyOps, "reverse_drawn", _full)
    with pytest.raises(TinyDDPMError, match="^the GPU's memory does not hold a step of one sample"):
        td.sample(model, n=2, steps=3)


def _full(*given):
    raise strict_cupy.OutOfMemoryError("Out of memory allocating 4,096 bytes.\n(so far: 512).")


def card(monkeypatch, free, pool=0):
    """What the stand-in's card has free, and its pool."""
    monkeypatch.setitem(strict_cupy.memory, "free", free)
    monkeypatch.setitem(strict_cupy.memory, "pool", pool)


def test_a_run_larger_than_the_card_is_refused_before_its_first_step(monkeypatch, capsys):
    """By hand: 5 vectors of the parameters; of each sample the layers' inputs, x_0, eps and x_t."""
    net, x = td.MLP(dim=2, hidden=4, layers=1), random(50, 2).clip(-1, 1)
    parameters = (4 + 1) * 4 + (2 + 1) * 4 + 3 * (4 + 1) * 4 + (4 + 1) * 2
    kept = 4 + 2 + 3 * 4 + 4 + 3 * 2
    least = 4 * 50 * 2 + 4 * 5 * parameters + 4 * 1000 * kept
    how = {"steps": 1, "net": net, "batch": 1000, "shards": 1, "backend": "cupy"}
    card(monkeypatch, least - 9, 8)
    words = (
        "this run would take at least 112 KiB of the GPU's memory, 109 KiB of it for "
        "a batch of 1,000; 112 KiB are free"
    )
    with pytest.raises(InputError) as caught:
        td.train(x, **how)
    assert str(caught.value) == words and strict_cupy.memory["free"] == least - 9
    card(monkeypatch, least - 9, 9)
    td.train(x, progress=True, **how)
    said = capsys.readouterr().err.splitlines()[0]
    assert said == "tinyddpm: takes" + words.removeprefix("this run would take")
    td.train(x, **how)
    assert capsys.readouterr().err == ""


def test_samples_are_cut_by_what_the_card_has_free(monkeypatch, capsys):
    """Maps of 8 x 8 pixels: 8 channels four times, and patches of twice 9 x 8."""
    model = td.train(images(), steps=1, net=NET, batch=4, schedule=td.cosine(12), backend="cupy")
    want = td.sample(model, 7, steps=2)
    one = 4 * 64 * (8 * 4 + 2 * 9 * 8)
    card(monkeypatch, 3 * one, one - 1)
    assert np.allclose(td.sample(model, 7, steps=2), want, atol=1e-5)
    words = "tinyddpm: the GPU's memory does not hold 7 samples together: they are drawn 3 at"
    assert capsys.readouterr().err.splitlines() == [f"{words} a time"]
    card(monkeypatch, one - 1)
    words = "does not hold a step of one sample, which takes 44.0 KiB: 44.0 KiB are free"
    with pytest.raises(TinyDDPMError, match=words):
        td.sample(model, 2, steps=2)


def test_training_that_does_not_fit_the_card_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(CupyOps, "noised_drawn", _full)
    words = r"does not hold this step: Out of memory allocating 4,096 bytes. \(so far: 512\). a sm"
    with pytest.raises(TinyDDPMError, match=words):
        td.train(images(), steps=1, net=NET, batch=4, backend="cupy")


def test_the_backend_by_name(monkeypatch):
    ops = backend.get("cupy")
    assert (ops.name, ops.lazy, ops.shards, ops.xp) == ("cupy", True, 1, XP)

    def refuse():
        raise XP.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(XP.cuda.runtime, "getDeviceCount", refuse)
    with pytest.raises(InputError, match="no CUDA device: cudaErrorInsufficientDriver"):
        backend.get("cupy")
