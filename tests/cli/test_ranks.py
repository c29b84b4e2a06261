"""The command line shared by MPI's ranks: the files of one process, and one line for a failure."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import ranks

from tinyddpm.cli import commands
from tinyddpm.runs import checkpoint

linux = pytest.mark.skipif(sys.platform != "linux", reason="the ranks are found in /proc")
TINY = ["--hidden", "4", "--layers", "1", "--batch", "6", "--T", "12", "--log-every", "1"]


def test_the_shards_are_the_runs_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    for words, shards in (([], 2), (["--shards", "3"], 3)):
        out = f"r{shards}"
        train = ["train", "moons", "--steps", "1", "--out", out, *TINY, *words]
        assert commands.main(train) == 0
        assert checkpoint.load(out)[1]["recipe"]["shards"] == shards
    again = ["train", "--resume", "r3", "--steps", "2"]
    capsys.readouterr()
    assert commands.main([*again, "--shards", "2"]) == 2
    assert "shards: 3 saved, 2 given" in capsys.readouterr().err
    assert commands.main(again) == 0
    assert checkpoint.load("r3")[1]["recipe"]["shards"] == 3


LINES = [
    ["train", "DATA", "--steps", "2", "--out", "run", *TINY, "--shards", "6"],
    ["train", "--resume", "run", "--steps", "4"],
    ["sample", "run", "--n", "7", "--seed", "3", "--array", "x.npy", "--gif", "x.gif"],
    ["eval", "run", "--n", "20"],
]
NEW = ["train", "moons", "--steps", "2", "--out", "new", *TINY, "--shards", "6"]
# Command lines, and the one line that refuses each.
REFUSED = [
    ([*NEW, "--shards", "4"], 2, "3 ranks cannot share 4 shards evenly: let --shards"),
    ([*NEW, "--shards", "2"], 2, "3 ranks cannot share 2 shards evenly: let --shards"),
    (["train", "data{rank}.npy", *NEW[2:]], 2, "rank 0 and rank 1 differ in the data's digest ("),
    ([*NEW, "--lr", "0.{rank}1"], 2, "rank 0 and rank 1 differ in lr (0.01; 0.11)"),
    (["VERSION", *NEW], 2, "rank 0 and rank 1 differ in tinyddpm (VERSION0; VERSION1)"),
    ([*NEW, "--ranks", "2"], 2, "--ranks 2, but 3 processes were started"),
    ([*NEW, "--lr", "1e30"], 1, "training diverged at step 2: "),
    ([*NEW[:5], "run", *NEW[6:]], 2, "run already holds a run"),
    (["import", "run", "--out", "new"], 2, "import works in one process: start it without mpi"),
    (["export", "run", "--out", "new"], 2, "export works in one process: start it without mpi"),
    (["tour", "--out", "new"], 2, "tour works in one process: start it without mpiexec"),
    # last, for the rank that fails alone ends the others
    (["train", "is{rank}.npy", *NEW[2:]], 2, "rank 2: no data named 'is2.npy'"),
]


def test_three_ranks_write_the_files_of_one_process(tmp_path, monkeypatch, capsys):
    """Trained by three, resumed by one and the other way round; one line for what is refused."""
    for name in ("data0", "data1", "data2", "is0", "is1"):
        values = np.linspace(-1, 1, 40).reshape(20, 2)
        np.save(tmp_path / f"{name}.npy", values * (0.9 if name == "data0" else 1))
    np.save(tmp_path / "points.npy", np.sin(np.arange(400.0)).reshape(200, 2))
    lines = [[str(tmp_path / "points.npy") if x == "DATA" else x for x in line] for line in LINES]
    codes, err = ranks.command_lines(3, lines + [line for line, _, _ in REFUSED], tmp_path)
    assert codes == [0] * len(LINES) + [code for _, code, _ in REFUSED], err
    told = err.splitlines()
    assert len(told) == len(REFUSED), err
    for line, (_, _, text) in zip(told, REFUSED):
        assert line.startswith(f"tinyddpm: {text}"), line

    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    monkeypatch.setattr(commands, "FRAMES", 4)
    assert [commands.main(line) for line in lines] == [0] * len(LINES)
    for folder in (tmp_path, tmp_path / "run"):
        alone = tmp_path / "alone" / folder.relative_to(tmp_path)
        names = {path.name for path in alone.iterdir() if path.is_file()}
        assert names and names >= ({"x.npy", "x.gif"} if folder == tmp_path else {"eval.json"})
        for name in names:
            assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


def start(folder, *words):
    """Three ranks that train on and on in `folder`, and have saved."""
    ranks.starter()
    command = [sys.executable, "-m", "tinyddpm", "train", "moons", "--steps", "1000000", "--out"]
    command += [str(folder), *TINY, "--shards", "3", "--save-every", "2", "--ranks", "3", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=ranks.environment(), **pipes)
    end = time.monotonic() + ranks.PATIENCE
    while not (folder / checkpoint.NAME).exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    return process


@linux
@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGKILL, 137, "rank 1 was killed by SIGKILL"),
        (signal.SIGTERM, 143, "stopped at step {step} and saved; go on with: tinyddpm train --r"),
    ],
)
def test_a_signal_at_one_rank_ends_them_all_with_one_line(tmp_path, number, code, text):
    folder = tmp_path / "run"
    process = start(folder)
    there = ranks.processes(process.pid)
    assert sorted(there) == [0, 1, 2]
    os.kill(there[1], number)
    out, err = process.communicate(timeout=ranks.PATIENCE)
    step = checkpoint.load(folder)[1]["step"]
    assert process.returncode == code, (out, err)
    assert out.count("\n") == 1 and "3 ranks of 1 thread" in out and err.count("\n") == 1
    assert err.startswith(f"tinyddpm: {text.format(step=step)}"), err
    assert ranks.processes(process.pid) == {}
