"""Reading a JSON configuration: every entry is taken, or it is named in the line that refuses."""

import json
import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from ..datasets.untrusted import file_errors_as_input, open_regular
from ..errors import InputError

LIMIT = 2**22  # bytes of a configuration; the longest list in one is a schedule


class Config:
    """A configuration's entries, each to be taken once; `finish` refuses what is left.

    Args:
        entries: the parsed JSON, a dict.
        name: the file's, for errors.
    """

    def __init__(self, entries: Any, name: str) -> None:
        if not isinstance(entries, dict):
            raise InputError(f"{name}: holds no table of settings")
        self.left, self.name = dict(entries), name

    def refuse(self, key: str, value: Any, why: str) -> InputError:
        """The error that names an entry."""
        return InputError(f"{self.name}: {key} = {json.dumps(value):.80} {why}")

    def take(self, key: str, default: Any, fits: Callable[[Any], bool], what: str) -> Any:
        """An entry's value, or the default where it is absent.

        Args:
            key: the entry's name.
            default: what the writers of such files take where it is absent.
            fits: whether a value is of the right kind.
            what: that kind, in words.

        Raises:
            InputError: the value is of another kind.
        """
        value = self.left.pop(key, default)
        if not fits(value):
            raise self.refuse(key, value, f"is not {what}")
        return value

    def whole(self, key: str, default: int, low: int = 1) -> int:
        """A whole number of at least `low`."""
        value = self.take(
            key, default, lambda v: is_whole(v) and v >= low, f"a whole number from {low}"
        )
        return int(value)

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self.take(key, default, lambda v: is_number(v) and v > 0, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return bool(self.take(key, default, lambda v: isinstance(v, bool), "true or false"))

    def word(self, key: str, default: str, known: dict[str, Any]) -> Any:
        """What a word stands for, by a table of those that are supported."""
        value = self.left.pop(key, default)
        if not isinstance(value, str) or value not in known:
            raise self.refuse(key, value, f"is not supported; {', '.join(known)} are")
        return known[value]

    def only(self, key: str, default: Any, *supported: Any) -> None:
        """An entry of which one value is supported, or these."""
        value = self.left.pop(key, default)
        kind = isinstance(value, bool)  # true is no 1
        if not any(value == one and isinstance(one, bool) == kind for one in supported):
            listed = " or ".join(json.dumps(one) for one in supported)
            raise self.refuse(key, value, f"is not supported; {listed} is")

    def finish(self, *unread: str) -> None:
        """Raise InputError for an entry that nothing took, but for comments and those unread."""
        for key, value in self.left.items():
            if not key.startswith("_") and key not in unread and value is not None:
                raise self.refuse(key, value, "is not supported")


def is_whole(value: Any) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError where it is none, or longer than LIMIT."""
    with file_errors_as_input(path), open_regular(path) as file:
        text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise InputError(f"is longer than {LIMIT:,} bytes")
        return json.loads(text.decode())
