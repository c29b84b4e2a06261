"""What the README shows runs."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_example_trains_and_samples(tmp_path, monkeypatch, capsys):
    """Its last line prints the mean radius of samples from a circle of radius 0.7."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert example.count("\n") <= 11
    exec(compile(example, "README.md", "exec"), {})
    assert abs(float(capsys.readouterr().out) - 0.7) < 0.05
    assert (tmp_path / "runs" / "circle" / "checkpoint.npz").exists()


def test_every_file_and_module_it_names_exists():
    root = pathlib.Path(__file__).parent.parent
    for name in re.findall(r"`(test_\w+\.py)`", README):
        assert (root / "tests" / name).exists(), name
    for name in re.findall(r"`(?:tinyddpm/)?(\w+\.py)`", README):
        assert any((root / folder / name).exists() for folder in ("tinyddpm", "tests", "benchmarks", "kernels")), name
    for module, function in re.findall(r"`(\w+)\.(\w+)(?:\.\w+)?`", README):
        source = root / "tinyddpm" / f"{module}.py"
        if source.exists() and function not in ("py", "npz"):
            assert re.search(rf"(def|class) {function}\b", source.read_text(encoding="utf-8")), f"{module}.{function}"
