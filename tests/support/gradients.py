"""Gradient checks: the analytic slope along random directions against central differences."""

from dataclasses import dataclass

import numpy as np

from tinyddpm.nn import params
from tinyddpm.nn.ops import Forget, Ops

OPS = Ops()


def check_gradient(f, x, gradient, seed=0, directions=3, rtol=1e-7):
    """Compare <gradient, u> with (f(x + h u) - f(x - h u)) / 2h, in float64.

    f: array -> float; gradient: df/dx at x.

    u has length 1 and h = 1e-3 or, for large x, 1e-3 of its root mean square. The difference is
    Richardson's (steps h and h / 2), so its error is of order h^4 = 1e-12 times a fifth derivative;
    rounding in f adds about 1e-16 |f| / h = 1e-13 |f|. Both lie well under 1e-7 of a random
    direction's typical slope, |gradient| over the root of its size, which is also what a slope that
    happens to be smaller is judged by.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    assert x.dtype == np.float64 and gradient.dtype == np.float64 and gradient.shape == x.shape
    for _ in range(directions):
        u = rng.standard_normal(x.shape)
        u /= np.sqrt((u**2).sum())
        h = 1e-3 * max(1.0, np.sqrt((x**2).mean()))

        def slope(h, u=u):
            return (f(x + h * u) - f(x - h * u)) / (2 * h)

        numeric = float((4 * slope(h / 2) - slope(h)) / 3)
        analytic = float((gradient * u).sum())
        scale = max(abs(analytic), np.sqrt((gradient**2).mean()))
        assert abs(numeric - analytic) <= rtol * scale, (
            f"numeric {numeric!r}, analytic {analytic!r}"
        )


@dataclass(frozen=True)
class Labelled:
    """A net that is always given these labels, for the checks that give none."""

    net: object
    label: np.ndarray

    def spec(self):
        return self.net.spec()

    def forward(self, *arguments):
        return self.net.forward(*arguments, label=self.label)

    def backward(self, *arguments):
        return self.net.backward(*arguments)


def random_theta(net, seed=0, dtype=np.float64):
    """The net's first theta with noise added, so that no layer is zero and no gradient is."""
    theta = params.init(net.spec(), seed, np.float64)
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(theta.size)
    return (theta + 0.2 * noise).astype(dtype)


def run_net(net, theta, x, t, tape, drop=None, ops=OPS):
    """net(x, t) with the parameters laid over theta."""
    return net.forward(ops, params.views(net.spec(), theta), x, t, tape, drop)


def net_gradients(net, theta, x, t, dy, drop=None, ops=OPS, grad=None):
    """(y, dtheta, dx) of one forward and backward; dtheta is added to `grad` where given."""
    tape = []
    grad = np.zeros_like(theta) if grad is None else grad
    y = run_net(net, theta, x, t, tape, drop, ops)
    dx = net.backward(ops, params.views(net.spec(), grad), dy, tape)
    assert not tape
    return y, grad, dx


def check_net(net, x, t, make_drop=lambda: None):
    """The net's gradients with respect to theta and x, of a random projection of its output."""
    theta = random_theta(net)
    y = run_net(net, theta, x, t, [], make_drop())
    dy = np.random.Generator(np.random.PCG64(5)).standard_normal(y.shape)
    _, dtheta, dx = net_gradients(net, theta, x, t, dy, make_drop())
    check_gradient(
        lambda theta: (dy * run_net(net, theta, x, t, [], make_drop())).sum(), theta, dtheta
    )
    check_gradient(lambda x: (dy * run_net(net, theta, x, t, [], make_drop())).sum(), x, dx)


def check_net_habits(net, x):
    """What every net promises of dtypes, tapes, added gradients and batches.

    x: (B, ...) in float64, B > 1.
    """
    rng = np.random.Generator(np.random.PCG64(6))
    theta, t = random_theta(net), rng.integers(1, 1001, len(x))
    y = run_net(net, theta, x, t, Forget())
    dy = rng.standard_normal(y.shape)
    taped, grad, dx = net_gradients(net, theta, x, t, dy)
    assert np.array_equal(y, taped), "the tape changes the output"

    first = grad.copy()
    net_gradients(net, theta, x, t, dy, grad=grad)
    near(grad, 2 * first)

    strided = np.asfortranarray(x)
    for ours, theirs in zip(
        net_gradients(net, theta, strided, t, np.asfortranarray(dy)), (y, first, dx), strict=True
    ):
        near(ours, theirs)

    near(
        run_net(net, theta, x, np.full(len(x), 7), Forget()),
        run_net(net, theta, x, np.array([7]), Forget()),
    )
    parts = [
        net_gradients(net, theta, x[i : i + 1], t[i : i + 1], dy[i : i + 1]) for i in range(len(x))
    ]
    near(np.concatenate([part[0] for part in parts]), y)
    near(sum(part[1] for part in parts), first)
    near(np.concatenate([part[2] for part in parts]), dx)

    small = net_gradients(
        net, theta.astype(np.float32), x.astype(np.float32), t, dy.astype(np.float32)
    )
    for ours, theirs in zip(small, (y, first, dx), strict=True):
        assert ours.dtype == np.float32
        near(ours, theirs, rtol=1e-3)


def near(actual, expected, rtol=1e-11):
    """Equal up to rounding, of the largest entry: 1e-11 leaves 4 digits for reordered sums."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error, scale = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= rtol * scale, f"off by {error}, largest entry {scale}"
