"""Folders of pictures: every format, turned, cut to one size; what is left out is said."""

import os
import pathlib
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image
from test_sets import one_line

from tinyddpm.datasets import sets
from tinyddpm.datasets.untrusted import DataWarning, quiet
from tinyddpm.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
rng = np.random.Generator(np.random.Philox(1))
COLOUR = rng.integers(0, 256, (4, 6, 3), np.uint8)


def put(path, picture, **how):
    """Save an array or an image, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(path, **how)


def bytes_of(folder, **how):
    """The pictures of a folder as bytes again."""
    return sets.to_uint8(sets.load(folder, **how).x)


@pytest.mark.parametrize(
    "name, how",
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.TIF", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_what_keeps_every_pixel_is_read_so(tmp_path, name, how):
    put(tmp_path / name, COLOUR, **how)
    assert np.array_equal(bytes_of(tmp_path)[0], COLOUR)


def test_a_jpeg_is_read(tmp_path):
    """A plain area has one coefficient a block, which quality 95 keeps to one level."""
    for suffix, grey in (("jpg", 100), ("JPEG", 200)):
        put(tmp_path / f"{grey}.{suffix}", np.full((8, 8), grey, np.uint8), quality=95)
    images = bytes_of(tmp_path).astype(int)
    assert images.shape == (2, 8, 8, 1)
    assert (abs(images - np.array([100, 200])[:, None, None, None]) <= 1).all()


def test_of_a_gif_the_first_frame_is_read_and_said(tmp_path):
    first, second = (Image.new("RGB", (3, 2), colour) for colour in ((9, 8, 7), (1, 2, 3)))
    put(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    with pytest.warns(DataWarning, match="1 GIF file with more than one frame: the first was read"):
        images = bytes_of(tmp_path)
    assert (images == [9, 8, 7]).all() and images.shape == (1, 2, 3, 3)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    put(tmp_path / "a.png", COLOUR)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(bytes_of(tmp_path)[0], COLOUR)


def test_jpegs_are_not_lost_beside_pngs(tmp_path):
    for i in range(45):
        put(tmp_path / f"{i:02}.{'png' if i < 5 else 'jpg'}", COLOUR)
    assert len(sets.load(tmp_path).x) == 45


# What the eight orientations of EXIF mean, from its definition of the stored first row and column.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix, how", [("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation, suffix, how):
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path / f"a.{suffix}", COLOUR, exif=exif, **how)
    expected = TURNS[orientation](COLOUR)
    assert np.array_equal(bytes_of(tmp_path)[0], expected)
    corner = bytes_of(tmp_path, size=4)[0].shape
    assert corner == (4, 4, 3)


def test_a_turned_jpeg(tmp_path):
    """Left black and right white, to be turned by a quarter to the right: black on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    halves = np.repeat(np.uint8([[0, 255]]), [8, 8], axis=1).repeat(8, axis=0)
    put(tmp_path / "a.jpg", halves, exif=exif)
    image = bytes_of(tmp_path)[0, ..., 0]
    assert image.shape == (16, 8) and image[:8].max() < 5 and image[8:].min() > 250


def test_damaged_exif_leaves_a_picture_as_it_lies(tmp_path):
    put(tmp_path / "a.png", COLOUR, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert np.array_equal(bytes_of(tmp_path)[0], COLOUR)


def test_a_turn_that_makes_two_sizes_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "a.png", COLOUR)
    put(tmp_path / "b.png", COLOUR, exif=exif)
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: b.png: is 4 x 6 as its EXIF turns it")
    put(tmp_path / "a.png", COLOUR.swapaxes(0, 1))
    assert bytes_of(tmp_path).shape == (2, 6, 4, 3)


# --- sizes ---


def test_many_sizes_are_named_and_brought_to_one(tmp_path):
    for name, size in (("a", (9, 9)), ("b", (4, 5)), ("c", (9, 9)), ("d", (5, 5))):
        put(tmp_path / f"{name}.png", Image.new("L", size, 77))
    words = r"3 sizes: 9 x 9 \(2, as a.png\), 4 x 5 \(1, as b.png\), 5 x 5 \(1, as .*--size N"
    with pytest.raises(InputError, match=words):
        sets.load(tmp_path)
    images = bytes_of(tmp_path, size=6)
    assert images.shape == (4, 6, 6, 1) and (images == 77).all()
    one_line(lambda: sets.load(tmp_path, size=0), "size must be at least 1")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK"])
def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path, mode):
    """Three fields of which the middle one stays: black, white, black, each 4 x 4 and 8 x 8."""
    for name, side in (("a", 4), ("b", 8)):
        fields = np.repeat(np.uint8([[0, 255, 0]]), side, axis=1).repeat(side, axis=0)
        put(tmp_path / f"{name}.tif", Image.fromarray(fields).convert("RGB").convert(mode))
        put(tmp_path / f"{name}{name}.tif", Image.fromarray(fields.T).convert("RGB").convert(mode))
    images = bytes_of(tmp_path, size=4)
    assert images.shape[:3] == (4, 4, 4)
    inner = images[:, 1:3, 1:3]
    assert inner.min() >= 253, "what is near a border mixes with its neighbour where it is resized"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_resizing_is_antialiased(tmp_path, mode):
    """A chess board of single pixels is grey from afar; the nearest pixel alone is black or white.

    Half of the light, give or take the rounding of the filter's weights to 8 bits."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    put(tmp_path / "a.png", Image.fromarray(board).convert(mode, dither=Image.Dither.NONE))
    small = bytes_of(tmp_path, size=8).astype(float)
    assert (abs(small - 127.5) < 6).all()


def test_gray(tmp_path):
    """ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B."""
    for name, colour in (("a", (200, 0, 0)), ("b", (0, 200, 0)), ("c", (0, 0, 200))):
        put(tmp_path / f"{name}.png", Image.new("RGB", (2, 2), colour))
    images = bytes_of(tmp_path, gray=True)
    assert images.shape == (3, 2, 2, 1)
    assert np.allclose(images[:, 0, 0, 0], [59.8, 117.4, 22.8], atol=1)


def test_size_and_gray_are_for_pictures(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    one_line(lambda: sets.load(tmp_path / "a.npy", size=2), f"{tmp_path / 'a.npy'}: size and gray")
    one_line(lambda: sets.load("digits", gray=True), "digits: size and gray")


# --- folders ---


def test_every_class_keeps_its_name_whatever_its_format(tmp_path):
    """The public stumble: cat/*.png, dog/*.jpg, fox/*.png lost dog and renumbered fox."""
    for name, suffix, n in (("fox", "png", 1), ("cat", "png", 3), ("dog", "jpg", 2)):
        for i in range(n):
            put(tmp_path / name / f"{i}.{suffix}", COLOUR)
    loaded = sets.load(tmp_path)
    assert loaded.classes == ("cat", "dog", "fox")
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_class_without_a_picture_is_an_error_by_name(tmp_path):
    put(tmp_path / "cat" / "a.png", COLOUR)
    (tmp_path / "dog").mkdir()
    for i in range(3):
        (tmp_path / "dog" / f"{i}.heic").touch()
    with pytest.raises(InputError, match=r"the folder dog in it holds no pict.*it holds 3 \.heic"):
        sets.load(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(InputError, match=r"the folders dog, emu in it hold no pictures"):
        sets.load(tmp_path)


def test_what_is_no_picture_is_counted(tmp_path):
    put(tmp_path / "a.png", COLOUR)
    for name in ("a.txt", "b.txt", "c.json", "README", ".hidden"):
        (tmp_path / name).touch()
    with pytest.warns(DataWarning, match=r": 4 files are not read: 2 \.txt, 1 .*README"):
        sets.load(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"holds no pictures \(PNG, .*; it holds 2 \.txt, 1"):
        sets.load(tmp_path)


def test_nested_folders_are_walked(tmp_path):
    """Those of a class are of that class; a link back up is not followed for ever."""
    pixels = np.stack([COLOUR + np.uint8(i) for i in range(4)])
    for i, place in enumerate(["cat/in/x", "cat/out", "dog", "dog/old"]):
        put(tmp_path / "pets" / place / "a.png", pixels[i])
    (tmp_path / "pets" / "dog" / "back").symlink_to(tmp_path / "pets")
    loaded = sets.load(tmp_path / "pets")
    assert loaded.classes == ("cat", "dog") and loaded.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(sets.to_uint8(loaded.x), pixels)


def test_pictures_beside_folders_of_pictures_have_no_classes(tmp_path):
    put(tmp_path / "a.png", COLOUR)
    put(tmp_path / "more" / "b.png", COLOUR)
    with pytest.warns(DataWarning, match="in it and in folders of it: all are read, without"):
        loaded = sets.load(tmp_path)
    assert len(loaded.x) == 2 and loaded.labels is None


# --- hostile pictures and memory ---


def vp8l(width, height):
    """The start of a lossless WebP of these sides."""
    bits = struct.pack("<I", width - 1 | height - 1 << 14)
    chunk = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bits + b"\0"
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def test_a_webp_is_held_against_the_limit_before_pillow_takes_its_memory(tmp_path):
    for side, words in ((16383, "pixels, more than"), (4000, "cannot hold 4000 x 4000 pixels")):
        (tmp_path / "a.webp").write_bytes(vp8l(side, side))
        with pytest.raises(InputError, match=words):
            sets.load(tmp_path)
    put(tmp_path / "a.webp", Image.new("RGB", (1000, 1000)), lossless=True)
    with pytest.raises(InputError, match=r"would take 4,000,000 bytes; the limit is 3,999,999"):
        sets.load(tmp_path, 3_999_999, size=8)
    assert sets.load(tmp_path, 4_000_000, size=8).x.shape == (1, 8, 8, 3)


def test_16_bits_in_a_tiff_are_refused_and_in_a_bmp_mean_something_else(tmp_path):
    put(tmp_path / "a.tif", Image.new("I;16", (4, 5)))
    one_line(lambda: sets.load(tmp_path), f"{tmp_path}: a.tif: has mode I;16; save it with 8 bits")
    (tmp_path / "a.tif").unlink()
    # 5 + 6 + 5 bits a pixel; all of red's is 255
    masks = struct.pack("<IiiHHIIiiII3I", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    content = masks + struct.pack("<HH", 0xF800, 0)
    head = b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, 14 + len(masks))
    (tmp_path / "a.bmp").write_bytes(head + content)
    assert bytes_of(tmp_path)[0].tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_a_large_transparent_png_takes_little_more_than_its_pixels():
    """8 million pixels: 32 MB as Pillow decodes them and 24 MB as they are kept, in a process of
    its own. Whole conversions took 32 MB more, each.
    """
    code = """
import pathlib, re, tempfile
import numpy as np
from PIL import Image
from tinyddpm.datasets import readers, sets

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "a.png")
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    half.save(path)
    readers.read(folder)
    half.resize((4000, 2000)).save(path, compress_level=1)
    del half
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = peak()
    images = readers.read(folder).array
    taken = peak() - before
    del images
    x = sets.load(folder).x
    print(taken, peak() - before, x.shape)
"""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory cannot be reset here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    taken, loaded, shape = done.stdout.strip().split(maxsplit=2)
    assert shape == "(1, 2000, 4000, 3)"
    assert 24e6 < int(taken) < 56e6 + 24e6
    # as float32 96 MB beside the 24 MB: what was decoded has been given back
    assert 96e6 < int(loaded) < 120e6 + 24e6


def reader_in_silence():
    """Start a thread that is inside `quiet`; returns what lets it out and waits for its end."""
    entered, leave = threading.Event(), threading.Event()

    def other():
        with quiet:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)

    def end():
        leave.set()
        thread.join()

    return end


def test_warnings_are_as_before_whichever_thread_ends_last():
    before = list(warnings.filters)
    with quiet:
        end = reader_in_silence()
        warnings.warn("nobody hears it", UserWarning, stacklevel=1)
    end()
    assert warnings.filters == before


def test_a_warning_is_heard_while_another_thread_reads_in_silence(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 20).reshape(10, 2))
    end = reader_in_silence()
    try:
        with pytest.warns(DataWarning, match="nothing is below 0"):
            sets.load(tmp_path / "a.npy")
        with pytest.raises(KeyError), quiet:
            warnings.warn("nobody hears it", UserWarning, stacklevel=1)
            raise KeyError
        with pytest.warns(UserWarning, match="heard again"):
            warnings.warn("heard again", UserWarning, stacklevel=1)
    finally:
        end()
