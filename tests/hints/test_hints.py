"""Type hints: every public function has them, and mypy is shown every public name in use."""

import ast
import inspect
import pathlib

import pytest

import tinyddpm as td

ROOT = pathlib.Path(__file__).parents[2]
FACE = ast.parse((ROOT / "tests" / "hints" / "public_face.py").read_text(encoding="utf-8"))
# Operations on arrays of any backend: what goes in and out is in the words of each docstring.
ARITHMETIC = {"formulas.py", "ops.py", "convolution.py", "device.py", "params.py", "optim.py"}
MODULES = [
    path for path in sorted((ROOT / "tinyddpm").rglob("*.py")) if path.name not in ARITHMETIC
]


def public_functions(tree):
    """The public functions and methods of a module, with those that Python calls itself."""
    for node in tree.body:
        name = getattr(node, "name", "_")
        public = not name.startswith("_") or name in ("__init__", "__call__")
        if public and isinstance(node, ast.ClassDef):
            yield from public_functions(node)
        elif public and isinstance(node, ast.FunctionDef):
            yield node


def without_hints(function):
    """The names of a function's parameters that have no hint, and "return" where that has none."""
    a = function.args
    parameters = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    missing = [p.arg for p in parameters if p is not None and p.annotation is None]
    return [name for name in missing if name not in ("self", "cls")] + (
        ["return"] if function.returns is None else []
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_function_has_hints(path):
    for function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        missing = without_hints(function)
        assert not missing, f"{path.name}:{function.lineno} {function.name}: {missing}"


def test_a_missing_hint_is_found():
    tree = ast.parse("class A:\n def f(self, x: int, *y, z: int = 0): ...\n def _g(a): ...")
    assert [without_hints(function) for function in public_functions(tree)] == [["y", "return"]]


def test_mypy_is_shown_every_public_name_and_method():
    shown = {node.attr for node in ast.walk(FACE) if isinstance(node, ast.Attribute)}
    assert set(td.__all__) <= shown
    for name in td.__all__:
        owner = getattr(td, name)
        if inspect.isclass(owner) and not issubclass(owner, Exception | tuple):
            own = [vars(cls) for cls in owner.__mro__ if cls.__module__.startswith("tinyddpm")]
            methods = {method for names in own for method in names if not method.startswith("_")}
            fields = set(getattr(owner, "__dataclass_fields__", ()))
            left_out = methods - shown - fields
            assert not left_out, f"{name}: {left_out}"


def test_no_hint_is_ignored():
    for path in [*MODULES, ROOT / "tests" / "hints" / "public_face.py"]:
        assert "type: ignore" not in path.read_text(encoding="utf-8"), path
