"""The README and the chapters: code runs and prints what is shown, what is named exists, formulas
render.
"""

import re

import pytest
from support import docs_blocks as pages
from support.docs_blocks import CHAPTERS, DOCS, PAGES, ROOT, prose

from tinyddpm.cli import commands as cli
from tinyddpm.cli import options

TITLES = [
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
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path):
    return path.read_text(encoding="utf-8")


def test_there_are_nine_chapters():
    assert [path.stem for path in CHAPTERS] == TITLES


@page
def test_code_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = pages.run(read(path), path.name)
    assert len(results) >= 3 or path not in CHAPTERS
    for block, printed in results:
        assert pages.holds(block, printed), f"{path.name}:{block.line} prints\n{printed}"
    if path.stem == "samplers":  # whose first example trains into a folder
        assert (tmp_path / "runs" / "circle" / "checkpoint.npz").exists()


@page
def test_what_is_quoted_is_in_the_source(path):
    for block in pages.blocks(read(path)):
        for quotation in pages.quotations(block):
            assert pages.is_quoted_rightly(*quotation), f"{path.name}:{block.line}"


def test_a_wrong_quotation_is_found():
    file = "tinyddpm/process.py"
    line = "    return at(s, np.sqrt(s.alpha), t, x) * x + at(s, np.sqrt(s.beta), t, x) * eps\n"
    block = pages.Block("python", f"# {file}, q_step\n{line.strip()}\n", 1, None)
    assert pages.quotations(block) == [(file, "q_step", line.strip() + "\n")]
    assert pages.is_quoted_rightly(file, "q_step", line)
    assert pages.is_quoted_rightly(file, "q_step", line.lstrip())
    assert not pages.is_quoted_rightly(file, "q_step", line.replace("alpha", "beta"))
    assert not pages.is_quoted_rightly(file, "q_sample", line)
    assert not pages.is_quoted_rightly(file, None, line)
    assert not pages.is_quoted_rightly(file, "q_step", "")


def test_claims_are_read_and_held():
    code = "x = 1\nprint(x)   # near 0.7, the radius\nprint(2)  # below 1e-3\nprint(3)  # large\n"
    assert pages.claims(code) == [("near", 0.7), ("below", 1e-3), None]
    assert pages.obeys(("near", 0.7), 0.75) and not pages.obeys(("near", 0.7), 0.78)
    assert pages.obeys(("below", 1e-3), 9e-4) and not pages.obeys(("below", 1e-3), 2e-3)
    stated = pages.Block("python", "print(x)  # near 0.7\n", 1, None)
    assert pages.holds(stated, "0.71\n") and not pages.holds(stated, "0.9\n")
    assert not pages.holds(stated, "0.71\n0.71\n")
    half = pages.Block("python", "print(x)  # near 0.7\nprint(y)\n", 1, None)
    assert not pages.holds(half, "0.7\n1\n")


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nprint(1)\n```\n```text\n2\n```\n",  # another output than is shown
        "```python\nprint(1)\n```\n",  # an output that is not shown
        # shown, but not directly: nothing would compare it
        "```python\n1\n```\nSo:\n\n```text\n1\n```\n",
        "```pycon\n>>> 1\n2\n```\n",  # a language that is not checked
        "```\nx\n```\n",
        "```python\n1 / 0\n```\n",
        "```python\nprint(1)\n",  # a fence that is not closed
    ],
)
def test_a_page_that_lies_is_found(wrong):
    with pytest.raises((AssertionError, ZeroDivisionError)):
        for block, printed in pages.run(wrong, "wrong.md"):
            assert pages.holds(block, printed)


def parser():
    """The real command line's parser, whose commands do nothing."""
    return (
        cli.parser()
        if hasattr(cli, "parser")
        else options.parser(*[print] * (options.parser.__code__.co_argcount))
    )


@page
def test_commands_are_real(path, capsys):
    """Each tinyddpm command is taken by the parser: every subcommand, option and choice exists."""
    for words in pages.commands(read(path)):
        if words[0] == "tinyddpm":
            try:
                parser().parse_args(words[1:])
            except SystemExit as stopped:
                assert stopped.code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
        else:
            assert " ".join(words).startswith(pages.OTHER_COMMANDS), " ".join(words)


@page
def test_what_pytest_is_asked_for_exists(path, request):
    """In blocks and in prose: the folders, the markers and our own options."""
    text = read(path)
    asked = [words for words in pages.commands(text) if words[0] == "pytest"]
    asked += [words.split() for words in re.findall(r"`(pytest[^`\n]*)`", prose(text))]
    markers = [line.split(":")[0] for line in request.config.getini("markers")]
    for words in asked:
        for word, after in zip(words[1:], [*words[2:], ""]):
            if word == "-m":
                assert after in markers, after
            elif word.startswith("--"):
                assert request.config.getoption(word) is not None, word
            elif "/" in word:
                assert (ROOT / word).exists(), word


def test_listing_the_backends_runs(capsys):
    assert ["tinyddpm", "backends"] in pages.commands(read(CHAPTERS[8]))
    assert cli.main(["backends"]) == 0
    assert "numpy" in capsys.readouterr().out


@page
def test_links_and_figures_exist(path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", prose(read(path))):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@chapter
def test_a_chapter_has_its_figure_its_length_and_its_neighbours(path):
    text = read(path)
    assert re.findall(r"!\[[^\]]+\]\((.*)\)", text) == [f"tour/{path.stem}.png"]
    assert 120 <= text.count("\n") <= 264
    place = TITLES.index(path.stem)
    for neighbour in TITLES[max(place - 1, 0) : place] + TITLES[place + 1 : place + 2] + ["README"]:
        assert f"]({neighbour}.md)" in text, neighbour


def test_the_index_names_every_page_once():
    index = read(DOCS / "README.md")
    for path in DOCS.glob("*.md"):
        assert index.count(f"({path.name})") == (path.name != "README.md"), path.name
        assert path in PAGES, path.name


@page
def test_what_it_names_exists(path):
    """`module.function` and `file.py` in a page's prose are really there."""
    text = prose(read(path))
    for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)(?:\([^`]*\))?`", text):
        module = name.split(".")[0]
        if name.endswith((".py", ".md", ".npz", ".png", ".gif", ".jsonl", ".json", ".npy")):
            continue
        if module in pages.modules():
            pages.resolve(name)
        elif module in ("Ops", "UNet", "Model", "Schedule"):
            home = {"Ops": "ops", "UNet": "unet", "Model": "model", "Schedule": "schedule"}[module]
            pages.resolve(f"{home}.{name}")
    for name in re.findall(r"`((?:tinyddpm|tests|kernels|benchmarks)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(\w+(?:/\w+)*\.py)`", text):
        folders = [ROOT / folder for folder in ("tinyddpm", "tests", "benchmarks", "kernels", ".")]
        found = [(folder / name).exists() or list(folder.glob(f"*/{name}")) for folder in folders]
        assert any(found), name
    for file, test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", text):
        assert test in pages.named_tests(file), f"{file}::{test}"


@page
def test_lines_are_short_outside_tables(path):
    for number, line in enumerate(read(path).splitlines(), 1):
        assert len(line) <= 100 or line.lstrip("> ").startswith("|"), f"{path.name}:{number}"


def faults(text):
    """What would keep a page's formulas from rendering on a code host, as (formula, why)."""
    for kind, formula in pages.inline_formulas(text):
        if not formula.strip():
            yield formula, "empty"
        if formula.count("{") != formula.count("}"):
            yield formula, "braces"
        if formula.count(r"\left") - formula.count(r"\leftarrow") != formula.count(
            r"\right"
        ) - formula.count(r"\rightarrow"):
            yield formula, "left without right"
        if re.search(r"\\(newcommand|def|begin\{(?!aligned|pmatrix|cases))", formula):
            yield formula, "a command that is not there"
        if kind != "block" and "\n" in formula:
            yield formula, "broken over two lines"
        if re.search(r"^[-+*>#=] ", formula, re.MULTILINE):
            yield formula, "a line that Markdown takes for a list"
        if kind == "code":
            yield formula, "$`...`$, which few viewers know: write $...$"
        # Markdown reads these first: write \lt, \parallel, \thinspace, {SNR_t}
        marks = r"(?<![A-Za-z0-9])_|\*|<|\\[^A-Za-z]"
        if kind == "plain" and (formula != formula.strip() or re.search(marks, formula)):
            yield formula, "read as Markdown"
    inline = re.sub(r"\$\$.*?\$\$|`[^`\n]*`", " ", pages.prose(text), flags=re.DOTALL)
    for before, formula, after in re.findall(r"(?s)(^|.)\$([^$]+)\$(.|$)", inline):
        if before.isalnum() or after.isalnum():
            yield formula, "a $ beside a letter or digit is money"
    for row in re.findall(r"^(?:> )?\|.*", inline, re.MULTILINE):
        for formula in re.findall(r"\$([^$]+)\$", row):
            if "|" in formula:
                yield formula, "a bar that ends a table's cell: write \\vert"


@page
def test_formulas_render(path):
    assert not list(faults(read(path)))


@pytest.mark.parametrize(
    "wrong",
    [
        r"$\hat{x}_0$",
        r"$\{1\}$",
        r"$a\,b$",
        "$`a`$",
        r"$\mathrm{SNR}_t$",
        "$x$1",
        "a$x$",
        "\n\n| $|x|$ | 1 |\n",
        r"$a * b$",
        r"$\frac{1}{2$",
        r"$ x $",
        r"$$\left( x$$",
        r"$$\newcommand{\a}{b}$$",
        "$$a\n+ b$$",
        "$a\nb$",
    ],
)
def test_a_formula_that_would_not_render_is_found(wrong):
    assert list(faults(f"Let {wrong} be.\n"))


@page
def test_citations_are_papers_that_the_package_lists(path):
    places = r"(?= (?:eq|sec|Alg|[Aa]pp|below|fig)|[,);']|$)"
    cited = set(re.findall(pages.KEY + places, prose(read(path)), re.MULTILINE))
    assert cited <= pages.papers(), cited - pages.papers()


def test_pages_show_code_at_all():
    """The harness sees the blocks that are there."""
    assert sum(len(pages.blocks(read(path))) for path in CHAPTERS) >= 60
