"""Backends: a name gives its backend or what is missing; none is loaded before it is asked for."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support import strict_cupy

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
    """In this process as it is: a backend computes, or `get` raises with the words of `reason`."""
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


def test_a_kernel_that_does_not_run_is_said_in_one_line(monkeypatch):
    """As of numba-cuda beside NumPy 2.5: the device is there, and the first compilation fails."""
    strict_cupy.install(monkeypatch)
    real = importlib.util.find_spec
    found = {"cupy", "numba"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *r: n in found or real(n, *r))

    class Ops:
        def normal(self, shape):
            raise AttributeError("`np.row_stack` was removed\nin the NumPy 2.5 release")

        to_host = staticmethod(np.asarray)

    module = SimpleNamespace(make=lambda name: Ops())
    monkeypatch.setitem(sys.modules, "tinyddpm.kernels.gpu.cuda_ops", module)
    words = "a kernel does not run: AttributeError: `np.row_stack` was removed in the NumPy 2.5"
    assert backend.reason("cuda").startswith(words) and backend.reason("cupy") is None
    with pytest.raises(InputError, match="backend cuda is not there: a kernel does not run"):
        backend.get("cuda")
    monkeypatch.setattr(backend, "about", lambda name: name)
    rows = {name: (there, words) for name, there, words in backend.listing()}
    assert rows["cuda"] == (False, backend.reason("cuda")) and rows["cupy"] == (True, "cupy")
    assert list(rows) == list(backend.NAMES)


def test_a_precision_is_known_and_the_backends_own():
    assert backend.get("numpy").precision == backend.get("numpy", "fp32").precision == "fp32"
    for name in backend.NAMES:
        with pytest.raises(InputError, match="precision must be one of fp32, tf32, got 'bf16'"):
            backend.get(name, precision="bf16")
        if name != "cuda":
            with pytest.raises(InputError, match=f"tf32 is for the backend cuda, not for {name}"):
                backend.get(name, precision="tf32")


def test_importing_the_package_loads_no_accelerator(tmp_path):
    code = """if True:
        import sys, tinyddpm, tinyddpm.cli, tinyddpm.backend
        tinyddpm.backend.get("numpy")
        [tinyddpm.backend.reason(name) for name in ("numpy", "numba")]
        print([name for name in sys.modules if name.split(".")[0] in ("numba", "cupy", "kernels")
               or name.startswith("tinyddpm.kernels")])"""
    assert fresh(code, tmp_path) == "[]"


# Where the kernels are found: in a clone, an editable install, a wheel and a source distribution.

FOUND = """
import importlib.util, site, sys
{before}
import tinyddpm.kernels, tinyddpm.kernels.polynomials
found = importlib.util.find_spec
assert not any(found("tinyddpm." + name) for name in ("tests", "setup", "benchmarks", "docs"))
assert "kernels" not in sys.modules and len(tinyddpm.__path__) == 1
if found("numba"):
    import tinyddpm.kernels.cpu.jit
print(tinyddpm.__file__, tinyddpm.kernels.polynomials.__file__, found("kernels") is not None)
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """Folders: this clone, and what setuptools builds of a copy, unpacked, without network."""
    pytest.importorskip("setuptools", minversion="77.0.1")
    folder = tmp_path_factory.mktemp("forms")
    copy = folder / "copy"
    for name in ("tinyddpm", "kernels", "tests/kernels"):
        for source in _sources(ROOT / name):
            (copy / name / source).parent.mkdir(parents=True, exist_ok=True)
            (copy / name / source).write_bytes((ROOT / name / source).read_bytes())
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as build; build.build_{}({!r})".format
    for form, made in (("sdist", "*.tar.gz"), ("wheel", "*.whl"), ("editable", "*.whl")):
        (folder / form).mkdir()
        fresh(build(form, str(folder / form)), copy, PYTHONPATH="")
        (archive,) = (folder / form).glob(made)
        how = {"format": "gztar", "filter": "data"} if form == "sdist" else {"format": "zip"}
        shutil.unpack_archive(archive, folder / form, **how)
        archive.unlink()
    (source,) = (folder / "sdist").iterdir()
    built = {form: folder / form for form in ("copy", "wheel", "editable")}
    return {"clone": ROOT, "sdist": source, **built}


def test_a_plain_clone_has_the_kernels(tmp_path):
    """From another folder, with nothing but the clone on the path; the folder needs no accelerator
    to be there.
    """
    code = """if True:
        import sys, tinyddpm.kernels
        print(tinyddpm.kernels.__file__, *tinyddpm.kernels.__path__, "kernels" in sys.modules)"""
    found = f"{ROOT / 'tinyddpm' / 'kernels.py'} {ROOT / 'kernels'} False"
    assert fresh(code, tmp_path) == found


@pytest.mark.parametrize("form", ["clone", "copy", "sdist"])
def test_sources_find_the_kernels_beside_the_package_and_no_other_folder(forms, form, tmp_path):
    top = forms[form]
    package, kernels, _ = fresh(FOUND.format(before=""), tmp_path, PYTHONPATH=str(top)).split()
    assert package == str(top / "tinyddpm" / "__init__.py")
    assert kernels == str(top / "kernels" / "polynomials.py")


def test_an_editable_install_finds_the_kernels_of_its_clone(forms, tmp_path):
    """Python starts without its own site, which may have an editable install of this clone."""
    before = f"site.addsitedir({str(forms['editable'])!r})"
    paths = [forms["editable"], *(path for path in sys.path if path.endswith("-packages"))]
    done = subprocess.run(
        [sys.executable, "-S", "-c", FOUND.format(before=before)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )
    assert done.returncode == 0, done.stderr
    package, kernels, top = done.stdout.split()
    assert package == str(forms["copy"] / "tinyddpm" / "__init__.py")
    assert kernels == str(forms["copy"] / "kernels" / "polynomials.py") and top == "False"


def test_a_wheel_holds_the_kernels_inside_the_package_and_nothing_beside_it(forms, tmp_path):
    """Built by the backend that pyproject.toml names; `kernels` on PyPI is another project."""
    site = forms["wheel"]
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"tinyddpm"}
    wanted = {f"tinyddpm/{name}" for name in _sources(ROOT / "tinyddpm")} - {"tinyddpm/kernels.py"}
    wanted |= {f"tinyddpm/kernels/{name}" for name in _sources(ROOT / "kernels")}
    assert wanted == {name for name in files if name.startswith("tinyddpm/")}
    package, kernels, top = fresh(FOUND.format(before=""), tmp_path, PYTHONPATH=str(site)).split()
    assert package == str(site / "tinyddpm" / "__init__.py")
    assert kernels == str(site / "tinyddpm" / "kernels" / "polynomials.py") and top == "False"


def test_a_source_distribution_has_every_source(forms):
    for folder in ("tinyddpm", "kernels"):
        assert set(_sources(ROOT / folder)) <= set(_sources(forms["sdist"] / folder))


def _sources(folder):
    """The paths of a folder's files within it, without what running has left there."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [str(p.relative_to(folder)) for p in paths if "__pycache__" not in p.parts]
