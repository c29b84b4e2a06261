"""What the tour's figures plot, read from their lines, dots, arrows and heat maps."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tinyddpm import noise
from tinyddpm.plots import figures
from tinyddpm.process import posterior_tables, q_sample
from tinyddpm.schedule import KINDS, cosine, linear
from tinyddpm.tour import forward, gpu, gradients, learned, scores, spirals

NAMES = [
    "1-destroying-data",
    "2-bayes",
    "3-the-bound",
    "4-gradient-by-hand",
    "5-training",
    "6-sampling",
    "7-scores",
    "8-likelihood",
    "9-gpu",
]


def lines(axes):
    """{label: (x, y)} of the lines that a legend names."""
    shown = {line.get_label(): line.get_data() for line in axes.lines}
    return {label: data for label, data in shown.items() if not label.startswith("_")}


def named(walked, name):
    """The chapter of that name."""
    return next(chapter for chapter in walked[1] if chapter.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_off_or_over_another(walked, name):
    figure = named(walked, name).figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.size
    boxes = []
    for axes in figure.axes:
        parts = (axes._left_title, axes.xaxis.label, axes.yaxis.label)
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        boxes += [part.get_window_extent(renderer) for part in parts if part.get_text()]
        low, high = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        for tick in ticks:
            x, y = tick.get_position()
            axis, place = (high, y) if tick in axes.get_yticklabels() else (low, x)
            if tick.get_text() and axis[0] <= place <= axis[1]:
                boxes.append(tick.get_window_extent(renderer))
        legend = axes.get_legend()
        if legend is not None:
            inner, outer = legend.get_window_extent(renderer), axes.get_window_extent(renderer)
            assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1 + 1
            assert outer.y0 <= inner.y0 and inner.y1 <= outer.y1 + 1
    for box in boxes:
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height
    # A box has room for every letter: two may touch by a part of a pixel and no ink meet.
    boxes = [box.padded(-0.25) for box in boxes]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (a, b)


def test_chapter_1_plots_the_points_and_the_schedules(walked, truth):
    axes = named(walked, "1-destroying-data").figure.axes
    x0, eps = truth.sample(700, 0), noise.normal((700, 2), 0, noise.EPS).astype(np.float64)
    for plane, t in zip(axes, (1, 150, 350, 600, 1000)):
        (dots,) = plane.collections
        np.testing.assert_array_equal(dots.get_offsets(), q_sample(truth.s, x0, t, eps))
        assert f"t = {t}," in plane.get_title(loc="left")
    left, right = (lines(each) for each in axes[5:])
    assert list(left) == list(right) == ["linear", "cosine", "sigmoid"]
    for name, make in KINDS.items():
        np.testing.assert_array_equal(left[name], [np.arange(1001), make(1000).alpha_bar])
        np.testing.assert_array_equal(right[name][1], np.log(make(1000).snr[1:1000]))


def test_chapter_2_plots_the_bells_the_weights_and_the_trap(walked):
    bells, weights, trap = named(walked, "2-bayes").figure.axes
    s, t = linear(10), 4
    expected = forward._product(s, t, np.array([-0.8]), np.array([0.9]))
    drawn = list(lines(bells).values())
    for (x, y), name in zip(drawn, ("prior", "likelihood", "posterior"), strict=True):
        np.testing.assert_array_equal([x, y], [expected["x"], expected[name]])
    (band,) = bells.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == expected["product"].max() and corners[:, 1].min() == 0
    c = posterior_tables(linear(1000))
    (_, on_x0), (_, on_xt) = lines(weights).values()
    np.testing.assert_array_equal([on_x0, on_xt], [c.c_x0[1:], c.c_xt[1:]])
    (right_t, right), (wrong_t, wrong) = lines(trap).values()
    assert trap.get_yscale() == "log" and trap.get_xlim() == (1000, 0)
    assert right_t[-1] == 0 and np.abs(right - 1).max() < 0.25
    assert wrong_t[-1] > 800 and wrong.max() <= 1e300


def test_chapter_3_plots_the_terms_their_sum_and_the_weights(walked):
    terms, below, weights = named(walked, "3-the-bound").figure.axes
    (crude, exact) = lines(terms)
    (t, by_crude), (_, by_exact) = lines(terms).values()
    assert "Gaussian" in crude and "exact" in exact and t[-1] == 1000
    assert (by_crude > 0).all() and by_exact.sum() < by_crude.sum()
    for label, (x, y) in lines(below).items():
        # Where a term was computed it is the sum's own step.
        at = np.searchsorted(x, lines(terms)[label][0])[1:]
        np.testing.assert_allclose(np.diff(y)[at - 1], lines(terms)[label][1][1:])
    s = cosine(1000)
    (_, eq_12), (_, simple) = lines(weights).values()
    expected = s.beta[2:] / (2 * s.alpha[2:] * (1 - s.alpha_bar[2:]))
    np.testing.assert_array_equal(eq_12, expected)
    assert (simple == 1).all() and weights.get_xscale() == weights.get_yscale() == "log"


def test_chapter_4_plots_the_gaps(walked):
    left, right = named(walked, "4-gradient-by-hand").figure.axes
    cases = gradients._operations(0)
    assert list(lines(left)) == list(cases)
    for name, (h, gap) in lines(left).items():
        np.testing.assert_array_equal(h, gradients.STEPS)
        np.testing.assert_array_equal(gap, np.maximum(gradients._gaps(cases[name], 0), 1e-14))
    slopes = []
    for guide in (line for line in left.lines if line.get_label().startswith("_")):
        slopes.append(np.polyfit(*np.log(guide.get_data()), 1)[0])
    assert slopes == pytest.approx([-1, 2])
    (_, sound), (_, wrong) = lines(right).values()
    assert sound.min() < 1e-8 < 0.1 < wrong.min()
    assert all(each.get_xscale() == each.get_yscale() == "log" for each in (left, right))


def test_chapter_5_plots_the_losses(walked, trained):
    loss, error, distance = named(walked, "5-training").figure.axes
    np.testing.assert_array_equal(lines(loss)["each step"][1], trained.losses)
    np.testing.assert_array_equal(lines(loss)["smoothed"][1], figures.smooth(trained.losses, 5))
    times = lines(error)["before"][0]
    assert times[0] == 1 and times[-1] == 1000
    for net, (_, y) in zip((trained.fresh, trained.ema, trained.truth), lines(error).values()):
        np.testing.assert_array_equal(y, learned._loss_by_t(net, trained, times))
    (_, raw), (_, averaged) = lines(distance).values()
    np.testing.assert_array_equal(np.stack([raw, averaged], axis=1), trained.checks[:, 1:])


def test_chapter_6_plots_paths_errors_and_clouds(walked, trained):
    ddim, ancestral, error, *clouds = named(walked, "6-sampling").figure.axes
    for plane, sampler in ((ddim, learned.ddim), (ancestral, learned.ancestral)):
        path = learned._path(sampler, trained)
        assert path.shape == (101, 6, 2) and len(plane.lines) == 6
        for k, line in enumerate(plane.lines):
            np.testing.assert_array_equal(np.stack(line.get_data(), axis=1), path[:, k])
        ends = [dots.get_offsets()[0] for dots in plane.collections[1:]]
        np.testing.assert_array_equal(ends, path[-1])
    errors = learned._solver_errors(trained)
    assert list(lines(error)) == list(errors)
    for name, data in lines(error).items():
        np.testing.assert_array_equal(np.stack(data, axis=1), errors[name])
    titles = [plane.get_title(loc="left") for plane in clouds]
    assert titles == ["5 steps of DDIM", "10 steps of DDIM", "50 steps of DDIM", "the data"]
    assert all(len(plane.collections[0].get_offsets()) == trained.setting.cloud for plane in clouds)


def test_chapter_7_plots_the_score_over_the_density(walked, truth):
    for t, axes in zip((600, 250, 60), named(walked, "7-scores").figure.axes, strict=True):
        (heat,) = axes.images
        reach = scores.REACH[t]
        row = np.linspace(-reach, reach, 90)
        log_q = truth.log_density(spirals.grid(row), t).reshape(90, 90)
        low, high = heat.get_clim()
        np.testing.assert_array_equal(heat.get_array(), np.maximum(log_q, low))
        assert high - low == pytest.approx(10) and heat.origin == "lower"
        (arrows,) = [each for each in axes.collections if hasattr(each, "U")]
        at = np.stack([arrows.X, arrows.Y], axis=1)
        steps, field = np.stack([arrows.U, arrows.V], axis=1), truth.score(at, t)
        along = (steps * field).sum(axis=1) / np.hypot(*steps.T) / np.hypot(*field.T)
        assert len(at) == 169 and along.min() > 1 - 1e-9, "each arrow points along the score"
        assert np.hypot(*steps.T).max() < 2 * reach / 13, "and ends before the next begins"
        (dots,) = [each for each in axes.collections if not hasattr(each, "U")]
        assert len(dots.get_offsets()) == 60 and len(axes.lines) == 30
        ends = [[line.get_xdata()[-1], line.get_ydata()[-1]] for line in axes.lines]
        np.testing.assert_array_equal(ends, dots.get_offsets()[::2])


def test_chapter_8_plots_two_densities_and_the_gap(walked, trained):
    net, truth, bound, bar = named(walked, "8-likelihood").figure.axes
    row = np.linspace(-1.2, 1.2, trained.setting.grid)
    exact = trained.truth.log_density(spirals.grid(row), 0).reshape(
        trained.setting.grid, trained.setting.grid
    )
    np.testing.assert_array_equal(truth.images[0].get_array(), np.maximum(exact, -8))
    assert net.images[0].get_clim() == truth.images[0].get_clim() == (-8, 2)
    assert net.images[0].get_array().shape == exact.shape and bar.get_ylabel() == "nats"
    gaps = learned._gaps(trained.setting.bounded, trained.setting.longest, 0)
    for rows, data in zip(gaps.values(), lines(bound).values(), strict=True):
        np.testing.assert_array_equal(np.stack(data, axis=1), rows)


def test_chapter_9_plots_the_roof_and_a_blank_difference(walked):
    roof, whole, parts, difference = named(walked, "9-gpu").figure.axes
    drawn = lines(roof)
    assert list(drawn) == ["the card can do", *gpu.KERNELS]
    for name, (size, count) in gpu.KERNELS.items():
        (x,), (y,) = drawn[name]
        assert x == count / size and y == gpu._reachable(x), "each kernel is on the roof"
    for axes, values in zip((whole, parts), gpu._split_noise(0)):
        np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert not difference.images[0].get_array().any()
    assert [line.get_ydata()[0] for line in parts.lines] == [49.5, 56.5]
