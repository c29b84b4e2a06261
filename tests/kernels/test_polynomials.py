"""log, cos(pi x), sin(pi x) of the kernels at every argument that they can meet, against float64.

There are 2**23 values of U and 2**24 angles, so this is not a sample: no other argument exists.
"""

import numpy as np
import pytest
from tinyddpm.kernels.polynomials import numpy_polynomials

from tinyddpm import noise
from tinyddpm.formulas import Arithmetic, make, numpy_formulas

PART = 1 << 21
UNIT = np.float32(2.0**-23)


def ulps(got, exact):
    """The largest error in units in the last place of the exact value; 0 must be exact."""
    zero = exact == 0
    assert not got[zero].any()
    return np.max(np.abs(got - exact)[~zero] / np.spacing(np.abs(exact[~zero]).astype(np.float32)))


@pytest.mark.parametrize("start", range(0, 1 << 23, PART))
def test_log_of_every_u(start):
    u = (np.arange(start, start + PART).astype(np.float32) + np.float32(0.5)) * UNIT
    assert ulps(numpy_polynomials.log(u), np.log(u.astype(np.float64))) < 1.1


@pytest.mark.parametrize("start", range(0, 1 << 24, PART))
def test_the_circle_at_every_angle(start):
    x = np.arange(start, start + PART).astype(np.float32) * UNIT
    n = np.rint(2 * x.astype(np.float64))
    r = np.pi * (x - n / 2)
    c, s = np.cos(r), np.sin(r)
    c, s = np.where(n % 2 == 0, c, -s), np.where(n % 2 == 0, s, c)
    sign = np.where(n % 4 < 2, 1, -1)
    assert ulps(numpy_polynomials.cospi(x), sign * c) < 1.1
    assert ulps(numpy_polynomials.sinpi(x), sign * s) < 1.1


def test_normals_from_the_polynomials_are_the_references_within_four_ulps():
    p = numpy_polynomials
    circle = {"log": p.log, "cospi": p.cospi, "sinpi": p.sinpi}
    others = {"sqrt": np.sqrt, "minimum": np.minimum, "maximum": np.maximum}
    arithmetic = Arithmetic(f32=lambda u: u.astype(np.float32), **circle, **others)
    formulas = make(lambda f: f, arithmetic)
    words = noise.bits((4, 1 << 18), seed=5)
    for got, want in zip(
        formulas.box_muller(words[0], words[1]), numpy_formulas.box_muller(words[0], words[1])
    ):
        assert got.dtype == want.dtype == np.float32
        assert np.max(np.abs(got.astype(np.float64) - want) / np.spacing(np.abs(want))) <= 4
