"""Where compiled kernels are kept on disk."""

import pathlib
import tempfile

from numba import config


def folder(name, beside):
    """The folder of this name for compiled code, or None where none can be written.

    It lies in NUMBA_CACHE_DIR where that is set, else in __pycache__ in the folder `beside`, else
    in the user's cache: the first that can be written.
    """
    asked = config.CACHE_DIR
    for place in [pathlib.Path(asked)] if asked else [beside / "__pycache__", users_cache()]:
        found = place / name
        try:
            found.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=found).close()
            return found
        except OSError:
            continue
    return None


def users_cache():
    """The folder in which Numba keeps what it compiles for this user."""
    from numba.misc.appdirs import AppDirs

    return pathlib.Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
