"""What an import loads: NumPy alone, and what a command draws with only where it draws."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

# Prints the packages, Python's own aside, that a statement loads in a fresh process.
LOADED = """
import sys
before = set(sys.modules)
{statement}
new = {{name: sys.modules[name] for name in set(sys.modules) - before}}
files = {{name for name, module in new.items() if getattr(module, "__file__", None)}}
packages = {{name.partition(".")[0] for name in files}} - set(sys.stdlib_module_names)
print(*sorted(name for name in packages if not name.startswith("_sysconfigdata")))
"""


def loaded(statement, folder=ROOT):
    """The names of the packages that a statement loads, tinyddpm and its needs."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADED.format(statement=statement)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2].split()


def test_import_loads_numpy_alone():
    for statement in ("import tinyddpm", "import tinyddpm.cli", "from tinyddpm import *"):
        assert loaded(statement) == ["numpy", "tinyddpm"], statement


def test_every_command_parses_with_numpy_alone():
    run = "import contextlib, tinyddpm.cli\nwith contextlib.suppress(SystemExit): "
    for command in ("train", "sample", "eval", "backends", "tour"):
        assert loaded(f"{run}tinyddpm.cli.main([{command!r}, '--help'])") == ["numpy", "tinyddpm"]


def test_arrays_are_read_without_pillow_and_pngs_with_it(tmp_path):
    import numpy as np
    from PIL import Image

    pixels = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(2))
    (tmp_path / "pngs").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "pngs" / "0.png")
    read = "from tinyddpm.datasets import sets; sets.load({!r})".format
    for name in ("digits", "moons", str(tmp_path / "a.npz")):
        assert loaded(read(name)) == ["numpy", "tinyddpm"], name
    assert loaded(read(str(tmp_path / "pngs"))) == ["PIL", "numpy", "tinyddpm"]
