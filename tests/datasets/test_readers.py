"""Readers beyond single arrays: CIFAR, labels, folders, archives, sizes that cannot be true."""

import gzip
import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from support.mutations import png, png_chunks, zipped
from support.reader_cases import COLOUR, GREY, LABELS, idx, saved
from test_sets import one_line, refused_within

from tinyddpm.datasets import readers, sets
from tinyddpm.datasets.untrusted import DataWarning
from tinyddpm.errors import InputError


def pixels(n):
    """n images of 32 x 32 in which every place and colour has a value of its own, modulo 251."""
    return (np.arange(n * 3072) % 251).astype(np.uint8).reshape(n, 32, 32, 3)


def records(images, *labels):
    """CIFAR's binary version: the label bytes, then 1024 red, 1024 green, 1024 blue, row by row."""
    out = b""
    for i, image in enumerate(images):
        out += bytes(kind[i] for kind in labels) + b"".join(
            image[..., c].tobytes() for c in range(3)
        )
    return out


# --- CIFAR ---


def test_cifar_10_file_and_folder(tmp_path):
    images = pixels(7)
    labels = [0, 9, 3, 3, 1, 0, 8]
    for i, part in enumerate([slice(0, 3), slice(3, 4), slice(4, 7)]):
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(records(images[part], labels[part]))
    (tmp_path / "test_batch.bin").write_bytes(records(pixels(1) + 1, [5]))
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    # the training set: the test batch is asked for by name
    loaded = sets.load(tmp_path)
    assert np.array_equal(sets.to_uint8(loaded.x), images) and loaded.labels.tolist() == labels
    loaded = sets.load(tmp_path / "test_batch.bin")
    assert np.array_equal(sets.to_uint8(loaded.x), pixels(1) + 1) and loaded.labels.tolist() == [5]


def test_cifar_100_has_its_fine_labels(tmp_path):
    images = pixels(4)
    for path in (tmp_path / "test.bin", tmp_path / "train.bin"):
        path.write_bytes(records(images, [19, 0, 3, 3], [99, 0, 42, 10]))
    for where in (tmp_path, tmp_path / "test.bin"):
        loaded = sets.load(where)
        assert np.array_equal(sets.to_uint8(loaded.x), images) and loaded.labels.tolist() == [
            99,
            0,
            42,
            10,
        ]


def test_bad_cifar(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    for content, words in (
        (records(pixels(2), [1, 10]), "label 10; those of CIFAR-10 go from 0 to 9"),
        (records(pixels(2), [1, 1], [0, 100]), "label 100; those of CIFAR-100"),
        (b"", "empty"),
        (records(pixels(2), [1, 2])[:-1], "3073"),
        (b"\1" + bytes(4000), "3073"),
    ):
        path.write_bytes(content)
        for where in (path, tmp_path):
            with pytest.raises(InputError, match=words):
                readers.read(where)
    path.write_bytes(records(pixels(9), range(9)))
    with pytest.raises(InputError, match=rf"{4 * 9 * 3072:,} bytes; the limit is"):
        readers.read(path, limit=4 * 9 * 3072 - 1)
    with open(path, "wb") as file:  # sparse: 30 GB that take no room
        file.truncate(3073 * 10**7)
    refused_within(2**20, lambda: readers.read(path))
    refused_within(2**20, lambda: readers.read(tmp_path))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_are_refused_with_the_reason(tmp_path, protocol):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "train").write_bytes(pickle.dumps({b"data": Boom()}, protocol))
    for where in (tmp_path, tmp_path / "train"):
        one_line(lambda where=where: sets.load(where), str(where))
        with pytest.raises(
            InputError, match="Python pickle, which could run any code: .* binary version of CIFAR"
        ):
            readers.read(where)
    assert not (tmp_path / "ran").exists()


# --- labels and folders ---


@pytest.mark.parametrize(
    "images, labels",
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_idx_finds_its_labels(tmp_path, images, labels):
    for name, content in ((images, idx(GREY)), (labels, idx(LABELS))):
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert sets.load(tmp_path / images).labels.tolist() == LABELS.tolist()
    (tmp_path / labels).unlink()
    assert sets.load(tmp_path / images).labels is None


def test_bad_labels_beside_are_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREY))
    beside = tmp_path / "train-labels-idx1-ubyte"
    beside.write_bytes(idx(LABELS)[:-1])
    with pytest.raises(InputError, match="train-images.*: train-labels-idx1-ubyte: ends early"):
        sets.load(tmp_path / "train-images-idx3-ubyte")
    beside.write_bytes(idx(LABELS[1:]))
    with pytest.raises(InputError, match="labels must be 6 integers, got uint8 of shape .5"):
        sets.load(tmp_path / "train-images-idx3-ubyte")


@pytest.mark.parametrize(
    "names", [["ant", "bee", "cat"], ["2", "9", "10"]], ids=["words", "numbers"]
)
def test_a_folder_of_folders_has_labels(tmp_path, names):
    # the order in which they are made must not matter
    for i in (5, 3, 1, 0, 2, 4):
        folder = tmp_path / names[i // 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(COLOUR[i]).save(folder / f"{i}.png")
    (tmp_path / ".hidden").mkdir()
    Image.fromarray(COLOUR[0]).save(tmp_path / ".hidden" / "a.png")
    loaded = sets.load(tmp_path)
    assert np.array_equal(sets.to_uint8(loaded.x), COLOUR) and loaded.labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert loaded.classes == tuple(names)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: a.png: is not a")
    one_line(lambda: sets.load(tmp_path / "a.png"), f"{tmp_path / 'a.png'}: is not a")


# --- archives ---


@pytest.mark.parametrize(
    "name",
    ["../x.npy", "/etc/x.npy", "a/x.npy", "a\\x.npy", "C:x.npy", "readme.txt", "x.npy\0.npy"],
)
def test_names_in_an_npz_are_plain(tmp_path, name):
    good = saved(np.save, GREY)
    content = zipped([("images.npy", good), (name.replace("\0", "?"), good)], zipfile.ZIP_STORED)
    (tmp_path / "a.npz").write_bytes(content.replace(b"x.npy?", b"x.npy\0"))
    one_line(lambda: sets.load(tmp_path / "a.npz"), f"{tmp_path / 'a.npz'}: holds a member named ")


def test_names_in_an_npz_are_not_twice_there(tmp_path):
    content = zipped(
        [("x.npy", saved(np.save, GREY)), ("x.npy", saved(np.save, COLOUR))], zipfile.ZIP_DEFLATED
    )
    (tmp_path / "a.npz").write_bytes(content)
    one_line(
        lambda: sets.load(tmp_path / "a.npz"), f"{tmp_path / 'a.npz'}: holds two members named "
    )


def test_a_gzip_holds_an_idx_and_not_another_gzip(tmp_path):
    path = tmp_path / "a.gz"
    for content in (b"PK", gzip.compress(idx(GREY)), b"ustar" * 99):
        path.write_bytes(gzip.compress(content))
        one_line(lambda: sets.load(path), f"{path}: is gzipped, but")


def test_an_old_npy_is_read_without_a_warning(tmp_path):
    """Python 2 wrote long integers as 10L: NumPy mends that and warns; warnings are errors in these
    tests.
    """
    content = saved(np.save, GREY).replace(b"(6, 5, 4), }  ", b"(6L, 5, 4L), }")
    (tmp_path / "a.npy").write_bytes(content)
    assert np.array_equal(readers.read(tmp_path / "a.npy")[0], GREY)


@pytest.mark.parametrize(
    "images, labels, others",
    [
        ("x_train", "y_train", ("x_test", "y_test")),  # Keras
        ("train_images", "train_labels", ("val_images", "test_labels")),  # MedMNIST
        ("images", "y", ()),
        ("arr_0", "arr_1", ()),  # np.savez(path, images, labels)
    ],
)
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_names_that_programs_give_in_an_npz(tmp_path, images, labels, others, shape):
    arrays = {images: GREY, labels: LABELS.reshape(shape), **dict.fromkeys(others, GREY + 1)}
    np.savez(tmp_path / "a.npz", **arrays)
    left = warnings.catch_warnings()
    if others:
        left = pytest.warns(DataWarning, match=f"took {images} and {labels}, left {others[0]}, ")
    with left:
        loaded = sets.load(tmp_path / "a.npz")
    assert np.array_equal(sets.to_uint8(loaded.x)[..., 0], GREY)
    assert loaded.labels.tolist() == LABELS.tolist()


def test_a_second_array_need_not_be_labels(tmp_path):
    for second in (COLOUR, LABELS[1:], LABELS / 7, np.array(list("abcdef"))):
        np.savez(tmp_path / "a.npz", GREY, second)
        with pytest.warns(DataWarning, match="took arr_0, left arr_1"):
            assert sets.load(tmp_path / "a.npz").labels is None


@pytest.mark.parametrize(
    "labels, words",
    [
        (LABELS[1:], "labels must be 6 integers, got uint8 of shape .5"),
        (LABELS / 7, "labels must be 6 integers, got float64"),
        (np.array(list("abcdef")), "labels: holds <U1, not real numbers"),
        (np.zeros((6, 3), np.uint8), "labels must be 6 integers, got uint8 of shape .6, 3"),
    ],
)
def test_labels_that_are_not_needed_do_not_refuse_the_pictures(tmp_path, labels, words):
    path = tmp_path / "a.npz"
    np.savez(path, images=GREY, labels=labels)
    with pytest.warns(DataWarning, match=f"labels left out: {words}"):
        loaded = sets.load(path, need_labels=False)
    assert np.array_equal(sets.to_uint8(loaded.x)[..., 0], GREY) and loaded.labels is None
    with pytest.raises(InputError, match=words):
        sets.load(path)


def test_labels_beside_that_are_not_needed_do_not_refuse_the_pictures(tmp_path):
    (tmp_path / "images-idx3").write_bytes(idx(GREY))
    (tmp_path / "labels-idx1").write_bytes(idx(LABELS)[:-1])
    with pytest.warns(DataWarning, match="labels left out: labels-idx1: ends early"):
        assert sets.load(tmp_path / "images-idx3", need_labels=False).labels is None


# --- what is not read, and what to do with it ---


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.zip", zipped([("cat/1.jpg", b"a"), ("cat/2.jpg", b"b")], 0), "is a .zip of 2 .jpg: un"),
        ("a.pt", zipped([("a/data.pkl", b"a"), ("a/data/0", b"b")], 0), "is PyTorch's: load it"),
        ("a.csv", b"1,0.5,2\n3,4,5\n", r"a table of text \(CSV\): read it with numpy.loadtxt"),
        ("a.tsv", b"label\tpixel\r\n1\t2\r\n", r"a table of text \(CSV\)"),
        ("a.txt", b"hello\nworld, too", "none of .npy, .npz"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5 file: read it with h5py"),
        ("a.jpg", saved(Image.new("L", (9, 9)).save, format="JPEG"), "is one picture: give a fold"),
        (
            "a.png",
            saved(Image.new("L", (9, 9)).save, format="PNG"),
            "is one picture: give a folder",
        ),
    ],
)
def test_what_is_not_read_is_called_by_its_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    one_line(lambda: sets.load(tmp_path / name), f"{tmp_path / name}: ")
    with pytest.raises(InputError, match=words):
        sets.load(tmp_path / name)


def test_channels_first_arrays_are_told_to_be_transposed():
    with pytest.raises(
        InputError, match=r"shape \(2, 3, 8, 9\).*N, C, H, W.*transpose\(0, 2, 3, 1"
    ):
        sets.from_array(np.zeros((2, 3, 8, 9), np.uint8))
    with pytest.raises(InputError, match=r"\(2, 7, 8, 9\); expected .*nothing empty$"):
        sets.from_array(np.zeros((2, 7, 8, 9), np.uint8))


# --- sizes ---


@pytest.mark.parametrize("form", ["npy", "npz", "idx", "idx.gz"])
def test_what_unpacks_to_300_mb_needs_a_higher_limit(tmp_path, form):
    """300 MB of bytes are 1.2 GB of samples, more than the limit of 2^30 bytes; as float32 zeros
    they pack to 0.3 MB.

    Here the file ends after 2 MB: with the limit raised, it is the missing rest that is complained
    of."""
    shape, rest = (300, 1000, 1000), bytes(2**21)
    array = struct.pack(">4B3I", 0, 0, 8, 3, *shape) + rest
    if form.startswith("np"):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        array = header.getvalue() + rest
    packed = {
        "npz": lambda: zipped([("x.npy", array)], zipfile.ZIP_DEFLATED),
        "idx.gz": lambda: gzip.compress(array),
    }
    (tmp_path / "a").write_bytes(packed.get(form, lambda: array)())
    with pytest.raises(
        InputError, match=r"would take 1,200,000,000 bytes; the limit is 1,073,741,824 \(--limit\)"
    ):
        readers.read(tmp_path / "a")
    with pytest.raises(InputError, match="ends early"):
        readers.read(tmp_path / "a", limit=2**31)


def grey_png(width, height, raw):
    """A PNG of 8-bit greys that claims width x height and holds `raw`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")])


def test_a_png_of_169_megapixels_is_refused(tmp_path):
    """13,000 x 13,000 zeros pack to 164 KB; the image is refused before its pixels are unpacked."""
    content = grey_png(13_000, 13_000, bytes(13_001 * 13_000))
    assert len(content) < 170_000
    (tmp_path / "a.png").write_bytes(content)
    refused_within(2**22, lambda: readers.read(tmp_path, limit=2**40))


def test_a_png_that_cannot_hold_its_pixels_is_refused_unread(tmp_path):
    """No deflated byte unpacks to more than 1032, and a pixel has at least one bit."""
    (tmp_path / "a.png").write_bytes(grey_png(5000, 5000, b""))
    one_line(
        lambda: sets.load(tmp_path),
        f"{tmp_path}: a.png: its 65 bytes are beyond the limit or cannot hold",
    )
    # One of zeros that uses the format to the full: 4 million pixels of one bit in under a
    # kilobyte.
    saved_png = saved(Image.new("1", (2000, 2000)).save, format="PNG", optimize=True)
    assert 2000 * 2000 / 8 / len(saved_png) > 500
    (tmp_path / "a.png").write_bytes(saved_png)
    assert readers.read(tmp_path)[0].shape == (1, 2000, 2000, 1)


@pytest.mark.parametrize(
    "kind, name", [(0, "I;16B"), (2, "RGB;16B"), (4, "LA;16B"), (6, "RGBA;16B")]
)
def test_16_bits_a_channel_are_refused(tmp_path, kind, name):
    """Pillow cuts colours of 16 bits to 8 without a word."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", 4, 5, 16, kind, 0, 0, 0)
    raw = (b"\0" + bytes(range(8 * channels))) * 5
    (tmp_path / "a.png").write_bytes(
        png([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])
    )
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: a.png: has mode {name}; save it with")


def test_a_png_with_a_gigantic_text_is_refused(tmp_path):
    """A text chunk that unpacks to 128 MB."""
    good = png_chunks(saved(Image.fromarray(GREY[0]).save, format="PNG"))
    text = b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))
    (tmp_path / "a.png").write_bytes(png([good[0], text, *good[1:]]))
    refused_within(2**23, lambda: readers.read(tmp_path))


def test_a_png_whose_file_is_beyond_the_limit_is_refused(tmp_path):
    """Pillow keeps what it reads of chunks that it does not know."""
    good = png_chunks(saved(Image.fromarray(GREY[0]).save, format="PNG"))
    (tmp_path / "a.png").write_bytes(png([good[0], (b"prVt", bytes(2000)), *good[1:]]))
    assert readers.read(tmp_path, limit=3000)[0].shape == (1, 5, 4, 1)
    with pytest.raises(InputError, match="a.png: its 2,0.. bytes are beyond the limit"):
        readers.read(tmp_path, limit=2000)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_a_number_of_bytes(tmp_path, limit):
    np.save(tmp_path / "a.npy", GREY)
    one_line(lambda: sets.load(tmp_path / "a.npy", limit), "the limit must be at least 1 byte")
