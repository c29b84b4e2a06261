"""plots.py and marks.py: what is drawn is where the axes say, and nowhere else."""

import itertools

import numpy as np
import pytest

from tinyddpm.errors import InputError
from tinyddpm.plots import marks
from tinyddpm.plots import panels as plots

BOX = (60, 30, 100, 80)  # of the one panel: left, top, width, height
UNIT = {"x": (0, 1), "y": (0, 1)}


def drawn(add, **options):
    """The panel's own pixels (80, 100, 3), and the whole sheet's, of a figure with one panel that
    `add` fills.
    """
    figure = plots.Figure(220, 160)
    add(figure.panel(BOX, **{**UNIT, "axes": False, **options}))
    sheet = np.asarray(figure.image()).astype(int)
    left, top, width, height = BOX
    return sheet[top : top + height, left : left + width], sheet


def of(pixels, colour):
    """Where pixels have this colour, up to what halving leaves of it."""
    return np.abs(pixels - np.array(colour)).max(axis=2) < 60


def middle(mask):
    """The mean (x, y) of a mask's pixels, in shares of the panel, y upwards."""
    rows, columns = np.nonzero(mask)
    return (columns.mean() + 0.5) / BOX[2], 1 - (rows.mean() + 0.5) / BOX[3]


# The middle of a disc of some pixels lies within half a pixel of its place: 1/160 of the height,
# 1/200 of the width.
PIXEL = 0.01


@pytest.mark.parametrize(
    "log, x, y, options",
    [
        ("", 0.25, 0.6, {}),
        ("x", 10.0, 0.6, {"x": (1, 1000)}),
        ("y", 0.25, 0.01, {"y": (1e-4, 1)}),
        ("", 0.25, 0.6, {"x": (1, 0)}),
    ],
)
def test_a_dot_lies_where_its_axes_say(log, x, y, options):
    pixels, _ = drawn(
        lambda panel: panel.dots([x], [y], plots.BLUE, 5, opacity=1), log=log, **options
    )
    expected = {
        ("", ()): (0.25, 0.6),
        ("x", ("x",)): (1 / 3, 0.6),
        ("y", ("y",)): (0.25, 0.5),
        ("", ("x",)): (0.75, 0.6),
    }[log, tuple(options)]
    assert middle(of(pixels, plots.BLUE)) == pytest.approx(expected, abs=PIXEL)


def test_a_line_joins_its_points_and_breaks_where_a_value_is_not_finite():
    pixels, _ = drawn(lambda panel: panel.line([0, 0.4, np.nan, 0.6, 1], [0.5] * 5, plots.RED, 3))
    row = of(pixels, plots.RED)[40]
    assert row[2:38].all() and not row[43:57].any() and row[62:98].all()
    assert not of(pixels, plots.RED)[:36].any() and not of(pixels, plots.RED)[44:].any()


def test_dashes_have_the_lengths_that_were_asked_for():
    """A pattern of 6 on and 4 off over a bent line: every dash but the last is 6 long, and 10 from
    the one before.
    """
    points = [(0.0, 0.0), (25.0, 0.0), (25.0, 40.0)]
    pieces = list(marks.dashes(points, (6, 4)))
    lengths = [
        sum(np.hypot(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(piece))
        for piece in pieces
    ]
    np.testing.assert_allclose(lengths, [6] * 6 + [5], atol=1e-12)
    np.testing.assert_allclose([sum(piece[0]) for piece in pieces], np.arange(7) * 10.0, atol=1e-12)


@pytest.mark.parametrize("value", [1e300, np.inf, -1e300])
def test_what_lies_beyond_the_range_stays_out_of_the_margin(value):
    def add(panel):
        panel.line([0, 0.5, 1], [0.5, value, 0.5], plots.RED, 4).dots(
            [0.5, 2, -3], [value, 0.5, 0.5], plots.BLUE, 6
        )
        panel.band([0, 1], [0, 0], [value, 2.0], plots.GREEN, opacity=1) if np.isfinite(
            value
        ) else None

    _, sheet = drawn(add)
    left, top, width, height = BOX
    outside = np.ones(sheet.shape[:2], bool)
    # the frame; halving reaches 3 pixels
    outside[top - 4 : top + height + 5, left - 4 : left + width + 5] = False
    assert (sheet[outside] == 255).all()


def test_no_pixel_is_further_out_than_pillow_can_count():
    place = plots._place([(0, 1), (1, 10)], [False, True], (100, 80))
    assert np.abs(place([1e300, -1e300, 0.5], [0.0, 1e300, 5.0])).max() <= plots.FAR


def test_a_band_fills_between_its_curves_and_bars_stand_on_zero():
    pixels, _ = drawn(lambda panel: panel.band([0, 1], 0.25, [0.75, 0.75], plots.GREEN, opacity=1))
    green = of(pixels, plots.GREEN)
    assert green[22:58, 2:-2].all() and not green[:18].any() and not green[62:].any()
    pixels, _ = drawn(
        lambda panel: panel.bars([1, 2], [1, -0.5], plots.BLUE, 0.5), x=(0.5, 2.5), y=(-1, 1)
    )
    blue = of(pixels, plots.BLUE)
    assert (
        blue[2:38, 25].all()
        and not blue[44:, 25].any()
        and blue[42:58, 75].all()
        and not blue[:38, 75].any()
    )
    assert not blue[:, 50].any()


def test_an_arrow_points_the_way_it_goes():
    """Its head is a triangle whose wide end lies back from the tip: more ink in the half where it
    ends.
    """
    pixels, _ = drawn(lambda panel: panel.arrows([0.2], [0.5], [0.6], [0.0], plots.RED, 1))
    ink = 255 - pixels.mean(axis=2)
    assert ink[:, 60:82].sum() > 1.5 * ink[:, 20:42].sum()
    assert ink[30:50, 16:84].sum() == pytest.approx(ink[4:-4, 4:-4].sum())


def test_a_heat_map_has_its_first_row_at_the_top_and_white_is_low():
    pixels, sheet = drawn(lambda panel: panel.heat([[0, 1], [2, 4]], scale="nats"))
    corners = pixels[[10, 10, 70, 70], [10, 90, 10, 90]].mean(axis=1)
    assert all(np.diff(corners) < 0) and corners[0] == 255
    np.testing.assert_allclose(pixels[70, 90], plots.SHADES[-1], atol=2)
    bar = sheet[BOX[1] + 4 : BOX[1] + BOX[3] - 4, BOX[0] + BOX[2] + 13].mean(axis=1)
    assert bar[0] < bar[-1] and all(np.diff(bar) >= 0), "the scale is dark at the top"


def test_shades_get_darker_all_the_way():
    lightness = (
        np.asarray(plots.shade(np.linspace(0, 1, 200)[:, None])).astype(int).sum(axis=2)[:, 0]
    )
    assert (np.diff(lightness) <= 0).all() and lightness[0] == 765


def test_the_range_fits_the_data_where_none_is_given():
    pixels, _ = drawn(
        lambda panel: panel.dots([3, 7], [1e-3, 10], plots.BLUE, 4, opacity=1),
        x=None,
        y=None,
        log="y",
    )
    blue = of(pixels, plots.BLUE)
    # 5 % beyond the data at each end, so the two dots lie at 0.05/1.1 and 1.05/1.1 of both axes.
    assert middle(blue * (np.arange(100) < 50)) == pytest.approx(
        (0.05 / 1.1, 0.05 / 1.1), abs=PIXEL
    )
    assert middle(blue * (np.arange(100) > 50)) == pytest.approx(
        (1.05 / 1.1, 1.05 / 1.1), abs=PIXEL
    )


def test_ticks():
    assert plots._ticks(0, 1, False, 250) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert plots._ticks(1000, 0, False, 250) == plots._ticks(0, 1000, False, 250)
    assert plots._ticks(1, 1000, True, 250) == [1, 10, 100, 1000]
    assert plots._ticks(1e-20, 1e300, True, 200) == [1.0, 1e100, 1e200, 1e300]
    assert plots._ticks(2, 30, True, 250) == [2, 5, 10, 20]
    said = [plots.said(value) for value in (0, -0.0, 0.25, 1000, 20000.0, 1e-5, 3e-12, 1e300, -2)]
    assert said == ["0", "0", "0.25", "1,000", "20,000", "1e-5", "3e-12", "1e300", "-2"]


def test_labels_legend_and_axes_are_drawn():
    def add(panel):
        panel.line([0, 1], [0, 0], plots.BLUE, label="a name")

    bare, with_legend = (
        drawn(lambda panel, label=label: panel.line([0, 1], [0, 0], plots.BLUE, label=label))[0]
        for label in (None, "a name")
    )
    differs = np.abs(bare - with_legend).max(axis=2) > 40
    assert differs[:25, 40:].any() and not differs[30:].any(), "the legend stands at the top right"
    assert of(with_legend, plots.BLUE)[:25, 4:].sum() > 20, "with a sample of its line"
    _, sheet = drawn(add, axes=True, title="T", xlabel="x", ylabel="y")
    top, left, below = sheet[:28, 58:], sheet[30:110, :58], sheet[114:, 58:]
    assert all((part < 150).any() for part in (top, left, below))


def test_the_same_commands_give_the_same_pixels():
    def add(panel):
        panel.line([0, 1], [0, 1], plots.BLUE, label="a", dash=(3, 2)).dots([0.5], [0.2]).words(
            0.1, 0.9, "w"
        )

    assert np.array_equal(drawn(add)[1], drawn(add)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"x": (1, 1)},
        {"y": (np.nan, 1)},
        {"y": (0, 1), "log": "y"},
        {"x": None},
        {"y": None, "log": "y"},
    ],
)
def test_ranges_that_are_none_are_refused(options):
    with pytest.raises(InputError, match="range|axis"):
        drawn(lambda panel: panel.words(0.5, -1.0, "") if "log" in options else None, **options)


def test_the_colours_differ_for_those_who_see_no_red_or_no_green():
    """Vienot99's simulation, in linear light: every two colours stay apart, by lightness or by what
    hue is left.
    """
    linear = (np.array(plots.PALETTE) / 255) ** 2.2
    protan = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]])
    deutan = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])
    for matrix in (np.eye(3), protan, deutan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(apart) > 0.1
