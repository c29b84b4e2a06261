"""Metadata, extras, packages and the entry point; all about the tools is in pyproject.toml."""

import pathlib
import re

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "tinyddpm" / "__init__.py").read_text(encoding="utf-8")
).group(1)
SHELVES = ("nn", "runs", "datasets", "plots", "interop", "tour", "cli")
KERNELS = {
    "tinyddpm.kernels": "kernels",
    "tinyddpm.kernels.cpu": "kernels/cpu",
    "tinyddpm.kernels.gpu": "kernels/gpu",
}


class BuildWithoutStandIn(build_py):
    """Leaves tinyddpm/kernels.py out: it stands for the folder kernels, which is built in."""

    def find_package_modules(self, package, package_dir):
        """The (package, module, file) of each module to build."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[:2] != ("tinyddpm", "kernels")]


setup(
    name="tinyddpm",
    version=VERSION,
    description="A minimal DDPM in NumPy: hand-written networks and gradients, each equation cited",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "tinyddpm/datasets/LICENSE-digits.txt"],
    python_requires=">=3.11",
    packages=["tinyddpm", *(f"tinyddpm.{shelf}" for shelf in SHELVES), *KERNELS],
    package_dir=KERNELS,
    package_data={
        "tinyddpm": ["py.typed"],
        "tinyddpm.datasets": ["digits.npz", "LICENSE-digits.txt"],
        "tinyddpm.tour": ["page.html"],
    },
    cmdclass={"build_py": BuildWithoutStandIn},
    install_requires=["numpy>=2.0", "pillow>=10.4", "matplotlib>=3.10.7", "tqdm>=4.66"],
    extras_require={
        "numba": ["numba>=0.68"],
        "interop": ["safetensors>=0.5"],
        "peers": ["safetensors>=0.5", "torch>=2.13", "diffusers>=0.42"],
        "mpi": ["mpi4py>=4.1", "mpich>=5"],
        # nvmath-python alone would take the newest cuda-bindings, whatever the driver's CUDA
        "cuda12": ["cupy-cuda12x[ctk]>=14", "numba>=0.68", "nvmath-python>=1", "cuda-bindings<13"],
        "cuda13": ["cupy-cuda13x[ctk]>=14", "numba>=0.68", "nvmath-python>=1", "cuda-bindings<14"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "scipy>=1.13",
            "ruff~=0.17.6",
            "mypy>=1.11",
            "numba>=0.68",
            "safetensors>=0.5",
            "setuptools>=77.0.1",
        ],
    },
    entry_points={"console_scripts": ["tinyddpm = tinyddpm.cli:main"]},
)
