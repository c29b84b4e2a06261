"""Checkpoints are written whole or not at all, and nothing in them is executed."""

import os
import pickle

import numpy as np
import pytest

from tinyddpm import checkpoint, runlog
from tinyddpm.errors import InputError, TinyDDPMError

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

        def opened(file, mode):
            handle = real(file, mode, buffering=0)
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
        monkeypatch.setattr(checkpoint.os, name, lambda *a, r=real, n=name: (calls.append(n), r(*a))[1])
    checkpoint.save(tmp_path / "c.npz", ARRAYS, {})
    assert calls == ["fsync", "replace", "fsync"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    good = tmp_path / "good.npz"
    checkpoint.save(good, ARRAYS, {"step": 1})
    whole = good.read_bytes()
    bad = {"empty": b"", "text": b"hello", "cut": whole[:-40], "half": whole[:len(whole) // 2],
           "pickle": pickle.dumps({"theta": 1})}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / name)
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", meta=np.array([{}], dtype=object))
    for name in ("foreign.npz", "objects.npz"):
        with pytest.raises(InputError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint.load(tmp_path / "none.npz")


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    checkpoint.save(tmp_path / "c.npz", ARRAYS, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 99; this program reads version 1"):
        checkpoint.load(tmp_path / "c.npz")


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path):
    (tmp_path / runlog.NAME).write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st\nnull\n[1]\n{"step": "a"}\n')
    log = runlog.RunLog(tmp_path, 2)
    log.append({"step": 3, "loss": 0.1})
    log.close()
    assert (tmp_path / runlog.NAME).read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.1}\n'
    assert runlog.read(tmp_path)[-1] == {"step": 3, "loss": 0.1}
    with pytest.raises(InputError, match="no log"):
        runlog.read(tmp_path / "nowhere")
