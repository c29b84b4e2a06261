"""The settings of a run are judged before its first step: what is refused leaves nothing behind."""

import json
import pathlib

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.datasets import sets
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.runs import checkpoint, memory
from tinyddpm.training import Trainer

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2)
PICTURES = np.zeros((4, 8, 8, 1), np.float32)
SMALL = {"batch": 8, "net": td.MLP(hidden=8, layers=1), "schedule": td.linear(9)}
OLD = pathlib.Path(__file__).parents[1] / "golden" / "checkpoint_0.1.npz"


def test_numpys_numbers_are_kept_as_pythons(tmp_path):
    counts = {"save_every": np.int64(2), "log_every": np.int16(1), "keep": np.uint8(1)}
    numbers = {"batch": np.int64(8), "seed": np.int32(3), "lr": np.float32(0.25), "warmup": 0}
    net = td.MLP(hidden=np.int64(8), layers=np.int64(1))
    meta = {"who": "me", "scores": (np.float64(0.5), np.int64(2)), "good": np.bool_(True)}
    settings = {**SMALL, **counts, **numbers, "net": net, "meta": meta}
    model = td.train(X, np.int64(3), out=tmp_path / "j", **settings)
    saved = checkpoint.load(tmp_path / "j")[1]
    assert saved["step"] == 3 and saved["recipe"]["steps"] == 3 and saved["recipe"]["lr"] == 0.25
    assert saved["meta"] == {"who": "me", "scores": [0.5, 2], "good": True} == model.meta["meta"]
    plain = {**SMALL, "batch": 8, "seed": 3, "lr": 0.25, "warmup": 0}
    assert np.array_equal(model.theta, td.train(X, 3, **plain).theta)
    td.resume(tmp_path / "j", X, np.int64(4))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 6.5}, "steps must be a whole number, got 6.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"batch": 8.0}, "batch must be a whole number, got 8.0"),
        ({"lr": "1e-3"}, "lr must be a number, got '1e-3'"),
        ({"lr": None}, "lr must be a number, got None"),
        ({"seed": 2.0}, "seed must be a whole number, got 2.0"),
        ({"seed": 2**64}, "seed must be a whole number"),
        ({"target": "epsilon"}, "target must be one of eps, x0, v, got 'epsilon'"),
        ({"decay": "cosinus"}, "did you mean cosine"),
        ({"save_every": 1.5}, "save_every must be a whole number, got 1.5"),
        ({"step": 3}, "no setting is called step: did you mean steps"),
        ({"label": [1]}, "no setting is called label: did you mean labels"),
        ({"meta": {"where": {1, 2}}}, "meta.where cannot be kept in a checkpoint: {1, 2} is a set"),
        ({"meta": {"a": [1, pathlib.Path("b")]}}, r"meta\.a\.1 cannot be kept"),
        ({"meta": {"a": np.zeros(2)}}, "meta.a cannot be kept"),
        ({"meta": {"a": 1 + 2j}}, "meta.a cannot be kept"),
        ({"meta": {3: "a"}}, "meta: the key 3 must be a string"),
        ({"schedule": "cosinus"}, "schedule must be a Schedule or one of .*did you mean cosine"),
        ({"schedule": 1000}, "schedule must be a Schedule or one of"),
        ({"net": "u-net"}, "net must be a UNet, an MLP, unet or mlp, got 'u-net': did you mean"),
        ({"net": "unet"}, "do not go through a net of kind unet"),
        ({"net": td.UNet}, "net must be a UNet, an MLP"),
        ({"backend": "numbba"}, "no backend 'numbba'"),
        ({"progress": "yes"}, "progress must be True, False, None or a function"),
        ({"stop": True}, "stop must be a function without arguments, or None, got True"),
        ({"team": 3}, "team must be what tinyddpm.parallel.join gives, got 3"),
        ({"start": 7}, "start must be a Model, the path of a run, or None, got 7"),
        ({"start": "nothing"}, "no checkpoint at nothing"),
        ({"meta": [1]}, "meta must be a dict, or None"),
        ({"data": 3}, "data must be a dict, or None"),
        ({"shards": 9}, "shards must be at most batch = 8, got 9"),
        ({"accumulate": 9}, "accumulate must be at most batch = 8, got 9"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"out": 3}, "a path is a string or a Path, got 3"),
        ({"out": b"j"}, "a path is a string or a Path, got b'j'"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_leaves_no_folder(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        td.train(X, **{"steps": 3, "out": tmp_path / "runs" / "j", **SMALL, **change})
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_no_array_are_refused():
    with pytest.raises(InputError, match="the images: .*inhomogeneous") as caught:
        td.train([[1], [2, 3]], 1)
    assert "\n" not in str(caught.value)


def test_a_run_starts_from_a_model_or_its_path(tmp_path):
    model = td.train(X, 2, out=tmp_path / "j", **SMALL)
    tuned = td.train(X, 1, batch=8, start=tmp_path / "j")
    assert np.array_equal(tuned.theta, td.train(X, 1, batch=8, start=model).theta)


def test_a_path_is_no_number(tmp_path):
    """Of an open file, which a number names for the system."""
    for call in (td.load, lambda path: td.resume(path, X), lambda path: td.sample(path)):
        with pytest.raises(InputError, match="a path|path of a run"):
            call(3)


def test_beside_resume_the_memory_is_counted_too(tmp_path):
    td.train(X, 2, out=tmp_path / "j", **SMALL)
    with pytest.raises(InputError, match=r"this run would take .* the limit is 1.0 KiB"):
        td.resume(tmp_path / "j", X, 3, limit=1024)


def test_a_setting_that_holds_itself_is_refused():
    meta = {}
    meta["meta"] = meta
    with pytest.raises(InputError, match="too deep"):
        td.train(X, 1, meta=meta, **SMALL)


def test_meta_has_a_room_of_its_own(tmp_path):
    mine = {"step": 99, "recipe": {}, "data": {}, "version": 7}
    td.train(X, 2, out=tmp_path / "j", meta=mine, **SMALL)
    model = td.load(tmp_path / "j")
    assert model.meta["meta"] == mine and model.meta["step"] == 2 and "data" not in model.meta
    assert td.resume(tmp_path / "j", X).meta["meta"] == mine


def test_schedules_and_nets_may_be_named():
    for name, s in (("cosine", td.cosine(1000)), ("linear", td.linear(1000))):
        model = td.train(X, 1, batch=2, net="mlp", schedule=name)
        assert np.array_equal(model.schedule.beta, s.beta) and isinstance(model.net, td.MLP)
    assert isinstance(td.train(PICTURES, 1, batch=2, net="unet").net, td.UNet)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"net": td.MLP(hidden=4, layers=10**9)}, "60,000,000,042 parameters"),
        ({"net": td.MLP(hidden=10**6)}, "10,000,015,000,002 parameters"),
        ({"batch": 10**11}, "a batch of 100,000,000,000"),
    ],
)
def test_what_a_run_would_take_is_counted_first(tmp_path, change, words):
    with pytest.raises(InputError, match=f"this run would take at least .* of it for {words}"):
        td.train(X, 3, out=tmp_path / "j", **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []


def test_a_networks_blocks_are_counted_not_built():
    net = td.UNet(base=8, mults=(1, 2), blocks=10**9, groups=4)
    with pytest.raises(InputError, match="this run would take at least"):
        td.train(PICTURES, 1, net=net)


def test_tables_count_and_so_does_a_limit(monkeypatch):
    with pytest.raises(InputError, match=r"would take .*; the limit is 100 KiB \(--limit\)"):
        td.train(X, 1, limit=100 * 1024, **{**SMALL, "schedule": td.linear(5000)})
    monkeypatch.setattr(memory, "free", lambda: 10**5)
    with pytest.raises(InputError, match="for the tables of T = 5,000; 97.7 KiB are free"):
        td.train(X, 1, **{**SMALL, "schedule": td.linear(5000)})


def test_memory_that_ends_all_the_same_is_one_line_and_keeps_no_empty_folder(tmp_path, monkeypatch):
    def step(*_):
        raise MemoryError("no room for a batch")

    monkeypatch.setattr(Trainer, "step", step)
    words = "not enough memory: no room for a batch; no checkpoint had been saved yet"
    with pytest.raises(TinyDDPMError, match=words):
        td.train(X, 3, out=tmp_path / "runs" / "j", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_run_remembers_its_backend(tmp_path, monkeypatch):
    td.train(X, 2, out=tmp_path / "j", **SMALL)
    assert checkpoint.load(tmp_path / "j")[1]["backend"] == "numpy"
    arrays, meta = checkpoint.load(tmp_path / "j")
    for name, words in (("cupy", "the run was trained with the backend 'cupy'"), ([], "has none")):
        checkpoint.save(tmp_path / "j" / checkpoint.NAME, arrays, {**meta, "backend": name})
        with pytest.raises(InputError, match=words):
            td.resume(tmp_path / "j", X, 3)
    td.resume(tmp_path / "j", X, 3, backend="numpy", save_every=1, keep=5)
    again = checkpoint.load(tmp_path / "j")[1]
    assert (again["backend"], again["save_every"], again["keep"]) == ("numpy", 1, 5)


def test_a_run_of_before_still_loads_and_goes_on(tmp_path):
    """Saved by commit 4950cc0: `train moons --classes --hidden 4 --layers 1 --T 5 --batch 4`."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / checkpoint.NAME).write_bytes(OLD.read_bytes())
    model = td.load(OLD)
    assert model.meta["step"] == 4 and td.sample(model, 3, label=1).shape == (3, 2)
    fit, _ = sets.split(sets.load("moons"), 0.5)
    more = td.resume(tmp_path / "r", fit.x, 6, labels=fit.labels)
    assert more.meta["step"] == 6 and np.isfinite(more.theta).all()
    text = json.dumps(more.meta)
    assert json.loads(text)["data"]["spec"] == "moons"


@pytest.mark.parametrize(
    "given, words",
    [
        ({"dropout": 0.1}, "dropout is of residual blocks: an MLP has none"),
        ({"label_dropout": 0.1}, "label_dropout needs labels"),
    ],
)
def test_a_dropout_that_would_drop_nothing_is_refused(given, words):
    points = np.zeros((8, 2), np.float32)
    with pytest.raises(td.InputError, match=words):
        td.train(points, 1, batch=4, **given)
    td.train(points, 1, batch=4)
    td.train(points, 1, batch=4, dropout=0, label_dropout=0)
