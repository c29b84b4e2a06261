"""page.py and its template: one file that needs nothing else, and runs in a browser."""

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tinyddpm import noise, process
from tinyddpm.tour import page, spirals

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
NAMES = (
    "1-destroying-data",
    "2-bayes",
    "3-the-bound",
    "4-gradient-by-hand",
    "5-training",
    "6-sampling",
    "7-scores",
    "8-likelihood",
    "9-gpu",
)
TINY = spirals.Setting(steps=3, batch=8, hidden=8, points=32, checks=2, cloud=40, frames=5)


@pytest.fixture(scope="module")
def learned():
    return spirals.learn(TINY, seed=2)


@pytest.fixture(scope="module")
def arrays(learned):
    return page.motion(learned)


@pytest.fixture(scope="module")
def text(arrays):
    """A page with nine figures that are grey and 1000 pixels wide, and words that HTML must not
    take for its own.
    """
    chapters = [
        spirals.Chapter(
            name, f"T<{name}>", None, f'alt "{name}" & more', [f"{name}: 1 < 2."], "a & b"
        )
        for name in NAMES
    ]
    pictures = {name: Image.new("RGB", (1000, 30), "grey") for name in NAMES}
    return page.build(chapters, pictures, arrays, seed=2)


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and whether each was closed in its turn."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another"

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_tag_is_closed_and_every_placeholder_filled(text):
    assert Tags(text).open == []
    assert "<!--" not in text and "/* arrays */" not in text and "(seed 2)" in text
    assert not any(word in text for word in ("T<1-", "1 < 2.", "a & b"))


def test_it_asks_for_nothing_from_elsewhere(text):
    for tag, attributes in Tags(text).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert re.match(r"data:|#", attributes.get(name) or "#"), (tag, name)
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon|https?://", text
    )


def test_the_chapters_are_linked_where_they_are(arrays, tmp_path):
    chapters = [spirals.Chapter(name, name, None, name, ["One."], "code") for name in NAMES]
    pictures = {name: Image.new("RGB", (1000, 30), "grey") for name in NAMES}
    (tmp_path / "tour").mkdir()
    (tmp_path / "2-bayes.md").touch()
    text = page.build(chapters, pictures, arrays, folder=tmp_path / "tour")
    links = [link["href"] for link in Tags(text).all("a")]
    assert links == [*(f"#c{i}" for i in range(1, 10)), "../2-bayes.md"]
    assert all(f"docs/{name}.md" in text for name in NAMES)


def test_every_formula_is_mathml_with_its_number(text):
    boxes = re.findall(r'<div class="formula">(.*?)</div>', text, re.S)
    assert len(boxes) == 6
    for box in boxes:
        assert re.match(r"<span>(Ho20|Song21[ab]) eq. \d+</span>\n<math display=.block.>", box)


def test_it_is_for_everyone(text):
    tags = Tags(text)
    assert tags.all("html") == [{"lang": "en"}] and tags.all("title") == [{}]
    assert any("width=device-width" in meta.get("content", "") for meta in tags.all("meta"))
    assert len(tags.all("img")) == 9 and all(
        img["alt"] and img["width"] == "1000" for img in tags.all("img")
    )
    assert all(tag["aria-label"] for kind in ("input", "button", "nav") for tag in tags.all(kind))
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in (attributes for _, attributes in tags.tags):
        named = [attributes.get(name, "") for name in ("aria-labelledby", "aria-describedby")]
        assert set(" ".join(named).split()) | {attributes.get("href", "#")[1:]} - {"", "ata:,"} <= {
            *ids,
            "",
            "ata:,",
        }
    assert [link["href"] for link in tags.all("a")] == [f"#c{i}" for i in range(1, 10)]
    assert "prefers-reduced-motion" in text and "prefers-color-scheme: dark" in text


def unpacked(part):
    return part["unit"] * np.frombuffer(base64.b64decode(part["data"]), "<i2")


def test_the_animations_hold_the_process_itself(learned, arrays):
    """What the page computes from the embedded x_0, eps and alpha_bar is Ho20 eq. 4, to half a unit
    of int16.
    """
    s = learned.s
    alpha_bar = np.frombuffer(base64.b64decode(arrays["alpha_bar"]), "<f4")
    np.testing.assert_array_equal(alpha_bar, s.alpha_bar.astype(np.float32))
    x0, eps = (unpacked(arrays[name]).reshape(-1, 2) for name in ("x0", "eps"))
    assert len(x0) == TINY.cloud and learned.truth.log_density(x0, 0).mean() > -1, "x0 is data"
    drawn = noise.normal((TINY.cloud, 2), learned.seed + 5, noise.EPS)
    assert np.abs(eps - drawn).max() <= 0.5 * arrays["eps"]["unit"] * (1 + 1e-9)
    for t in (1, 500, 1000):
        seen = np.sqrt(alpha_bar[t]) * x0 + np.sqrt(1 - alpha_bar[t]) * eps
        # alpha_bar in float32 is off by 3e-8, so sqrt(1 - alpha_bar_1), 0.006, by 3e-6, which eps
        # may quadruple.
        assert np.abs(seen - process.q_sample(s, x0, t, eps)).max() < 1.2e-5
    frames = unpacked(arrays["reverse"]).reshape(TINY.frames + 1, TINY.cloud, 2)
    assert (
        arrays["times"][0] == s.T and arrays["times"][-1] == 0 and all(np.diff(arrays["times"]) < 0)
    )
    assert len(arrays["times"]) == len(frames) and arrays["T"] == s.T
    start = spirals.start(learned, TINY.cloud)
    assert np.abs(frames[0] - start).max() <= 0.5 * arrays["reverse"]["unit"] * (1 + 1e-9)
    t, t_next = arrays["times"][:2]
    x0_hat = learned.ema.x0_hat(start, t)
    ddim = np.sqrt(s.alpha_bar[t_next]) * x0_hat + np.sqrt(
        1 - s.alpha_bar[t_next]
    ) * process.eps_from_x0(s, start, t, x0_hat)
    # Beside half a unit, the net's prediction is float32 and x0_hat is divided by
    # sqrt(1 - alpha_bar), near 1.
    assert np.abs(frames[1] - ddim).max() <= 0.5 * arrays["reverse"]["unit"] + 1e-4


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.array([-2.0, 1.0, 0.5]), np.linspace(-1e-3, 1e-3, 7)]
)
def test_scaled_keeps_an_array_to_half_a_unit(array):
    back = unpacked(page.scaled(array))
    assert np.abs(back - array).max() <= 0.5 * np.abs(array).max() / page.WHOLE * (1 + 1e-9)


# In a browser. The page is put into a frame as wide as a phone; a script then does what a reader
# would.

ASKED = """
<script>
const seen = {}, frame = document.querySelector("iframe");
function pixels(canvas) {       // read from a copy that is made for reading
  const copy = document.createElement("canvas");
  copy.width = copy.height = canvas.width;
  const pen = copy.getContext("2d", {willReadFrequently: true});
  pen.drawImage(canvas, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.width).data;
}
function inked(canvas) {
  return pixels(canvas).filter((value, i) => i % 4 == 3 && value > 0).length;
}
function spread(canvas) {       // of the dots, in the plane's units: the canvas shows [-2.6, 2.6]^2
  const side = canvas.width, data = pixels(canvas);
  let sum = 0, square = 0, count = 0;
  for (let i = 0; i < side * side; i++) {
    if (data[4 * i + 3] < 128) continue;
    const x = ((i % side) / side - 0.5) * 5.2, y = (0.5 - Math.floor(i / side) / side) * 5.2;
    sum += x + y; square += x * x + y * y; count += 1;
  }
  return [sum / count, square / count];
}
frame.addEventListener("load", () => setTimeout(() => {
  const inside = frame.contentWindow, page = inside.document, body = page.body;
  const input = page.querySelector("#forward input");
  const button = page.querySelector("#forward button");
  seen.drawn = [Number(body.dataset.forwardDrawn), Number(body.dataset.reverseDrawn)];
  seen.playing = button.textContent;
  input.value = 500;
  input.dispatchEvent(new inside.Event("input"));
  seen.forward = body.dataset.forwardText;
  seen.shown = page.querySelector("#forward output").textContent;
  seen.spread = spread(page.querySelector("#forward canvas"));
  seen.spoken = input.getAttribute("aria-valuetext");
  seen.paused = button.textContent;
  const reverse = page.querySelector("#reverse input");
  reverse.value = reverse.max;
  reverse.dispatchEvent(new inside.Event("input"));
  seen.reverse = body.dataset.reverseText;
  seen.ink = [...page.querySelectorAll("canvas")].map(inked);
  seen.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  seen.width = inside.innerWidth;
  seen.paper = inside.getComputedStyle(body).backgroundColor;
  seen.ground = inside.getComputedStyle(page.querySelector(".scroll")).backgroundColor;
  seen.figure = inside.getComputedStyle(page.querySelector(".scroll img")).filter;
  seen.formulas = [...page.querySelectorAll("math")].map(each => each.clientHeight);
  seen.problems = inside.problems;
  button.click();
  setTimeout(() => {
    seen.again = Number(input.value);
    button.click();
    document.body.dataset.found = JSON.stringify(seen);
  }, 700);
}, 700));
</script>
"""
# Errors are noted; and without a screen the browser gives out frames as it likes, so a timer takes
# their place.
NOTED = """<script>
window.problems = [];
addEventListener("error", e => problems.push(e.message));
window.requestAnimationFrame = f => setTimeout(() => f(performance.now()), 16);
</script>"""


def browse(tmp_path, text, *flags):
    """What the script above found out, with the page in a frame of 360 pixels; flags: the
    browser's.
    """
    inner = html.escape(text.replace("<style>", NOTED + "<style>", 1))
    harness = tmp_path / "harness.html"
    harness.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body><iframe width="360" height="800" '
        f'style="border:0" srcdoc="{inner}"></iframe>{ASKED}</body>',
        encoding="utf-8",
    )
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'user'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        *flags,
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<body data-found="([^"]*)"', done.stdout)
    assert found, f"the script did not come to its end: {done.stdout[-500:]} {done.stderr[-500:]}"
    return json.loads(html.unescape(found[1]))


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome here: chromium, google-chrome"
)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(tmp_path, text, learned, arrays, scheme):
    seen = browse(tmp_path, text, f"--blink-settings=preferredColorScheme={int(scheme == 'light')}")
    assert seen["problems"] == [] and seen["width"] == 360 and seen["overflow"] <= 0
    assert min(seen["drawn"]) > 1 and seen["playing"] == "Pause", "it plays by itself"
    alpha_bar = learned.s.alpha_bar[500]
    assert (
        seen["forward"].startswith("t = 500,") and f"alpha_bar = {alpha_bar:.4f}" in seen["forward"]
    )
    assert float(seen["forward"].split("SNR = ")[1]) == pytest.approx(
        alpha_bar / (1 - alpha_bar), rel=5e-3
    )
    assert seen["shown"] == seen["spoken"] == seen["forward"]
    x0, eps = (unpacked(arrays[name]).reshape(-1, 2) for name in ("x0", "eps"))
    xt = process.q_sample(learned.s, x0, 500, eps)
    # Dots that overlap count once: of 40, one or two, so the pixels' mean square is near the
    # points' own.
    assert seen["spread"] == pytest.approx(
        [xt.sum(axis=1).mean(), (xt**2).sum(axis=1).mean()], rel=0.1, abs=0.1
    )
    assert seen["paused"] == "Play", "whoever moves the slider stops the play"
    assert seen["reverse"].startswith("t = 0,") and seen["again"] > 500, "and may set it off again"
    # A dot of radius 1.5 covers some 7 pixels; 40 of them, some over others or outside.
    assert min(seen["ink"]) > 40
    paper = sum(map(int, re.findall(r"\d+", seen["paper"])[:3]))
    assert paper > 700 if scheme == "light" else paper < 120
    white = seen["ground"] == "rgb(255, 255, 255)"
    assert white == (scheme == "light"), "the figures' sheet follows the scheme"
    assert ("invert" in seen["figure"]) == (scheme == "dark"), seen["figure"]
    # the six formulas are drawn as such: a fraction is higher than a line
    assert len(seen["formulas"]) == 6 and max(seen["formulas"]) > 30


@needs_browser
def test_nothing_moves_for_those_who_ask_for_that(tmp_path, text):
    seen = browse(tmp_path, text, "--force-prefers-reduced-motion")
    assert seen["drawn"] == [1, 1] and seen["playing"] == "Play" and seen["again"] > 500
