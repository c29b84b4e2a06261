"""Who computes: get("numpy" | "numba" | "cupy" | "cuda" | "cuda-sim") gives the backend's Ops, or
says what is missing.

Nothing is loaded before it is asked for, and nothing else is taken in its place.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys

from .errors import InputError
from .nn.ops import Ops

NAMES = ("numpy", "numba", "cupy", "cuda", "cuda-sim")
SIMULATE = "NUMBA_ENABLE_CUDASIM"


def get(name):
    """The operations of a backend. Raises InputError where it is missing, with the command that
    installs it.
    """
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
        return importlib.import_module(f"tinyddpm.kernels.{module}").make(name)
    except ImportError as error:  # as numba's, for a NumPy newer than it knows
        raise InputError(f"backend {name} does not load: {error}") from error


def reason(name):
    """Why a backend is not there, with the command that mends it; None where it is."""
    needs = {
        "numpy": (),
        "numba": ("numba",),
        "cupy": ("cupy",),
        "cuda": ("cupy", "numba"),
        "cuda-sim": ("numba",),
    }
    extra = {"numba": "numba", "cupy": "cuda13", "cuda": "cuda13", "cuda-sim": "numba"}
    for package in needs[name]:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; pip install 'tinyddpm[{extra[name]}]'" + (
                " (or [cuda12], as your driver asks)" if extra[name] == "cuda13" else ""
            )
    if name == "cuda-sim" and "numba" in sys.modules and not _simulating():
        return (
            f"numba has been loaded without its simulator; set {SIMULATE}=1 before starting Python"
        )
    if name == "cuda" and _simulating():
        return f"{SIMULATE} is set, so numba offers its simulator only (backend cuda-sim)"
    if name in ("cupy", "cuda"):
        return _no_device()
    return None


def _simulating():
    """Whether Numba's CUDA simulator is, or would be, in use: the setting is read when numba is
    first loaded.
    """
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


def listing():
    """One row a backend: its name, whether it is there, and its versions and device or the reason
    why not.
    """
    # all before `about` loads numba without its simulator
    reasons = {name: reason(name) for name in NAMES}
    rows = []
    for name, missing in reasons.items():
        try:
            words = missing or about(name)
        except ImportError as error:
            missing = words = f"does not load: {error}"
        rows.append((name, missing is None, words))
    return rows


def about(name):
    """A backend's versions and device, in a few words."""
    packages = {
        "numpy": ("numpy",),
        "numba": ("numba", "numpy"),
        "cupy": ("cupy",),
        "cuda": ("cupy", "numba"),
        "cuda-sim": ("numba",),
    }[name]
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
