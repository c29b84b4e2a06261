"""A part of a sum over processes, which a thread adds while the rest is still computed."""

import threading
import time
from collections.abc import Callable
from typing import Any

NAP, BURST = 0.0005, 512  # seconds that a waiting thread leaves its core to others; looks between


class Patient:
    """MPI's calls of these names, by a thread that leaves its core to others while it waits.

    An MPI moves a little with each look at whether it is done, so that one look a nap would be
    far too few.

    Args:
        comm: a communicator that nothing else uses.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def Alltoallv(self, given: Any, taken: Any) -> None:
        """As MPI's."""
        self._wait(self.comm.Ialltoallv(given, taken))

    def Allgatherv(self, given: Any, taken: Any) -> None:
        """As MPI's."""
        self._wait(self.comm.Iallgatherv(given, taken))

    def _wait(self, request):
        while not any(request.Test() for _ in range(BURST)):
            time.sleep(NAP)


class Early(threading.Thread):
    """A thread that adds a part once so many shards have called it.

    Args:
        add: adds the part.
        count: how many shards call it.
    """

    def __init__(self, add: Callable[[], object], count: int) -> None:
        super().__init__(daemon=True)
        self.add, self.left, self.lock = add, count, threading.Lock()
        self.error: BaseException | None = None

    def __call__(self) -> None:
        with self.lock:
            self.left -= 1
            if not self.left:
                self.start()

    def run(self) -> None:
        """Add the part."""
        try:
            self.add()
        except BaseException as error:  # which `wait` raises, in the thread that waits
            self.error = error

    def wait(self) -> None:
        """Until the part is added. Raises what that has raised."""
        self.join()
        if self.error:
            raise self.error
