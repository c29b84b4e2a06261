"""Writing and reading files where the system refuses: one line, and what was there stays."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.errors import TinyDDPMError
from tinyddpm.runs import checkpoint, files, lock, log

ROOT = pathlib.Path(__file__).parents[2]
POINTS = np.linspace(-0.9, 0.9, 22, dtype=np.float32).reshape(11, 2)
SMALL = {"steps": 4, "batch": 4, "net": td.MLP(hidden=4, layers=1), "save_every": 2}
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")


def names(folder):
    """The names of the files in a folder."""
    return sorted(os.listdir(folder))


def failing(monkeypatch, name, number, only=lambda *args: True):
    """Let os.NAME fail with an error number where only(its arguments) holds."""
    real = getattr(os, name)

    def call(*args, **named):
        if only(*args):
            raise OSError(number, os.strerror(number), str(args[0]))
        return real(*args, **named)

    monkeypatch.setattr(os, name, call)


def finishes(code, *argv):
    """The output of a process that must not hang."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


# Writing.


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    """/dev/null by its own name would be gone for everyone: a link to it stands in."""
    (tmp_path / "null").symlink_to(os.devnull)
    before = os.stat(os.devnull)
    files.check_writable(tmp_path / "null")
    files.write_atomic(tmp_path / "null", b"content")
    assert (tmp_path / "null").is_symlink() and names(tmp_path) == ["null"]
    after = os.stat(os.devnull)
    assert (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for content in (b"one", b"two"):
        files.write_atomic(tmp_path / "link", content)
        assert (tmp_path / "there" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "there") == ["file"]


@needs_pipes
@pytest.mark.parametrize(
    "write", [lambda path: files.write_atomic(path, b""), files.check_writable]
)
def test_a_pipe_or_a_folder_is_refused(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, words in (("pipe", "not a regular file"), ("folder", "a folder")):
        with pytest.raises(TinyDDPMError, match=f"^cannot write .*{name}: it is {words}$"):
            write(tmp_path / name)
    assert names(tmp_path) == ["folder", "pipe"]


def test_what_cannot_be_written_is_noticed_beforehand(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    for path in (tmp_path / "file" / "a.png", tmp_path / "none" / "a.png"):
        with pytest.raises(TinyDDPMError, match=f"^cannot write {path}: N"):
            files.check_writable(path)
    for path in (tmp_path / "file", tmp_path / "new"):
        files.check_writable(path)
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_fsync_for_folders_is_written_to(tmp_path, monkeypatch, number):
    failing(monkeypatch, "fsync", number, lambda handle: not is_file(handle))
    files.write_atomic(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def is_file(handle):
    """Whether a handle is a regular file's."""
    import stat

    return stat.S_ISREG(os.fstat(handle).st_mode)


def test_the_clean_up_does_not_hide_why_a_write_failed(tmp_path, monkeypatch):
    failing(monkeypatch, "replace", errno.EROFS)
    failing(monkeypatch, "unlink", errno.EACCES)
    with pytest.raises(TinyDDPMError, match="^cannot write .*a: Read-only file system$"):
        files.write_atomic(tmp_path / "a", b"content")


def test_no_temporary_of_a_living_writer_is_deleted(tmp_path):
    """Another process holds one while this one clears; the ones of dead processes go."""
    (tmp_path / ".dead.png.1.tmp").touch()
    code = (
        "import sys\nfrom tinyddpm.runs import files\n"
        "with files._temporary(sys.argv[1], ''):\n    print('held', flush=True)\n    input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "living.png")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "held\n"
        held = [name for name in names(tmp_path) if name.startswith(".living")]
        files.clear(tmp_path)
        assert names(tmp_path) == held and len(held) == 1
        child.communicate("\n")
    assert names(tmp_path) == []


# Reading.


@needs_pipes
@pytest.mark.parametrize("name", [log.NAME, lock.NAME, checkpoint.NAME])
def test_a_pipe_in_the_run_folder_is_refused_and_not_waited_for(tmp_path, name):
    td.train(POINTS, out=tmp_path / "r", **SMALL)
    (tmp_path / "r" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "r" / name)
    code = (
        "import sys, numpy as np, tinyddpm as td, warnings\nwarnings.simplefilter('error')\n"
        "try: td.resume(sys.argv[1], np.load(sys.argv[2]), 6)\n"
        "except (td.InputError, Warning) as error: print(error)"
    )
    np.save(tmp_path / "x.npy", POINTS)
    said = finishes(code, tmp_path / "r", tmp_path / "x.npy")
    assert str(tmp_path / "r" / name) in said and "is not a regular file" in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize("call, number", [("stat", errno.EACCES), ("listdir", errno.EACCES)])
def test_a_folder_that_may_not_be_entered_or_listed(tmp_path, monkeypatch, call, number):
    """Which is not the same as a folder without a run."""
    td.train(POINTS, out=tmp_path / "r", **SMALL)
    failing(monkeypatch, call, number, lambda path, *_: str(path).startswith(str(tmp_path / "r")))
    if call == "listdir":
        failing(monkeypatch, "scandir", number, lambda path: str(path) == str(tmp_path / "r"))
    for attempt in (
        lambda: td.resume(tmp_path / "r", POINTS, 6),
        lambda: td.train(POINTS, out=tmp_path / "r", **SMALL),
    ):
        with pytest.raises(TinyDDPMError, match="^cannot .*r.*: Permission denied$"):
            attempt()


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch):
    """An older one in its place would set the run back."""
    td.train(POINTS, out=tmp_path / "r", **SMALL)
    with monkeypatch.context() as patch:
        unreadable(patch, tmp_path / "r" / checkpoint.NAME)
        with pytest.raises(TinyDDPMError, match="^cannot read .*npz: Too many open files$"):
            checkpoint.load(tmp_path / "r")
    assert checkpoint.load(tmp_path / "r")[1]["step"] == 4


def unreadable(patch, path):
    """Let the opening of one file fail."""
    real = open

    def refusing(file, *args, **named):
        if str(file) == str(path):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(file))
        return real(file, *args, **named)

    patch.setattr(checkpoint, "open", refusing, raising=False)


def test_a_save_whose_previous_one_cannot_be_read_keeps_it(tmp_path, monkeypatch):
    td.train(POINTS, out=tmp_path / "r", **SMALL)
    before = (tmp_path / "r" / checkpoint.NAME).read_bytes()
    arrays, meta = checkpoint.load(tmp_path / "r")
    with monkeypatch.context() as patch:
        unreadable(patch, tmp_path / "r" / checkpoint.NAME)
        with pytest.raises(TinyDDPMError, match="^cannot read .*npz: Too many open files$"):
            checkpoint.save_run(tmp_path / "r", arrays, {**meta, "step": 5}, 2)
    assert (tmp_path / "r" / checkpoint.NAME).read_bytes() == before
    assert not [name for name in names(tmp_path / "r") if name.startswith(".")]


def test_a_failed_run_names_the_checkpoint_that_the_disk_holds(tmp_path, monkeypatch):
    """The save of step 2 fails after its rename: the new checkpoint is there, and is named."""
    failing(monkeypatch, "fsync", errno.EIO, lambda handle: not is_file(handle) and saved())
    saved = (tmp_path / "r" / checkpoint.NAME).exists
    with pytest.raises(TinyDDPMError, match="of step 2 is the last good one$"):
        td.train(POINTS, out=tmp_path / "r", **SMALL)
    assert checkpoint.load(tmp_path / "r")[1]["step"] == 2
