"""What the command line does with a terminal and with signals: one line of progress, and a clean stop."""

import signal
import sys
import time


class Stopped:
    """True once SIGINT or SIGTERM has come; the second one interrupts at once."""

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __call__(self):
        return self.signal != 0


class Progress:
    """One line on standard error, only on a terminal: step, loss, steps a second, time left."""

    def __init__(self, steps):
        self.steps, self.first, self.shown, self.start = steps, None, 0.0, time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, record):
        now = time.monotonic()
        if self.first is None:          # the first step warms up caches: time from its end
            self.first, self.start = record["step"], now
        if not self.live or now - self.shown < 0.2 and record["step"] < self.steps:
            return
        self.shown = now
        rate = (record["step"] - self.first) / max(now - self.start, 1e-9)
        left = f"{(self.steps - record['step']) / rate:.0f} s left" if rate else ""
        print(f"\rstep {record['step']}/{self.steps}  loss {float(record['loss']):.4f}  {rate:.1f} steps/s  {left}   ",
              end="", file=sys.stderr, flush=True)

    def close(self):
        """End the line."""
        if self.live:
            print(file=sys.stderr)
