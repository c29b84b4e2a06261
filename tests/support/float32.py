"""float32 arrays in several layouts, and answers judged by float32's rounding."""

from types import SimpleNamespace

import numpy as np

from support.op_cases import normals

U = 2.0**-24  # float32's rounding


def random(*shape, seed=1):
    return normals(*shape, seed=seed).astype(np.float32)


def in_float64(p):
    return SimpleNamespace(**{name: value.astype(np.float64) for name, value in vars(p).items()})


def absolute(p):
    return SimpleNamespace(**{name: np.abs(value) for name, value in vars(p).items()})


def within(actual, expected, size, roundings=8):
    """|actual - expected| <= roundings U max(size), and the kernel's answer is float32."""
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    error, limit = np.abs(actual - expected).max(), roundings * U * np.max(size)
    assert error <= limit, f"off by {error}, granted {limit}"


def spread(x):
    """The same values, their memory with holes."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


def backwards(x):
    return np.ascontiguousarray(x[:, ::-1])[:, ::-1]


LAYOUTS = [np.array, spread, backwards, np.asfortranarray]
