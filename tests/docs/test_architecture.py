"""The house: who may import whom, what an import loads, and how long files and functions are."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "tinyddpm"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
SOURCES = [
    path
    for folder in ("tinyddpm", "kernels", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

# From the ground up: a module may import modules on lines above its own, never beside or below.
LAYERS = [
    ["errors", "formulas", "guidance"],
    ["settings"],
    [
        "noise",
        "schedule",
        "metrics",
        "nn.optim",
        "datasets.readers",
        "plots.marks",
        "runs.threads",
        "runs.lock",
        "cli.terminal",
    ],
    ["process", "nn.params", "nn.device", "datasets.sets", "runs.checkpoint", "plots.curves"],
    ["nn.ops", "closed_form", "runs.log", "plots.panels"],
    ["nn.mlp", "nn.unet", "samplers", "plots.images", "backend", "exact"],
    ["solvers", "likelihood", "density"],
    ["editing", "training", "model"],
    ["runs.run"],
    ["tour.spirals"],
    ["tour.forward", "tour.learned", "tour.scores", "tour.code", "tour.page"],
    ["tour.chapters"],
    ["__init__"],
    ["cli.options"],
    ["cli.commands"],
    ["cli.__init__"],
    ["__main__"],
]
# their __init__.py hold a docstring alone
SHELVES = ["nn", "runs", "datasets", "plots", "tour"]


def imports(name):
    """The package's own modules that a module imports, anywhere in it."""
    found, folder = set(), name.split(".")[:-1]
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + (
                (node.module or "").split(".") if node.module else []
            )
            for alias in node.names:
                names = [
                    ".".join([*base, alias.name]),
                    ".".join(base),
                    ".".join([*base, "__init__"]),
                ]
                found.add(next((each for each in names if each in MODULES), None))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("tinyddpm") for alias in node.names), (
                "import relatively"
            )
    return found - {None, name}


def test_every_module_has_its_floor():
    assert set(MODULES) == {name for layer in LAYERS for name in layer} | {
        f"{shelf}.__init__" for shelf in SHELVES
    }
    for shelf in SHELVES:
        assert len(MODULES[f"{shelf}.__init__"].body) == 1, (
            f"{shelf}/__init__.py holds a docstring alone"
        )


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.removesuffix(".__init__") not in SHELVES]
)
def test_arrows_point_down(name):
    floor = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    upward = {other for other in imports(name) if floor[other] >= floor[name]}
    assert not upward, f"{name} imports {upward}"


def test_nothing_but_main_imports_cli():
    assert [name for name in MODULES if "cli.__init__" in imports(name)] == ["__main__"]


def test_only_get_and_about_reach_the_kernels_and_kernels_reach_only_the_reference():
    """Upward nothing: the reference never imports kernels, which see Ops, the formulas and the
    noise, no net or run.
    """
    for name, tree in MODULES.items():
        for part in ast.walk(tree):
            names = [
                node.value
                for node in ast.walk(part)
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.startswith("tinyddpm.kernels")
            ]
            if names and isinstance(part, ast.FunctionDef):
                assert (name, part.name) in (("backend", "get"), ("backend", "about")), (
                    name,
                    part.name,
                )
            if isinstance(part, ast.ImportFrom) and part.level:
                assert "kernels" not in (
                    (part.module or "").split(".")[0],
                    *(a.name for a in part.names),
                ), name
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.startswith("tinyddpm")
            ):
                module = node.module.partition(".")[2]
                prefix = {"": "", "nn": "nn."}.get(module)
                seen = {module} if prefix is None else {prefix + alias.name for alias in node.names}
                assert seen <= {"errors", "formulas", "noise", "nn.ops", "nn.optim", "nn.device"}, (
                    path.name,
                    seen,
                )


def test_import_loads_no_optional_package():
    """In a fresh process: the core needs numpy and pillow alone."""
    optional = ("tinyddpm.kernels", "numba", "cupy", "torch", "matplotlib", "scipy", "mpi4py")
    code = (
        f"import sys, tinyddpm, tinyddpm.cli; print([n for n in {optional!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_seeds_or_draws_from_a_global_generator():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "random"
                and isinstance(node.value, ast.Name)
            ):
                assert node.value.id not in ("np", "numpy"), f"{path.name}:{node.lineno}"


def own_lines(function):
    """How long a function is, without the functions that stand in it."""
    inner = sum(own_lines(node) for node in function.body if isinstance(node, ast.FunctionDef))
    return function.end_lineno - function.lineno + 1 - inner


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short_and_explained(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert own_lines(node) < 60, f"{path.name}:{node.lineno} {node.name}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno}: bare except"
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), (
                f"{path.name}:{node.lineno} {node.name}: public, no docstring"
            )
