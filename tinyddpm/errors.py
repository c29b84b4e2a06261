"""The package's errors: what a user can cause is one of these, with a message of one line."""

from collections.abc import Iterable


class TinyDDPMError(Exception):
    """What tinyddpm refuses or cannot finish: one line and exit code 1 on the command line."""

    def __init__(self, message: object = "") -> None:
        """The message; values in it, such as an array, may be of several lines."""
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class InputError(TinyDDPMError, ValueError):
    """Wrong use or bad input (a file, an array, an option): exit code 2 on the command line."""


def counted(n: int, noun: str) -> str:
    """A number of things, for a message: "1 file", "1,200 files"."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """ ": did you mean steps?", with the nearest of the known words, or "" where none is near."""
    import difflib  # only where something is wrong

    words = [str(each) for each in known if each is not None]
    folded = {each.lower(): each for each in reversed(words)}
    found = difflib.get_close_matches(str(word).lower(), folded, n=1, cutoff=0.6)
    return f": did you mean {folded[found[0]]}?" if found else ""


def described(error: BaseException) -> str:
    """An error that was not expected in one line: its kind, its text and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{where}"


class DeviceFull(TinyDDPMError):
    """A step does not fit a device's memory; nothing of it was done."""
