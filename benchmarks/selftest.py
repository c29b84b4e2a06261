"""python -m benchmarks selftest: that the benchmark itself is right, on cases of known answers.

Wrong answers are refused, a batch in parts has the whole batch's answer, work, ratios, readings and
crossings are counted as they are defined. Prints a line for each check; a check that fails raises.
"""

import contextlib
import io
import os
from types import SimpleNamespace

import numpy as np

from tinyddpm import backend
from tinyddpm.nn.ops import Forget, Ops
from tinyddpm.runs import progress

from . import accuracy, bench, cases, clock, crossover, loopback, parallel, parts, report, scaling


def share(f, items):
    """The parts one after the other."""
    return [f(item) for item in items]


def small_cases():
    """Every kind of case, on a few numbers."""
    return [
        *cases.steps(7, 20),
        *cases.given(3, 256),
        *cases.convolution(3, 6, 5, 8, 16),
        *cases.normalisation(3, 6, 5, 8),
        *cases.normalisation(3, 6, 5, 8, "groupnorm"),
    ]


def refused(function, *args):
    """Whether it raises WrongAnswer."""
    try:
        function(*args)
    except bench.WrongAnswer:
        return True
    return False


def a_wrong_answer_is_not_timed():
    """A backend whose last number is one percent off is refused, whatever the operation."""
    for method in ("normal", "conv2d", "groupnorm_silu"):

        def wrong(self, *args, method=method, **options):
            y = getattr(Ops, method)(self, *args, **options).copy()
            y.flat[-1] *= 1.01
            return y

        bad = type("Wrong", (Ops,), {method: wrong})()
        found = {"numpy": bench.Bench("numpy", Ops(), share), "bad": bench.Bench("bad", bad, share)}
        case = next(case for case in small_cases() if case.name.startswith(method))
        assert refused(bench.checked, case, found), method


def a_nan_is_a_wrong_answer():
    """No comparison with NaN holds."""
    assert refused(bench.compare, "it", [np.array([np.nan])], [np.array([1.0])])


def a_batch_cut_in_parts_has_the_whole_batchs_answer():
    """On every kind of case."""
    whole = type("Whole", (Ops,), {"shards": 1})()
    found = {
        "numpy": bench.Bench("numpy", Ops(), share),
        "whole": bench.Bench("whole", whole, share),
    }
    for case in small_cases():
        bench.checked(case, found)


def work_is_counted_from_the_shapes():
    """Floats read and written: two inputs and z read, x_s written; im2col by what it writes."""
    work = {case.name: case.work for case in cases.given(4, 256)}
    assert work["noised"] == 4 * 4 * 256 * 3 and work["reverse"] == 4 * 4 * 256 * 4
    assert work["im2col"] == 4 * (4 * 14 * 14) * 9


def a_ratio_is_the_median_of_pairs():
    """Not the ratio of the medians."""
    rows = clock.summary({"numpy": [1.0, 2.0, 4.0], "other": [2.0, 1.0, 2.0]})
    assert rows["other"]["ratio"] == {"numpy": 0.5} and rows["numpy"]["ratio"] == {"numpy": 1.0}
    assert rows["other"]["median_ms"] == 2000 and rows["other"]["min_ms"] == 1000


def every_contender_is_read_as_often_and_warmed_up():
    """And a call of no time is read many at once."""
    calls, waits = {"a": 0, "b": 0}, []

    def count(name):
        calls[name] += 1

    contenders = {name: lambda name=name: count(name) for name in calls}
    wait = {"a": lambda: waits.append(1)}
    times = clock.interleave(contenders, 0.01, wait, warm=0, least=4)
    assert len(times["a"]) == len(times["b"]) == calls["a"] == calls["b"] == len(waits) >= 4
    clock.interleave({"a": lambda: count("a")}, 0.01, warm=3, least=1)
    assert calls["a"] > calls["b"] + 3


def a_crossing_is_where_a_backend_stays_ahead():
    """One win among the small sizes is none."""
    base = [(1, 1.0), (2, 2.0), (4, 4.0), (8, 8.0)]
    lines = {
        "numba": base,
        "late": [(1, 3.0), (2, 3.0), (4, 3.0), (8, 3.0)],
        "never": [(n, 9.0) for n, _ in base],
        "once": [(1, 0.5), (2, 3.0), (4, 5.0), (8, 7.0)],
    }
    found = crossover.crossings({"step": lines}, "numba")
    assert found == {"step": {"late": 4, "never": None, "once": 8}}


def sliced_distance_of_a_moved_set_is_its_way_over_root_2():
    """A move by d is d cos(angle) in a projection; the mean of cos^2 over even angles is 1/2."""
    points = np.random.Generator(np.random.PCG64(0)).standard_normal((50, 2))
    assert abs(accuracy.sliced(points, points[::-1] + [3.0, 4.0]) - 5 / np.sqrt(2)) < 1e-12


def the_parts_of_a_step_sum_to_it():
    """By a clock that only the operations move; an inner operation's time is the outer one's."""
    now, x, w = [0.0], np.ones((1, 4, 4, 8), np.float32), np.ones((3, 3, 8, 8), np.float32)

    def slow(name, seconds):
        def method(self, *args, **options):
            now[0] += seconds
            return getattr(Ops, name)(self, *args, **options)

        return method

    names = {"conv2d": 1, "_pad_spread": 2, "groupnorm_silu": 4, "upsample_conv2d": 8}
    names["conv2d_backward"] = 16
    kind = type("Slow", (Ops,), {name: slow(name, seconds) for name, seconds in names.items()})
    ledger = parts.Ledger(read=lambda: now[0])
    ops, p = parts.timed(kind(), ledger), SimpleNamespace(w=w, b=w[0, 0, 0])

    def step():
        tape, g = [], cases.zeros(ops, p)
        y = ops.conv2d(x, p, tape)
        ops.groupnorm_silu(y, SimpleNamespace(w=w[0, 0, 0], b=w[0, 0, 0]), 2, [])
        ops.upsample_conv2d(x, p, Forget())
        now[0] += 32
        ops.conv2d_backward(y, g, tape)

    found, work = parts.step_parts(step, ledger, 1), 2 * (4 * 4) * (9 * 8) * 8
    conv = "3x3 convolution at 4x4"
    assert found["parts"] == {
        f"{conv}, forward": 1e3,
        "GroupNorm with SiLU, forward": 4e3,
        "upsampled 3x3 convolution at 8x8, forward": 9e3,
        f"{conv}, backward": 16e3,
        parts.MOVED: 6e3,
        parts.REST: 32e3,
    }
    assert found["step_ms"] == sum(found["parts"].values()) == 68e3
    assert found["rates"] == {
        f"{conv}, forward": work / 1e9,
        "upsampled 3x3 convolution at 8x8, forward": 4 * work / 9e9,
        f"{conv}, backward": work / 8e9,
    }


def a_reductions_bytes_and_time_are_those_of_its_messages():
    """By hand, for a gradient of 400 bytes, 1 ms a message and 1 us a byte."""
    link = scaling.Link(1e-3, 1e-6)
    assert scaling.sent(2, 2, 400) == 400 and scaling.sent(2, 1, 400) == 0
    # three shards a rank are two partial sums: 2 exchanges and 1 gathering of 3/4 of the bytes
    assert scaling.sent(12, 4, 400) == 900 and scaling.sent(12, 4, 400, "sum") == 600
    # four ranks: 2 rounds of 3 messages, 6 ms, and 2 x 300 bytes, 0.6 ms
    assert abs(scaling.seconds(link, 8, 4, 400) - 6.6e-3) < 1e-12
    # 9 MiB go in messages of 1 MiB at most: by two ranks 5 pieces, by four ranks 3
    assert scaling.messages(4, 2, 9 * 2**20) == 5 * 2
    assert scaling.messages(8, 4, 9 * 2**20) == 3 * 2 * 3
    assert scaling.messages(8, 4, 9 * 2**20, "sum") == 2 * 3


def a_link_is_fitted_to_what_it_predicts():
    """2 ms for two messages, and 1 us a byte: 3 ms for 1000 bytes, 5 ms for 3000."""
    link = scaling.fit({1000: 3e-3, 3000: 5e-3})
    assert abs(link.alpha - 1e-3) < 1e-12 and abs(link.beta - 1e-6) < 1e-15
    assert scaling.fit({1000: 1e-3, 2000: 3e-3}).alpha == 0  # no message takes less than nothing
    assert abs(scaling.error(link, {1000: 3e-3, 3000: 10e-3}) - 0.5) < 1e-9


def a_loopback_that_cannot_be_is_refused_in_a_line():
    """No unshare, no right to it, no tc."""
    before, texts = loopback.command, []
    try:
        for words in (["no-such-unshare"], ["sh", "-c", "(echo tc: not; echo found) >&2; exit 2"]):
            loopback.command = lambda rate, words=words: words
            texts += [loopback.refusal(), *parallel.slow(parallel.behind(1.0, None))]
        loopback.command = lambda rate: ["sh", "-c", "exit 3"]
        assert loopback.refusal() == "exit 3"
        loopback.command = lambda rate: ["sh", "-c", "exit 0"]
        assert loopback.refusal() is None
    finally:
        loopback.command = before
    assert "no-such-unshare" in texts[0] and texts[2] == "tc: not found"
    line = "the model is not checked on a slow loopback, which needs root and tc: "
    assert [texts[1], texts[3]] == [line + texts[0], line + texts[2]]
    words = loopback.command(2.5)
    assert words[:2] == ["unshare", "--net"] and "rate 5000mbit" in words[4]


def efficiency_is_the_computing_part_of_a_step():
    """1 s of computing beside 0.25 s of reduction; 8 Gb/s are 1 ns a byte."""
    nbytes = 250e6  # two ranks send them once
    assert abs(scaling.efficiency(scaling.Link(0, 1e-9), 2, 1.0, nbytes) - 0.8) < 1e-12
    link = scaling.network(scaling.Link(1e-6, 1e-9), 8, latency=2e-6)
    assert abs(link.alpha - 3e-6) < 1e-15 and abs(link.beta - 2e-9) < 1e-18


def ranks_of_other_results_are_refused():
    """One bit of two ranks' parameters, or a norm that rounding does not explain."""
    one = {"crc": 1, "norm": 10.0}
    parallel.check("it", one, one, {"crc": 2, "norm": 10.0001})
    assert refused(parallel.check, "it", one, {"crc": 2, "norm": 10.0}, one)
    assert refused(parallel.check, "it", one, one, {"crc": 1, "norm": 10.01})
    assert refused(parallel.check, "it", one, one, {"crc": 1, "norm": float("nan")})


def a_line_of_progress_counts_every_case():
    """In a file, where a line a minute is written."""
    minute, progress.MINUTE = progress.MINUTE, 0.0
    try:
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            assert list(report.each("abc", "letters")) == ["a", "b", "c"]
    finally:
        progress.MINUTE = minute
    assert [f"letters {n}/3" in shown.getvalue() for n in (1, 2, 3, 4)] == [True] * 3 + [False]


CHECKS = (
    a_wrong_answer_is_not_timed,
    a_nan_is_a_wrong_answer,
    a_batch_cut_in_parts_has_the_whole_batchs_answer,
    work_is_counted_from_the_shapes,
    a_ratio_is_the_median_of_pairs,
    every_contender_is_read_as_often_and_warmed_up,
    a_crossing_is_where_a_backend_stays_ahead,
    sliced_distance_of_a_moved_set_is_its_way_over_root_2,
    the_parts_of_a_step_sum_to_it,
    a_reductions_bytes_and_time_are_those_of_its_messages,
    a_link_is_fitted_to_what_it_predicts,
    a_loopback_that_cannot_be_is_refused_in_a_line,
    efficiency_is_the_computing_part_of_a_step,
    ranks_of_other_results_are_refused,
    a_line_of_progress_counts_every_case,
)


def philox_on_the_device_gives_the_published_words():
    """On a GPU, or in the simulator."""
    from . import gpu_launch

    assert gpu_launch.known_answers() == 12


def run():
    """Run every check that this machine can; returns their names."""
    checks = [*CHECKS]
    if backend.reason("numba") is None:
        from . import selftest_device

        checks += selftest_device.CHECKS
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        checks.append(philox_on_the_device_gives_the_published_words)
    for check in checks:
        check()
        print(f"{check.__name__}: ok", flush=True)
    return [check.__name__ for check in checks]
