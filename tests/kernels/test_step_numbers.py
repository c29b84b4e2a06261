"""The numbers of a step travel as NamedTuples and are unpacked by place: every place agrees."""

import pathlib
import re

import pytest

from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.optim import AdamWFactors, adamw_factors

ROOT = pathlib.Path(__file__).parents[2]
FORMULAS = ROOT / "tinyddpm" / "formulas.py"
FILES = [FORMULAS, *sorted((ROOT / "kernels").rglob("*.py"))]


def unpacked(path, name):
    """The names in each line of a file that unpacks the tuple of that name."""
    text = path.read_text(encoding="utf-8")
    return [found.split(", ") for found in re.findall(rf"^ +(\w+(?:, \w+)+) = {name}$", text, re.M)]


@pytest.mark.parametrize("name, kind", [("c", FusedStep), ("factors", AdamWFactors)])
def test_a_tuple_is_unpacked_in_its_order(name, kind):
    """In the text, which NumPy, Numba and CUDA's compiler share; a place may be left unnamed."""
    assert unpacked(FORMULAS, name) == [list(kind._fields)]
    for path in FILES:
        for places in unpacked(path, name):
            assert len(places) == len(kind._fields), path.name
            for place, field in zip(places, kind._fields):
                assert place in ("_", field), path.name


def test_no_number_of_a_tuple_is_taken_by_its_place():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "factors[" not in text and " c[" not in text, path.name


def test_the_factors_of_a_step_are_named_as_they_are_made():
    step, lr, weight_decay, decay_m, decay_v, tol = 3, 0.01, 0.1, 0.8, 0.95, 1e-6
    factors = adamw_factors(step, lr, weight_decay, decay_m, decay_v, tol)
    assert factors.keep == 1 - lr * weight_decay
    assert factors.rate == lr / (1 - decay_m**step)
    assert (factors.gain_m, factors.gain_v) == (1 - decay_m, 1 - decay_v)
    assert factors.correct_v == pytest.approx((1 - decay_v**step) ** -0.5, rel=1e-15)
    assert factors.tol == tol
    assert all(type(number) is float for number in factors)
