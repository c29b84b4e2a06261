"""The register tiles: what LLVM makes of them on each kind of CPU, and how they are chosen."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("numba")

from tinyddpm.kernels.cpu import tiles  # noqa: E402

from tinyddpm.errors import InputError  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
AVX2 = "+avx,+avx2,+fma,+f16c,+sse4.2,+popcnt,+bmi,+bmi2"
CPUS = {
    "znver3": (AVX2, "8:2x6:2x6"),
    "znver4": (f"{AVX2},+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd", "16:2x12:2x8"),
}

NARROW = 6  # sums of the tiles for few output channels


def child(code, tmp_path, **environment):
    """Run a Python file or code of the tests' in a process of its own; returns what it did."""
    command = [sys.executable, *code]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **environment}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("cpu", CPUS)
def test_the_tiles_keep_their_sums_in_registers(cpu, tmp_path):
    """No innermost loop moves a vector to or from the stack; LLVM compiles for either CPU here.

    Addresses of pixels may lie there: one is read while a dozen multiply-adds wait anyway.
    """
    features, chosen = CPUS[cpu]
    names = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    done = child([str(ROOT / "tests" / "support" / "tile_loops.py")], tmp_path, **names)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tiles"] == chosen
    lanes, direct, winograd = tiles.choose(chosen)
    for kernel, loops in found["kernels"].items():
        tile = direct if kernel.startswith("direct") else winograd
        # the full tile is among them, not unrolled: a multiply-add for each of its sums
        full = NARROW if kernel.endswith("narrow") else tile.vectors * tile.pixels
        assert full in [sums for sums, _ in loops], (kernel, loops)
        assert all(on_stack == 0 for _, on_stack in loops), (kernel, loops)


def test_a_tile_is_named_as_it_is_given():
    given = "16:2x12:1x10"
    found = tiles.choose(given)
    assert str(found) == given and found.direct.pixels == 12 and found.winograd.vectors == 1
    assert tiles.choose("") == tiles.choose(None) == tiles.CHOICES[tiles.kind_of_cpu()]


@pytest.mark.parametrize(
    "given", ["16", "16:2x12", "3:2x6:2x6", "8:0x6:2x6", "8:2x0:2x6", "8:2x6:2xy"]
)
def test_a_tile_that_cannot_be_is_refused(given):
    with pytest.raises(InputError, match="TINYDDPM_TILE is LANES:VECTORSxPIXELS") as caught:
        tiles.choose(given)
    assert "\n" not in str(caught.value)


def test_a_bad_tile_ends_the_command_in_one_line(tmp_path):
    done = child(
        ["-m", "tinyddpm", "train", "moons", "--backend", "numba"], tmp_path, TINYDDPM_TILE="x"
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "TINYDDPM_TILE" in done.stderr


def test_other_tiles_give_the_same_sums(tmp_path):
    """A forward convolution adds in one order whatever the tile: bit for bit."""
    code = """if True:
        import hashlib, numpy as np
        from types import SimpleNamespace
        from tinyddpm.kernels.cpu.ops import NumbaOps
        draw = np.random.Generator(np.random.PCG64(0)).standard_normal
        p = SimpleNamespace(w=draw((3, 3, 32, 32)).astype("f"), b=draw(32).astype("f"))
        y = NumbaOps().conv2d(draw((2, 9, 8, 32)).astype("f"), p, [])
        print(hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest())"""
    lanes = tiles.LANES
    given = (f"{lanes}:2x6:2x6", f"{lanes}:2x4:1x5", f"{lanes}:1x7:2x8")
    sums = {child(["-c", code], tmp_path, TINYDDPM_TILE=tile).stdout for tile in given}
    assert len(sums) == 1 and len(sums.pop()) == 65
