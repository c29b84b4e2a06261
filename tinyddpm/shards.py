"""A batch in shards: which process computes which, and in what order their gradients are added.

A batch is cut into a number of shards that is the run's own. Their gradients are added as a tree,
neighbours first, then pairs of neighbours. A float sum depends on its order, so a run has the same
bits however many threads or processes share the work.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from .process import Array

Share = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # map, or one over threads
T = TypeVar("T")


def cuts(batch: int, shards: int) -> list[slice]:
    """The samples of each shard: their sizes differ by one at most, and none is empty."""
    edges = np.linspace(0, batch, min(shards, batch) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def additions(count: int) -> list[tuple[int, int]]:
    """The sum of `count` parts as a tree: [(i, j), ...] is part i += part j, in this order.

    The total ends in part 0.
    """
    tree, apart = [], 1
    while apart < count:
        tree += [(i, i + apart) for i in range(0, count - apart, 2 * apart)]
        apart *= 2
    return tree


def add(parts: Mapping[int, Array] | list[Array], tree: Iterable[tuple[int, int]]) -> None:
    """Add arrays in place, in the order that `additions` gives."""
    with np.errstate(over="ignore", invalid="ignore"):  # whoever reads the sum looks for it
        for i, j in tree:
            target = parts[i]
            target += parts[j]


def ready(tree: list[tuple[int, int]], count: int, done: int) -> list[tuple[int, int]]:
    """The additions of a tree that parts 0..done - 1 of `count` allow, in the tree's order."""
    # part j stands, once its own additions are done, for as many parts as it is away from i
    return [(i, j) for i, j in tree if min(j + (j - i), count) <= done]


def turns(
    mine: range,
    size: int,
    count: int,
    tree: list[tuple[int, int]],
    grads: dict[int, Array],
    spare: list[Array],
) -> Iterator[range]:
    """A process's shards, `size` at a time; between turns gradients are added as the tree allows.

    What was added makes room for the next ones, and the sum has the bits of one turn.

    Args:
        mine: the shards of this process.
        size: how many it computes in a turn.
        count: how many shards there are, in all processes.
        tree: the additions among its own shards.
        grads: the gradients by number, which the caller puts in.
        spare: takes the arrays of those that were added.
    """
    tree = tree if size < len(mine) else []
    for start in range(0, len(mine), size):
        turn = mine[start : start + size]
        yield turn
        added = ready(tree, count, turn[-1] + 1)
        add(grads, added)
        tree = [pair for pair in tree if pair not in added]
        spare += [grads.pop(j) for _, j in added]


class Alone:
    """One process, which does all of the work; `parallel.Ranks` has the same methods for several.

    Every method is called by all processes, in the same order.
    """

    rank = 0  # this process's number; number 0 writes and prints
    size = 1  # how many processes there are
    neighbours = 1  # how many of them share this machine

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """The shards of `count` that this process computes."""
        return range(count)

    def use(self, ops: T) -> T:
        """Compute with this backend from here on, on a device of this process's own; returns it.

        Raises InputError where processes would share one.
        """
        return ops

    def check(self, count: int) -> None:
        """Connect the processes' devices.

        Raises InputError where that fails, or where processes cannot share `count` shards.
        """

    def additions(self, count: int) -> list[tuple[int, int]]:
        """Those of `additions(count)` that are among this process's own shards."""
        return additions(count)

    def early(
        self, grads: Mapping[int, Array], count: int, start: int
    ) -> Callable[[], object] | None:
        """What is to be called by each of this process's shards, before `total`.

        It is called once the shard's gradient is complete from `start` on, so that this part can be
        added while the rest is computed.

        Args:
            grads: where the gradients (P,) will be by then.
            count: how many shards there are, in all processes.
            start: where the part begins that is complete first.

        Returns:
            A function that any thread may call, or None.
        """
        return None

    def total(self, grads: Mapping[int, Array], losses: list[Any]) -> tuple[Array, Any]:
        """The sums over all shards of the gradients and of the losses, the same in every process.

        Args:
            grads: the gradients (P,) of this process's shards by their numbers; overwritten.
            losses: theirs, in the order of the shards.

        Returns:
            The gradient, one of the arrays that came, and the loss.
        """
        add(grads, additions(len(grads)))
        return grads[0], sum(losses)

    def spread(self, share: Share) -> Share:
        """A map like `share` whose items are divided among the processes; all get every result."""
        return share

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return number

    def once(self, f: Callable[[], T]) -> T:
        """What f returns or raises, called in the first process alone."""
        return f()

    def end(self, line: str | None, code: int, tell: Callable[[str], object]) -> int:
        """Print why the work ended, if it failed; returns the exit code, the same in every process.

        Args:
            line: what went wrong, or None.
            code: 0, or how this process would exit.
            tell: prints a line.
        """
        if line:
            tell(line)
        return code

    def leave(self, code: int) -> NoReturn:
        """End this process at once, and with it all of them."""
        os._exit(code)

    def same(self, about: Mapping[str, Any]) -> None:
        """Raise InputError, with the names, where processes differ in what they are to do."""


ALONE = Alone()
