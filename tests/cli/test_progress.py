"""The line of progress: where it is shown, what it says, and what `eval` says beforehand."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import types

import numpy as np
import pytest
import tqdm.std
from PIL import Image

import tinyddpm as td
from tinyddpm.cli import commands, judging
from tinyddpm.datasets import sets
from tinyddpm.runs import progress

POINTS = np.linspace(-0.9, 0.9, 64, dtype=np.float32).reshape(32, 2)
SMALL = {"batch": 4, "net": td.MLP(hidden=4, layers=1), "schedule": td.cosine(20)}


@pytest.fixture
def at_once(monkeypatch):
    """Nothing is waited for before it is shown."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "MINUTE", 0.0)


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns, action): what a terminal of so many columns shows of it."""

    def shown(columns, action):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            for name in ("COLUMNS", "LINES"):
                patch.delenv(name, raising=False)
            action()
            print("end", file=stream, flush=True)
            text = b""
            while not text.endswith(b"end\r\n"):
                text += os.read(ours, 10**6)
        os.close(ours)
        return text.decode().removesuffix("end\r\n")

    return shown


def in_file(monkeypatch, action):
    """What a stream that is no terminal has after the action."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.StringIO())
        action()
        return sys.stderr.getvalue()


def test_a_terminal_shows_steps_time_rate_and_smoothed_loss(at_once, terminal):
    def action():
        with progress.Bar(4, "train", show=True) as bar:
            for loss in (1.0, 2.0, 3.0):
                bar.record({"step": 1, "loss": loss})
            bar(1)

    last = terminal(80, action).split("\r")[-2]
    # DECAY^2 1 + DECAY 2 + 3 over DECAY^2 + DECAY + 1, worked out by hand at 0.98
    assert re.fullmatch(r"train 4/4 \S+ 00:00 left, .*steps?/s\S*, loss 2\.0135", last.rstrip())


@pytest.mark.parametrize("columns", [20, 45, 80, 200])
def test_it_fits_the_width(at_once, terminal, columns):
    def action():
        with progress.Bar(3000, "train", show=True) as bar:
            bar(1200, 0.5)
            bar.line.refresh()

    states = re.split(r"[\r\n]+", terminal(columns, action))
    assert any(state.startswith("train 1200/3000") for state in states)
    assert max(map(len, states)) <= columns


def test_a_file_gets_lines_and_no_more_than_one_a_minute(monkeypatch, at_once):
    def action():
        with progress.Bar(9, "train", show=True) as bar:
            for _ in range(3):
                bar(3)

    text = in_file(monkeypatch, action)
    assert "\r" not in text and "\x1b" not in text and text.isascii()
    assert re.findall(r"train (\d)/9", text) == ["0", "3", "6", "9", "9"] and text.count("\n") == 5
    now = [1000.0]
    monkeypatch.setattr(progress, "MINUTE", 60.0)
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])

    def slow():
        with progress.Bar(100, "train", show=True) as bar:
            for _ in range(100):
                now[0] += 2
                bar()

    assert len(in_file(monkeypatch, slow).splitlines()) == 4  # 200 s: three minutes and the end


def test_what_is_quick_shows_nothing(monkeypatch, terminal):
    def action():
        td.train(POINTS, 3, progress=True, **SMALL)

    assert terminal(80, action) == "" and in_file(monkeypatch, action) == ""


def test_in_python_it_is_shown_where_asked_and_in_a_notebook(monkeypatch, at_once):
    def action(**asked):
        return lambda: td.sample(td.train(POINTS, 3, **SMALL, **asked), 4, steps=5, **asked)

    assert in_file(monkeypatch, action()) == ""
    text = in_file(monkeypatch, action(progress=True))
    assert "train 3/3" in text and re.search(r"sample (\d+)/\1 ", text) and "loss" in text
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert "\rtrain 3/3" in in_file(monkeypatch, action())
    assert in_file(monkeypatch, action(progress=False)) == ""


def test_a_closed_stream_ends_the_line_and_not_the_work(monkeypatch, at_once):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    def close(step):
        if step["step"] == 2:
            stream.close()

    with progress.Bar(4, "train", show=True) as bar:
        for step in range(1, 5):
            close({"step": step})
            bar(1)
    monkeypatch.setattr(sys, "stderr", None)
    with progress.Bar(4, "train", show=True) as bar:
        bar(1)


def test_the_commands_show_it_unless_they_are_to_be_quiet(tmp_path, monkeypatch, capsys, at_once):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    small = ["--steps", "3", "--hidden", "8", "--layers", "1", "--T", "9", "--out"]
    for extra, shown in (([], True), (["--quiet"], False)):
        name = f"r{len(extra)}"
        assert commands.main(["train", "moons", *small, name, *extra]) == 0
        assert ("train 3/3" in capsys.readouterr().err) == shown
        assert commands.main(["sample", name, "--n", "4", "--gif", "a.gif", *extra]) == 0
        with Image.open("a.gif") as image:
            frames = image.n_frames
        assert (f"draw {frames}/{frames}" in capsys.readouterr().err) == shown
        assert commands.main(["eval", name, "--n", "20", "--steps", "2", *extra]) == 0
        out, err = capsys.readouterr()
        assert all((word in err) == shown for word in ("sample ", "bound ", "judge 10/10"))
        told = r"20 samples in 2 steps, the bound of 2048 held out in 9: about \d+:\d\d\n"
        assert bool(re.search(told, out)) == shown and "better" in out


def test_the_table_has_arrows_and_what_the_fitted_data_scores():
    scores = {"frechet": 0.5, "copy_ratio": np.inf, "label_agreement": 0.75, "bits_L_0": 1.0}
    scores["label_agreement_fit"] = 0.875
    lines = judging.table(scores, {"frechet": 0.25}, lambda text: True)
    assert lines[1:] == [
        "frechet               \u2193     0.5000     0.2500",
        "copy_ratio            1        inf",
        "label_agreement       \u2191     0.7500     0.8750",
        "bits_L_0                    1.0000",
    ]
    assert judging.table(scores, {}, lambda text: False)[1].split() == ["frechet", "down", "0.5000"]
    assert judging.finite(scores)["copy_ratio"] is None


def test_the_reference_is_the_fitted_datas_own_score():
    """Held out twice the fitted points: nothing is nearer, so half of the points are misjudged."""
    fit = sets.Data(POINTS)
    found = judging.reference(32, fit, fit)
    assert found["frechet"] == pytest.approx(0, abs=1e-9)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert "copy_ratio" not in found


def test_fewer_samples_are_advised_where_eval_would_take_long(monkeypatch):
    model = td.train(POINTS, 1, **SMALL)
    monkeypatch.setattr(judging, "evaluation_time", lambda *_: 0.001)
    # 0.001 s (6000 x 50 + 6000 x 20) = 420 s, and with 1000 samples 170 s
    line = judging.forecast(model, 6000, 50, 6000)
    assert line == (
        "6000 samples in 50 steps, the bound of 6000 held out in 20: about 7:00; "
        "with --n 1000 about 2:50"
    )
    assert judging.forecast(model, 500, 50, 6000).endswith("about 2:25")
    assert judging.clock(3725.4) == "1:02:05"
