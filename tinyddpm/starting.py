"""A command that is interrupted while its modules are still being loaded ends with one line.

To be imported before anything that takes time. A program that imports the package is left alone.
"""

import os
import sys
from types import TracebackType


def _is_command() -> bool:
    """Whether this process is `tinyddpm ...` or `python -m tinyddpm ...`."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if name == "-m":  # as it is until the package has been imported
        return "tinyddpm" in sys.orig_argv
    return name.partition(".")[0] == "tinyddpm"


def _one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """What Python calls with an exception that nothing has caught."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    if sys.stderr is not None:
        sys.stderr.write("tinyddpm: interrupted\n")
        sys.stderr.flush()
    os._exit(130)


if _is_command():
    sys.excepthook = _one_line
