"""The README: short, in its order, its code and figures those of the files that it names."""

import re

from support import docs_blocks as pages
from support.docs_blocks import DOCS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN = README.split("\n## ")[0]
# The modules of version 0.1.
BEFORE = set(
    re.findall(
        r"\w+",
        """
        backend checkpoint cli closed_form curves data editing errors exact figures flow formulas
        guidance likelihood lock machine marks metrics mlp model noise ops optim options page
        params plots process readers run runlog samplers schedule solvers steps terminal tour
        tour_code tour_figures tour_learnt tour_model tour_scores train unet
        """,
    )
)


def test_it_is_short():
    assert README.count("\n") <= 150


def test_the_first_screen_has_pictures_equation_code_and_commands_in_this_order():
    marks = ["docs/samples.png", "docs/reverse.gif", "$$", "```python", "```sh"]
    places = [FIRST_SCREEN.index(mark) for mark in marks]
    assert places == sorted(places) and FIRST_SCREEN.count("\n") <= 60
    assert [words[0] for words in pages.commands(FIRST_SCREEN)][-1] == "pytest"


def test_the_code_of_the_equation_is_the_samplers_own():
    """Word for word: `test_docs.py::test_what_is_quoted_is_in_the_source` compares it."""
    block = next(block for block in pages.blocks(README) if block.language == "python")
    quoted = {(file, function) for file, function, _ in pages.quotations(block)}
    assert ("tinyddpm/samplers.py", "ancestral") in quoted


def test_the_second_thing_shown_is_the_whole_example():
    found = [block for block in pages.blocks(README) if block.language == "python"]
    text = (ROOT / "examples" / "minimal.py").read_text(encoding="utf-8")
    assert pages.quotations(found[1]) == [("examples/minimal.py", None, text)]
    assert len(found) == 2


def rows(text):
    """The cells of a text's table rows."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_its_figures_are_those_of_the_benchmarks_page():
    """One table of two kinds of CPU, the page's two; "best of 4" is the least of torch's."""
    header = next(line for line in README.splitlines() if line.startswith("| network | step |"))
    table = rows(README.split(header)[1].split("\n\n")[0])
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8").split("| network | step |")
    zen3, zen5 = (rows(part.split("\n\n")[0])[-6:] for part in page[1:3])
    assert len(table) == 6
    for mine, older, newer in zip(table, zen3, zen5, strict=True):
        best = [min((cell for cell in row[4:8] if cell), key=float) for row in (older, newer)]
        assert mine == [*older[:4], best[0], *newer[2:4], best[1]], mine


def test_no_gpu_figure_is_claimed_of_the_present_code():
    for text in (README, (DOCS / "benchmarks.md").read_text(encoding="utf-8")):
        assert "No GPU figure of the present code" in re.sub(r"\s+", " ", text)


def test_the_upgrade_note_names_modules_that_moved_and_where_they_are():
    """`old old` → `new`: the old are no longer in tinyddpm/ itself, the new is a module there."""
    note = README.split("\n## Upgrading")[1]
    moves = re.findall(r"`([a-z_ ]+)` → `([a-z_.]+)`", note.replace("\n", " "))
    package = ROOT / "tinyddpm"
    assert len(moves) >= 10
    for old, new in moves:
        place = package.joinpath(*new.split("."))
        assert place.with_suffix(".py").exists() or place.is_dir(), new
        for name in old.split():
            assert not (package / f"{name}.py").exists(), name
            assert not place.is_dir() or (place / f"{name}.py").exists(), f"{name} in {new}"


def test_each_module_that_moved_is_in_the_note():
    note = README.split("\n## Upgrading")[1]
    package = ROOT / "tinyddpm"
    moved = {name for name in BEFORE if not (package / f"{name}.py").exists()}
    moved = {name for name in moved if not name.startswith("tour_")}
    kept = {name for name in moved if (package / name).is_dir()}  # a module is now a folder
    assert moved - kept <= set(re.findall(r"\w+", note))
