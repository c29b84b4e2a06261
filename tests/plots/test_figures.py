"""figures.py: what is plotted, read from the figures' own lines, dots and labels."""

import itertools
import time

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tinyddpm.errors import InputError
from tinyddpm.plots import figures

# The style.


def filled():
    """A figure with a little of all that the style speaks of."""
    sheet = figures.figure(300, 200)
    axes = sheet.subplots()
    axes.plot([0, 1], [0, 1], label=r"$\bar\alpha_t$")
    axes.scatter([0.5], [0.2])
    axes.set(title="T", xlabel="x", ylabel="y")
    axes.legend()
    return sheet


def test_a_figure_has_the_pixels_that_were_asked_for():
    image = figures.to_image(figures.figure(321, 123))
    assert image.mode == "RGB" and image.size == (321, 123)
    assert (np.asarray(image) == 255).all()


def test_the_same_commands_give_the_same_pixels():
    first, again = (figures.to_image(figures.styled(filled)()) for _ in range(2))
    assert np.array_equal(first, again)


def test_a_figure_can_be_drawn_again():
    sheet = figures.styled(filled)()
    assert np.array_equal(figures.to_image(sheet), figures.to_image(sheet))


def test_the_user_s_settings_change_nothing_and_are_kept():
    mine = {"figure.facecolor": "black", "font.size": 30, "axes.grid": False, "text.color": "red"}
    plain = figures.to_image(figures.styled(filled)())
    with matplotlib.rc_context(mine):
        assert np.array_equal(figures.to_image(figures.styled(filled)()), plain)
        assert {name: matplotlib.rcParams[name] for name in mine} == mine


def test_the_colours_differ_for_those_who_see_no_red_or_no_green():
    """Vienot99's simulation, in linear light: every two colours stay apart, by lightness or by what
    hue is left.
    """
    linear = np.array([to_rgb(colour) for colour in figures.PALETTE]) ** 2.2
    protan = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]])
    deutan = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])
    for matrix in (np.eye(3), protan, deutan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(apart) > 0.1


def test_shades_get_darker_all_the_way():
    lightness = figures.SHADES(np.linspace(0, 1, 200))[:, :3].sum(axis=1)
    assert (np.diff(lightness) <= 0).all() and lightness[0] == 3


# The helpers.


def test_a_plane_is_a_square_window_without_ticks():
    axes = figures.figure(300, 200).subplots()
    figures.plane(axes, 2.5, "a title")
    assert axes.get_xlim() == axes.get_ylim() == (-2.5, 2.5) and axes.get_aspect() == 1
    assert axes.get_title() == "a title" or axes.get_title(loc="left") == "a title"
    assert not len(axes.get_xticks()) and not len(axes.get_yticks())


def test_a_heat_map_has_each_value_at_its_point():
    """5 x 5 values at -2, -1, 0, 1, 2: each cell is 1 wide, and y grows with the row."""
    axes = figures.figure(300, 300).subplots()
    figures.plane(axes, 2.0)
    values = np.arange(25.0).reshape(5, 5)
    image = figures.heat(axes, values, 2.0, low=0, high=24)
    assert image.get_extent() == pytest.approx([-2.5, 2.5, -2.5, 2.5])
    assert image.origin == "lower" and image.get_clim() == (0, 24)
    assert axes.get_xlim() == axes.get_ylim() == (-2, 2)
    pixels = np.asarray(figures.to_image(axes.figure)).astype(int).sum(axis=2)
    assert (image.cmap(image.norm(values[0, 0])))[:3] == (1, 1, 1)
    inner = pixels[140:160, 140:160]
    expected = 255 * sum(figures.SHADES(0.5)[:3])
    assert inner.mean() == pytest.approx(expected, rel=0.1), "the middle value is in the middle"


def test_few_decades_are_labelled_with_plain_numbers():
    axes = figures.figure(300, 300).subplots()
    axes.set(yscale="log", ylim=(0.015, 30))
    figures.few_decades(axes.yaxis)
    figures.to_image(axes.figure)
    shown = [t for t in axes.get_yticks() if 0.015 <= t <= 30]
    assert np.allclose(shown, [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert {"0.02", "0.5", "1", "20"} <= set(labels)


# The loss curve.


def lines(figure):
    """{label: (x, y)} of the only axes' lines."""
    (axes,) = figure.axes
    return {line.get_label(): line.get_data() for line in axes.lines}


@pytest.mark.parametrize(
    "losses, log",
    [
        ([1, 0.1, 0.01], True),
        ([1, 0.9, 0.8], False),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([-1, 0, 1], False),
        ([1, np.nan, 2], False),
        ([1e-9, 1e9, 1], True),
        ([np.inf, 3e-5], False),
    ],
    ids=str,
)
def test_loss_curve_draws_its_line(losses, log):
    figure = figures.loss_curve(range(1, len(losses) + 1), losses)
    (axes,) = figure.axes
    fine = np.isfinite(losses)
    steps, kept = np.arange(1.0, len(losses) + 1)[fine], np.array(losses)[fine]
    drawn = lines(figure)
    np.testing.assert_array_equal(drawn["each logged step"], [steps, kept])
    np.testing.assert_array_equal(drawn["smoothed"], [steps, figures.smooth(kept, 5)])
    assert axes.get_yscale() == ("log" if log else "linear")
    assert axes.get_xlim() == (0, max(steps[-1], 1)) and axes.get_xlabel() == "step"
    low, high = axes.get_ylim()
    assert low < kept.min() and kept.max() < high
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "each logged step",
        "smoothed",
    ]
    image = figures.to_image(figure)
    assert image.size == (900, 500)
    blue = np.abs(np.asarray(image).astype(int) - 255 * np.array(to_rgb(figures.BLUE)))
    inked = blue.max(axis=2) < 60
    inked[:120, 700:] = False  # the legend has a piece of the line too
    assert inked.sum() > 10, "one loss alone is a dot of 30 pixels"


def test_loss_curve_smooths_more_where_there_are_more_steps():
    losses = np.linspace(2, 1, 1200) + np.tile([0.1, -0.1], 600)
    drawn = lines(figures.loss_curve(range(1200), losses))["smoothed"][1]
    np.testing.assert_array_equal(drawn, figures.smooth(losses, 20))


@pytest.mark.parametrize("losses", [[1, 1e308], [0.5, 1e308, 1e-308], [-1e308, 1e308], [1e308]])
def test_a_loss_that_matplotlib_cannot_draw_is_drawn_at_the_edge(losses):
    figure = figures.loss_curve(range(len(losses)), losses)
    assert figures.to_image(figure).size == (900, 500)
    assert np.abs(lines(figure)["each logged step"][1]).max() == 1e100


@pytest.mark.parametrize(
    "steps, losses", [([], []), ([1], [np.nan]), ([1, 2], [1]), ([[1]], [[1]])]
)
def test_loss_curve_needs_something_to_plot(steps, losses):
    with pytest.raises(InputError, match="a loss curve needs"):
        figures.loss_curve(steps, losses)


def test_smooth_keeps_constants_and_does_not_lag():
    # Each entry is a sum of at most 100 terms with weights that add up to 1: 100 roundings of
    # 2^-53, times 2.
    assert np.allclose(figures.smooth(np.full(100, 0.7), 9), 0.7, rtol=200 * 2**-53, atol=0)
    line = np.arange(401.0)
    # In the middle of a line the two lags cancel, up to what the ends cut off: 200 (1 - 1/5)^200 <
    # 1e-16.
    assert figures.smooth(line, 5)[200] == pytest.approx(200, abs=1e-9)
    assert figures.smooth(np.tile([0.0, 1.0], 100), 20).std() < 0.05


# Scatter plots.


def test_scatter_puts_dots_in_their_places():
    points = np.array([[0.5, 0.5], [-0.5, 0.0], [7, 7], [np.nan, 0]])
    figure = figures.scatter(points, size=200, reference=[[0.0, -0.5]], extent=1)
    (axes,) = figure.axes
    below, above = axes.collections
    np.testing.assert_array_equal(below.get_offsets(), [[0.0, -0.5]])
    np.testing.assert_array_equal(above.get_offsets(), points[:3])
    for dots, colour in ((below, figures.GREY), (above, figures.BLUE)):
        np.testing.assert_allclose(dots.get_facecolor(), [[*to_rgb(colour), 0.6]])
    assert axes.get_xlim() == axes.get_ylim() == (-1, 1)


def test_scatter_fills_its_image():
    """The window is the whole image: dots of 2.6 pixels are dark where their points are."""
    points = np.array([[0.5, 0.5], [-0.5, 0.0], [7, 7]])
    image = figures.to_image(figures.scatter(points, size=200, extent=1))
    pixels = np.asarray(image).astype(int)
    dark = np.argwhere((pixels < 190).any(axis=2)) + 0.5
    assert image.size == (200, 200)
    frame = (pixels < 250).any(axis=2)  # white is 255, the frame light grey
    for edge in (frame[:2], frame[-2:], frame[:, :2].T, frame[:, -2:].T):
        assert edge.any(axis=0)[4:-4].all()
    for row, column in dark:
        assert min(np.hypot(row - 50, column - 150), np.hypot(row - 100, column - 50)) < 3
    assert len(dark) >= 8


def test_scatter_of_many_dimensions_shows_the_first_two():
    points = np.random.Generator(np.random.PCG64(0)).normal(size=(20, 5))
    (dots,) = figures.scatter(points).axes[0].collections
    np.testing.assert_array_equal(dots.get_offsets(), points[:, :2])


def test_scatter_of_one_dimension_is_a_histogram():
    values = np.repeat([-0.55, 0.55], [100, 300])[:, None]
    figure = figures.scatter(values, size=80, reference=np.array([[0.15]]), extent=1)
    (axes,) = figure.axes
    reference, bars = (patch.get_data() for patch in axes.patches)
    np.testing.assert_allclose(bars.edges, np.linspace(-1, 1, 11))
    # The tallest has 0.9 of the height, in both.
    np.testing.assert_allclose(bars.values, [0, 0, 0.3, 0, 0, 0, 0, 0.9, 0, 0])
    np.testing.assert_allclose(reference.values, [0, 0, 0, 0, 0, 0.9, 0, 0, 0, 0])
    assert axes.get_ylim() == (0, 1) and axes.get_xlim() == (-1, 1)


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((0, 2)), np.zeros((2, 2, 2))])
def test_scatter_refuses_other_shapes(points):
    with pytest.raises(InputError, match="a scatter plot needs points"):
        figures.scatter(points)
    with pytest.raises(InputError, match="a scatter plot needs points"):
        figures.scatter(np.zeros((3, 2)), reference=points)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_frames_are_the_scatter_plots_of_their_points(dimensions):
    draws = np.random.Generator(np.random.PCG64(1)).normal(0, 0.4, size=(4, 50, dimensions))
    frames = figures.scatter_frames(draws[1:], 64, reference=draws[0])
    assert len(frames) == 3 and all(isinstance(frame, Image.Image) for frame in frames)
    for frame, points in zip(frames, draws[1:]):
        alone = figures.to_image(figures.scatter(points, 64, reference=draws[0]))
        assert np.array_equal(frame, alone)


def test_frames_are_fast():
    """48 frames of 1024 points: a second or two here, so 10 would be a fault."""
    draws = np.random.Generator(np.random.PCG64(2)).normal(size=(48, 1024, 2))
    begun = time.perf_counter()
    figures.scatter_frames(draws, 320, reference=draws[0])
    assert time.perf_counter() - begun < 10
