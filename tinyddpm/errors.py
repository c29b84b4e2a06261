"""The package's errors: what a user can cause is one of these, with a message of one line."""


class TinyDDPMError(Exception):
    """What tinyddpm refuses or cannot finish: one line and exit code 1 on the command line."""


class InputError(TinyDDPMError, ValueError):
    """Wrong use or bad input (a file, an array, an option): exit code 2 on the command line."""


def counted(n: int, noun: str) -> str:
    """A number of things, for a message: "1 file", "1,200 files"."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"
