"""The one line that every command begins with: the data, the network, what computes."""

from collections import Counter
from typing import Any

import numpy as np

from ..datasets.sets import Data
from ..errors import counted
from ..nn import sizes
from ..nn.ops import Ops
from ..nn.unet import UNet
from ..runs import threads
from ..shards import ALONE, Alone

SHOWN = 4  # classes that are named


def data_line(fit: Data, held: Data) -> str:
    """ "200 images 32x32x3, 4 classes (cat 50, dog 50, ...), 20 held out".

    Args:
        fit: the part that is fitted.
        held: the part held out.
    """
    kind = "image" if fit.x.ndim == 4 else "point"
    parts = [f"{counted(len(fit.x) + len(held.x), kind)} {of_shape(fit.x.shape[1:])}"]
    if fit.labels is not None and held.labels is not None:
        counts = Counter(np.concatenate([fit.labels, held.labels]).tolist())
        names = [
            f"{fit.classes[label] if fit.classes else label} {counts[label]:,}"
            for label in sorted(counts)
        ]
        parts.append(f"{counted(len(names), 'class')} ({_listed(names)})")
    return ", ".join([*parts, f"{len(held.x):,} held out"])


def model_line(net: Any, ops: Ops, shards: int | None = None, team: Alone = ALONE) -> str:
    """ "U-Net, 1.2 M parameters; numba, 2 threads", or of several ranks "3 ranks of 1 thread".

    Args:
        net: the network.
        ops: the backend.
        shards: into how many parts the work is cut, by default the backend's.
        team: the processes that share the work.
    """
    name = "U-Net" if isinstance(net, UNet) else "MLP"
    size = short(sizes.parameters(net))
    parts = max(1, (ops.shards if shards is None else shards) // team.size)
    count = counted(min(parts, threads.share_of_cores(team.neighbours)), "thread")
    ranks = f"{counted(team.size, 'rank')} of " if team.size > 1 else ""
    where = ops.name if ops.lazy else f"{ops.name}, {ranks}{count}"
    where = where if ops.precision == "fp32" else f"{where}, products in {ops.precision}"
    return f"{name}, {size} parameters; {where}"


def samples_line(n: int, shape: tuple[int, ...], classes: tuple[int | str, ...]) -> str:
    """ "64 samples 32x32x3, 4 classes (cat, dog, ...)", for a command that reads no data.

    Args:
        n: how many samples are drawn.
        shape: of one.
        classes: those that the model knows.
    """
    listed = f", {counted(len(classes), 'class')} ({_listed(list(map(str, classes)))})"
    return f"{counted(n, 'sample')} {of_shape(shape)}{listed if classes else ''}"


def of_shape(shape: tuple[int, ...]) -> str:
    """A sample's shape in a word or three: 32x32x3, in 2 dimensions."""
    if len(shape) == 1:
        return f"in {counted(shape[0], 'dimension')}"
    return "x".join(map(str, shape))


def short(count: int) -> str:
    """A count in three figures at most: 942, 13.4 k, 1.2 M."""
    value, units = float(count), ["", " k", " M", " G"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f}{units[0]}" if count < 1000 or value >= 99.95 else f"{value:.1f}{units[0]}"


def _listed(names):
    return ", ".join(names[:SHOWN] + ["..."] * (len(names) > SHOWN))
