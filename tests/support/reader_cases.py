"""Damaged and hostile files by the thousand: valid inputs of every reader, and what must hold for
each mutation.

Case i of a reader is a pure function of (reader, i): `case("npz", 123)` gives the bytes of that one
again. The rule for every case: the package's own error in one line, or a valid result (each reader
checks its own). stress/test_mutations.py runs a few thousand; `pytest -m stress --mutations N` runs
as many as asked, with bounds on memory and time.
"""

import functools
import gzip
import io
import json
import pathlib
import pickle
import pickletools
import random
import struct
import tarfile
import tempfile
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

import tinyddpm as td
from support import mutations, published_cases
from tinyddpm.datasets import sets
from tinyddpm.datasets.untrusted import DataWarning
from tinyddpm.runs import checkpoint
from tinyddpm.runs import log as runlog

GREY = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
COLOUR = np.arange(6 * 5 * 4 * 3).reshape(6, 5, 4, 3).astype(np.uint8)
LABELS = np.arange(6, dtype=np.uint8)


def saved(writer, *args, **kwargs):
    """What a writer writes."""
    out = io.BytesIO()
    writer(out, *args, **kwargs)
    return out.getvalue()


def idx(array):
    """An IDX file of bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def cifar(labels):
    """Records with these label bytes, each before its 3072 bytes of pixels."""
    return b"".join(bytes(label) + bytes(range(256)) * 12 for label in labels)


def cifar_batch():
    """A batch of CIFAR-10's Python version: a pickle of protocol 2."""
    pixels = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    return pickle.dumps({b"data": pixels, b"labels": [3, 9]}, 2)


def cifar_archive(batch):
    """CIFAR-10's Python version as a .tar.gz of one batch."""
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.size = len(batch)
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w") as archive:
        archive.addfile(info, io.BytesIO(batch))
    return gzip.compress(unpacked.getvalue(), mtime=0)


@functools.cache
def runs():
    """The contents of two small run folders: [{name: bytes}, ...]."""
    made = []
    for steps in (1, 3):
        with tempfile.TemporaryDirectory() as folder:
            points, net = sets.load("moons").x[:9], td.MLP(dim=2, hidden=4, layers=1)
            settings = {"batch": 4, "schedule": td.cosine(3), "log_every": 1, "net": net}
            td.train(points, steps, out=folder, **settings)
            made.append({path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()})
    return made


def write(path, content):
    """Write a file anew: to empty an old one takes some file systems forty times as long."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def check_data(loaded):
    """Samples in [-1, 1], float32, of a shape that training takes, and a label for each or none."""
    x, labels = loaded.x, loaded.labels
    assert x.dtype == np.float32 and x.ndim in (2, 4) and x.size
    assert np.abs(x).max() <= 1
    assert labels is None or labels.dtype == np.int64 and labels.shape == (len(x),)


def loaded(path, **how):
    """The data of a path; what is only a warning does not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return sets.load(path, **how)


def read_file(name):
    """A reader of one file, called `name`."""

    def read(folder, content):
        write(folder / name, content)
        check_data(loaded(folder / name))

    return read


def read_pngs(folder, content):
    """The image beside a good one, or alone, as the parity of its length has it."""
    write(folder / "b.png", content)
    if len(content) % 2:
        write(folder / "a.png", pngs()[0])
    else:
        (folder / "a.png").unlink(missing_ok=True)
    check_data(loaded(folder))


def read_checkpoint(folder, content):
    """A model whose parameters fit its network."""
    write(folder / checkpoint.NAME, content)
    trained = td.load(folder)
    assert trained.theta.ndim == 1 and trained.schedule.T >= 1 and isinstance(trained.meta, dict)


def read_log(folder, content):
    """Records with a step each; opened to go on, the log holds whole lines only, none beyond the
    step.
    """
    write(folder / runlog.NAME, content)
    assert all(isinstance(record["step"], int) for record in runlog.read(folder))
    if len(content) % 4 == 0:  # one in four: each is flushed to the disk
        runlog.RunLog(folder, 2).close()
        # a carriage return is JSON's white space
        lines = (folder / runlog.NAME).read_bytes().split(b"\n")[:-1]
        assert all(json.loads(line)["step"] <= 2 for line in lines)


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    3,
    2**15,
    2**24,
    2**64,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "mlp",
    "x" * 5000,
    [],
    {},
    [[]],
    [1, 2],
    {"a": {}},
)


def perturbed(r, value):
    """JSON's kinds with one part of them, at any depth, another value, gone or new."""
    if not isinstance(value, dict | list) or not value or r.random() < 0.1:
        return r.choice(VALUES)
    items = value.copy()
    key = r.choice(list(items)) if isinstance(items, dict) else r.randrange(len(items))
    if r.random() < 0.15:
        del items[key]
    else:
        items[key] = perturbed(r, items[key])
    return items


def inside_opcodes(r, a, other):
    """A pickle with one to three of its opcodes gone, twice, elsewhere or another's."""
    places = [place for _, _, place in pickletools.genops(a)]
    parts = [a[i:j] for i, j in zip(places, [*places[1:], len(a)])]
    for _ in range(r.randint(1, 3)):
        i, j = r.randrange(len(parts)), r.randrange(len(parts))
        new = (r.choice(parts), r.randbytes(1), r.choice(parts) * r.choice((2, 300)))
        parts[i : i + r.randint(0, 1)] = [r.choice(new)] if r.random() < 0.8 else parts[j : j + 3]
    return b"".join(parts)


def inside_json(r, a, other):
    """A JSON text of which a part is another value."""
    return json.dumps(perturbed(r, json.loads(a))).encode()


def resealed(r, a, other):
    """A checkpoint of a right digest whose settings or arrays were changed before the save."""
    if r.random() < 0.3:
        return mutations.inside_zip(r, a, other)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / checkpoint.NAME
        path.write_bytes(a)
        arrays, meta = checkpoint.load(path)
        name = r.choice(sorted(arrays))
        array = arrays[name]
        changed = (
            array[1:],
            array[None],
            array.astype(r.choice("?ief")),
            np.full_like(array, r.choice((-1, np.nan))),
            array * 1e30,
            np.append(array, array),
            np.float32(0),
        )
        how = r.random()
        if how < 0.7:
            meta = perturbed(r, meta)
        elif how < 0.9:
            arrays[name] = r.choice(changed)
        else:
            del arrays[name]
        checkpoint.save(path, arrays, meta if isinstance(meta, dict) else {})
        return path.read_bytes()


@functools.cache
def pngs():
    """Images of every mode that is read, all of one size; the first is grey."""
    modes = ("L", "1", "LA", "P", "RGB", "RGBA")
    return [
        saved(Image.fromarray(pixels).convert(mode).save, format="PNG")
        for mode, pixels in zip(modes, COLOUR)
    ]


def pictures():
    """Small pictures in the other formats, grey and coloured, with EXIF and with frames."""
    grey, colour = Image.fromarray(GREY[0]), Image.fromarray(COLOUR[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        saved(grey.save, format="JPEG", exif=turned),
        saved(colour.save, format="JPEG", progressive=True),
        saved(colour.save, format="WEBP", lossless=True),
        saved(colour.save, format="WEBP", save_all=True, append_images=[grey.convert("RGB")]),
        saved(colour.save, format="BMP"),
        saved(colour.save, format="GIF", save_all=True, append_images=[grey]),
        saved(colour.save, format="TIFF", compression="tiff_deflate"),
        saved(grey.save, format="TIFF", exif=turned),
    ]


def read_picture(folder, content):
    """The picture alone, as it is or made small and grey, as the parity of its length has it."""
    write(folder / "b.jpg", content)
    check_data(loaded(folder, size=3, gray=True) if len(content) % 2 else loaded(folder))


@dataclass(frozen=True)
class Reader:
    """inputs() -> valid bytes; read(folder, bytes) reads and checks; inside: a mutation beneath the
    checksums.

    share: at least this part of the mutated inputs is still read, about half of what was counted: a
    reader that refused everything would obey the rule too.
    """

    inputs: object
    read: object
    share: float
    inside: object = None


READERS = {
    "npy": Reader(
        lambda: [
            saved(np.save, GREY),
            saved(np.save, COLOUR / 1024),
            saved(np.save, GREY > 60),
            saved(np.save, np.asfortranarray(COLOUR)),
            saved(np.save, (COLOUR / 1024).astype(">f4")),
        ],
        read_file("a.npy"),
        0.05,
    ),
    "npz": Reader(
        lambda: [
            saved(np.savez, GREY),
            saved(np.savez_compressed, images=COLOUR, labels=LABELS),
            saved(np.savez, x=COLOUR / 1024, y=LABELS),
        ],
        read_file("a.npz"),
        0.04,
        mutations.inside_zip,
    ),
    "idx": Reader(lambda: [idx(GREY), idx(COLOUR)], read_file("images-idx3"), 0.1),
    "idx.gz": Reader(
        lambda: [gzip.compress(idx(a), mtime=0) for a in (GREY, COLOUR)],
        read_file("images.gz"),
        0.05,
        mutations.inside_gzip,
    ),
    "png": Reader(pngs, read_pngs, 0.15, mutations.inside_png),
    "pictures": Reader(pictures, read_picture, 0.15),
    "cifar": Reader(
        lambda: [cifar([[3], [9]]), cifar([[0]]), cifar([[19, 99], [1, 0]])],
        read_file("a.bin"),
        0.15,
    ),
    "cifar.tar.gz": Reader(
        lambda: [cifar_archive(cifar_batch())], read_file("a.tar.gz"), 0.01, mutations.inside_gzip
    ),
    "cifar pickle": Reader(
        lambda: [cifar_batch()], read_file("data_batch_1"), 0.02, inside_opcodes
    ),
    "checkpoint": Reader(
        lambda: [files[checkpoint.NAME] for files in runs()], read_checkpoint, 0.05, resealed
    ),
    **{
        kind: Reader(
            functools.partial(published_cases.inputs, kind),
            functools.partial(published_cases.read, kind),
            0.02,
            inside_json if kind.endswith("json") else None,
        )
        for kind in published_cases.FILES
    },
    "log": Reader(lambda: [files[runlog.NAME] for files in runs()], read_log, 0.5),
}


@functools.cache
def inputs(name):
    """The valid inputs of a reader."""
    return READERS[name].inputs()


def case(name, i):
    """The bytes of mutated input i of a reader."""
    r = random.Random(f"{name} {i}")
    a, other = r.choice(inputs(name)), r.choice(inputs(name))
    inside = READERS[name].inside
    return inside(r, a, other) if inside and r.random() < 0.5 else mutations.mutate(r, a, other)


class Broken(AssertionError):
    """A reader broke the rule; says how."""


def attempt(name, folder, content):
    """True where a reader reads the content, False where it refuses it; raises Broken for anything
    else.
    """
    try:
        READERS[name].read(folder, content)
    except td.TinyDDPMError as error:
        if not str(error) or "\n" in str(error):
            raise Broken(f"an error that is not one line: {error!r}") from error
        return False
    except Exception as error:  # whatever else comes out is what this looks for
        raise Broken(f"{type(error).__name__}: {error}") from error
    return True
