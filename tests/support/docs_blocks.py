"""Reads the README and the pages of docs/, and runs what they show.

The convention: the ```python blocks of a page run in order, in one namespace. A ```text block that
follows one directly is its exact output. Without one, a block prints nothing, or numbers: one for
each line `print(...)  # near 0.7, ...` or `# below 0.1, ...`, which the number must obey. A block
that begins with `# folder/file.py` or `# folder/file.py, function` is a quotation and is not run:
it must be that file, or lines of that function. ```sh blocks hold commands: each line of `tinyddpm`
must be one that the real parser takes. No other language is allowed, so nothing shown goes
unchecked.
"""

import ast
import contextlib
import functools
import importlib
import io
import pathlib
import re
import shlex
import textwrap
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
CHAPTERS = sorted(DOCS.glob("[1-9]-*.md"))
BESIDE = [
    DOCS / f"{name}.md"
    for name in (
        "equations",
        "samplers",
        "benchmarks",
        "guarantees",
        "fashion",
        "interop",
        "parallel",
    )
]
PAGES = [ROOT / "README.md", DOCS / "README.md", *CHAPTERS, *BESIDE]
LANGUAGES = ("python", "text", "sh")
# What may stand in a ```sh block beside tinyddpm's own commands: how to get and test it.
OTHER_COMMANDS = (
    "python3 -m venv",
    ". ",
    "pip install",
    "pytest",
    "python -m benchmarks",
    "git clone",
    "mpiexec -n",
    "cd ",
    ".ci/",
)

QUOTED = re.compile(r"^# (\w+/[\w/]+\.py)(?:, (\w+))?\n", re.MULTILINE)
KEY = r"\b[A-Z][A-Za-z]+\d\d[ab]?\b"  # a paper, as the docstrings cite it: Ho20, Song21a


class Block(NamedTuple):
    """One fenced block: its language, its text, the line it starts on, and the output shown under
    it, or None.
    """

    language: str
    text: str
    line: int
    shown: str | None


def blocks(text):
    """The fenced blocks of a page, each with the text block that follows it directly. Refuses other
    languages.
    """
    fences = list(re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", text, re.MULTILINE))
    assert text.count("```") == 2 * len(fences), "a fence is not closed, or is indented"
    found = []
    for fence, after in zip(fences, [*fences[1:], None]):
        line = text.count("\n", 0, fence.start()) + 1
        assert fence[1] in LANGUAGES, f"line {line}: no check is made of the language {fence[1]!r}"
        directly = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
        found.append(Block(fence[1], fence[2], line, after[2] if directly else None))
    previous = None
    for block in found:
        assert block.language != "text" or (
            previous and previous.language != "text" and previous.shown is not None
        ), f"line {block.line}: a text block is the output of the block above it, and there is none"
        previous = block
    return found


def prose(text):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def claims(code):
    """What the comments on a block's print lines state of the number printed.

    Returns [(word, number) or None, ...]: None for a line that states nothing.
    """
    found = []
    for line in code.splitlines():
        if line.startswith("print("):
            claim = re.search(r"# (near|below) (\d[\d.e-]*\d|\d)", line)
            found.append((claim[1], float(claim[2])) if claim else None)
    return found


def obeys(claim, value):
    """Whether a number is near another, within a tenth as another draw would be, or below it."""
    word, number = claim
    return abs(value - number) < 0.1 * number if word == "near" else value < number


def holds(block, printed):
    """Whether a block printed what is shown under it, or what the comments on its lines state."""
    stated = claims(block.text)
    if block.shown is not None or not any(stated):
        return printed == (block.shown or "")
    numbers = [float(line) for line in printed.splitlines()]
    return len(numbers) == len(stated) and None not in stated and all(map(obeys, stated, numbers))


def quotations(block):
    """What a block quotes, as [(file, function or None, text)]; [] for a block that is run."""
    if block.language != "python" or not QUOTED.match(block.text):
        return []
    parts = QUOTED.split(block.text)[1:]
    return [(*parts[i : i + 2], parts[i + 2]) for i in range(0, len(parts), 3)]


def is_quoted_rightly(file, function, text):
    """Whether the text is the whole file, or some lines of the function, one after the other."""
    source = (ROOT / file).read_text(encoding="utf-8")
    if function is None:
        return text == source
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    node = next(node for node in nodes if node.name == function)
    lines = source.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    count, wanted = text.count("\n"), textwrap.dedent(text)
    windows = ("".join(lines[i : i + count]) for i in range(len(lines) - count + 1))
    return count > 0 and any(textwrap.dedent(window) == wanted for window in windows)


def run(text, name):
    """Run a page's python blocks in order, in one namespace; returns [(block, what it printed)]."""
    namespace, printed = {"__name__": name}, []
    for block in blocks(text):
        if block.language != "python" or quotations(block):
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            # The newlines make a traceback's line numbers the page's own.
            exec(compile("\n" * block.line + block.text, name, "exec"), namespace)
        printed.append((block, out.getvalue()))
    return printed


def commands(text):
    """The commands of a page's ```sh blocks, as lists of words."""
    lines = [
        part.strip()
        for block in blocks(text)
        if block.language == "sh"
        for line in block.text.splitlines()
        for part in line.split("&&")
    ]
    return [shlex.split(line, comments=True) for line in lines if line and not line.startswith("#")]


def inline_formulas(text):
    """The formulas of a page's prose as (kind, formula): "block" for $$...$$, "plain" for $...$,
    "code" for $`...`$.
    """
    rest, found = prose(text), []
    for kind, pattern in (("block", r"\$\$(.*?)\$\$"), ("code", r"\$`(.*?)`\$")):
        found += [(kind, formula) for formula in re.findall(pattern, rest, re.DOTALL)]
        rest = re.sub(pattern, " ", rest, flags=re.DOTALL)
    rest = re.sub(r"`[^`\n]*`", " ", rest)
    found += [("plain", formula) for formula in re.findall(r"\$([^$]*)\$", rest)]
    assert rest.count("$") % 2 == 0, "a $ without its partner"
    return found


def resolve(name):
    """The object that a dotted name of tinyddpm stands for: "process.q_step", "nn.ops.Ops", or
    "ops.Ops" for short.

    Raises AttributeError.
    """
    parts, known = name.split("."), set(modules().values())
    for k in range(len(parts) - 1, 0, -1):
        if ".".join(["tinyddpm", *parts[:k]]) in known:
            module, rest = ".".join(["tinyddpm", *parts[:k]]), parts[k:]
            break
    else:
        module, rest = modules().get(parts[0], f"tinyddpm.{parts[0]}"), parts[1:]
    thing = importlib.import_module(module)
    for part in rest:
        thing = getattr(thing, part)
    return thing


def papers():
    """The keys of the papers that the package's docstring lists."""
    text = importlib.import_module("tinyddpm").__doc__
    return set(re.findall(rf"^ +({KEY}) {{2,}}\S", text, re.MULTILINE))


def modules():
    """The dotted names of tinyddpm's modules, by their last part."""
    root = ROOT / "tinyddpm"
    found = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted(root.rglob("*.py"))
    ]
    return {name.rpartition(".")[2]: name for name in found if not name.endswith("__")}


@functools.cache
def named_tests(name):
    """The test functions of one of our files, without those that are always skipped."""
    found = list(ROOT.glob(f"tests/*/{name}"))
    if not found:
        return frozenset()
    tree = ast.parse(found[0].read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not any(
            ast.unparse(mark).startswith("pytest.mark.skip") for mark in node.decorator_list
        )
    )
