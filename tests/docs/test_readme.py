"""What the README shows runs."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def claims(code):
    """What the comments on a block's print lines say of the number printed, as (word, number); None
    where nothing.
    """
    found = []
    for line in code.splitlines():
        if line.startswith("print("):
            claim = re.search(r"# (near|below) (\d[\d.e-]*\d|\d)", line)
            found.append((claim[1], float(claim[2])) if claim else None)
    return found


def holds(claim, value):
    """ "near" is within a tenth, so that another draw would do as well; "below" is what it says."""
    word, number = claim
    return abs(value - number) < 0.1 * number if word == "near" else value < number


def test_the_python_examples_run_and_each_number_they_print_is_what_the_comment_says(
    tmp_path, monkeypatch, capsys
):
    """One after the other in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for code in examples:
        assert code.count("\n") <= 11
        exec(compile(code, "README.md", "exec"), namespace)
        printed, said = [float(line) for line in capsys.readouterr().out.splitlines()], claims(code)
        assert len(printed) == len(said) and None not in said, f"{printed}: said of them is {said}"
        assert all(map(holds, said, printed)), f"{printed}, but the comments say {said}"
    assert examples and (tmp_path / "runs" / "circle" / "checkpoint.npz").exists()


def test_claims_are_read_and_held():
    assert claims(
        "x = 1\nprint(x)   # near 0.7, the radius\nprint(2)  # below 1e-3\nprint(3)  # large\n"
    ) == [("near", 0.7), ("below", 1e-3), None]
    assert holds(("near", 0.7), 0.75) and not holds(("near", 0.7), 0.78)
    assert holds(("below", 1e-3), 9e-4) and not holds(("below", 1e-3), 2e-3)


def test_every_file_and_module_it_names_exists():
    root = pathlib.Path(__file__).parents[2]
    for name in re.findall(r"`(test_\w+\.py)`", README):
        assert list(root.glob(f"tests/*/{name}")), name
    for name in re.findall(r"`(?:tinyddpm/)?(\w+\.py)`", README):
        assert any(
            list((root / folder).rglob(name))
            for folder in ("tinyddpm", "tests", "benchmarks", "kernels")
        ), name
    for module, function in re.findall(r"`(\w+)\.(\w+)(?:\.\w+)?`", README):
        for source in (root / "tinyddpm").rglob(f"{module}.py"):
            if function not in ("py", "npz", "jsonl"):
                assert re.search(
                    rf"(def|class) {function}\b", source.read_text(encoding="utf-8")
                ), f"{module}.{function}"
