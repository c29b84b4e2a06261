"""One session on a device: a case that fails, or for which no time is left, becomes one line."""

import gc
import time


class Session:
    """What is tried, within a budget of seconds; what came to nothing is told and kept.

    Args:
        budget: seconds after which nothing new is begun.
        free: called after a failure, to give memory back.
        tell: prints one line.
    """

    def __init__(self, budget, free=lambda: None, tell=print):
        self.start, self.budget, self.free, self.tell = time.perf_counter(), budget, free, tell
        self.failed, self.dropped = {}, {}  # {what: the line that says why}

    def spent(self):
        """Seconds since the session began."""
        return time.perf_counter() - self.start

    def attempt(self, what, function, *arguments):
        """The function's result; None where it fails, or where no time was left to begin it."""
        if self.spent() >= self.budget:
            self.dropped[what] = f"dropped: the budget of {self.budget:g} s is spent"
            self.tell(f"{what}: {self.dropped[what]}")
            return None
        try:
            return function(*arguments)
        # of a machine never seen before the rest is worth having all the same
        except Exception as error:
            words = " ".join(str(error).split()) or "no more is said"
            self.failed[what] = f"{type(error).__name__}: {words}"
        self.tell(f"{what}: failed: {self.failed[what]}")
        gc.collect()  # what the failed call held lies in its frames, which are gone now
        self.free()
        return None
