"""The benchmark's own behaviour: options, answers that are compared, files that are written. No
time is judged.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import accuracy, bench, cases, clock, crossover, end, network, sampling
from benchmarks.__main__ import TIMED, main
from tinyddpm import MLP, UNet, backend
from tinyddpm.nn.ops import Ops

ROOT = pathlib.Path(__file__).parents[2]


def share(f, items):
    return [f(item) for item in items]


@pytest.fixture
def small(monkeypatch):
    """The same groups on small shapes."""
    monkeypatch.setattr(cases, "SHAPES", ((3, 6, 5, 8, 16),))
    monkeypatch.setattr(
        network,
        "CASES",
        {
            "images": network.Net(
                UNet(base=8, mults=(1, 2), attention=(False, False)), (8, 8, 1), 4
            ),
            "points": network.Net(MLP(hidden=16), (2,), 8),
        },
    )
    monkeypatch.setattr(end, "SHORT", 2)
    monkeypatch.setattr(end, "QUICK", 3)
    monkeypatch.setattr(sampling, "TIMES", 100)
    monkeypatch.setattr(clock, "READING", 1e-3)
    monkeypatch.setattr(bench, "SIDE", 64)
    monkeypatch.setattr(bench, "COPY_BYTES", 1 << 16)


def test_help_names_every_group(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(group in shown for group in (*TIMED, "gpu", "roofline"))


@pytest.mark.parametrize(
    "options",
    [
        ["nosuch"],
        ["--backend", "torch"],
        ["--seconds", "0"],
        ["--seconds", "soon"],
        ["--seconds", "nan"],
        ["--peer", "jax"],
        ["--compile"],
        ["--what"],
        ["--json", "no/such/folder/a.json"],
        ["--plot", "curves.pdf"],
    ],
)
def test_bad_options_are_one_line_and_exit_2(options, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("benchmarks: ") and error.count("\n") == 1


def test_an_unknown_card_exits_2(capsys):
    assert main(["roofline", "--card", "abacus"]) == 2
    error = capsys.readouterr().err
    assert "h100" in error and error.count("\n") == 1


def test_every_group_on_numpy(small, tmp_path, capsys):
    file, picture = tmp_path / "figures.json", tmp_path / "curves.png"
    assert (
        main(
            [
                "--backend",
                "numpy",
                "--seconds",
                "0.02",
                "--quick",
                "--json",
                str(file),
                "--plot",
                str(picture),
            ]
        )
        == 0
    )
    figures = json.loads(file.read_text(encoding="utf-8"))
    shown = capsys.readouterr().out
    assert set(figures) == {"machine", "ceilings", "crossover", "accuracy", *TIMED}
    assert set(figures["steps"]) == {"normal", "noised_drawn", "reverse_drawn", "adamw_ema"}
    assert len(figures["ops"]) == 4 and len(figures["network"]) == 4 and len(figures["end"]) == 2
    assert len(figures["samplers"]) == 5
    at_20 = {way: rows[2] for way, rows in figures["accuracy"].items() if way != "floor"}
    assert at_20["ancestral"]["transport"] is None and at_20["heun"]["evaluations"] == 39
    # the margins are threefold and more on the full table: few points do not change the order
    assert (
        at_20["dpmpp_2m, logsnr"]["transport"]
        < at_20["ddim"]["transport"]
        < at_20["euler"]["transport"]
    )
    assert (
        figures["accuracy"]["floor"] < at_20["ancestral"]["sliced"] and "dpmpp_2m, logsnr" in shown
    )
    for group in TIMED:
        for case, rows in figures[group].items():
            assert case in shown and set(rows) == {"numpy"}
            row = rows["numpy"]
            assert 0 < row["min_ms"] <= row["median_ms"] and row["ratio"] == {"numpy": 1.0}
    for path in (picture, tmp_path / "curves-samplers.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_sliced_distance_of_a_moved_set_is_its_way_over_root_2():
    """A move by d is d cos(angle) in a projection; the mean of cos^2 over even angles is 1/2."""
    points = np.random.Generator(np.random.PCG64(0)).standard_normal((50, 2))
    assert abs(accuracy.sliced(points, points[::-1] + [3.0, 4.0]) - 5 / np.sqrt(2)) < 1e-12


def test_numba_is_measured_beside_numpy(small, tmp_path):
    pytest.importorskip("numba")
    file = tmp_path / "figures.json"
    assert (
        main(
            [
                "steps",
                "ops",
                "--backend",
                "numba",
                "--seconds",
                "0.02",
                "--quick",
                "--json",
                str(file),
            ]
        )
        == 0
    )
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert all(
        set(rows) == {"numpy", "numba"}
        for group in ("steps", "ops")
        for rows in figures[group].values()
    )


def test_gpu_without_a_gpu_says_what_is_missing(capsys):
    missing = backend.reason("cuda")
    if missing is None:
        pytest.skip("there is a GPU here")
    assert main(["gpu"]) == 2
    error = capsys.readouterr().err
    assert missing in error and error.count("\n") == 1


@pytest.mark.parametrize("method", ["normal", "conv2d", "groupnorm_silu"])
def test_a_wrong_answer_is_not_timed(method):
    def wrong(self, *args, **options):
        y = getattr(Ops, method)(self, *args, **options).copy()
        y.flat[-1] *= 1.01
        return y

    bad = type("Wrong", (Ops,), {method: wrong})()
    found = {"numpy": bench.Bench("numpy", Ops(), share), "bad": bench.Bench("bad", bad, share)}
    every = [
        *cases.steps(6, 20),
        *cases.convolution(3, 6, 5, 8, 16),
        *cases.normalisation(3, 6, 5, 8),
    ]
    case = next(case for case in every if case.name.startswith(method))
    with pytest.raises(bench.WrongAnswer, match="bad"):
        bench.checked(case, found)


def test_a_batch_cut_in_parts_has_the_whole_batchs_answer():
    whole = type("Whole", (Ops,), {"shards": 1})()
    found = {
        "numpy": bench.Bench("numpy", Ops(), share),
        "whole": bench.Bench("whole", whole, share),
    }
    for case in [
        *cases.steps(7, 20),
        *cases.given(3, 256),
        *cases.convolution(3, 6, 5, 8, 16),
        *cases.normalisation(3, 6, 5, 8),
        *cases.normalisation(3, 6, 5, 8, "groupnorm"),
    ]:
        bench.checked(case, found)


def test_work_is_counted_from_the_shapes():
    forward, backward = cases.convolution(2, 4, 5, 8, 16)
    assert forward.work == 2 * (2 * 4 * 5) * (3 * 3 * 8) * 16 and backward.work == 2 * forward.work
    work = {case.name: case.work for case in (*cases.steps(4, 256), *cases.given(4, 256))}
    # floats read and written: x0, xt and eps; xt, output and xs; five vectors read, four written
    floats = {
        "normal": 1,
        "noised_drawn": 3,
        "reverse_drawn": 3,
        "adamw_ema": 9,
        "noised": 3,
        "reverse": 4,
    }
    assert {name: work[name] for name in floats} == {
        name: 4 * 4 * 256 * n for name, n in floats.items()
    }
    assert work["im2col"] == 4 * (4 * 14 * 14) * 9  # what it writes


def test_a_ratio_is_the_median_of_pairs():
    rows = clock.summary({"numpy": [1.0, 2.0, 4.0], "other": [2.0, 1.0, 2.0]})
    assert rows["other"]["ratio"] == {"numpy": 0.5} and rows["numpy"]["ratio"] == {"numpy": 1.0}
    assert rows["other"]["median_ms"] == 2000 and rows["other"]["min_ms"] == 1000


def test_every_contender_is_read_as_often_and_warmed_up():
    calls, waits = {"a": 0, "b": 0}, []

    def count(name):
        calls[name] += 1

    times = clock.interleave(
        {name: lambda name=name: count(name) for name in calls},
        0.01,
        {"a": lambda: waits.append(1)},
        warm=0,
        least=4,
    )
    assert len(times["a"]) == len(times["b"]) == calls["a"] == calls["b"] == len(waits) >= 4
    clock.interleave({"a": lambda: count("a")}, 0.01, warm=3, least=1)
    assert calls["a"] > calls["b"] + 3  # and a call of no time is read many at once


def test_a_crossing_is_where_a_backend_stays_ahead():
    base = [(1, 1.0), (2, 2.0), (4, 4.0), (8, 8.0)]
    curves = {
        "step": {
            "numba": base,
            "late": [(1, 3.0), (2, 3.0), (4, 3.0), (8, 3.0)],
            "never": [(n, 9.0) for n, _ in base],
            "once": [(1, 0.5), (2, 3.0), (4, 5.0), (8, 7.0)],
        }
    }
    assert crossover.crossings(curves, "numba") == {"step": {"late": 4, "never": None, "once": 8}}


def test_philox_on_the_device_gives_the_published_words():
    pytest.importorskip("numba")
    code = "from benchmarks import gpu_launch; print(gpu_launch.known_answers())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "12"


def test_a_card_is_known_by_its_device_name():
    pytest.importorskip("numba")
    from benchmarks import gpu

    names = (
        "NVIDIA H100 80GB HBM3",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA GeForce RTX 4090",
        "Tesla T4",
    )
    assert [gpu.card(name) for name in names] == ["h100", "a100", "rtx4090", "t4"]


def test_a_nan_is_a_wrong_answer():
    with pytest.raises(bench.WrongAnswer):
        bench.compare("it", [np.array([np.nan])], [np.array([1.0])])
