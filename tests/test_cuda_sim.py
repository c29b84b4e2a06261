"""The CUDA kernels under Numba's simulator, which is chosen when Numba is imported: hence a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def test_every_kernel_under_the_simulator():
    pytest.importorskip("numba")
    pytest_alone = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-o", "addopts="]
    done = subprocess.run([*pytest_alone, str(HERE / "sim_kernels.py")], cwd=HERE.parent, capture_output=True, text=True,
                          env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
