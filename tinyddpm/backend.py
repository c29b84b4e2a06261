"""Choosing a backend by name: "numpy", "numba", "cupy", "cuda" or "cuda-sim".

No backend is loaded before it is asked for, and none is taken in the place of another that is
missing.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys

from .errors import InputError
from .nn.ops import Ops

# By name: the packages that a backend needs beside NumPy.
NEEDS = {
    "numpy": (),
    "numba": ("numba",),
    "cupy": ("cupy",),
    "cuda": ("cupy", "numba"),
    "cuda-sim": ("numba",),
}
NAMES = tuple(NEEDS)
PRECISIONS = ("fp32", "tf32")
SIMULATE = "NUMBA_ENABLE_CUDASIM"


def get(name: str, precision: str = "fp32") -> Ops:
    """Return the operations of a backend.

    Args:
        name: one of NAMES.
        precision: of the matrix products, one of PRECISIONS; "tf32" is for `cuda` alone, whose
            matrix units keep 10 bits of what they multiply.

    Raises:
        InputError: it is missing (with the command that installs it), or has no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "fp32" and name != "cuda":
        raise InputError(f"precision {precision} is for the backend cuda, not for {name}")
    if name not in NAMES:
        raise InputError(f"no backend {name!r}: choose from {', '.join(NAMES)}")
    missing = reason(name)
    if missing:
        raise InputError(f"backend {name} is not there: {missing}")
    if name == "numpy":
        return Ops()
    if name == "cuda-sim":
        os.environ[SIMULATE] = "1"
    module = {
        "numba": "cpu.ops",
        "cupy": "gpu.cupy_ops",
        "cuda": "gpu.cuda_ops",
        "cuda-sim": "gpu.cuda_ops",
    }[name]
    try:
        kernels = importlib.import_module(f"tinyddpm.kernels.{module}")
        given = (name, precision) if name == "cuda" else (name,)
        ops: Ops = kernels.make(*given)
    except ImportError as error:  # as numba's, for a NumPy newer than it knows
        raise InputError(f"backend {name} does not load: {error}") from error
    return ops


def reason(name: str) -> str | None:
    """Tell why a backend is missing, with the command that installs it; None where it is there."""
    absent = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if absent:
        gpu = "cupy" in NEEDS[name]
        install = f"pip install 'tinyddpm[{'cuda13' if gpu else 'numba'}]'"
        other = " (or [cuda12], as your driver asks)" if gpu else ""
        return f"{absent[0]} is not installed; {install}{other}"
    if name == "cuda-sim" and "numba" in sys.modules and not _simulating():
        return (
            f"numba has been loaded without its simulator; set {SIMULATE}=1 before starting Python"
        )
    if name == "cuda" and _simulating():
        return f"{SIMULATE} is set, so numba offers its simulator only (backend cuda-sim)"
    if name in ("cupy", "cuda"):
        return _no_device() or (_no_kernel() if name == "cuda" else None)
    return None


def _simulating():
    """Whether Numba's CUDA simulator is in use, or will be: numba reads the setting on loading."""
    if "numba" in sys.modules:
        return bool(sys.modules["numba"].config.ENABLE_CUDASIM)
    return os.environ.get(SIMULATE, "0") not in ("", "0")


def _no_device():
    """Why CuPy finds no device, or None where it does."""
    try:
        import cupy
    except ImportError as error:
        return f"cupy does not load: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return None if count else "no CUDA device"


def _no_kernel():
    """Why no CUDA kernel can be compiled and run on the device, or None where one can."""
    try:
        ops = importlib.import_module("tinyddpm.kernels.gpu.cuda_ops").make("cuda")
        ops.to_host(ops.normal((1, 4)))
    except Exception as error:  # whatever breaks in Numba, CuPy or the driver is the reason
        words = " ".join(str(error).split()) or "no more is said"
        return f"a kernel does not run: {type(error).__name__}: {words}"
    return None


def listing() -> list[tuple[str, bool, str]]:
    """List every backend: its name, whether it is there, its versions and device or why not."""
    # those that load numba without its simulator come last: `about` and the kernel that cuda tries
    reasons = {name: reason(name) for name in sorted(NAMES, key="cuda".__eq__)}
    rows = []
    for name in NAMES:
        missing = reasons[name]
        try:
            words = missing or about(name)
        except ImportError as error:
            missing = words = f"does not load: {error}"
        rows.append((name, missing is None, words))
    return rows


def about(name: str) -> str:
    """Name a backend's versions and device, in a few words."""
    packages = NEEDS[name] + (("numpy",) if name in ("numpy", "numba") else ())
    words = [f"{package} {_version(package)}" for package in packages]
    if name in ("cupy", "cuda"):
        import cupy

        words.append(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    if name == "numba":
        words.append(importlib.import_module("tinyddpm.kernels.cpu.ops").describe())
    return ", ".join(words)


def _version(package):
    """A package's version; CuPy's wheels are named after their CUDA."""
    for name in (package, f"{package}-cuda13x", f"{package}-cuda12x"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"
