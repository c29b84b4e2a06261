"""A damaged, cut or foreign checkpoint: noticed, or without effect."""

import io
import json
import struct
import warnings
import zipfile

import numpy as np
import pytest

import tinyddpm as td
from tinyddpm.errors import InputError
from tinyddpm.runs import checkpoint
from tinyddpm.settings import Recipe

ARRAYS = {"theta": np.arange(3, dtype=np.float32), "beta": np.array([0.0, 0.5])}
META = {"step": 3, "recipe": {"lr": 0.1}}
POINTS = np.linspace(-0.9, 0.9, 14, dtype=np.float32).reshape(7, 2)
NET = td.MLP(hidden=4, layers=1)


@pytest.fixture
def small(tmp_path):
    """The path of a small checkpoint."""
    checkpoint.save(tmp_path / "c.npz", ARRAYS, META)
    return tmp_path / "c.npz"


def harmless(path):
    """Whether what is loaded is what was saved, to the bit; InputError for damage that is seen."""
    arrays, meta = checkpoint.load(path)
    return (
        meta == {"version": checkpoint.VERSION, **META}
        and set(arrays) == set(ARRAYS)
        and all(
            arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
            for name, array in ARRAYS.items()
        )
    )


@pytest.mark.filterwarnings("ignore")  # NumPy's and zipfile's, of oddities that they mend
def test_every_changed_byte_is_noticed_or_harmless(small):
    """At every place: each bit on its own, all of them, and none of them set."""
    whole, noticed = small.read_bytes(), 0
    for i, byte in enumerate(whole):
        for changed in {byte ^ (1 << k) for k in range(8)} | {byte ^ 255, 0} - {byte}:
            small.write_bytes(whole[:i] + bytes([changed]) + whole[i + 1 :])
            try:
                assert harmless(small), (i, changed)
            except InputError:
                noticed += 1
    assert noticed > 4 * len(whole)


def test_every_truncation_is_noticed(small):
    whole = small.read_bytes()
    for size in range(len(whole)):
        small.write_bytes(whole[:size])
        with pytest.raises(InputError):
            checkpoint.load(small)


def members(path):
    """{name: content} of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content, method=zipfile.ZIP_STORED):
    """Write pairs of names and contents as an archive whose own checksums are right."""
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        for name, part in content:
            archive.writestr(name, part)


def npy(array):
    """The .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name, content",
    [
        ("theta.npy", npy(ARRAYS["theta"] + 1)),
        ("theta.npy", npy(ARRAYS["theta"].astype(np.float64))),
        ("theta.npy", npy(ARRAYS["theta"][None])),
        ("meta.json", json.dumps({"version": 2, **META, "step": 4}).encode()),
        ("theta.npy", npy(ARRAYS["theta"].view(np.int32))),
        ("ema.npy", npy(ARRAYS["theta"])),
        ("sha256", b"0" * 64),
        ("theta.npy", None),
        ("sha256", None),
        ("beta.npy", npy(ARRAYS["beta"].astype(">f8"))),
    ],
)
def test_a_change_that_the_zip_does_not_see_is_seen_by_the_digest(small, name, content):
    """A number, a dtype, a shape, a setting, an array more or less."""
    parts = members(small)
    write(small, parts.items())
    assert harmless(small)
    parts[name] = content
    write(small, [(key, part) for key, part in parts.items() if part is not None])
    with pytest.raises(InputError, match="digest differs|no item named 'sha256'"):
        checkpoint.load(small)


def test_a_renamed_array_is_seen_by_the_digest(small):
    write(small, [(key.replace("theta", "thete"), part) for key, part in members(small).items()])
    with pytest.raises(InputError, match="digest differs|no item named 'sha256'"):
        checkpoint.load(small)


@pytest.mark.parametrize(
    "name",
    [
        "../theta.npy",
        "/tmp/x.npy",
        "a\\b.npy",
        "c:x.npy",
        "x.txt",
        "x",
        ".npy",
        "é.npy",
        "a\0.npy",
        "x.npy\0y",
        "a/../theta.npy",
        "theta.npy\n",
        "x" * 90 + ".npy",
    ],
)
def test_names_that_no_checkpoint_has_are_refused(small, name):
    content = list(members(small).items())
    write(small, [*content, ("q" * len(name.encode()), npy(np.zeros(2)))])
    raw = small.read_bytes()
    # zipfile would not write them all
    small.write_bytes(raw.replace(b"q" * len(name.encode()), name.encode()))
    with pytest.raises(InputError, match="holds a member named"):
        checkpoint.load(small)


def test_two_members_of_one_name_are_refused(small):
    content = list(members(small).items())
    write(small, [*content, ("theta.npy", npy(np.zeros(3, np.float32)))])
    with pytest.raises(InputError, match="two members"):
        checkpoint.load(small)


def test_nothing_is_unpacked(small):
    """A gigabyte of zeros deflates to a megabyte; what is not compressed cannot be larger than its
    file.
    """
    write(small, members(small).items(), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        checkpoint.load(small)


def test_what_headers_claim_is_held_against_the_files_size(small):
    """In the .npy's header and in the zip's."""
    parts = members(small)
    parts["theta.npy"] = (
        parts["theta.npy"].replace(b"(3,), ", b"(9000000000,), ").replace(b" " * 9 + b"\n", b"\n")
    )
    write(small, parts.items())
    with pytest.raises(InputError, match="would take 36,000,000,000 bytes"):
        checkpoint.load(small)

    checkpoint.save(small, ARRAYS, META)
    raw = bytearray(small.read_bytes())
    at = raw.rindex(b"PK\1\2")
    # the compressed and the real size of the last member
    struct.pack_into("<II", raw, at + 20, 10**9, 10**9)
    small.write_bytes(raw)
    with pytest.raises(InputError, match="claim more than the file holds"):
        checkpoint.load(small)


def test_deep_and_foreign_settings_are_refused(small):
    parts = members(small)
    for text in (
        b"[" * 10**5,
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"version": NaN}',
        b'{"version": "2"}',
        b'{"version": ' + b"9" * 5000 + b"}",
    ):
        write(
            small,
            [
                ("meta.json", text),
                *((key, part) for key, part in parts.items() if key != "meta.json"),
            ],
        )
        with pytest.raises(InputError) as caught:
            checkpoint.load(small)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(arrays, meta) of a small run's checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    td.train(POINTS, 2, out=folder, net=NET, batch=4)
    return checkpoint.load(folder)


def resume(folder, arrays, meta, **named):
    """Resume from a checkpoint of these parts, its digest right."""
    checkpoint.save(folder / checkpoint.NAME, arrays, meta)
    return td.resume(folder, POINTS, **named)


def test_a_checkpoint_that_lacks_a_part_or_has_a_wrong_one_is_refused(tmp_path, run):
    arrays, meta = run
    assert resume(tmp_path, arrays, meta).meta["step"] == 2
    for name in arrays:
        with pytest.raises(InputError, match="lacks"):
            resume(tmp_path, {key: array for key, array in arrays.items() if key != name}, meta)
    for name in ("net", "recipe", "shape", "digest", "step", "save_every", "log_every", "keep"):
        with pytest.raises(InputError, match="lacks"):
            resume(tmp_path, arrays, {key: value for key, value in meta.items() if key != name})
    wrong = [
        ("step", "2"),
        ("step", -1),
        ("recipe", {**meta["recipe"], "odd": 1}),
        ("recipe", []),
        ("keep", 0),
        ("save_every", None),
        ("recipe", {**meta["recipe"], "steps": "3"}),
        ("classes", [1]),
        ("classes", "x"),
        ("recipe", {**meta["recipe"], "target": ["v"]}),
        ("recipe", {**meta["recipe"], "target": {}}),
    ]
    for name, value in wrong:
        with pytest.raises(InputError):
            resume(tmp_path, arrays, {**meta, name: value})


def test_vectors_that_do_not_fit_are_named_with_their_sizes(tmp_path, run):
    arrays, meta = run
    size = len(arrays["m"])
    for odd in (arrays["m"][1:], arrays["m"].astype(np.float64), arrays["m"][None]):
        with pytest.raises(
            InputError, match=rf"'s m is float.*, its network needs float32 \({size},\)"
        ):
            resume(tmp_path, {**arrays, "m": odd}, meta)


def test_another_architecture_says_which_fields_differ(tmp_path, run):
    assert resume(tmp_path, *run, expect={"hidden": 4, "lr": Recipe.lr}).meta["step"] == 2
    with pytest.raises(
        InputError, match="another run: hidden: 4 saved, 8 given; batch: 4 saved, 64 given$"
    ):
        resume(tmp_path, *run, expect={"hidden": 8, "layers": 1, "batch": 64})
