"""The CUDA kernels under Numba's simulator, in a process of its own.

Whether to simulate is decided when Numba is imported.
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("checks", ["sim_kernels.py", "sim_launch.py", "sim_capture.py"])
def test_under_the_simulator(checks):
    pytest.importorskip("numba")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "--no-header",
        "-o",
        "addopts=",
        str(ROOT / "tests" / "support" / checks),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
