"""Data: readers return what was written; bad or hostile files are refused in one line."""

import gzip
import hashlib
import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from tinyddpm.datasets import readers, sets
from tinyddpm.datasets.untrusted import DataWarning
from tinyddpm.errors import InputError

rng = np.random.Generator(np.random.Philox(0))
GREY = rng.integers(0, 256, (7, 5, 4), np.uint8)
COLOUR = rng.integers(0, 256, (7, 5, 4, 3), np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
# SHA-256 of the places (float32) that commit 4950cc0 held out of the digits by default
DIGITS_SPLIT = "9d5427d4f736aec0fb5309f1b2665c27a8d8982592b7fc745a45e8e2c4b69963"


def idx(array, code=0x08):
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()
    )


def npy_header(shape, descr="|u1"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(content, method=zipfile.ZIP_DEFLATED, name="images.npy"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 99)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (chunk, body, b"IEND")
    )


def saved(writer, *args, **kwargs):
    out = io.BytesIO()
    writer(out, *args, **kwargs)
    return out.getvalue()


# --- names ---


def test_module_is_the_file_and_not_the_folder():
    assert sets.__file__.endswith("sets.py")


def test_digits():
    digits = sets.load()
    assert digits.x.shape == (1797, 8, 8, 1) and digits.x.dtype == np.float32
    assert digits.labels.dtype == np.int64 and np.bincount(digits.labels).min() == 174
    original = digits.restore(digits.x)
    assert np.array_equal(original, np.rint(original)) and (original.min(), original.max()) == (
        0,
        16,
    )
    # 1797 images of 64 pixels: their sum is a fact of the source, sklearn's
    # load_digits().images.sum().
    assert original.sum(dtype=np.float64) == 561718


@pytest.mark.parametrize("name", sets.TOYS)
def test_toys_lie_in_the_cube_and_repeat(name):
    toy = sets.load(name)
    assert toy.x.shape == (4096, 2) and np.abs(toy.x).max() <= 1
    assert np.array_equal(toy.x, sets.load(name).x)


def test_rings_have_their_radii():
    rings = sets.load("rings")
    radius = np.hypot(*rings.x.T)
    # A ring's radius is noisy by sigma = 0.02; eight sigma lie between any two of the three.
    assert np.allclose(radius, 0.3 * (rings.labels + 1), atol=6 * 0.02)


# --- readers ---


@pytest.mark.parametrize(
    "array", [GREY, COLOUR, np.asfortranarray(COLOUR)], ids=["L", "RGB", "Fortran"]
)
@pytest.mark.parametrize("form", ["npy", "npz", "npz compressed", "idx", "idx gz"])
def test_arrays_round_trip(tmp_path, form, array):
    content = {
        "npy": lambda: saved(np.save, array),
        "npz": lambda: saved(np.savez, array),
        "npz compressed": lambda: saved(np.savez_compressed, images=array, y=LABELS),
        "idx": lambda: idx(array),
        "idx gz": lambda: gzip.compress(idx(array)),
    }[form]()
    (tmp_path / "file").write_bytes(content)
    loaded = sets.load(tmp_path / "file")
    assert np.array_equal(sets.to_uint8(loaded.x), array.reshape(loaded.x.shape))
    assert np.allclose(loaded.restore(loaded.x), array.reshape(loaded.x.shape), atol=255 * 2**-23)
    assert (loaded.labels is None) == (form != "npz compressed")


def test_idx_finds_the_labels_beside_it(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GREY)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    assert np.array_equal(sets.load(tmp_path / "train-images-idx3-ubyte.gz").labels, LABELS)


@pytest.mark.parametrize(
    "mode, channels", [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("P", 3), ("RGBA", 3)]
)
def test_pngs_round_trip_in_the_order_of_their_names(tmp_path, mode, channels):
    # few colours: exact in every mode
    source = np.where(COLOUR > 127, 255, 0).astype(np.uint8)
    if channels == 1:
        source = source[..., :1].repeat(3, axis=3)
    for name, pixels in zip("gfedcba", source, strict=True):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{name}.PNG")
    x = sets.load(tmp_path).x
    assert x.shape == (7, 5, 4, channels)
    assert np.array_equal(sets.to_uint8(x), source[::-1, ..., :channels])


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("LA", (2, 2), (0, 255)).save(tmp_path / "b.png")
    x = sets.load(tmp_path).x
    assert (x[0] == 1).all() and (x[1] == -1).all() and x.shape[3] == 3


def test_accepted_dtypes_and_ranges():
    bits = np.array([[True, False]])
    assert sets.from_array(bits).x.tolist() == [[1, -1]]
    floats = np.array([[-1, 0.1, 1]])
    assert np.array_equal(sets.from_array(floats).x, np.float32(floats))
    assert sets.from_array(np.array([[0, 5, 10]]), value_range=(0, 10)).x.tolist() == [[-1, 0, 1]]
    assert np.array_equal(
        sets.from_array(GREY.transpose(0, 2, 1)[::-2]).x[..., 0],
        sets.from_array(GREY).x[..., 0].transpose(0, 2, 1)[::-2],
    )


# --- bad input: one line ---

BAD_ARRAYS = {
    "0-d": np.float32(1),
    "1-d": np.zeros(3),
    "5-d": np.zeros((1,) * 5),
    "5 channels": np.zeros((2, 3, 3, 5)),
    "none": np.zeros((0, 3)),
    "no pixels": np.zeros((2, 0, 3)),
    "object": np.array([[None]]),
    "text": np.array([["a"]]),
    "complex": np.zeros((2, 2), complex),
    "NaN": np.array([[0, np.nan]]),
    "inf": np.array([[0, np.inf]]),
    "too large": np.array([[0, 1.5]]),
    "int": np.zeros((2, 2), int),
}


@pytest.mark.parametrize("array", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(array):
    one_line(lambda: sets.from_array(array), "array: ")


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, np.inf), (np.nan, 1), (0, 0.5)])
def test_bad_ranges(value_range):
    one_line(lambda: sets.from_array(np.ones((2, 2)), value_range=value_range), "")


@pytest.mark.parametrize(
    "labels", [np.zeros(3, int), np.zeros(2), np.zeros((2, 2), int), [None, "b"], ["a", "b", "c"]]
)
def test_bad_labels(labels):
    one_line(lambda: sets.from_array(np.ones((2, 2)), labels), "array: labels")


def test_floats_with_nothing_below_0_are_asked_about():
    """ToTensor's habit: 0 to 1. They are taken as declared or as -1 to 1, and it is said."""
    for floats in (np.array([[0, 0.5, 1]]), np.float32([[0.25, 0.5]])):
        with pytest.warns(DataWarning, match="nothing is below 0: is the range 0 1. .*--range LOW"):
            assert np.array_equal(sets.from_array(floats).x, np.float32(floats))
        assert np.array_equal(
            sets.from_array(floats, value_range=(0, 1)).x, np.float32(2 * floats - 1)
        )
        assert np.array_equal(sets.from_array(floats, value_range=(-1, 1)).x, np.float32(floats))


def test_labels_may_be_names():
    data = sets.from_array(np.zeros((4, 2)), ["dog", "cat", "dog", "emu"])
    assert data.classes == ("cat", "dog", "emu") and data.labels.tolist() == [1, 0, 1, 2]


def test_range_error_says_what_was_found_and_what_to_do():
    with pytest.raises(InputError, match=r"from 0 to 16 .*--range LOW HIGH"):
        sets.from_array(np.array([[0.0, 16.0]]))


BAD_FILES = {
    "empty": b"",
    "text": b"hello",
    "npy cut": saved(np.save, GREY)[:-1],
    "npy longer": saved(np.save, GREY) + b"0",
    "npy header cut": saved(np.save, GREY)[:20],
    "npy version": b"\x93NUMPY\x09\x00" + bytes(99),
    "npy pickle": saved(np.save, np.array([{}]), allow_pickle=True),
    "npy structured": saved(np.save, np.zeros(3, "i4,i4")),
    "npy empty": saved(np.save, np.zeros((0, 4))),
    "npy scalar": saved(np.save, 1.0),
    "npy negative": npy_header((-1, -4)) + bytes(4),
    "npy huge": npy_header((2**40, 2**40)),
    "npy not a literal": npy_header("f()"),
    "npy open": npy_header("((((("),
    "npy deep": npy_header("-" * 9000 + "1"),
    "npy header of 4 GB": b"\x93NUMPY\x02\x00" + b"\xff" * 99,
    "npz cut": saved(np.savez, GREY)[:-30],
    "npz no array": zipped(b"", name="readme.txt"),
    "npz two arrays": saved(np.savez, a=GREY, b=GREY),
    "npz labels alone": saved(np.savez, labels=LABELS),
    "npz bit flip": saved(np.savez, GREY).replace(GREY.tobytes()[:9], b"123456789"),
    "npz lzma": zipped(saved(np.save, GREY), zipfile.ZIP_LZMA),
    "npz labels": saved(np.savez, x=GREY, y=LABELS[1:]),
    "idx cut": idx(GREY)[:-1],
    "idx longer": idx(GREY) + b"0",
    "idx header cut": idx(GREY)[:7],
    "idx type": idx(GREY, 0x07),
    "idx 0-d": bytes([0, 0, 8, 0]),
    "idx 5-d": bytes([0, 0, 8, 5]) + bytes(99),
    "idx labels alone": idx(LABELS),
    "idx huge": struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3),
    "gz cut": gzip.compress(idx(GREY))[:-9],
    "gz of text": gzip.compress(b"hello"),
    "gz magic": b"\x1f\x8b",
    "gz CRC": gzip.compress(idx(GREY))[:-8] + bytes(8),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    one_line(lambda: sets.load(path), f"{path}: ")


BAD_PNGS = {
    "text": b"hello",
    "cut": saved(Image.fromarray(GREY[0]).save, format="PNG")[:-30],
    "empty": b"",
    "no image": png_header(5, 5)[:33],
    "16 bits": saved(Image.new("I;16", (4, 5)).save, format="PNG"),
    "another format": saved(Image.new("L", (4, 5)).save, format="PPM"),
    "huge": png_header(2**31 - 1, 2**31 - 1),
}


@pytest.mark.parametrize("content", BAD_PNGS.values(), ids=BAD_PNGS)
def test_bad_pngs(tmp_path, content):
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: b.png: ")


def test_bad_names(tmp_path):
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: holds no pictures (PNG, JPEG, ")
    one_line(lambda: sets.load("/dev/null"), "/dev/null: is not a")
    one_line(lambda: sets.load("a\0b"), "")
    one_line(lambda: sets.load("a" * 5000), "a")
    with pytest.raises(InputError, match="digits, moons, swissroll, rings, or the path"):
        sets.load("nowhere")
    one_line(lambda: sets.load("moons", value_range=(0, 1)), "moons")


def one_line(call, start):
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(start) and len(text) > len(start) and "\n" not in text


# --- hostile files: refused before their memory is taken ---

ZEROS = bytes(2**25)  # 32 MiB, which pack into 32 KiB
IDX_32_MIB, IDX_16_MIB = (struct.pack(">4B2I", 0, 0, 8, 2, n, 2**10) for n in (2**15, 2**14))
HOSTILE = {
    "npy beyond the limit": npy_header((2**15, 2**10)) + ZEROS,
    "idx beyond the limit": IDX_32_MIB + ZEROS,
    "gz beyond the limit": gzip.compress(IDX_32_MIB + ZEROS),
    "npz beyond the limit": zipped(npy_header((2**15, 2**10)) + ZEROS),
    "npy claims 16 MiB": npy_header((2**14, 2**10)) + bytes(9),
    "idx claims 16 MiB": IDX_16_MIB + bytes(9),
    "gz claims 16 MiB": gzip.compress(IDX_16_MIB + bytes(9)),
    "npz claims 16 MiB": zipped(npy_header((2**14, 2**10)) + bytes(9)),
    "gz bomb": gzip.compress(idx(GREY) + ZEROS),
    "npz bomb": zipped(saved(np.save, GREY) + ZEROS),
    "npz header bomb": zipped(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**25) + ZEROS),
    "npz lzma bomb": zipped(ZEROS, zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_take_no_memory(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    refused_within(2**22, lambda: readers.read(tmp_path / "file", limit=2**26))


@pytest.mark.parametrize("side", [2**13, 13_000, 2**31 - 1])
def test_hostile_png_takes_no_memory(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    refused_within(2**22, lambda: readers.read(tmp_path, limit=2**26))


def refused_within(size, call):
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            call()
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def test_limit_counts_what_the_samples_take(tmp_path):
    np.save(tmp_path / "a.npy", GREY)  # 140 bytes, as float32 560
    assert readers.read(tmp_path / "a.npy", limit=560)[0].shape == GREY.shape
    with pytest.raises(InputError, match="560 bytes; the limit is 559"):
        readers.read(tmp_path / "a.npy", limit=559)


@given(
    st.sampled_from(["npy", "npz", "idx", "gz", "png"]),
    st.integers(0, 10**6),
    st.binary(min_size=1, max_size=4),
)
def test_damaged_files_load_or_raise_input_error(tmp_path_factory, form, place, patch):
    folder = tmp_path_factory.mktemp("damaged")
    content = {
        "npy": lambda: saved(np.save, GREY),
        "npz": lambda: saved(np.savez_compressed, images=GREY),
        "idx": lambda: idx(GREY),
        "gz": lambda: gzip.compress(idx(GREY), mtime=0),
        "png": lambda: saved(Image.fromarray(COLOUR[0]).save, format="PNG"),
    }[form]()
    place %= len(content)
    (folder / "file.png").write_bytes(content[:place] + patch + content[place + len(patch) :])
    try:
        readers.read(folder if form == "png" else folder / "file.png", limit=2**20)
    except InputError as error:
        assert "\n" not in str(error)


# --- splitting and batching ---


@pytest.mark.parametrize("holdout", [0, 0.1, 0.5, 0.77])
def test_split_is_stratified_and_a_partition(holdout):
    digits = sets.load()
    numbered = sets.Data(np.arange(1797, dtype=np.float32)[:, None], digits.labels)
    fit, held = sets.split(numbered, holdout)
    assert len(held.x) == round(1797 * holdout) == len(held.labels)
    assert np.array_equal(np.sort(np.concatenate([fit.x, held.x])[:, 0]), numbered.x[:, 0])
    assert np.array_equal(digits.labels[held.x[:, 0].astype(int)], held.labels)
    counts = np.bincount(held.labels, minlength=10) - holdout * np.bincount(digits.labels)
    assert np.abs(counts).max() <= 1
    assert np.array_equal(sets.split(numbered, holdout)[1].x, held.x)
    assert holdout == 0 or not np.array_equal(sets.split(numbered, holdout, seed=1)[1].x, held.x)


def test_a_class_is_never_wholly_held_out():
    """15 classes of one: none can be judged, and all are learned. Beside a class of 85, that one
    gives the whole share.
    """
    x = np.arange(100, dtype=np.float32)[:, None]
    fit, held = sets.split(sets.Data(x[:15], np.arange(15)), 0.4)
    assert len(fit.x) == 15 and len(held.x) == 0
    fit, held = sets.split(sets.Data(x, np.r_[np.arange(15), np.full(85, 15)]), 0.1)
    assert len(held.x) == 10 and set(held.labels) == {15} and set(fit.labels) == set(range(16))
    fit, held = sets.split(sets.Data(x, np.repeat(np.arange(50), 2)), 0.9)
    assert np.bincount(fit.labels).tolist() == [1] * 50


def test_the_split_of_the_digits_keeps_its_bits():
    """The sum of the places that are held out by default, as runs of version 0.1 have them."""
    digits = sets.load()
    places = sets.Data(np.arange(1797, dtype=np.float32)[:, None], digits.labels)
    assert hashlib.sha256(sets.split(places, 0.5)[1].x.tobytes()).hexdigest() == DIGITS_SPLIT


def test_split_does_not_follow_the_toys_own_numbers():
    moons = sets.load("moons")
    fit, held = sets.split(sets.Data(moons.x), 0.5)
    # One Kolmogorov-Smirnov test of the two parts along x, false-alarm rate 1e-6, seed fixed. If
    # `split` drew the numbers that chose each point's moon, each part would be one moon.
    assert stats.ks_2samp(fit.x[:, 0], held.x[:, 0]).pvalue > 1e-6


@pytest.mark.parametrize("holdout", [1, -0.1, 1.5, np.nan, 0.9])
def test_split_must_leave_a_sample(holdout):
    one_line(lambda: sets.split(sets.from_array(np.zeros((2, 2))), holdout), "holdout")


def test_digest_sees_shape_and_every_value():
    one = sets.from_array(GREY)
    other = one.x.copy()
    other[-1, -1, -1] = np.nextafter(other[-1, -1, -1], 2)
    digests = {
        sets.digest(one),
        sets.digest(sets.Data(other)),
        sets.digest(sets.Data(one.x.reshape(7, -1))),
    }
    assert len(digests) == 3 and sets.digest(sets.from_array(GREY.copy())) in digests


def test_units():
    x = np.array([-2, -1, 0, 1, 2.0])
    assert sets.to_unit(x).tolist() == [0, 0, 0.5, 1, 1]
    assert sets.to_uint8(x).tolist() == [0, 0, 128, 255, 255]
    every = np.arange(256, dtype=np.uint8)[:, None]
    assert np.array_equal(sets.to_uint8(sets.from_array(every).x), every)
