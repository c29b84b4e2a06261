"""The benchmark's own behaviour, from outside: options, tables, files. No time is judged.

What it counts and compares inside, `python -m benchmarks selftest` tries on cases of known answers.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from support import ranks
from support.docs_blocks import ROOT

from tinyddpm import backend

TIMED = {"steps", "ops", "network", "end", "samplers"}
TINY = ["--tiny", "--seconds", "0.02"]


def benchmarks(*options, **environment):
    """The command, ended: returncode, stdout, stderr."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def figures_of(path, *options):
    """What a run printed, and the figures that it wrote."""
    done = benchmarks(*TINY, "--json", str(path), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every timed group on numpy: (the folder of its files, what it printed, its figures)."""
    folder = tmp_path_factory.mktemp("benchmarks")
    picture = str(folder / "curves.png")
    options = ("--backend", "numpy", "--plot", picture)
    return folder, *figures_of(folder / "figures.json", *options)


def test_help_names_every_group():
    done = benchmarks("--help")
    assert done.returncode == 0
    assert all(
        group in done.stdout
        for group in {*TIMED, "peers", "tiles", "parallel", "gpu", "roofline", "selftest"}
    )


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
        ["ops", "--parts"],
        ["steps", "--memory"],
        ["network", "--networks", "e"],
        ["peers", "--networks", "c"],
        ["peers", "--backend", "cuda"],
        ["parallel", "--backend", "numpy", "numba"],
        ["--what"],
        ["--json", "no/such/folder/a.json"],
        ["--plot", "curves.pdf"],
    ],
)
def test_bad_options_are_one_line_and_exit_2(options):
    done = benchmarks(*options)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("benchmarks: ") and done.stderr.count("\n") == 1


OPTIONS = {
    "--backend": "numpy",
    "--peer": "torch",
    "--networks": "a",
    "--parts": None,
    "--memory": None,
    "--compile": None,
    "--seconds": "1",
    "--quick": None,
    "--tiny": None,
    "--plot": "curves.png",
    "--card": "t4",
    "--budget": "60",
}
LENGTH = {"--seconds", "--quick", "--tiny"}
USED = {
    "steps": {"--backend", "--peer", "--plot", *LENGTH},
    "ops": {"--backend", "--peer", *LENGTH},
    "network": {*OPTIONS} - {"--plot", "--card", "--budget"},
    "end": {"--backend", *LENGTH},
    "samplers": {"--backend", "--plot", *LENGTH},
    "peers": {"--backend", "--networks", "--compile", *LENGTH},
    "tiles": LENGTH,
    "parallel": {"--backend", "--plot", *LENGTH},
    "gpu": {*OPTIONS} - {"--parts", "--memory", "--compile", "--card"},
    "roofline": {"--networks", "--card"},
    "selftest": set(),
}
# Reads "GROUP OPTION ..." lines, and prints for each the exit code and what was said.
PARSING = """
import contextlib, io, json, sys
from benchmarks.options import parse
for line in sys.stdin:
    code, said = 0, io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            parse(line.split(), "")
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue()]))
"""


def test_an_option_that_no_group_uses_is_refused():
    """Every group with every option, alone."""
    asked = {
        (group, option): [group, option, *([value] if value else [])]
        + ["--peer torch"] * (option == "--compile" and {option, "--peer"} <= set(used))
        for group, used in USED.items()
        for option, value in OPTIONS.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", PARSING],
        cwd=ROOT,
        input="\n".join(map(" ".join, asked.values())),
        capture_output=True,
        text=True,
    )
    answers = dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))
    for (group, option), (code, said) in answers.items():
        if option in USED[group]:
            assert (code, said) == (0, ""), (group, option, said)
        else:
            assert code == 2 and said.startswith(f"benchmarks: {option} is for "), (group, option)
            assert said.count("\n") == 1, said


@pytest.mark.stress
def test_ranks_are_measured_and_the_model_is_drawn(tmp_path):
    ranks.starter()
    options = ("parallel", "--plot", str(tmp_path / "curves.png"))
    shown, figures = figures_of(tmp_path / "figures.json", *options)
    found = figures["parallel"]
    (rows,) = found["steps"].values()
    one, two, added = (rows[f"ours, {who}"] for who in ("1 rank", "2 ranks", "2 ranks, sum"))
    assert one["bytes"] == 0 and two["bytes"] == added["bytes"] == 4 * two["parameters"]
    assert all(0 < row["reduction"] < row["step"] and row["wait"] > 0 for row in (one, two, added))
    for lines in found["efficiency"].values():
        assert set(lines) == {"10 Gb/s", "25 Gb/s", "100 Gb/s"}
        for line in lines.values():
            assert line["1"] == 1 and sorted(line.values(), reverse=True) == list(line.values())
    assert "by the model (not measured)" in shown
    assert (tmp_path / "curves-parallel.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_card_exits_2():
    done = benchmarks("roofline", "--card", "abacus")
    assert done.returncode == 2 and "h100" in done.stderr and done.stderr.count("\n") == 1


def test_every_group_has_its_figures(everything):
    _, shown, figures = everything
    assert set(figures) == {"machine", "ceilings", "crossover", "accuracy", *TIMED}
    assert set(figures["steps"]) == {"normal", "noised_drawn", "reverse_drawn", "adamw_ema"}
    assert len(figures["ops"]) == 4 and len(figures["network"]) == 4 and len(figures["end"]) == 2
    assert len(figures["samplers"]) == 5
    for group in TIMED:
        for case, rows in figures[group].items():
            assert case in shown and set(rows) == {"numpy"}
            row = rows["numpy"]
            assert 0 < row["min_ms"] <= row["median_ms"] and row["ratio"] == {"numpy": 1.0}


def test_the_samplers_errors_are_in_their_order(everything):
    """The margins are threefold and more on the full table: few points do not change the order."""
    _, shown, figures = everything
    at_20 = {way: rows[2] for way, rows in figures["accuracy"].items() if way != "floor"}
    assert at_20["ancestral"]["transport"] is None and at_20["heun"]["evaluations"] == 39
    order = [at_20[way]["transport"] for way in ("dpmpp_2m, logsnr", "ddim", "euler")]
    assert order == sorted(order) and len(set(order)) == 3
    assert figures["accuracy"]["floor"] < at_20["ancestral"]["sliced"]
    assert "dpmpp_2m, logsnr" in shown


def test_the_curves_are_drawn(everything):
    folder, _, figures = everything
    assert set(figures["crossover"]) == set(figures["steps"])
    for name in ("curves.png", "curves-samplers.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_work_is_counted_from_the_shapes(everything):
    """A rate is work over time: the work is found from the two, up to their rounding in JSON."""
    _, _, figures = everything

    def work(row):
        return row["rate"] * row["median_ms"] * 1e6

    n = 512 * 256
    # floats read and written: x0, xt and eps; xt, output and xs; five vectors read, four written
    floats = {"normal": 1, "noised_drawn": 3, "reverse_drawn": 3, "adamw_ema": 9}
    for name, count in floats.items():
        row = figures["steps"][name]["numpy"]
        assert row["unit"] == "GB/s" and work(row) == pytest.approx(4 * n * count)
    ops = {name: rows["numpy"] for name, rows in figures["ops"].items()}
    convolution = next(name for name in ops if name.startswith("conv2d") and "forward" in name)
    B, H, W, C, O = map(int, re.findall(r"\d+", convolution.removeprefix("conv2d")))
    forward, backward = ops[convolution], ops[convolution.replace("forward", "backward")]
    assert forward["unit"] == "GFLOP/s"
    assert work(forward) == pytest.approx(2 * (B * H * W) * (3 * 3 * C) * O)
    assert work(backward) == pytest.approx(2 * work(forward))


def test_numba_is_measured_beside_numpy(tmp_path):
    pytest.importorskip("numba")
    _, figures = figures_of(tmp_path / "figures.json", "steps", "ops", "--backend", "numba")
    for group in ("steps", "ops"):
        assert all(set(rows) == {"numpy", "numba"} for rows in figures[group].values())


def test_where_each_steps_time_and_memory_go(tmp_path):
    """Parts sum to the step, on two threads too: counted twice, the rest would be below zero."""
    pytest.importorskip("numba")
    shown, figures = figures_of(
        tmp_path / "f.json", "network", "--parts", "--memory", "--backend", "numba"
    )
    for title, peaks in figures["memory"].items():
        # an interpreter with NumPy takes tens of MB, these networks a few; pages are not counted
        assert title in shown and set(peaks) == {"numpy", "numba"}
        assert 20 < peaks["numpy"] < 1000 and peaks["numpy"] < peaks["numba"] < 1000
    assert set(figures["parts"]) == set(figures["network"])
    for title, rows in figures["parts"].items():
        assert title in shown and set(rows) == {"numpy", "numba"}
        for row in rows.values():
            assert min(row["parts"].values()) >= 0
            assert sum(row["parts"].values()) == pytest.approx(row["step_ms"])
            assert "images" not in title or "GroupNorm with SiLU, forward" in row["parts"]
            backward = [name for name in row["parts"] if "convolution" in name and "back" in name]
            assert bool(backward) == ("images" in title and "train" in title)
            assert ("optimiser" in row["parts"]) == ("train" in title)


def test_the_tiles_are_measured_and_the_choice_is_judged(tmp_path):
    pytest.importorskip("numba")
    shown, figures = figures_of(tmp_path / "f.json", "tiles")
    figures = figures["tiles"]
    assert f"tiles in use: {figures['choice']}" in shown
    lanes = figures["choice"].split(":")[0]
    assert lanes in ("4", "8", "16") and set(figures["rates"]) == {"8:2x6", "8:1x6"}
    for rates in figures["rates"].values():
        assert set(rates) == {"direct", "winograd"}
        assert all(len(pair) == 2 and min(pair) > 0 for kind in rates.values() for pair in kind)


def test_gpu_without_a_gpu_tells_what_is_missing():
    missing = backend.reason("cuda")
    if missing is None:
        pytest.skip("there is a GPU here")
    done = benchmarks("gpu")
    assert done.returncode == 2 and missing in done.stderr and done.stderr.count("\n") == 1


def test_what_it_counts_and_compares_is_right():
    """Each check that is inside benchmarks/ is run, and prints its own line."""
    pytest.importorskip("numba")
    done = benchmarks("selftest", NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "a_wrong_answer_is_not_timed: ok",
        "a_nan_is_a_wrong_answer: ok",
        "a_batch_cut_in_parts_has_the_whole_batchs_answer: ok",
        "work_is_counted_from_the_shapes: ok",
        "a_ratio_is_the_median_of_pairs: ok",
        "every_contender_is_read_as_often_and_warmed_up: ok",
        "a_crossing_is_where_a_backend_stays_ahead: ok",
        "sliced_distance_of_a_moved_set_is_its_way_over_root_2: ok",
        "the_parts_of_a_step_sum_to_it: ok",
        "a_reductions_bytes_and_time_are_those_of_its_messages: ok",
        "a_link_is_fitted_to_what_it_predicts: ok",
        "a_loopback_that_cannot_be_is_refused_in_a_line: ok",
        "efficiency_is_the_computing_part_of_a_step: ok",
        "ranks_of_other_results_are_refused: ok",
        "a_line_of_progress_counts_every_case: ok",
        "an_operation_moves_its_inputs_and_its_output: ok",
        "a_product_is_two_operations_a_multiplication: ok",
        "sums_copies_and_clearing_are_nodes: ok",
        "a_view_is_no_node: ok",
        "what_cannot_be_counted_is_refused: ok",
        "a_kernel_moves_its_arrays: ok",
        "a_small_layer_is_one_node: ok",
        "the_products_of_a_step_are_the_networks: ok",
        "tf32_keeps_ten_bits: ok",
        "products_of_exact_factors_are_the_references: ok",
        "predicted_seconds_are_sums: ok",
        "the_steps_that_were_measured_are_counted_as_by_their_profile: ok",
        "the_prediction_is_as_far_off_as_docs_say: ok",
        "arrays_on_a_card_fit_its_memory: ok",
        "a_kernel_is_known_by_its_name: ok",
        "what_fails_or_is_late_is_one_line: ok",
        "philox_on_the_device_gives_the_published_words: ok",
    ]
