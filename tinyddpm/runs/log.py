"""The log of a run: one JSON object a line.

The same run gives the same bytes, however often it was stopped.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import files
from .files import write_atomic

NAME = "log.jsonl"
LINE = 2**12  # bytes; ours have about a hundred, and longer lines are not from this program
LIMIT = 2**26  # bytes of a log that is read back, about 600,000 records


class RunLog:
    """Appends records to RUN/log.jsonl; opened at step k it first drops later or broken lines."""

    def __init__(self, folder: str | os.PathLike[str], step: int) -> None:
        self.path = Path(folder) / NAME
        kept = (line for line, record in _records(self.path) if record["step"] <= step)
        write_atomic(self.path, kept)
        try:
            self.size = self.path.stat().st_size
            self.file = self.path.open("ab", buffering=0)
        except OSError as error:
            files.refuse("write", self.path, error)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as one line, at once.

        Raises TinyDDPMError where the disk refuses; no half line stays.
        """
        line = (json.dumps(record) + "\n").encode()
        try:
            done = 0
            while done < len(line):
                done += self.file.write(line[done:])
        except OSError as error:
            with contextlib.suppress(OSError):  # or it would hide why the write failed
                self.file.truncate(self.size)
            files.refuse("write", self.path, error)
        self.size += len(line)

    def sync(self) -> None:
        """Flush the lines to disk, which must come before a checkpoint of the same step."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            files.refuse("write", self.path, error)

    def close(self) -> None:
        """Close the file; what had to be on disk, `sync` has put there."""
        with contextlib.suppress(OSError):
            self.file.close()


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield (line, record) for each line that is a record, its step above the last one's.

    Other lines, cut or foreign ones, are passed over. Raises InputError where the path is a pipe or
    a device, which may never end, and TinyDDPMError where the system refuses.
    """
    if not files.kind(path):
        return
    last, starts = 0, True
    with _opened(path) as file:
        for line in iter(lambda: file.readline(LINE), b""):
            record = _record(line) if starts else None
            starts = line.endswith(b"\n")
            if record is not None and record["step"] > last:
                last = record["step"]
                yield line, record


@contextlib.contextmanager
def _opened(path):
    """The open log; what the system refuses is one line."""
    if files.kind(path) != "file":
        raise InputError(f"{path} is not a regular file")
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        files.refuse("read", path, error)


def _record(line):
    """The record of a line, a dict with an integral "step" and a finite "loss", or None."""
    if not line.endswith(b"\n"):  # cut by a crash, or by the bound
        return None
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    step, loss = record.get("step"), record.get("loss")
    ours = type(step) is int and step < 2**53 and type(loss) is float and math.isfinite(loss)
    return record if ours else None


def read(folder: str | os.PathLike[str], limit: int = LIMIT) -> list[dict[str, Any]]:
    """Read the records of a run folder's log, steps rising.

    Raises InputError where there is no log or it has more than `limit` bytes.
    """
    path = Path(folder) / NAME
    if not files.kind(path):
        raise InputError(f"no log at {path}")
    if path.stat().st_size > limit:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes; the limit is {limit:,}")
    return [record for _, record in _records(path)]
