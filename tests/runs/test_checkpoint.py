"""Checkpoints are written whole or not at all, and nothing in them is executed."""

import contextlib
import errno
import os
import pickle
import warnings

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.runs import checkpoint, files, log

ARRAYS = {"theta": np.arange(5, dtype=np.float32), "beta": np.linspace(0, 1, 3)}


def test_round_trip(tmp_path):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, ARRAYS, {"step": 3, "name": "é"})
    for where in (path, tmp_path):
        arrays, meta = checkpoint.load(where)
        assert meta == {"version": checkpoint.VERSION, "step": 3, "name": "é"}
        assert set(arrays) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
    assert os.listdir(tmp_path) == [checkpoint.NAME]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, where):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, ARRAYS, {"step": 1})
    before = path.read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    if where == "write":
        real = open

        def opened(file, mode, **named):
            handle = real(file, mode, buffering=0, **named)
            monkeypatch.setattr(checkpoint.os, "fsync", refuse)
            return handle

        monkeypatch.setattr("builtins.open", opened)
    else:
        monkeypatch.setattr(checkpoint.os, where, refuse)
    with pytest.raises(TinyDDPMError, match="No space left") as caught:
        checkpoint.save(path, ARRAYS, {"step": 2})
    assert not isinstance(caught.value, InputError)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [checkpoint.NAME]


def test_it_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """The order that survives a power cut: the file's bytes, then its name, then the folder."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            checkpoint.os, name, lambda *a, r=real, n=name: (calls.append(n), r(*a))[1]
        )
    checkpoint.save(tmp_path / "c.npz", ARRAYS, {})
    assert calls == ["fsync", "replace", "fsync"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    good = tmp_path / "good.npz"
    checkpoint.save(good, ARRAYS, {"step": 1})
    whole = good.read_bytes()
    bad = {
        "empty": b"",
        "text": b"hello",
        "cut": whole[:-40],
        "half": whole[: len(whole) // 2],
        "pickle": pickle.dumps({"theta": 1}),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / name)
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", theta=np.array([{}], dtype=object))
    for name in ("foreign.npz", "objects.npz"):
        with pytest.raises(InputError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint.load(tmp_path / "none.npz")


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    checkpoint.save(tmp_path / "c.npz", ARRAYS, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 99; this program reads version 2"):
        checkpoint.load(tmp_path / "c.npz")
    # how version 1 was written
    np.savez(tmp_path / "first.npz", meta=np.array('{"version": 1}'), **ARRAYS)
    with pytest.raises(InputError, match="version 1; this program reads version 2"):
        checkpoint.load(tmp_path / "first.npz")


def save(folder, *steps, keep=2):
    """A run's saves at these steps."""
    for step in steps:
        checkpoint.save_run(folder, {"theta": np.full(4, step, np.float32)}, {"step": step}, keep)


def names(folder):
    """The names of the files in a folder."""
    return sorted(os.listdir(folder))


def damage(path):
    """Change one bit of an array's numbers."""
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("links", [True, False])
def test_a_run_keeps_as_many_as_it_is_told_to(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(checkpoint.os, "link", no_links)
    save(tmp_path, 2, 4, 6, 6, 8, keep=3)
    assert names(tmp_path) == ["checkpoint-4.npz", "checkpoint-6.npz", "checkpoint.npz"]
    assert checkpoint.load(tmp_path / "checkpoint-6.npz")[0]["theta"][0] == 6
    save(tmp_path, 10, keep=2)
    assert names(tmp_path) == ["checkpoint-8.npz", "checkpoint.npz"]
    save(tmp_path, 12, keep=1)
    assert names(tmp_path) == ["checkpoint.npz"] and checkpoint.load(tmp_path)[1]["step"] == 12


def test_the_newest_whole_checkpoint_is_found_and_the_user_is_told(tmp_path):
    save(tmp_path, 2, 4, 6, 8, keep=4)
    damage(tmp_path / checkpoint.NAME)
    damage(tmp_path / "checkpoint-6.npz")
    with pytest.warns(
        checkpoint.DamageWarning,
        match=r"checkpoint.npz is not a .*; checkpoint-4.npz, of step 4, is",
    ):
        arrays, meta = checkpoint.load(tmp_path)
    assert meta["step"] == 4 and (arrays["theta"] == 4).all()
    (tmp_path / checkpoint.NAME).unlink()
    with pytest.warns(checkpoint.DamageWarning, match="no checkpoint at .*; checkpoint-4.npz"):
        checkpoint.load(tmp_path)
    for older in (2, 4):
        damage(tmp_path / f"checkpoint-{older}.npz")
    with pytest.raises(InputError, match="no checkpoint at"):
        checkpoint.load(tmp_path)


def test_the_newest_whole_one_is_never_deleted_for_damaged_ones(tmp_path):
    """Set back from step 8 to step 4, a run forgets what it had after step 4, and no damaged file
    displaces a whole.
    """
    save(tmp_path, 2, 4, 6, 8, keep=4)
    damage(tmp_path / checkpoint.NAME)
    damage(tmp_path / "checkpoint-6.npz")
    save(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["checkpoint-4.npz", "checkpoint.npz"]
    assert checkpoint.load(tmp_path)[1]["step"] == 5
    checkpoint.load(tmp_path / "checkpoint-4.npz")


def test_only_a_number_becomes_part_of_a_files_name(tmp_path):
    for step in ("../x", -1, 1.5, True, None):
        checkpoint.save(tmp_path / checkpoint.NAME, {}, {"step": step})
        save(tmp_path, 6)
        assert names(tmp_path) == ["checkpoint.npz"]


def test_another_version_is_not_taken_for_damage(tmp_path, monkeypatch):
    save(tmp_path, 2, 4)
    monkeypatch.setattr(checkpoint, "VERSION", 3)
    checkpoint.save(tmp_path / checkpoint.NAME, {}, {"step": 6})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 3"):
        checkpoint.load(tmp_path)


class Dead(BaseException):
    """Stands in for the end of the process."""


def die_at(monkeypatch, count):
    """Let the process die just before its `count`-th change of the disk: from there on nothing it
    does has effect.
    """
    left = [count]

    def mortal(real):
        def call(*args, **named):
            left[0] -= 1
            if left[0] <= 0:
                raise Dead
            return real(*args, **named)

        return call

    for name in ("fsync", "link", "replace", "unlink"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))
    return left


@pytest.mark.parametrize("links", [True, False])
def test_wherever_a_save_dies_a_whole_checkpoint_is_found(tmp_path, monkeypatch, links):
    """Before each change of the disk in turn; afterwards the old or the new one loads, and the run
    can go on.
    """
    for count in range(1, 30):
        folder = tmp_path / str(count)
        folder.mkdir()
        save(folder, 2, 4)
        with monkeypatch.context() as patch:
            if not links:
                patch.setattr(
                    os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links"))
                )
            left = die_at(patch, count)
            with contextlib.suppress(Dead):
                save(folder, 6)
        died = left[0] <= 0
        with warnings.catch_warnings():
            warnings.simplefilter("error" if links else "ignore", checkpoint.DamageWarning)
            assert checkpoint.load(folder)[1]["step"] in ((4, 6) if died else (6,))
        files.clear(folder)
        save(folder, 6)
        assert names(folder) == ["checkpoint-4.npz", "checkpoint.npz"]
        if not died:
            # fsync, link or rename, rename, fsync and an old one's deletion: five at least
            assert count > 5
            return
    raise AssertionError("it never got through")


def test_leftovers_are_cleared_and_other_files_are_not(tmp_path):
    for name in (
        ".checkpoint.npz.12.tmp",
        ".log.jsonl.3456.tmp",
        ".samples.png.7.tmp",
        ".mine.tmp",
        "a.1.tmp",
    ):
        (tmp_path / name).touch()
    files.clear(tmp_path)
    assert names(tmp_path) == [".mine.tmp", "a.1.tmp"]


def test_differences_are_named():
    saved = {"base": 8, "mults": [1, 2], "lr": 0.1}
    assert checkpoint.differences(saved, {"base": 8, "mults": (1, 2)}) == []
    assert checkpoint.differences(saved, {"mults": (1, 4), "lr": 0.1, "pad": "right"}) == [
        "mults: [1, 2] saved, [1, 4] given",
        "pad: None saved, 'right' given",
    ]


def line(step, loss=0.5):
    """One line of a log."""
    return f'{{"step": {step}, "loss": {loss}}}\n'


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path):
    (tmp_path / log.NAME).write_text(
        line(1) + line(2) + line(3) + '{"st\nnull\n[1]\n{"step": "a"}\n{"step": 2'
    )
    opened = log.RunLog(tmp_path, 2)
    opened.append({"step": 3, "loss": 0.1})
    opened.close()
    assert (tmp_path / log.NAME).read_text() == line(1) + line(2) + line(3, 0.1)
    assert log.read(tmp_path)[-1] == {"step": 3, "loss": 0.1}
    with pytest.raises(InputError, match="no log"):
        log.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "odd",
    [
        b"[" * 2000 + b"\n",
        b"[" * 10**5 + b"\n",
        b"x" * 4 * log.LINE + line(2).encode(),
        b"1" * 4000 + b"\n",
        b'{"step": 2, "loss": NaN}\n',
        b'{"step": 2, "loss": 1e999}\n',
        b'{"step": true, "loss": 0.5}\n',
        b'{"step": -2, "loss": 0.5}\n',
        b'{"step": 0, "loss": 0.5}\n',
        b'{"step": 1, "loss": 0.5}\n',
        b'{"step": 2}\n',
        b'{"step": 2.0, "loss": 0.5}\n',
        b'{"step": 2, "loss": "0.5"}\n',
        b'{"step": 2, "loss": 0.5, "a": "\xc3\x28"}\n',
        b'{"step": 9' + b"9" * 40 + b', "loss": 0.5}\n',
        '{"step": 2, "loss": 0.5}\n'.encode("utf-16"),
        b"\n",
        b"\0\n",
        b'{"a":' * 700 + b"\n",
        b'\xef\xbb\xbf{"step": 2, "loss": 0.5}\n',
        b'{"step": 2, "loss": 0.5' + b" " * log.LINE + b"}\n",
    ],
)
def test_a_line_that_is_no_record_is_passed_over(tmp_path, odd):
    """Deep, long, not finite, of the wrong kind, twice: what stands before and after it is still
    read.
    """
    (tmp_path / log.NAME).write_bytes(
        odd + b"\n" + line(1).encode() + odd + b"\n" + line(3).encode()
    )
    assert [record["step"] for record in log.read(tmp_path)] == [1, 3]
    log.RunLog(tmp_path, 3).close()
    assert (tmp_path / log.NAME).read_text() == line(1) + line(3)


def test_a_record_without_its_end_of_line_is_half_a_line(tmp_path):
    (tmp_path / log.NAME).write_text(line(1) + line(2)[:-1])
    opened = log.RunLog(tmp_path, 2)
    opened.append({"step": 3, "loss": 0.5})
    opened.close()
    assert (tmp_path / log.NAME).read_text() == line(1) + line(3)


def test_the_log_is_on_disk_before_the_checkpoint_that_stands_for_it(tmp_path, monkeypatch):
    calls, opened = [], log.RunLog(tmp_path, 0)
    monkeypatch.setattr(log.os, "fsync", calls.append)
    opened.sync()
    assert calls == [opened.file.fileno()]
    opened.close()
    monkeypatch.undo()
    for owner, name in ((log.RunLog, "sync"), (checkpoint, "save_run")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, r=real, n=name: (calls.append(n), r(*a))[1])
    td.train(np.zeros((3, 2)), 3, out=tmp_path / "r", save_every=2, net=td.MLP(hidden=4, layers=1))
    assert calls[1:] == ["sync", "save_run"] * 2


def test_a_log_beyond_the_limit_is_refused(tmp_path):
    (tmp_path / log.NAME).write_text(line(1) * 10)
    with pytest.raises(InputError, match="250 bytes; the limit is 100"):
        log.read(tmp_path, limit=100)
