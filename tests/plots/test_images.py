"""figures.py and curves.py: the pixels are where they should be, and files appear whole or not at
all.
"""

import numpy as np
import pytest
from PIL import Image

from tinyddpm.datasets import sets as data
from tinyddpm.errors import InputError, TinyDDPMError
from tinyddpm.plots import curves
from tinyddpm.plots import images as figures


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_holds_every_pixel_of_every_image(channels):
    images = data.load().x[:7].repeat(channels, axis=3)
    sheet = np.asarray(figures.grid(images, columns=3, scale=4)).reshape(
        3 * 34 + 2, 3 * 34 + 2, channels
    )
    for i, image in enumerate(images):
        row, column = 2 + 34 * (i // 3), 2 + 34 * (i % 3)
        shown = sheet[row : row + 32, column : column + 32]
        assert np.array_equal(shown, data.to_uint8(image).repeat(4, axis=0).repeat(4, axis=1))
        assert (sheet[row - 2 : row, column : column + 32] == figures.GAP).all()
    assert (sheet[70:, 36:] == figures.GAP).all()  # the two empty places, and the margins


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
    assert 512 <= figures.grid(np.zeros(shape)).size[0] <= 1024


@pytest.mark.parametrize("channels", [2, 4])
def test_grid_lays_alpha_on_white(channels):
    images = np.full((2, 1, 1, channels), -1.0)  # black and transparent
    images[1, ..., -1] = 1  # black and opaque
    sheet = np.asarray(figures.grid(images, columns=2, scale=1))
    assert (sheet[1, 1] == 255).all() and (sheet[1, 3] == 0).all()


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 5)), np.zeros((0, 8, 8, 1))]
)
def test_grid_refuses_other_shapes(images):
    with pytest.raises(InputError, match="a grid needs images"):
        figures.grid(images)


def test_scatter_puts_dots_in_their_places():
    # the last two cannot be shown
    points = np.array([[0.5, 0.5], [-0.5, 0.0], [7, 7], [np.nan, 0]])
    canvas = np.asarray(
        figures.scatter(points, size=200, reference=[[0.0, -0.5]], extent=1)
    ).astype(int)
    dark = {(int(row), int(column)) for row, column in np.argwhere((canvas < 215).any(axis=2))}
    # Row 0 is the top, y = 1. Each dot lies on a corner where four pixels meet, and darkens these
    # four.
    assert dark == {
        (row - i, column - j)
        for row, column in ((50, 150), (100, 50), (150, 100))
        for i in (0, 1)
        for j in (0, 1)
    }
    # the reference is grey
    assert np.ptp(canvas[150, 100]) == 0 and np.ptp(canvas[50, 150]) > 0


def test_scatter_of_one_dimension_is_a_histogram():
    values = np.repeat([-0.5, 0.5], [100, 300])[:, None]
    canvas = np.asarray(figures.scatter(values, size=80, extent=1))
    heights = (canvas[1:-1, :, 0] < 200).sum(axis=0)
    assert heights[60] == pytest.approx(0.9 * 80, abs=2) and heights[20] == pytest.approx(
        0.3 * 80, abs=2
    )
    assert heights[40] == 0


def test_scatter_refuses_other_shapes():
    with pytest.raises(InputError, match="a scatter plot needs points"):
        figures.scatter(np.zeros(3))


def test_picture_follows_the_shape():
    assert figures.picture(np.zeros((4, 8, 8, 1))).mode == "L"
    assert figures.picture(np.zeros((4, 2)), reference=np.ones((4, 2))).size == (512, 512)
    assert figures.picture(np.zeros((4, 5))).size == (512, 512)


def test_png_round_trips(tmp_path):
    sheet = figures.grid(data.load().x[:4])
    figures.save_png(tmp_path / "a.png", sheet)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(sheet))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("colour", [False, True])
def test_gif_keeps_frames_times_and_colours(tmp_path, colour):
    rings, digits = data.load("rings").x, data.load().x
    frames = [
        figures.scatter(rings * k, size=64) if colour else figures.grid(digits[k : k + 4])
        for k in range(1, 6)
    ]
    figures.save_gif(tmp_path / "a.gif", frames, ms=50, hold=900)
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


def test_failed_writes_leave_nothing_and_keep_the_old_file(tmp_path):
    class Broken:
        def save(self, path, **options):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(TinyDDPMError, match="cannot write .*a.png: No space left"):
        figures.save_png(tmp_path / "a.png", Broken())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"
    with pytest.raises(TinyDDPMError, match="cannot write"):
        figures.save_png(tmp_path / "missing" / "a.png", figures.grid(np.zeros((1, 2, 2, 1))))
    with pytest.raises(InputError, match="at least one frame"):
        figures.save_gif(tmp_path / "a.gif", [])


@pytest.mark.parametrize(
    "losses",
    [
        [1, 0.1, 0.01],
        [1, 0.9, 0.8],
        [0.5],
        [0.5, 0.5],
        [-1, 0, 1],
        [1, np.nan, 2],
        [1e-9, 1e9, 1],
        [np.inf, 3e-5],
    ],
    ids=str,
)
def test_loss_curve_draws_its_line(tmp_path, losses):
    figures.loss_curve(range(1, len(losses) + 1), losses, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (900, 500)
        inner = np.asarray(image).astype(int)[
            curves.TOP : -curves.BOTTOM, curves.LEFT + 3 : -curves.RIGHT
        ]
    assert (np.abs(inner - curves.INK).max(axis=2) < 60).any()


def test_loss_curve_falls_on_a_straight_line_in_logarithms():
    steps = np.arange(0, 1001)
    image = np.asarray(curves.loss_curve(steps, np.exp(-steps / 100))).astype(int)
    rows = [
        np.flatnonzero(np.abs(image[curves.TOP : 438, x] - curves.INK).max(axis=1) < 90).mean()
        for x in (200, 400, 600, 800)
    ]
    # The line is two pixels wide and sampled at pixel centres: its middle is known to about a
    # pixel.
    assert np.ptp(np.diff(rows)) < 3 and np.diff(rows).min() > 50


@pytest.mark.parametrize(
    "steps, losses", [([], []), ([1], [np.nan]), ([1, 2], [1]), ([[1]], [[1]])]
)
def test_loss_curve_needs_something_to_plot(steps, losses):
    with pytest.raises(InputError, match="a loss curve needs"):
        curves.loss_curve(steps, losses)


def test_smooth_keeps_constants_and_does_not_lag():
    # Each entry is a sum of at most 100 terms with weights that add up to 1: 100 roundings of
    # 2^-53, times 2.
    assert np.allclose(curves.smooth(np.full(100, 0.7), 9), 0.7, rtol=200 * 2**-53, atol=0)
    line = np.arange(401.0)
    # In the middle of a line the two lags cancel, up to what the ends cut off: 200 (1 - 1/5)^200 <
    # 1e-16.
    assert curves.smooth(line, 5)[200] == pytest.approx(200, abs=1e-9)
    assert curves.smooth(np.tile([0.0, 1.0], 100), 20).std() < 0.05


@pytest.mark.parametrize("low, high", [(0, 2000), (0.06, 0.15), (-1, 1), (1e-9, 2e-9), (0, 7)])
def test_linear_ticks(low, high):
    ticks = np.array(curves.linear_ticks(low, high))
    assert 3 <= len(ticks) <= 9 and low <= ticks[0] and ticks[-1] <= high * (1 + 2**-50)
    assert np.allclose(np.diff(ticks), np.diff(ticks)[0])
    assert float(f"{np.diff(ticks)[0]:.0e}".split("e")[0]) in (1, 2, 5)


def test_log_ticks():
    assert np.allclose(curves.log_ticks(0.015, 1.1), [0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert np.allclose(curves.log_ticks(0.5e-3, 3e2), [1e-3, 1e-2, 0.1, 1, 10, 100])
