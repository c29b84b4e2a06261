"""Readers under thousands of damaged and hostile files: one line of the package's own, or a valid
result.

The cases are in support/reader_cases.py, seeded. 500 a reader run with the suite, 150 of those
that take longer; `pytest -m stress` runs 100,000 of each, `--mutations N` as many as asked, and
bounds memory and time.
"""

import pytest
from support import many_cases, reader_cases
from support.reader_cases import READERS

N = 500
FEW = {"safetensors": 150, "unet.json": 150, "scheduler.json": 150, "cifar.tar.gz": 150}
every_reader = pytest.mark.parametrize("name", READERS)


@every_reader
def test_valid_inputs_are_read(name, tmp_path):
    assert all(
        reader_cases.attempt(name, tmp_path, content) for content in reader_cases.inputs(name)
    )


@every_reader
def test_mutated_inputs_are_read_or_refused_in_one_line(name, tmp_path):
    read, changed, count = 0, 0, FEW.get(name, N)
    for i in range(count):
        content = reader_cases.case(name, i)
        try:
            read += reader_cases.attempt(name, tmp_path, content)
        except reader_cases.Broken as broken:
            pytest.fail(f"{name}, case {i}: {broken}")
        changed += content not in reader_cases.inputs(name)
    # A reader that refused everything would obey the rule too, and so would one that was shown
    # nothing new.
    assert read >= READERS[name].share * count
    assert changed >= 0.9 * count


def test_a_case_is_a_function_of_its_number():
    assert reader_cases.case("npz", 7) == reader_cases.case("npz", 7) != reader_cases.case("npz", 8)


@pytest.mark.parametrize("error", [KeyError("a"), MemoryError(), AssertionError("not in [-1, 1]")])
def test_anything_else_is_noticed(monkeypatch, tmp_path, error):
    def read(folder, content):
        raise error

    monkeypatch.setitem(READERS, "npy", reader_cases.Reader(list, read, 0))
    with pytest.raises(reader_cases.Broken, match=type(error).__name__):
        reader_cases.attempt("npy", tmp_path, b"")


def check_many(name, n):
    """n cases in a process of their own: the rule holds in each, within the bounds."""
    found = many_cases.measure(name, 0, n)
    print(f"{name}: {found}")
    assert not many_cases.violations(found)
    assert found["inputs"] == n and found["read"] >= READERS[name].share * n
    return found


@pytest.mark.stress
@every_reader
def test_many_mutated_inputs_are_read_or_refused_in_one_line(name, request):
    check_many(name, request.config.getoption("--mutations"))


@pytest.mark.parametrize("name", ["npz", "png"])
def test_the_long_form_counts_and_bounds_memory(name):
    """The memory that it sees is at least that of an interpreter with NumPy and Pillow."""
    assert 10e6 < check_many(name, 60)["peak"] < many_cases.MEMORY


def test_each_broken_bound_of_the_long_form_is_named():
    found = {"broken": {"KeyError: 'a'": 2}, "example": {"KeyError: 'a'": 7}}
    assert many_cases.violations({**found, "peak": 3e8, "slowest": [1.5, 9]}) == [
        "2 times, first in case 7: KeyError: 'a'",
        "300 MB of memory",
        "case 9 took 1.5 seconds",
    ]
    kept = {"broken": {}, "example": {}, "peak": 199e6, "slowest": [0.9, 9]}
    assert not many_cases.violations(kept)


def test_a_process_that_dies_is_noticed_with_its_case():
    with pytest.raises(reader_cases.Broken, match="npz died at case none"):
        many_cases.measure("npz", 0, "many")
