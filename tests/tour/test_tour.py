"""The tour: its files and words, what its figures plot, and that a seed gives the same bytes."""

import base64
import html
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.docs_blocks import resolve

from tinyddpm import noise
from tinyddpm.cli import commands as cli
from tinyddpm.errors import InputError
from tinyddpm.exact import Gaussian
from tinyddpm.plots import figures
from tinyddpm.process import reverse_mean
from tinyddpm.schedule import linear
from tinyddpm.tour import chapters as tour
from tinyddpm.tour import forward, gpu, gradients, learned, spirals

ROOT = pathlib.Path(__file__).parents[2]
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
TRAINED = ("5-training", "6-sampling", "8-likelihood")


# The whole.


def test_it_leaves_nine_figures_and_a_page_and_nothing_else(walked):
    out, chapters, _ = walked
    assert [chapter.name for chapter in chapters] == NAMES
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.png" for name in NAMES),
        "index.html",
        "mine.txt",
    }
    assert (out / "mine.txt").read_text() == "kept"
    for chapter in chapters:
        path = out / f"{chapter.name}.png"
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert image.width == 1000 and 300 < image.height < 700
            shown = np.asarray(image.convert("RGB")).astype(int)
        # A palette of 256 colours is chosen to cover all: no pixel is far from its own.
        assert np.abs(shown - np.asarray(figures.to_image(chapter.figure))).max() < 24
    assert (out / "index.html").stat().st_size < 1_500_000


def test_its_text_is_short_and_plain(walked):
    _, chapters, texts = walked
    assert len(texts) == 10  # and a line before the training
    for chapter in chapters:
        (words,) = [each for each in texts if each.startswith(chapter.name[0] + "  ")]
        rows = words.rstrip("\n").split("\n")
        assert max(map(len, rows)) <= 80 and words.isascii() and "\033" not in words
        assert 5 <= len(rows) - 2 <= 12, f"{chapter.name}: {len(rows) - 2} lines"
        assert "nan" not in words.split() and "inf" not in words.split()
        assert len(chapter.alt) > 60


def test_what_it_tells_to_read_exists(walked):
    for chapter in walked[1]:
        for name in chapter.read.split(", "):
            resolve(name)


def test_the_same_seed_gives_the_same_bytes(walked, tiny, tmp_path):
    out, _, texts = walked
    again = []
    tour.tour(tmp_path, show=again.append, setting=tiny)
    assert again == texts
    for name in (*(f"{name}.png" for name in NAMES), "index.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def parted(text):
    """A text's words and its numbers, apart."""
    pattern = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
    numbers = [float(number.replace(",", "")) for number in re.findall(pattern, text)]
    return re.sub(pattern, "#", text), np.array(numbers)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRAINED])
def test_the_committed_page_has_these_sentences(walked, name):
    """Another BLAS rounds otherwise: the last digit may be another, and rounding errors may too."""
    (chapter,) = [chapter for chapter in walked[1] if chapter.name == name]
    page = (ROOT / "docs" / "tour" / "index.html").read_text(encoding="utf-8")
    figure = page[page.index(f'alt="{html.escape(chapter.alt)}"') :].split("</figure>")[0]
    items = map(html.unescape, re.findall(r"<li>(.*?)</li>", figure))
    for here, there in zip(chapter.sentences(), items, strict=True):
        (words, numbers), (committed, values) = parted(here), parted(there)
        assert words == committed
        np.testing.assert_allclose(numbers, values, rtol=0.02, atol=1e-9)
    assert f"Read: <code>{html.escape(chapter.read)}</code>" in figure


def test_the_committed_page_holds_the_committed_figures():
    page = (ROOT / "docs" / "tour" / "index.html").read_text(encoding="utf-8")
    embedded = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    for name, source in zip(NAMES, embedded, strict=True):
        assert base64.b64decode(source) == (ROOT / "docs" / "tour" / f"{name}.png").read_bytes()


def test_the_committed_page_and_figures_are_whole():
    folder = ROOT / "docs" / "tour"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.png" for name in NAMES),
        "index.html",
    }
    assert (folder / "index.html").stat().st_size < 1_500_000
    assert all(path.stat().st_size < 150_000 for path in folder.glob("*.png"))


def test_a_folder_or_backend_that_cannot_be_is_refused(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        tour.tour(tmp_path / "file" / "tour", setting=tiny)
    with pytest.raises(InputError, match="backend"):
        spirals.learn(tiny, backend="abacus")
    assert cli.main(["tour", "--out", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_control_c_is_one_line(tmp_path):
    command = [sys.executable, "-m", "tinyddpm", "tour", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("1  ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "tinyddpm: interrupted\n"
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".png"]


# The data and the training.


def test_the_spirals_are_two_arms_each_the_other_turned_by_half(truth):
    x = truth.sample(500, 3)
    # exp(log p) of sums in another order: 1e-12 is some thousand roundings of a log density of a
    # few units.
    np.testing.assert_allclose(truth.log_density(-x, 0), truth.log_density(x, 0), atol=1e-11)
    assert 0.85 < np.abs(x).max() < 1.2
    middle = np.stack([part.mean for part in truth.parts])
    reach = np.hypot(*middle.T)[: spirals.PARTS]
    assert (np.diff(reach) > 0).all() and reach[0] > spirals.INNER and reach[-1] < spirals.OUTER
    for i in range(1, spirals.PARTS - 1):
        part, ahead = truth.parts[i], middle[i + 1] - middle[i - 1]
        along = part.axes[:, part.spectrum.argmax()]
        assert abs(along @ ahead) / np.hypot(*ahead) > 0.98, "each Gaussian lies along its arm"
        np.testing.assert_allclose(part.spectrum.min(), spirals.ACROSS**2)


def test_distance_is_the_mean_square_error_of_v(truth):
    """For a denoiser off by sqrt(alpha_bar_t) d in eps_hat, v_hat is off by d: the distance is d^2
    (Salimans22).
    """
    test = spirals._test(truth, 0)
    assert spirals.distance(truth, truth.s, test) == 0
    for d in (0.1, 2.0):
        off = spirals.distance(
            lambda x, t, d=d: truth(x, t) + d * np.sqrt(truth.s.alpha_bar[t]), truth.s, test
        )
        assert off == pytest.approx(d**2, rel=1e-9)


def test_training_comes_nearer_to_the_truth():
    trained = spirals.learn(spirals.Setting(steps=300, batch=64, hidden=16, checks=4), seed=1)
    test = spirals._test(trained.truth, 1)
    fresh, after = (spirals.distance(net, trained.s, test) for net in (trained.fresh, trained.ema))
    assert after < 0.5 * fresh
    assert len(trained.losses) == 300 and trained.losses[-50:].mean() < trained.losses[:10].mean()
    np.testing.assert_allclose(
        trained.checks[-1], [300, spirals.distance(trained.raw, trained.s, test), after]
    )


# The chapters' numbers.


def test_the_product_of_two_bells_is_the_posterior():
    """On a grid of 0.002: the trapezium rule of smooth bells is exact up to what their tails leave
    outside, 1e-4.
    """
    bells = forward._product(linear(10), 4, np.array([-0.8]), np.array([0.9]))
    x, prior, likelihood, product, closed = bells.values()
    step = x[1] - x[0]
    assert np.abs(product - closed).max() < 1e-3 * closed.max()
    assert closed.sum() * step == pytest.approx(
        1, abs=1e-3
    ) and prior.sum() * step == pytest.approx(1, abs=1e-2)
    assert likelihood.max() < closed.max() > prior.max(), "it is narrower than both"


def test_the_wrong_alpha_leaves_the_range_of_numbers_and_the_right_one_stays():
    """sigma^2 = beta keeps variance 1: 256 samples know their size to 1 / sqrt(512) = 0.044, 5 of
    which are 0.22.
    """
    s = linear(1000)
    right, wrong = (forward._chain(s, mean, 0)[1] for mean in (reverse_mean, forward._wrong_mean))
    assert np.abs(right - 1).max() < 0.25
    assert np.isinf(wrong[-1]) or wrong[-1] > 1e300


@pytest.mark.parametrize("name", ["linear", "convolution", "GroupNorm", "attention"])
def test_the_gap_to_finite_differences_is_a_v(name):
    """Its right arm has slope 2 within 0.1 (the next term is h^4), its left one goes down to
    rounding / h.
    """
    case = gradients._operations(0)[name]
    steps = np.geomspace(1e-4, 3e-3, 6)
    gaps = [gradients._gap(*case, h, 0) for h in steps]
    assert np.polyfit(np.log(steps), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.1)
    assert gradients._gap(*case, 1e-6, 0) < 1e-8 < gradients._gap(*case, 1e-12, 0)


def test_a_wrong_backward_shows_no_v():
    arrays, forward, _ = gradients._operations(0)["convolution"]
    assert (
        min(gradients._gap(arrays, forward, gradients._unturned, h, 0) for h in (1e-8, 1e-6, 1e-4))
        > 0.1
    )


def test_the_bound_comes_closer_with_more_steps_and_beta_is_the_better_variance():
    gaps = learned._gaps(256, 60, 0)
    assert (np.diff(gaps["beta"][:, 1]) < 0).all() and (gaps["beta"][:, 1] > 0).all()
    assert (gaps["beta_tilde"][2:, 1] > gaps["beta"][2:, 1] + 0.2).all()


def test_the_gap_is_small_where_log_p_is_not(monkeypatch):
    """For N(0, 16 I), -log p is 4.05 bits a dimension, and the gap at T = 60 a small part of it."""
    monkeypatch.setattr(learned, "spirals", lambda s: Gaussian([0.0, 0.0], 16.0, s))
    gap = learned._gaps(2000, 60, 0)["beta"][-1, 1]
    assert 0 < gap < 0.5


def test_the_second_order_solver_wins_on_the_exact_mixture(walked):
    trained = spirals.learn(
        spirals.Setting(steps=1, batch=4, hidden=4, points=8, checks=1, solved=48, fine=150)
    )
    errors = learned._solver_errors(trained)
    assert [evaluations for evaluations, _ in errors["heun"]] == [9, 19, 39, 79, 159]
    for name, rows in errors.items():
        assert rows[-1, 1] < 0.5 * rows[0, 1], name
    assert errors["dpmpp_2m"][3, 1] < 0.5 * errors["ddim"][3, 1]


def test_the_roofline_is_the_benchmark_s_and_the_docs():
    """The card and the bytes are kernels/gpu/roofline.py's; the two counts from SASS are those that
    README.md or docs/benchmarks.md print.
    """
    roofline = pytest.importorskip("tinyddpm.kernels.gpu.roofline")
    card = roofline.CARDS["h100"]
    assert pytest.approx(card.budget(12)) == gpu.LANES * gpu.CLOCK * 12 / gpu.BANDWIDTH
    kernels = dict(
        zip(
            ("noised_drawn", "reverse_drawn", "normal", "noised", "adamw_ema", "norm_silu"),
            gpu.KERNELS.values(),
        )
    )
    assert all(size == roofline.BYTES[name] for name, (size, _) in kernels.items())
    docs = [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"]
    text = "".join(path.read_text(encoding="utf-8") for path in docs if path.exists())
    assert all(str(kernels[name][1]) in text for name in ("noised_drawn", "reverse_drawn"))
    bound = {name: count / size > card.budget(1) for name, (size, count) in kernels.items()}
    assert [name for name, arithmetic in bound.items() if arithmetic] == ["normal"]


def test_noise_does_not_care_how_a_batch_is_split():
    whole, parts = gpu._split_noise(4)
    assert np.array_equal(whole, parts) and len(np.unique(whole)) > 0.99 * whole.size
    assert not np.array_equal(whole[50:57], noise.normal((7, 24), 4, noise.EPS, 1, 0))


def test_sentences_go_on_until_they_end():
    chapter = spirals.Chapter("0", "", None, "", ["One", "two.", "Three (3)", "four: 4,", "5."], "")
    assert chapter.sentences() == ["One two.", "Three (3)", "four: 4, 5."]
