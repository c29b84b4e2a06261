"""Where the CUDA toolkit lies.

Numba looks in CUDA_HOME and in the system, but not in the wheels of the extras cuda12 and cuda13.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections import namedtuple

Found = namedtuple("Found", "by info")


def wheel_folders():
    """The folders that NVIDIA's wheels install their toolkit into, newest first."""
    spec = importlib.util.find_spec("nvidia")
    parents = [pathlib.Path(p) for p in spec.submodule_search_locations] if spec else []
    return [
        folder
        for parent in parents
        for pattern in ("cu[0-9]*", "cuda_nvcc")
        for folder in sorted(parent.glob(pattern), reverse=True)
    ]


def use_wheels(folders=None):
    """Show Numba the first of `folders`, by default the wheels', that holds NVVM.

    Without an argument, does nothing where Numba finds a toolkit by itself: NVVM and ptxas must be
    of one version. Returns the folder, or None.
    """
    from numba.cuda import cuda_paths
    from numba.cuda.cudadrv import error, nvvm

    if folders is None:
        try:
            nvvm.NVVM()
            return None
        except (error.NvvmSupportError, OSError):
            folders = wheel_folders()
    for folder in folders:
        library, runtime, bitcode = (
            sorted(folder.rglob(pattern))
            for pattern in ("libnvvm.so*", "libcudart.so*", "libdevice*.bc")
        )
        if library and bitcode:
            found = dict(
                cuda_paths.get_cuda_paths(),
                nvvm=Found("wheel", str(library[-1])),
                libdevice=Found("wheel", str(bitcode[-1])),
            )
            if runtime:
                found["cudalib_dir"] = Found("wheel", str(runtime[-1].parent))
            cuda_paths.get_cuda_paths._cached_result = found
            return folder
    return None


def tool(name):
    """The path of ptxas or cuobjdump, or None.

    The first of: on PATH, in CUDA_HOME, in the system's toolkit, in a wheel.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [pathlib.Path(home) for home in homes if home] + wheel_folders()
    return shutil.which(name) or next(
        filter(None, (shutil.which(name, path=f / "bin") for f in folders)), None
    )


def ptxas(ptx, cc, target):
    """Assemble PTX for a card into the file `target`; the finished process, or None without ptxas.

    Args:
        ptx: the text.
        cc: the card's compute capability, (major, minor).
        target: where the cubin is written.
    """
    if not tool("ptxas"):
        return None
    source = pathlib.Path(target).with_suffix(".ptx")
    source.write_text(ptx)
    command = [tool("ptxas"), "-v", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True)


def cubin(ptx, cc):
    """PTX assembled for a card, bytes; None without a ptxas that knows the card and the PTX."""
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder, "kernel.cubin")
        done = ptxas(ptx, cc, target)
        return target.read_bytes() if done and done.returncode == 0 else None
