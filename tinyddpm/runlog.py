"""The log of a run: one JSON object a line, the same bytes for the same run however often it was stopped."""

import json
import pathlib

from .checkpoint import write_atomic
from .errors import InputError

NAME = "log.jsonl"


class RunLog:
    """Appends records to RUN/log.jsonl; opened at step k it first drops every line that is later or broken."""

    def __init__(self, folder, step):
        self.path = pathlib.Path(folder) / NAME
        kept = [line for line, record in _records(self.path) if record["step"] <= step]
        write_atomic(self.path, "".join(line + "\n" for line in kept).encode())
        self.file = self.path.open("a", encoding="utf-8")

    def append(self, record):
        """Write one record as one line, at once."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self):
        """Close the file."""
        self.file.close()


def _records(path):
    """(line, record) for each whole line of a log; a line that a crash cut short is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield line, record


def read(folder):
    """The records of a run folder's log, a list of dicts. Raises InputError where there is no log."""
    path = pathlib.Path(folder) / NAME
    if not path.is_file():
        raise InputError(f"no log at {path}")
    return [record for _, record in _records(path)]
