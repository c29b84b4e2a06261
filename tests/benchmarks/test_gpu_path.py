"""python -m benchmarks gpu from end to end without a GPU, in a process of its own: whether Numba
simulates is decided when it is imported.
"""

import os
import subprocess
import sys

import pytest
from support.docs_blocks import ROOT


@pytest.mark.parametrize("name", ["all", "budget"])
def test_the_whole_command_on_stand_ins(name):
    pytest.importorskip("numba")
    if name == "all":
        pytest.importorskip("torch")
    checks = str(ROOT / "tests" / "support" / "sim_benchmark.py")
    command = [sys.executable, "-m", "pytest", "-qx", "--no-header", "-o", "addopts=", checks]
    done = subprocess.run(
        [*command, "-k", name],
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
