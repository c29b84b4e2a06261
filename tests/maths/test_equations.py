"""The table of docs/equations.md is true: the function is there, it cites the equation, the test
proves it.

And no docstring cites a paper that the package does not list.
"""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest
from support.docs_blocks import DOCS, KEY, ROOT, named_tests, papers, resolve

import tinyddpm
from tinyddpm import likelihood, samplers

PAPERS = papers()


def numbers(text):
    """The whole numbers in "6, 7" or "6-7" or "12 and 16"."""
    found = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def cited(text):
    """The places that a text cites, as {(key, kind, number)}: of eq., Algorithm and section, until
    the next key.
    """
    found = set()
    parts = re.split(rf"({KEY})", re.sub(r"\s+", " ", text))
    for key, rest in zip(parts[1::2], parts[2::2]):
        rest = re.split(r"[;)]|, the |\. [A-Z]", rest)[0]
        listed = r"((?:\d+(?:-\d+)?)(?:(?:, | and )\d+(?:-\d+)?)*)"
        for kind, pattern in (("eq", r"eq\. "), ("Algorithm", r"Algorithm ")):
            for match in re.findall(pattern + listed, rest):
                found |= {(key, kind, number) for number in numbers(match)}
        sections = re.findall(r"(?:section|[Aa]ppendix) ([\w.]+)", rest)
        found |= {(key, "section", place.rstrip(".")) for place in sections}
    return found


def table(text):
    """The rows of a page's table, as (equation, [functions], [tests])."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    assert rows[0][0].strip() == "equation" and len(rows) > 2
    return [
        (
            equation,
            re.findall(r"`([\w.]+)`", functions),
            re.findall(r"`(test_\w+\.py::test_\w+)`", tests),
        )
        for equation, functions, tests in rows[2:]
    ]


ROWS = table((DOCS / "equations.md").read_text(encoding="utf-8"))


def check(row):
    """A row's claims, one after the other."""
    equation, functions, tests = row
    claimed, found = cited(equation), set()
    assert claimed, f"{equation}: no equation is named"
    assert functions and tests, f"{equation}: no function, or no test_file.py::test_name"
    for name in functions:
        places = cited(resolve(name).__doc__ or "")
        assert places & claimed, f"{name} does not cite {equation}, but {sorted(map(str, places))}"
        found |= places
    assert claimed <= found, f"{equation}: none of them cites {claimed - found}"
    for test in tests:
        name, function = test.split("::")
        assert function in named_tests(name), f"{test} is not there"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_has_its_function_its_citation_and_its_test(row):
    check(row)


RIGHT = (
    "Ho20 eq. 2, one step",
    ["process.q_step"],
    ["test_process.py::test_chain_of_steps_is_the_closed_form"],
)


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (0, "Ho20 eq. 3, one step"),  # another number
        (0, "Song21a eq. 2, one step"),  # another paper
        (0, "Ho20 eq. 2, 3, one step"),  # one of two
        (0, "Ho20 Algorithm 2"),  # another kind of place
        (0, "one step"),
        (1, []),
        (1, ["process.q_sample"]),  # a function that cites another
        (1, ["process.q_leap"]),
        (2, []),
        (2, ["test_process.py::test_that_is_not_there"]),
        (2, ["test_nothing.py::test_chain_of_steps_is_the_closed_form"]),
    ],
)
def test_a_wrong_row_is_found(column, wrong):
    check(RIGHT)
    row = [wrong if place == column else cell for place, cell in enumerate(RIGHT)]
    with pytest.raises((AssertionError, AttributeError)):
        check(row)


def test_the_named_tests_are_collected():
    """By pytest itself: each of them runs with the suite, none is deselected."""
    wanted = {test for _, _, tests in ROWS for test in tests}
    files = sorted({test.split("::")[0] for test in wanted})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(str(path) for name in files for path in ROOT.glob(f"tests/*/{name}"))],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    collected = set(re.findall(r"(test_\w+\.py::test_\w+)", done.stdout))
    assert wanted <= collected, f"{wanted - collected}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def docstrings():
    """(module, docstring) of every module, class and function of tinyddpm/."""
    for path in sorted((ROOT / "tinyddpm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path.stem, ast.get_docstring(node) or ""


def test_every_citation_is_of_a_paper_that_the_package_lists():
    used = {(key, module) for module, text in docstrings() for key in re.findall(KEY, text)}
    assert len(used) > 30
    missing = sorted(
        (key, module) for key, module in used if key not in PAPERS and key != "Float64"
    )
    assert not missing, f"not in tinyddpm/__init__.py: {missing}"


def test_no_paper_is_listed_in_vain():
    text = "".join(text for module, text in docstrings() if module != "__init__")
    assert PAPERS, "the package lists no papers"
    assert not {key for key in PAPERS if key not in text}


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (
            "Ho20 eq. 6-7, Algorithm 2",
            {("Ho20", "eq", 6), ("Ho20", "eq", 7), ("Ho20", "Algorithm", 2)},
        ),
        (
            "(Song21a eq. 12, 16), Ho20 eq. 4",
            {("Song21a", "eq", 12), ("Song21a", "eq", 16), ("Ho20", "eq", 4)},
        ),
        ("Song21b below eq. 13: x; eq. 99", {("Song21b", "eq", 13)}),
        ("Hang23 section 3.4: the weight", {("Hang23", "section", "3.4")}),
    ],
)
def test_citations_are_read(text, places):
    assert cited(text) == places


# Equations that are limits or another form of a function, and have no room of their own.

TIMES = [2, 30, 400, 1000]


@pytest.mark.parametrize("t", TIMES)
def test_a_term_is_the_weighted_square_of_the_error_in_eps(t):
    """Ho20 eq. 12: L_{t-1} = beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps_hat|^2, sigma^2
    = beta_tilde.
    """
    s = tinyddpm.linear(1000)
    x0, eps, eps_hat = (tinyddpm.normal((3, 4), seed=seed).astype(float) for seed in range(3))
    bits = likelihood.vb_term(lambda xt, t: eps_hat, s, x0, t, eps)
    alpha_bar, before = np.prod(1 - s.beta[: t + 1]), np.prod(1 - s.beta[:t])
    variance = (1 - before) / (1 - alpha_bar) * s.beta[t]
    weight = s.beta[t] ** 2 / (2 * variance * (1 - s.beta[t]) * (1 - alpha_bar))
    # x0_hat and back costs some 1 / sqrt(beta) roundings of 1e-16 in a small difference; 1e-9
    # leaves room for them.
    np.testing.assert_allclose(
        bits * 4 * np.log(2), weight * np.sum((eps - eps_hat) ** 2, axis=1), rtol=1e-9
    )


@pytest.mark.parametrize("T", [10**3, 10**4, 10**5])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_small_step_is_the_sdes(T, share):
    """Song21b eq. 11: the mean moves by -1/2 beta x, up to beta^2 |x|, and the variance is beta."""
    s, t, x = tinyddpm.linear(T), int(share * T), np.array([[0.7, -1.3]])
    beta = s.beta[t]
    still = tinyddpm.q_step(s, x, t, np.zeros_like(x))
    # sqrt(1 - beta) = 1 - beta / 2 - beta^2 / 8 - ..., and 1e-15 for the rounding of x itself.
    assert np.all(np.abs(still - x + 0.5 * beta * x) <= beta**2 * np.abs(x) / 4 + 1e-15)
    np.testing.assert_allclose(
        (tinyddpm.q_step(s, x, t, np.ones_like(x)) - still) ** 2, beta, rtol=1e-9
    )


@pytest.mark.parametrize("T", [10**3, 10**4, 10**5])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_small_step_back_is_the_reverse_sdes(T, share):
    """Song21b eq. 6: the mean moves by (x / 2 + score) beta, up to beta^2 (|x| + |score|), and the
    variance is beta.
    """
    s, t = tinyddpm.linear(T), int(share * T)
    x, score = np.array([[0.7, -1.3]]), np.array([[-0.4, 0.9]])
    beta, rest = s.beta[t], 1 - s.alpha_bar[t]
    x0_hat = (x + rest * score) / np.sqrt(s.alpha_bar[t])
    c = samplers.ancestral_coefficients(s, t, t - 1, "beta")
    moved = c.c_x0 * x0_hat + c.c_xt * x - x
    # (x + beta score) / sqrt(1 - beta) = (x + beta score) (1 + beta / 2 + 3 beta^2 / 8 + ...)
    room = beta**2 * (np.abs(x) + np.abs(score)) + 1e-14
    assert np.all(np.abs(moved - beta * (0.5 * x + score)) <= room)
    assert abs(c.sigma**2 - beta) <= 1e-15
