"""The house: which module may import which, what an import loads, how long things are."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import tinyddpm

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "tinyddpm"


def parsed(folder):
    """{path: syntax tree} of a folder's Python files."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): tree
    for path, tree in parsed("tinyddpm").items()
}
SOURCES = {
    path: tree
    for folder in ("tinyddpm", "kernels", "benchmarks", "examples")
    for path, tree in parsed(folder).items()
}
EVERYTHING = {**SOURCES, **parsed("tests"), ROOT / "setup.py": None}

# From the ground up: a module may import modules on floors below its own, never beside or above.
FLOORS = [
    # what everything stands on
    ["errors", "formulas", "renamed", "starting"],
    ["settings", "noise", "metrics"],
    ["schedule"],
    # the mathematics
    ["process"],
    ["samplers", "exact", "guidance", "shards", "early"],
    ["solvers", "likelihood"],
    ["density", "editing"],
    # the networks, and what is learned with them
    ["nn.optim", "nn.params"],
    ["nn.device"],
    ["nn.convolution"],
    ["nn.ops"],
    ["nn.mlp", "nn.unet", "draws"],
    ["nn.sizes"],
    ["training", "model", "backend"],
    # the user's files, pictures and runs
    [
        "datasets.untrusted",
        "plots.figures",
        "runs.files",
        "runs.memory",
        "runs.progress",
        "runs.threads",
    ],
    ["datasets.pictures", "runs.lock"],
    ["datasets.folders"],
    ["datasets.pickled"],
    ["datasets.readers"],
    ["datasets.sets", "runs.checkpoint"],
    ["plots.images", "runs.load", "runs.log", "runs.source", "runs.start"],
    ["plots.showing", "runs.new", "runs.sample", "interop.config", "interop.tensors"],
    ["runs.kept"],
    ["runs.run"],
    ["interop.network", "interop.scheduler", "interop.weights"],
    ["interop.pipeline"],
    # the tour and the command line
    ["tour.spirals"],
    ["tour.forward", "tour.gpu", "tour.gradients", "tour.learned", "tour.page", "tour.scores"],
    ["tour.chapters"],
    ["__init__"],
    ["cli.parser"],
    [
        "cli.data",
        "cli.judging",
        "cli.opening",
        "cli.options",
        "cli.published",
        "cli.terminal",
        "parallel",
    ],
    ["cli.given", "cli.running"],
    ["cli.commands"],
    ["cli.__init__"],
    ["__main__"],
]
SHELVES = ["nn", "runs", "datasets", "plots", "interop", "tour", "cli"]
# The mathematics: its modules stand in tinyddpm/ itself, and so do these, which are not of it.
NOT_MATHS = {"__init__", "__main__", "backend", "early", "kernels", "parallel", "starting"}
# What the accelerators may import of the package.
KERNELS_SEE = {"errors", "formulas", "noise", "nn.ops", "nn.optim", "nn.device"}


def imports(name):
    """The package's own modules that a module imports, anywhere in it."""
    found, folder = set(), name.split(".")[:-1]
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                places = ([*base, alias.name], base, [*base, "__init__"])
                names = (".".join(place) for place in places)
                found.add(next((each for each in names if each in MODULES), None))
        elif isinstance(node, ast.Import):
            own = [alias.name for alias in node.names if alias.name.startswith("tinyddpm")]
            assert not own, "import relatively"
    return found - {None, name}


def test_every_module_has_its_floor():
    placed = [name for floor in FLOORS for name in floor]
    initial = {f"{shelf}.__init__" for shelf in SHELVES}
    assert len(placed) == len(set(placed))
    assert set(MODULES) == {*placed, *initial, "kernels"}
    for name in initial - {"cli.__init__"}:
        assert len(MODULES[name].body) == 1, f"{name} holds a docstring alone"


@pytest.mark.parametrize("name", [name for floor in FLOORS for name in floor])
def test_arrows_point_down(name):
    height = {module: i for i, floor in enumerate(FLOORS) for module in floor}
    upward = {other for other in imports(name) if height[other] >= height[name]}
    assert not upward, f"{name} imports {upward}"


@pytest.mark.parametrize("name", [name for name in MODULES if "." not in name])
def test_the_mathematics_imports_no_reader_no_plot_and_no_run(name):
    """Neither itself nor by what it imports."""
    if name in NOT_MATHS:
        return
    seen, todo = set(), {name}
    while todo:
        seen |= todo
        todo = set().union(*(imports(each) for each in todo)) - seen
    assert {each for each in seen if "." in each} <= {each for each in seen if each[:3] == "nn."}


def test_nothing_but_main_imports_cli():
    assert [name for name in MODULES if "cli.__init__" in imports(name)] == ["__main__"]


def test_kernels_are_reached_by_backend_alone():
    """The reference never imports kernels: `backend` names them, in three functions."""
    for name, tree in MODULES.items():
        for part in ast.walk(tree):
            if isinstance(part, ast.FunctionDef):
                texts = [node.value for node in ast.walk(part) if isinstance(node, ast.Constant)]
                named = [text for text in texts if str(text).startswith("tinyddpm.kernels")]
                places = [("backend", each) for each in ("get", "about", "_no_kernel")]
                assert not named or (name, part.name) in places
            if isinstance(part, ast.ImportFrom) and part.level:
                first = (part.module or "").split(".")[0]
                assert "kernels" not in (first, *(alias.name for alias in part.names)), name


@pytest.mark.parametrize("path", parsed("kernels"), ids=lambda path: path.stem)
def test_kernels_see_the_reference_and_the_formulas_alone(path):
    for node in ast.walk(SOURCES[path]):
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tinyddpm")):
            continue
        module = node.module.partition(".")[2]
        inside = {"": "", "nn": "nn."}.get(module)
        seen = {module} if inside is None else {inside + alias.name for alias in node.names}
        own = {name for name in seen if name.split(".")[0] == "kernels"}
        assert seen - own <= KERNELS_SEE, f"{path.name} sees {seen - own - KERNELS_SEE}"


def imported_names(tree):
    """The first parts of the names that a file imports from outside of its folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("folder", "foreign"),
    [
        ("tests", {"benchmarks", "examples"}),
        ("benchmarks", {"tests", "support", "conftest", "examples"}),
        ("tinyddpm", {"tests", "support", "benchmarks", "examples"}),
        ("kernels", {"tests", "support", "benchmarks", "examples"}),
    ],
)
def test_tests_and_benchmarks_stand_apart(folder, foreign):
    for path, tree in parsed(folder).items():
        found = set(imported_names(tree)) & foreign
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def loaded(code):
    """The names of the modules that a fresh process has loaded after the code."""
    code = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_needs_numpy_alone():
    packages = {name.split(".")[0] for name in loaded("import tinyddpm")}
    assert packages - sys.stdlib_module_names == {"tinyddpm", "numpy"}


def test_the_command_line_loads_no_optional_package():
    optional = {"tinyddpm.kernels", "numba", "cupy", "torch", "matplotlib", "scipy", "mpi4py"}
    assert not loaded("import tinyddpm.cli") & optional


def test_nothing_seeds_or_draws_from_a_global_generator():
    """np.random's own functions; its classes, made with a seed, are no global generator."""
    classes = {"Generator", "PCG64"}
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                inner = node.value
                random = inner.attr == "random" and isinstance(inner.value, ast.Name)
                if random and inner.value.id in ("np", "numpy"):
                    assert node.attr in classes, f"{path.name}:{node.lineno}"
        assert not {"random"} & set(imported_names(tree)), path.name


# Lengths.

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def functions(tree):
    """Every function of a file, methods and inner ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@each_source
def test_files_and_functions_stay_short(path):
    """Functions are counted whole, from `def` to the last line, with their docstrings."""
    assert path.read_text(encoding="utf-8").count("\n") <= 400
    for node in functions(SOURCES[path]):
        length = node.end_lineno - node.lineno + 1
        assert length <= 50, f"{path.name}:{node.lineno} {node.name}: {length} lines"


# A caller of a sampler sees at most eight.
SAMPLERS = {"ancestral", "ddim", "langevin", "inpaint"}


@each_source
def test_parameters_are_few(path):
    """At most seven outside of kernels/, and eight of a sampler; self is not counted."""
    if path.is_relative_to(ROOT / "kernels"):
        return
    top = {id(node) for node in SOURCES[path].body}
    for node in functions(SOURCES[path]):
        a = node.args
        every = a.posonlyargs + a.args + a.kwonlyargs + [*filter(None, (a.vararg, a.kwarg))]
        count = sum(each.arg not in ("self", "cls") for each in every)
        most = 8 if node.name in SAMPLERS and id(node) in top else 7
        assert count <= most, f"{path.name}:{node.lineno} {node.name}: {count} parameters"


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 100, f"{path.name}:{number}"


@each_source
def test_no_exception_is_caught_unnamed(path):
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno}: bare except"


# Docstrings.


def public(body):
    """The public functions and classes of a body, and the public methods of those classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue  # one of a function's signatures: the function itself follows
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@each_source
def test_what_is_public_is_explained(path):
    tree = SOURCES[path]
    assert ast.get_docstring(tree) or path.name == "__main__.py", path.name
    for node in public(tree.body):
        assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}: no docstring"


@pytest.mark.parametrize("name", [name for name in tinyddpm.__all__ if name.islower()])
def test_a_public_function_lists_its_parameters(name):
    """One sentence on the first line; a function of more than three parameters has `Args:`."""
    function = getattr(tinyddpm, name)
    text = inspect.getdoc(function)
    assert text.splitlines()[0].rstrip().endswith((".", ":")), text.splitlines()[0]
    parameters = inspect.signature(function).parameters
    if len(parameters) > 3:
        listed = text.partition("\nArgs:\n")[2]
        missing = [each for each in parameters if f"    {each}:" not in listed]
        assert not missing, missing
