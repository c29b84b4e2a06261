"""The names of version 0.1: each still leads to what it names now, with a DeprecationWarning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

FUNCTIONS = {
    "predict_x0": "x0_from_eps",
    "predict_eps": "eps_from_x0",
    "predict_v": "v_from_x0_eps",
}
MODULES = {
    "checkpoint": "runs.checkpoint",
    "closed_form": "exact",
    "curves": "plots.figures",
    "data": "datasets.sets",
    "figures": "plots.images",
    "flow": "density",
    "lock": "runs.lock",
    "machine": "runs.threads",
    "marks": "plots.figures",
    "mlp": "nn.mlp",
    "ops": "nn.ops",
    "optim": "nn.optim",
    "options": "cli.options",
    "page": "tour.page",
    "params": "nn.params",
    "readers": "datasets.readers",
    "run": "runs.run",
    "runlog": "runs.log",
    "steps": "nn.device",
    "terminal": "cli.terminal",
    "unet": "nn.unet",
}


def find(name: str) -> Any:
    """What a name of version 0.1 stands for now. Raises AttributeError for any other name."""
    package = __name__.rpartition(".")[0]
    if name in FUNCTIONS:
        new, found = FUNCTIONS[name], importlib.import_module(f"{package}.process")
        found = getattr(found, new)
    elif name in MODULES:
        new = MODULES[name]
        found = importlib.import_module(f"{package}.{new}")
    else:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    words = f"{package}.{name} is now {package}.{new}; the old name goes with the next version"
    warnings.warn(words, DeprecationWarning, stacklevel=3)
    return found


class _Moved:
    """Asked by `import` when nothing else has found a module: names the new place of an old one."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Raise ModuleNotFoundError for a module of version 0.1."""
        package, _, name = fullname.rpartition(".")
        if package == __name__.rpartition(".")[0] and name in MODULES:
            words = f"{fullname} is now {package}.{MODULES[name]}: import that"
            raise ModuleNotFoundError(words, name=fullname)


sys.meta_path.append(_Moved)
