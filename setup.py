"""Metadata, extras and the entry point; everything about the tools is in pyproject.toml."""

import pathlib
import re

from setuptools import setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "tinyddpm" / "__init__.py").read_text(encoding="utf-8")
).group(1)
SHELVES = (
    "nn",
    "runs",
    "datasets",
    "plots",
    "tour",
    "cli",
    "kernels",
    "kernels.cpu",
    "kernels.gpu",
)

setup(
    name="tinyddpm",
    version=VERSION,
    description="A minimal DDPM in NumPy alone: hand-written networks and gradients, every equation cited and proved",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "tinyddpm/datasets/LICENSE-digits.txt"],
    python_requires=">=3.11",
    packages=["tinyddpm", *(f"tinyddpm.{shelf}" for shelf in SHELVES)],
    package_dir={"tinyddpm.kernels": "kernels"},
    package_data={
        "tinyddpm.datasets": ["digits.npz", "LICENSE-digits.txt"],
        "tinyddpm.tour": ["page.html"],
    },
    install_requires=["numpy>=2.0", "pillow>=10.1"],
    extras_require={
        "numba": ["numba>=0.68"],
        "cuda12": ["cupy-cuda12x[ctk]>=14", "numba>=0.68"],
        "cuda13": ["cupy-cuda13x[ctk]>=14", "numba>=0.68"],
        "plot": ["matplotlib>=3.8"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "scipy>=1.11",
            "ruff>=0.6",
            "numba>=0.68",
            "setuptools>=77",
        ],
    },
    entry_points={"console_scripts": ["tinyddpm = tinyddpm.cli:main"]},
)
