"""What a command prints, whatever its streams are, and a clean stop on SIGINT and SIGTERM."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from ..shards import ALONE, Alone

GRACE = 1.0  # seconds for what has to be tidied up after an interruption


def plain(text: object) -> str:
    """The text; what a terminal would act on is written out: "\\x1b[2J", which would clear it."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def complain(message: object, stream: TextIO | None = None) -> None:
    """Print one line on standard error, whatever line breaks the message has; nothing if closed.

    stream: another one, in its place.
    """
    stream = stream or sys.stderr
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            line = plain(" ".join(str(message).split()))
            print(f"tinyddpm: {line}", file=stream, flush=True)


class Say:
    """Prints on standard output; what that refuses stops no command, and `close` tells of it.

    Characters that the terminal's encoding lacks are written out.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        if sys.stderr is None:  # closed: what is printed there must not land elsewhere
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives

    def __call__(self, text: object) -> None:
        """Print one line, of which file names and settings may be parts."""
        self.raw(plain(text))

    def raw(self, text: str) -> None:
        """Print a text of our own words, terminal codes and all."""
        if sys.stdout is None:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda: print(shown, flush=True))

    def can(self, text: str) -> bool:
        """Whether the terminal's encoding has the characters of a text."""
        try:
            text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def close(self) -> int:
        """Print what is left; returns 1, with a complaint, where something could not be printed.

        A reader that went away, as in `tinyddpm backends | head -1`, has had what it wanted: 0.
        """
        if sys.stdout is not None:
            self._try(sys.stdout.flush)
        if self.error is None:
            return 0
        with contextlib.suppress(OSError, ValueError):  # or Python complains of it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(self.error, BrokenPipeError):
            return 0
        reason = getattr(self.error, "strerror", None) or self.error
        complain(f"cannot write to standard output: {reason}")
        return 1

    def _try(self, act):
        if self.error is None:
            try:
                act()
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self.error = error


class Stopped:
    """True once SIGINT or SIGTERM has come; `signal` is its number.

    Inside `waiting`, the first one is only noted, for a loop that asks. Anywhere else, and from the
    second one on, it raises KeyboardInterrupt, and a process that is still there GRACE seconds
    later, because its threads are in a long computation, is ended with one line and the exit code
    128 + the number. Of several processes with such a signal, number 0 is the first to do so.
    """

    def __init__(self, team: Alone = ALONE) -> None:
        self.signal, self.patient, self.team = 0, False, team
        self.before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self.timer = threading.Timer(GRACE if team.first else 2 * GRACE, self._leave)
        self.timer.daemon = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.signal = not self.signal, self.signal or number
        if first and self.patient:
            return
        if self.timer.ident is None:
            self.timer.start()
        raise KeyboardInterrupt

    def _leave(self):
        name = "" if self.team.first else f"rank {self.team.rank}: "
        complain(f"{name}interrupted", sys.__stderr__ if name else None)
        self.team.leave(128 + self.signal)

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
