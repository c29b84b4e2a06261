"""Readers under thousands of damaged and hostile files: one line of the package's own, or a valid
result.

The cases are in reader_cases.py, seeded; `python -m benchmarks.mutations` runs more of them and
bounds memory and time.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from support import reader_cases
from support.reader_cases import READERS

ROOT = pathlib.Path(__file__).parents[2]
N = 500


@pytest.mark.parametrize("name", READERS)
def test_valid_inputs_are_read(name, tmp_path):
    assert all(
        reader_cases.attempt(name, tmp_path, content) for content in reader_cases.inputs(name)
    )


@pytest.mark.parametrize("name", READERS)
def test_mutated_inputs_are_read_or_refused_in_one_line(name, tmp_path):
    read, changed = 0, 0
    for i in range(N):
        content = reader_cases.case(name, i)
        try:
            read += reader_cases.attempt(name, tmp_path, content)
        except reader_cases.Broken as broken:
            pytest.fail(f"{name}, case {i}: {broken}")
        changed += content not in reader_cases.inputs(name)
    # A reader that refused everything would obey the rule too, and so would one that was shown
    # nothing new.
    assert read >= READERS[name].share * N
    assert changed >= 0.9 * N


def test_a_case_is_a_function_of_its_number():
    assert reader_cases.case("npz", 7) == reader_cases.case("npz", 7) != reader_cases.case("npz", 8)


@pytest.mark.parametrize("error", [KeyError("a"), MemoryError(), AssertionError("not in [-1, 1]")])
def test_anything_else_is_noticed(monkeypatch, tmp_path, error):
    def read(folder, content):
        raise error

    monkeypatch.setitem(READERS, "npy", reader_cases.Reader(list, read, 0))
    with pytest.raises(reader_cases.Broken, match=type(error).__name__):
        reader_cases.attempt("npy", tmp_path, b"")


def test_the_long_form_counts_and_bounds_memory():
    """Its exit code says that the rule held; the memory of an interpreter with NumPy and Pillow is
    what it sees.
    """
    command = [sys.executable, "-m", "benchmarks.mutations", "--n", "60", "--reader", "npz", "png"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["reader", "npz", "png"], done.stdout + done.stderr
    for row in rows[1:]:
        assert row[1] == "60" and row[3] == "0" and 10 < int(row[4]) < 200, row
