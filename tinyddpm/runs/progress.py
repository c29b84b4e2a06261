"""One line of progress on standard error, by tqdm, for whatever takes more than two seconds.

On a terminal and in a notebook it is drawn over and over, in the width there is; into a file goes a
line a minute.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

Progress = Callable[[dict[str, Any]], object]  # called with each step's record

DELAY = 2.0  # seconds before anything is shown
MINUTE = 60.0  # seconds between lines in a file
DECAY = 0.98  # of the loss's moving average
# What stands last is cut off first where the line is too long for the terminal.
FORMAT = "{desc} {n_fmt}/{total_fmt} {bar} {remaining} left, {rate_noinv_fmt}{postfix}"
WIDTH = 80  # columns where nothing tells of any


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


class _Lines:
    """A stream to which each state is a line of its own, for a file has no cursor."""

    def __init__(self, stream):
        self.stream, self.encoding = stream, getattr(stream, "encoding", None)

    def write(self, text):
        if text.strip():
            self.stream.write(text.strip("\r\n") + "\n")

    def flush(self):
        self.stream.flush()


class Bar:
    """A line of progress: call it with the number of steps done since the last call.

    A stream that cannot be written to ends the line, never the work.
    """

    def __init__(
        self, total: int, title: str, unit: str = "step", show: bool | None = None, done: int = 0
    ) -> None:
        """Begin to count.

        Args:
            total: how many steps there are.
            title: one word for what is done.
            unit: one step, in the singular.
            show: whether to show anything; None shows it in a notebook alone.
            done: how many steps are done already.
        """
        self.line: Any = None
        self.lock, self.mean, self.weight = threading.Lock(), 0.0, 0.0
        self.read = 0.0  # when a loss was last read from a device
        if sys.stderr is None or not (in_notebook() if show is None else show):
            return
        from tqdm import tqdm  # here, for most of the package does without it

        live = sys.stderr.isatty() or in_notebook()
        line = type("Line", (tqdm,), {"monitor_interval": 0})  # without its thread
        self.line = line(
            total=total,
            initial=done,
            desc=title,
            unit=f" {unit}s",
            file=sys.stderr if live else _Lines(sys.stderr),
            ascii=None if live else True,
            mininterval=0.1 if live else MINUTE,
            delay=DELAY if live else MINUTE,
            miniters=1,
            ncols=None if sys.stderr.isatty() else WIDTH,
            dynamic_ncols=sys.stderr.isatty(),
            bar_format=FORMAT,
        )

    def __call__(self, steps: int = 1, loss: float | None = None) -> None:
        """Count steps, on any thread; a loss is shown as a moving average."""
        if self.line is None:
            return
        with self.lock:
            if loss is not None:
                self.mean = DECAY * self.mean + (1 - DECAY) * loss
                self.weight = DECAY * self.weight + (1 - DECAY)
                self.line.set_postfix_str(f"loss {self.mean / self.weight:.4f}", refresh=False)
            self._try(lambda: self.line.update(steps))

    def record(self, record: dict[str, Any]) -> None:
        """Count one step of training; a loss that is on a device is read once a second."""
        loss, now = record["loss"], time.monotonic()
        if not isinstance(loss, float):
            due = self.line is not None and now - self.read > 1
            loss, self.read = (float(loss), now) if due else (None, self.read)
        self(1, loss)

    def to(self, done: int, total: int) -> None:
        """Count up to `done`, of `total`."""
        if self.line is not None:
            self.line.total = total
            self(done - self.line.n)

    def close(self) -> None:
        """End the line."""
        if self.line is not None:
            self._try(self.line.close)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.line.disable = True

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def watching(progress: Progress | bool | None, total: int, done: int) -> Iterator[Progress]:
    """What to call with each step's record: a function of the user's, or a bar's."""
    if callable(progress):
        yield progress
        return
    with Bar(total, "train", show=progress, done=done) as bar:
        yield bar.record
