"""Unusual data, from a file to a trained model: it works, or one clear line tells why not."""

import signal
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.mutations import png
from support.reader_cases import COLOUR, saved

import tinyddpm as td
from tinyddpm import noise
from tinyddpm.cli import commands
from tinyddpm.datasets import sets

TINY = {"steps": 2, "batch": 4, "warmup": 1, "shards": 1}
OPTIONS = [
    "--steps",
    "2",
    "--batch",
    "4",
    "--base",
    "8",
    "--groups",
    "4",
    "--blocks",
    "1",
    "--T",
    "6",
    "--warmup",
    "1",
]


def numbers(*shape):
    """Bytes of all values."""
    return noise.integers(shape, 256, seed=5, purpose=noise.DATA).astype(np.uint8)


def fitted(images, **settings):
    """Samples of a model trained for two steps on them, after the checks that any samples pass."""
    small = {"net": td.MLP(dim=images.shape[1], hidden=8, layers=1)} if images.ndim == 2 else {}
    model = td.train(images, **{"schedule": td.cosine(3), **TINY, **small, **settings})
    x = td.sample(model, n=3, steps=min(2, model.schedule.T))
    assert x.shape == (3, *images.shape[1:]) and x.dtype == np.float32 and np.isfinite(x).all()
    return x


# --- through the library ---


@pytest.mark.parametrize(
    "array",
    [
        numbers(1, 8, 8),
        np.full((5, 8, 8), 7, np.uint8),
        np.zeros((5, 2)),
        np.ones((1, 3)),
        np.ones((5, 8, 8), bool),
    ],
    ids=["one image", "constant", "one place", "one point", "all true"],
)
def test_data_without_variety_is_learned(array):
    fitted(sets.from_array(array).x)


@pytest.mark.parametrize("batch", [1, 6, 7, 64])
def test_a_batch_may_be_larger_than_the_data(batch):
    fitted(sets.from_array(numbers(6, 8, 8)).x, batch=batch)


@pytest.mark.parametrize(
    "array", [numbers(5, 8, 8), np.linspace(-1, 1, 10).reshape(5, 2)], ids=["images", "points"]
)
@pytest.mark.parametrize("make", [td.cosine, td.linear])
def test_one_diffusion_step_is_enough(array, make):
    fitted(sets.from_array(array).x, schedule=make(1))


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (7, 9), (6, 10), (8, 12), (17, 5)])
def test_odd_sizes_get_a_net_that_fits(size):
    fitted(sets.from_array(numbers(3, *size)).x)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_to_four_channels(channels):
    fitted(sets.from_array(numbers(4, 8, 8, channels)).x)


def test_levels_are_counted_where_they_are_whole():
    """Ho20 eq. 13 bins discrete data: bytes have 256 values, the digits 0..16 have 17, two bits
    have 4, floats none.
    """
    assert sets.from_array(numbers(2, 3)).levels == 256
    assert sets.load("digits").levels == 17
    assert sets.from_array(np.array([[0, 3]]), value_range=(0, 3)).levels == 4
    assert sets.from_array(np.array([[True, False]])).levels == 2
    for bounds in ((-0.5, 3.5), (0, 3.5), (-0.5, 3)):
        assert sets.from_array(np.array([[0, 3]]), value_range=bounds).levels == 0
    assert (
        sets.from_array(np.array([[0.0, 1.0]]), value_range=(0, 3)).levels
        == sets.load("moons").levels
        == 0
    )


# --- PNGs as programs write them ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_each_kind_of_png_trains(tmp_path, mode):
    for i, pixels in enumerate(COLOUR):
        Image.fromarray(pixels).convert(mode).resize((8, 8)).save(tmp_path / f"{i}.png")
    x = sets.load(tmp_path).x
    assert x.shape == (6, 8, 8, 1 if mode in ("1", "L", "LA") else 3)
    fitted(x)


def test_kinds_of_png_may_be_mixed(tmp_path):
    """One coloured image makes all of them RGB; a grey one has its value in all three."""
    Image.new("L", (2, 2), 100).save(tmp_path / "a.png")
    Image.new("P", (2, 2), 1).save(tmp_path / "b.png")
    grey = sets.to_uint8(sets.load(tmp_path).x)[0]
    assert grey.shape == (2, 2, 3) and (grey == 100).all()


def test_a_transparent_grey_and_a_transparent_palette_colour_are_white(tmp_path):
    """The tRNS chunk: transparency without an alpha channel."""
    Image.new("L", (2, 2), 100).save(tmp_path / "a.png", transparency=100)
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "b.png", transparency=1)
    assert (sets.load(tmp_path).x == 1).all()


def test_other_depths_of_grey_are_spread_over_the_range(tmp_path):
    """Two bits: 0, 1, 2, 3 are 0, 85, 170, 255."""
    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    body = zlib.compress(b"\0" + bytes([0b00011011]))
    (tmp_path / "a.png").write_bytes(png([(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]))
    assert sets.to_uint8(sets.load(tmp_path).x).ravel().tolist() == [0, 85, 170, 255]


# --- through the command line ---


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; the signals as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "FRAMES", 2)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield tmp_path
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("options", [["--holdout", "0"], ["--T", "1"], ["--batch", "64"], []])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 9), (3, 8, 8, 2), (3, 8, 8, 4)], ids=str)
def test_train_and_sample_awkward_data(here, capsys, shape, options):
    np.save("x.npy", numbers(*shape))
    assert commands.main(["train", "x.npy", "--out", "r", *OPTIONS, *options]) == 0
    assert commands.main(["sample", "r", "--n", "2", "--steps", "1", "--array", "y.npy"]) == 0
    made = np.load("y.npy")
    assert made.shape == (2, *shape[1:], *(1,) * (3 - len(shape[1:])))
    assert np.isfinite(made).all() and made.min() >= -128 and made.max() <= 255 + 128


@pytest.mark.parametrize(
    "array, words",
    [
        (np.full((3, 8, 8), 2.5), "leave the range -1 to 1; declare the range with --range"),
        (np.arange(192).reshape(3, 8, 8), "no natural range; declare the range with --range"),
        (np.zeros((3, 8, 8, 5)), "C in 1..4"),
        (np.zeros((0, 8, 8)), "is empty"),
        (np.full((3, 8, 8), np.nan), "NaN"),
        (np.zeros((3, 8, 8), complex), "complex128, not real"),
    ],
)
def test_train_refuses_in_one_line(here, capsys, array, words):
    (here / "x.npy").write_bytes(saved(np.save, array))
    assert commands.main(["train", "x.npy", *OPTIONS]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("tinyddpm: x.npy: ") and error.count("\n") == 1
    assert not (here / "runs").exists()
