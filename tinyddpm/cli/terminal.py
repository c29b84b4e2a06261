"""What the command line does with a terminal and with signals: one line of progress, and a clean
stop.
"""

import contextlib
import os
import signal
import sys
import threading
import time

GRACE = 1.0  # seconds for what has to be tidied up after an interruption


def complain(message):
    """The command line's one line on standard error."""
    print(f"tinyddpm: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


class Stopped:
    """True once SIGINT or SIGTERM has come; `signal` is its number.

    Inside `waiting`, the first one is only noted, for a loop that asks; anywhere else, and from the
    second one on, it raises KeyboardInterrupt, and a process that is still there GRACE seconds
    later, its threads deep in a computation, is ended with one line and 128 + the number.
    """

    def __init__(self):
        self.signal, self.patient = 0, False
        self.before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self.timer = threading.Timer(GRACE, self._leave)
        self.timer.daemon = True

    def _note(self, number, frame):
        first, self.signal = not self.signal, self.signal or number
        if first and self.patient:
            return
        if self.timer.ident is None:
            self.timer.start()
        raise KeyboardInterrupt

    def _leave(self):
        complain("interrupted")
        os._exit(128 + self.signal)

    def __call__(self):
        return self.signal != 0

    @contextlib.contextmanager
    def waiting(self):
        """A block in which the first signal is only noted."""
        self.patient = True
        try:
            yield self
        finally:
            self.patient = False

    def close(self):
        """Give the signals back to whom they belonged."""
        self.timer.cancel()
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Progress:
    """One line on standard error, only on a terminal: step, loss, steps a second, time left."""

    def __init__(self, steps):
        self.steps, self.first, self.shown, self.start = steps, None, 0.0, time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, record):
        now = time.monotonic()
        if self.first is None:  # the first step warms up caches: time from its end
            self.first, self.start = record["step"], now
        if not self.live or now - self.shown < 0.2 and record["step"] < self.steps:
            return
        self.shown = now
        rate = (record["step"] - self.first) / max(now - self.start, 1e-9)
        left = f"{(self.steps - record['step']) / rate:.0f} s left" if rate else ""
        print(
            f"\rstep {record['step']}/{self.steps}  loss {float(record['loss']):.4f}  {rate:.1f} steps/s  {left}   ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def close(self):
        """End the line."""
        if self.live:
            print(file=sys.stderr)
