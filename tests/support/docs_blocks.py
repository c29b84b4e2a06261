"""Reads the README and the chapters, and runs what they show.

The convention: the ```python blocks of a file run in order, in one namespace; a ```text block that
follows one directly is its exact output, and a block that is not followed by one prints nothing.
```sh blocks hold commands: each line of `tinyddpm` must be one that the real parser takes. No other
language is allowed, so nothing shown goes unchecked.
"""

import contextlib
import importlib
import io
import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "docs").glob("[1-9]-*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs" / "README.md", *CHAPTERS]
LANGUAGES = ("python", "text", "sh")
# What may stand in a ```sh block beside tinyddpm's own commands: how to get and test it.
OTHER_COMMANDS = (
    "python3 -m venv",
    ". ",
    "pip install",
    "pytest",
    "python -m benchmarks",
    "git clone",
    "cd ",
)

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


def run(text, name):
    """Run a page's python blocks in order, in one namespace; returns [(block, what it printed)]."""
    namespace, printed = {"__name__": name}, []
    for block in blocks(text):
        if block.language != "python":
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
