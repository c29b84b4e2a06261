"""Who computes: every name gives its backend or says what is missing; nothing is loaded before it
is asked for.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tinyddpm import backend
from tinyddpm.errors import InputError
from tinyddpm.nn.ops import Ops

ROOT = pathlib.Path(__file__).parents[2]


def without(monkeypatch, *names):
    """As if these packages were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in names else real(name, *rest),
    )


def fresh(code, folder=ROOT, **environment):
    """What a process of its own prints, with this clone on its path."""
    clean = {name: value for name, value in os.environ.items() if name != backend.SIMULATE}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_numpy_is_the_reference_itself():
    assert type(backend.get("numpy")) is Ops and backend.reason("numpy") is None


@pytest.mark.parametrize("name", backend.NAMES[1:])
def test_every_name_gives_its_backend_or_the_reason(name):
    """In this process as it is: what is there computes, what is not there says so in the words of
    `reason`.
    """
    missing = backend.reason(name)
    if name == "cuda-sim" and missing is None:
        pytest.skip("would turn the simulator on in this process; its own process tries it below")
    if missing:
        with pytest.raises(InputError) as caught:
            backend.get(name)
        assert str(caught.value) == f"backend {name} is not there: {missing}"
    else:
        ops = backend.get(name)
        x = ops.asarray(np.ones((2, 3), np.float32))
        assert isinstance(ops, Ops)
        assert np.allclose(ops.to_host(ops.silu(x, [])), 1 / (1 + np.exp(-1)))


def test_the_simulator_is_there_in_a_fresh_process():
    pytest.importorskip("numba")
    code = """if True:
        from tinyddpm import backend
        ops = backend.get("cuda-sim")
        print(type(ops).__mro__[-2].__name__, ops.normal((2, 3)).shape, backend.reason("cuda"))"""
    assert fresh(code).startswith("Steps (2, 3) ")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(
        InputError, match="no backend 'torch': choose from numpy, numba, cupy, cuda, cuda-sim"
    ):
        backend.get("torch")


@pytest.mark.parametrize(
    "name, package, extra",
    [
        ("numba", "numba", "numba"),
        ("cuda-sim", "numba", "numba"),
        ("cupy", "cupy", "cuda13"),
        ("cuda", "cupy", "cuda13"),
    ],
)
def test_an_absent_backend_names_what_is_missing_and_the_command(name, package, extra, monkeypatch):
    without(monkeypatch, package)
    with pytest.raises(InputError) as caught:
        backend.get(name)
    text = str(caught.value)
    assert text.startswith(
        f"backend {name} is not there: {package} is not installed; pip install 'tinyddpm[{extra}]'"
    )
    assert "\n" not in text and ("cuda12" in text) == (extra == "cuda13")


def test_listing_has_a_row_for_each_name(monkeypatch):
    rows = backend.listing()
    assert [row[0] for row in rows] == list(backend.NAMES)
    assert rows[0] == ("numpy", True, f"numpy {np.__version__}")
    for name, there, words in rows:
        # the listing itself loads numba
        assert there == (backend.reason(name) is None) or name == "cuda-sim"
        assert words and "\n" not in words
    without(monkeypatch, "numba", "cupy")
    for name, there, words in backend.listing()[1:]:
        assert not there and words == backend.reason(name) and "pip install" in words


def test_a_backend_that_does_not_load_says_why(monkeypatch):
    pytest.importorskip("numba")
    # an ImportError when it is imported
    monkeypatch.setitem(sys.modules, "tinyddpm.kernels.cpu.ops", None)
    with pytest.raises(InputError, match="^backend numba does not load: .*cpu.ops"):
        backend.get("numba")
    name, there, words = backend.listing()[1]
    assert name == "numba" and not there and words.startswith("does not load: ")


def test_a_listing_does_not_hide_the_simulator_by_loading_numba():
    pytest.importorskip("numba")
    code = "from tinyddpm import backend; rows = backend.listing(); print(rows[1][:2], rows[4][:2])"
    assert fresh(code) == "('numba', True) ('cuda-sim', True)"


def test_importing_the_package_loads_no_accelerator(tmp_path):
    code = """if True:
        import sys, tinyddpm, tinyddpm.cli, tinyddpm.backend
        tinyddpm.backend.get("numpy"), [tinyddpm.backend.reason(name) for name in ("numpy", "numba")]
        print([name for name in sys.modules if name.split(".")[0] in ("numba", "cupy", "kernels")
               or name.startswith("tinyddpm.kernels")])"""
    assert fresh(code, tmp_path) == "[]"


def test_a_plain_clone_has_the_kernels(tmp_path):
    """From another folder, with nothing but the clone on the path; the folder needs no accelerator
    to be there.
    """
    code = """if True:
        import sys, tinyddpm.kernels
        print(tinyddpm.kernels.__file__, "kernels" in sys.modules)"""
    assert fresh(code, tmp_path) == f"{ROOT / 'kernels' / '__init__.py'} False"


def test_a_wheel_holds_the_kernels_inside_the_package_and_nothing_beside_it(tmp_path):
    """Built without the network, by the backend that pyproject.toml names; `kernels` on PyPI is
    someone else's.
    """
    pytest.importorskip("setuptools", minversion="77")
    for name in ("tinyddpm", "kernels"):
        _copy(ROOT / name, tmp_path / "source" / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    code = f"import setuptools.build_meta as build; build.build_wheel({str(tmp_path)!r})"
    fresh(code, tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"tinyddpm"}
    for folder, inside in (("tinyddpm", "tinyddpm"), ("kernels", "tinyddpm/kernels")):
        assert {f"{inside}/{path.name}" for path in (ROOT / folder).glob("*.py")} <= set(names)
    code = "import tinyddpm.kernels, importlib.util as u; print(tinyddpm.kernels.__file__, u.find_spec('kernels'))"
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    where = tmp_path / "site" / "tinyddpm" / "kernels" / "__init__.py"
    assert fresh(code, tmp_path / "site", PYTHONPATH=str(tmp_path / "site")) == f"{where} None"


def _copy(source, target):
    """The folder's files, without what running has left in it."""
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
