"""What memory is free, and the refusal of work that would take more of it."""

import math
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..nn import sizes
from ..nn.ops import Ops
from ..process import Array
from ..settings import Recipe

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def free() -> float:
    """Bytes that this process may still take: the machine's, or its control group's if fewer.

    Infinity where the system does not tell (it is asked on Linux alone).
    """
    if sys.platform != "linux":
        return float("inf")
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        sizes = {words[0]: 1024 * int(words[1]) for words in lines if len(words) == 3}
        machine: float = sizes["MemAvailable:"] + sizes.get("SwapFree:", 0)
    except (OSError, ValueError, LookupError):
        machine = float("inf")
    try:
        limit, used = (int((GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        statistics = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        group: float = limit - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):  # no such group, or "max": no limit
        group = float("inf")
    return max(0.0, min(machine, group))


def check(what: str, parts: dict[str, int], limit: float | None = None) -> None:
    """Raise InputError where the parts together take more than is free, or than a limit.

    Args:
        what: what would take the memory, such as "this run".
        parts: the bytes of each part, by its name.
        limit: bytes, such as those of --limit, or None.
    """
    total, there = sum(parts.values()), free()
    if total <= min(there, float("inf") if limit is None else limit):
        return
    largest = max(parts, key=lambda name: parts[name])
    bound = f"{size(there)} are free"
    if limit is not None and limit < there:
        bound = f"the limit is {size(limit)} (--limit)"
    raise InputError(
        f"{what} would take at least {size(total)} of memory, {size(parts[largest])} of it for "
        f"{largest}; {bound}"
    )


def check_card(net: Any, recipe: Recipe, x: Array, ops: Ops, show: bool = False) -> None:
    """Raise InputError where training takes more of a card's memory than is free there.

    Args:
        net: the network.
        recipe: its batch, cut in shards that run one after the other.
        x: the data, which lies on the card.
        ops: the backend; one whose arrays are the host's needs no card.
        show: whether to say what is needed and what is free, in one line.
    """
    there = ops.free_bytes()
    if there is None:
        return
    shape, parameters = x.shape[1:], sizes.parameters(net)
    gradients = -(-recipe.shards // recipe.accumulate)
    kept = sizes.kept(net, shape) + 3 * math.prod(shape)  # and x_0, eps and x_t
    parts = {
        "the data": x.nbytes,
        f"{parameters:,} parameters": 4 * (4 + gradients) * parameters,
        f"a batch of {recipe.batch:,}": 4 * kept * -(-recipe.batch // recipe.shards),
    }
    total, largest = sum(parts.values()), max(parts, key=lambda name: parts[name])
    words = f"at least {size(total)} of the GPU's memory, "
    words += f"{size(parts[largest])} of it for {largest}"
    if total > there:
        raise InputError(f"this run would take {words}; {size(there)} are free")
    if show:
        print(f"tinyddpm: takes {words}; {size(there)} are free", file=sys.stderr)


def size(count: float) -> str:
    """A number of bytes in the words of `--limit`'s powers of two, such as 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1024 or unit == "PiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
