"""images.py: the pixels are where they should be, and files appear whole or not at all."""

import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinyddpm.datasets import sets
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.plots import figures, images

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_holds_every_pixel_of_every_image(channels):
    digits = sets.load().x[:7].repeat(channels, axis=3)
    sheet = np.asarray(images.grid(digits, columns=3, scale=4)).reshape(
        3 * 34 + 2, 3 * 34 + 2, channels
    )
    for i, image in enumerate(digits):
        row, column = 2 + 34 * (i // 3), 2 + 34 * (i % 3)
        shown = sheet[row : row + 32, column : column + 32]
        assert np.array_equal(shown, sets.to_uint8(image).repeat(4, axis=0).repeat(4, axis=1))
        assert (sheet[row - 2 : row, column : column + 32] == images.GAP).all()
    assert (sheet[70:, 36:] == images.GAP).all()  # the two empty places, and the margins


@pytest.mark.parametrize(
    "shape",
    [
        (1, 8, 8, 1),
        (64, 8, 8, 1),
        (100, 8, 8, 1),
        (1000, 8, 8, 1),
        (16, 28, 28, 3),
        (9, 32, 32, 3),
        (5, 7, 11, 1),
    ],
)
def test_grid_is_about_768_wide(shape):
    assert 512 <= images.grid(np.zeros(shape)).size[0] <= 1024


@pytest.mark.parametrize("channels", [2, 4])
def test_grid_lays_alpha_on_white(channels):
    pixels = np.full((2, 1, 1, channels), -1.0)  # black and transparent
    pixels[1, ..., -1] = 1  # black and opaque
    sheet = np.asarray(images.grid(pixels, columns=2, scale=1))
    assert (sheet[1, 1] == 255).all() and (sheet[1, 3] == 0).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 5)), np.zeros((0, 8, 8, 1))]
)
def test_grid_refuses_other_shapes(pixels):
    with pytest.raises(InputError, match="a grid needs images"):
        images.grid(pixels)


def test_picture_follows_the_shape():
    assert images.picture(np.zeros((4, 8, 8, 1))).mode == "L"
    assert images.picture(np.zeros((4, 2)), reference=np.ones((4, 2))).size == (512, 512)
    assert images.picture(np.zeros((4, 5))).size == (512, 512)


def test_a_picture_of_images_loads_no_matplotlib():
    code = (
        "import sys, numpy; from tinyddpm.plots import images; "
        "images.picture(numpy.zeros((1, 2, 2, 1))); print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_png_round_trips(tmp_path):
    sheet = images.grid(sets.load().x[:4])
    images.save_png(tmp_path / "a.png", sheet)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(sheet))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("colour", [False, True])
def test_gif_keeps_frames_times_and_colours(tmp_path, colour):
    rings, digits = sets.load("rings").x, sets.load().x
    if colour:
        frames = figures.scatter_frames([rings * k for k in range(1, 6)], size=64)
    else:
        frames = [images.grid(digits[k : k + 4]) for k in range(1, 6)]
    images.save_gif(tmp_path / "a.gif", frames, ms=50, hold=900)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 5 and film.info["loop"] == 0
        for i, frame in enumerate(frames):
            film.seek(i)
            shown, meant = (np.asarray(image.convert("RGB")).astype(int) for image in (film, frame))
            assert film.info["duration"] == (50 if i < 4 else 900)
            # A grey level is off by at most half the spacing of 32 levels, and Pillow looks the
            # palette up through cells 4 levels wide; white stays white.
            assert colour or np.abs(shown - meant).max() <= 255 / 31 / 2 + 4
            assert (shown[(meant == 255).all(axis=2)] == 255).all()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_failed_writes_leave_nothing_and_keep_the_old_file(tmp_path, monkeypatch, where):
    def full(*args):
        raise OSError(28, "No space left on device")

    sheet = images.grid(np.zeros((1, 2, 2, 1)))
    (tmp_path / "a.png").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(TinyDDPMError, match="cannot write .*a.png: No space left"):
            images.save_png(tmp_path / "a.png", sheet)
        with pytest.raises(TinyDDPMError, match="cannot write .*a.gif: No space left"):
            images.save_gif(tmp_path / "a.gif", [sheet])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"
    with pytest.raises(TinyDDPMError, match="cannot write"):
        images.save_png(tmp_path / "missing" / "a.png", sheet)
    with pytest.raises(InputError, match="at least one frame"):
        images.save_gif(tmp_path / "a.gif", [])


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (3, 2)])
def test_what_is_not_finite_is_not_drawn(shape):
    x = np.zeros(shape)
    x[0, ..., 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        images.picture(x)


@pytest.mark.parametrize(
    "far, window", [(0.5, 1.15), (1.0, 1.15), (2.0, 2.1), (3.5, 3.0), (50.0, 3.0)]
)
def test_the_window_of_a_process_of_points(far, window):
    """It holds all of it, with the margin of a plot of data, but no more than three deviations.

    A point of N(0, I) is within both coordinates of those with probability erf(3 / sqrt 2)^2, and
    data in [-1, 1] has a third of the width.
    """
    assert math.erf(images.NOISE / math.sqrt(2)) ** 2 > 0.994 and 2 / (2 * images.NOISE) > 0.33
    lone = 0.4
    first, last = [[lone, 0.0], [far, far]], [[lone, 0.0], [0.0, 0.9]]
    for frame in images.small(np.array([first, last])):
        ink = np.asarray(frame.convert("L"))[155:166, 10:310]  # the row of y = 0, without the frame
        middle = 10 + np.average(np.arange(300), weights=(255 - ink).sum(axis=0, dtype=float))
        assert middle == pytest.approx(160 * (1 + lone / window), abs=1)


def test_the_first_frame_of_a_process_shows_nearly_all_of_the_noise(monkeypatch):
    """At most 8 of 200 are outside: with 0.0054 for each of them, more are 2 times in 10^6."""
    shown = []
    monkeypatch.setattr(figures, "scatter_frames", lambda *about: shown.append(about) or [])
    points = np.random.default_rng(0).normal(size=(2, 200, 2))
    images.small(points)
    window = shown[0][-1]
    assert (abs(points[0]) > window).any(axis=1).sum() <= 8
