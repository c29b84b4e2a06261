"""One line of progress on a terminal, and a clean stop on SIGINT and SIGTERM."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE = 1.0  # seconds for what has to be tidied up after an interruption


def complain(message: object) -> None:
    """Print one line on standard error, whatever line breaks the message has."""
    print(f"tinyddpm: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


class Stopped:
    """True once SIGINT or SIGTERM has come; `signal` is its number.

    Inside `waiting`, the first one is only noted, for a loop that asks. Anywhere else, and from the
    second one on, it raises KeyboardInterrupt, and a process that is still there GRACE seconds
    later, because its threads are in a long computation, is ended with one line and the exit code
    128 + the number.
    """

    def __init__(self) -> None:
        self.signal, self.patient = 0, False
        self.before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self.timer = threading.Timer(GRACE, self._leave)
        self.timer.daemon = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.signal = not self.signal, self.signal or number
        if first and self.patient:
            return
        if self.timer.ident is None:
            self.timer.start()
        raise KeyboardInterrupt

    def _leave(self):
        complain("interrupted")
        os._exit(128 + self.signal)

    def __call__(self) -> bool:
        return self.signal != 0

    @contextlib.contextmanager
    def waiting(self) -> "Iterator[Stopped]":
        """A block in which the first signal is only noted."""
        self.patient = True
        try:
            yield self
        finally:
            self.patient = False

    def close(self) -> None:
        """Give the signals back to the handlers of before."""
        self.timer.cancel()
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Progress:
    """One line on standard error, only on a terminal: step, loss, steps a second, time left."""

    def __init__(self, steps: int) -> None:
        self.steps, self.shown, self.start = steps, 0.0, time.monotonic()
        self.first: int | None = None
        self.live = sys.stderr.isatty()

    def __call__(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        if self.first is None:  # the first step warms up caches: time from its end
            self.first, self.start = record["step"], now
        if not self.live or now - self.shown < 0.2 and record["step"] < self.steps:
            return
        self.shown = now
        rate = (record["step"] - self.first) / max(now - self.start, 1e-9)
        left = f"{(self.steps - record['step']) / rate:.0f} s left" if rate else ""
        step, loss = record["step"], float(record["loss"])
        line = f"step {step}/{self.steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left}   "
        print(f"\r{line}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self.live:
            print(file=sys.stderr)
