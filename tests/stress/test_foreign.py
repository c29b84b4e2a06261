"""Checkpoints from foreign hands before sample, eval and train --resume: work or one line.

The cases are in support/command_cases.py, seeded. 40 run with the suite; `pytest -m stress` runs
1,500, `--foreign N` as many as asked.
"""

import numpy as np
import pytest
from support import command_cases
from support.command_cases import COMMANDS, TRAIN, judged, run, write_data
from support.reader_cases import Broken

from tinyddpm.runs import checkpoint

N = 40


def check_many(first, n, folder):
    """Cases first to first + n - 1: the rule holds, and enough of them still do their work."""
    codes = []
    for i in range(first, first + n):
        try:
            codes.append(command_cases.attempt(i, folder))
        except Broken as broken:
            pytest.fail(f"case {i}: {broken}")
    # About a quarter do. A program that refused everything would obey the rule too.
    assert codes.count(0) >= n / 10 and codes.count(2) >= n / 10


def test_foreign_checkpoints_end_in_one_line(tmp_path):
    check_many(0, N, tmp_path)


@pytest.mark.stress
def test_many_foreign_checkpoints_end_in_one_line(tmp_path, request):
    check_many(N, request.config.getoption("--foreign"), tmp_path)


@pytest.mark.parametrize("broken", [KeyError("step"), SystemError("two\nlines"), Broken("hangs")])
def test_what_breaks_the_rule_is_noticed(monkeypatch, broken):
    def load(*_):
        raise broken

    monkeypatch.setattr(command_cases.commands, "load", load)
    with pytest.raises(Broken, match=type(broken).__name__ if "hangs" not in str(broken) else "ha"):
        judged(COMMANDS[0])


def test_a_lack_of_memory_is_one_line(monkeypatch):
    """And a command that fails without a line breaks the rule."""

    def load(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(command_cases.commands, "load", load)
    assert run(COMMANDS[0]) == (1, "tinyddpm: out of memory: Unable to allocate 9 TiB\n")
    monkeypatch.setattr(command_cases.commands.running, "_tell", lambda team: lambda line: None)
    with pytest.raises(Broken, match="exit code 1"):
        judged(COMMANDS[0])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """(arrays, meta) of a small run in ./r, of a points' file."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    small = ["--hidden", "4", "--layers", "1", "--batch", "4"]
    assert run(["train", "points.npy", *small, *TRAIN, "--out", "r"])[0] == 0
    arrays, meta = checkpoint.load("r")
    return arrays, {name: value for name, value in meta.items() if name != "version"}


def refused(arrays, meta, commands=COMMANDS):
    """The lines in which the commands refuse a run of these parts."""
    checkpoint.save("r/checkpoint.npz", arrays, meta)
    lines = []
    for argv in commands:
        assert judged(argv) == 2, argv
        lines.append(run(argv)[1])
    return lines


@pytest.mark.parametrize("data", [{}, [], 7, "digits", {"spec": 1, "holdout": 0.5}])
def test_data_of_a_wrong_kind(trained, data):
    arrays, meta = trained
    refused(arrays, {**meta, "data": data})


@pytest.mark.parametrize("step", [-3, "x", 1.0, True, None, [1]])
def test_a_step_that_is_no_count(trained, step):
    arrays, meta = trained
    lines = refused(arrays, {**meta, "step": step})
    assert all("step cannot be" in line for line in lines)


@pytest.mark.parametrize(
    "part",
    [
        *({"restore": wrong} for wrong in (None, 1, [1], [0, "a"], [0, float("inf")], {"a": 1})),
        *({"holdout": wrong} for wrong in (None, "0.5", [0.5], True, float("nan"))),
        *({"range": wrong} for wrong in (1, "ab", [1], [None, 1])),
        {"spec": None},
        {"spec": ["points.npy"]},
        {"size": "32"},
        {"gray": 1},
    ],
    ids=str,
)
def test_where_the_data_is_and_how_it_is_read_is_checked(trained, part):
    arrays, meta = trained
    lines = refused(arrays, {**meta, "data": {**meta["data"], **part}})
    assert all(f"the {next(iter(part))} of the run's data cannot be" in line for line in lines)


@pytest.mark.parametrize(
    "shape", [[100000, 100000, 1], [-2], [0], [2.0], [2**64], [], "2", None, [2, 2], [[2]]]
)
def test_shapes_that_cannot_be(trained, shape):
    arrays, meta = trained
    refused(arrays, {**meta, "shape": shape})


def test_a_shape_beyond_the_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    """The network of images fits any size; what it would take is counted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    path = tmp_path / "r" / checkpoint.NAME
    path.write_bytes(command_cases.checkpoints()[0])
    arrays, meta = checkpoint.load(path)
    del meta["version"]
    for shape in ([4, 2**24, 1], [100_000, 100_000, 1]):
        (line,) = refused(arrays, {**meta, "shape": shape}, COMMANDS[:1])
        assert "sampling would take at least" in line
    assert "do not halve" in refused(arrays, {**meta, "shape": [4, 2**24 - 1, 1]}, COMMANDS[:1])[0]


@pytest.mark.parametrize(
    "net",
    [
        {"kind": "unet", "base": 4, "groups": 2, "blocks": 10_000, "mults": [1] * 3000},
        {"kind": "unet", "base": 10_000, "groups": 2, "blocks": 1, "mults": [1]},
        {"kind": "mlp", "dim": 2, "hidden": 4, "layers": 10_000},
        {"kind": "mlp", "dim": 2, "hidden": 4, "layers": 10**15},
        {"kind": "mlp", "dim": 2, "hidden": True, "layers": 1},
        {"kind": "mlp", "dim": 2, "hidden": 4.0, "layers": 1},
        {"kind": "unet", "base": 4, "groups": 2, "blocks": 1, "mults": "12"},
        {"kind": "unet", "base": 4, "groups": 2, "blocks": 1, "mults": [1], "tol": "small"},
    ],
    ids=lambda net: str(net)[:60],
)
def test_a_network_that_its_parameters_do_not_fill_is_refused_unbuilt(trained, net):
    """With an ema of 10,001 numbers: no single setting is above it, all of them together are."""
    arrays, meta = trained
    if net["kind"] == "unet":
        levels = len(net["mults"]) if isinstance(net["mults"], list) else 2
        net = {**net, "attention": [False] * levels}
        meta = {**meta, "shape": [2 ** (levels - 1)] * 2 + [1]}
    refused({**arrays, "ema": np.zeros(10_001, np.float32)}, {**meta, "net": net})


def test_a_shape_that_is_not_the_datas_is_refused(trained):
    """Before eval draws samples of it."""
    arrays, meta = trained
    content = command_cases.checkpoints()[0]
    with open("r/checkpoint.npz", "wb") as file:
        file.write(content)
    arrays, meta = checkpoint.load("r")
    meta["data"]["spec"] = "images.npz"
    del meta["version"]
    lines = refused(arrays, {**meta, "shape": [8, 4, 1]}, COMMANDS[2:])
    assert all("have the shape (8, 4, 1), those of its data (4, 4, 1)" in each for each in lines)


def test_settings_of_sampling_are_checked(trained):
    arrays, meta = trained
    for own in ("ddim", [1], {"sampler": "dd"}, {"steps": "9"}, {"odd": 1}, {"clip": []}):
        refused(arrays, {**meta, "sampling": own}, COMMANDS[:1])
