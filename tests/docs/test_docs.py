"""The README and the chapters: code runs and prints what is shown, what is named exists, formulas
render.
"""

import re

import pytest
from support import docs_blocks as pages
from support.docs_blocks import CHAPTERS, PAGES, ROOT, prose

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


@chapter
def test_code_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = pages.run(read(path), path.name)
    assert len(results) >= 3
    for block, printed in results:
        assert printed == (block.shown or ""), f"{path.name}:{block.line}"


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
            assert printed == (block.shown or "")


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
    assert 120 <= text.count("\n") <= 220
    place = TITLES.index(path.stem)
    for neighbour in TITLES[max(place - 1, 0) : place] + TITLES[place + 1 : place + 2] + ["README"]:
        assert f"]({neighbour}.md)" in text, neighbour
    index = read(ROOT / "docs" / "README.md")
    assert index.count(f"({path.name})") == 1


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
    for name in re.findall(r"`(\w+\.py)`", text):
        folders = ("tinyddpm", "tests", "benchmarks", "kernels", ".")
        assert any(list((ROOT / folder).rglob(name)) for folder in folders), name


@chapter
def test_lines_are_short_outside_tables(path):
    for number, line in enumerate(read(path).splitlines(), 1):
        assert len(line) <= 120 or line.lstrip("> ").startswith("|"), f"{path.name}:{number}"


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
        # Markdown reads these first; $`...`$ keeps it out
        marks = r"(?<![A-Za-z0-9])_|\*|<|\\[^A-Za-z]"
        if kind == "plain" and (formula != formula.strip() or re.search(marks, formula)):
            yield formula, "needs $`...`$"


@page
def test_formulas_render(path):
    assert not list(faults(read(path)))


@pytest.mark.parametrize(
    "wrong",
    [
        r"$\hat{x}_0$",
        r"$\{1\}$",
        r"$a\,b$",
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
