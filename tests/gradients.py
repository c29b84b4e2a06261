"""Directional gradient checks: the analytic slope along random directions against central differences."""

import numpy as np


def check_gradient(f, x, gradient, seed=0, directions=3, rtol=1e-7):
    """f: array -> float, in float64; gradient: df/dx at x. Compares <gradient, u> with (f(x+hu) - f(x-hu)) / 2h.

    The difference is Richardson's (steps h and h/2), error O(h^4): with h = 1e-3 |x| that is near 1e-12 for the
    smooth functions here, and rounding adds 1e-16 / h; both lie well under 1e-7 of the slope of a random direction.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    assert x.dtype == np.float64 and gradient.shape == x.shape
    for _ in range(directions):
        u = rng.standard_normal(x.shape)
        u /= np.sqrt((u**2).sum())
        h = 1e-3 * max(1.0, np.sqrt((x**2).mean()))

        def slope(h, u=u):
            return (f(x + h * u) - f(x - h * u)) / (2 * h)

        numeric = (4 * slope(h / 2) - slope(h)) / 3
        analytic = float((gradient * u).sum())
        scale = max(abs(analytic), np.sqrt((gradient**2).mean()))
        assert abs(numeric - analytic) <= rtol * scale, f"numeric {numeric!r}, analytic {analytic!r}"
