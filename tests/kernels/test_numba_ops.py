"""The Numba backend's convolutions, normalisations and networks against the reference in float64.

U is float32's rounding. A sum's error is judged by the sum of its terms' sizes, which is the same
operation on absolute values, at its largest, since Winograd's transform mixes neighbours: each term
is rounded a few times; 8 U are granted.
"""

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from support.float32 import LAYOUTS, U, absolute, in_float64, random, spread, within
from support.gradients import near, net_gradients, random_theta, run_net
from support.op_cases import normals

from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Forget, Ops
from tinyddpm.nn.optim import AdamWFactors, Vectors
from tinyddpm.nn.unet import UNet

pytest.importorskip("numba")
numba_ops = importlib.import_module("tinyddpm.kernels.cpu.ops")
Prepared = importlib.import_module("tinyddpm.kernels.cpu.prepared").Prepared
NUMBA, REFERENCE = numba_ops.make("numba"), Ops()

# k, stride, pad: all that a kernel takes and, last, two that are left to the reference
OPTIONS = [
    (3, 1, (1, 1)),
    (3, 2, (0, 1)),
    (3, 2, (1, 1)),
    (1, 1, (0, 0)),
    (3, 2, (0, 0)),
    (3, 2, (1, 0)),
    (3, 1, (0, 0)),
    (1, 2, (0, 0)),
]
# one channel, fewer than a vector's lanes, vectors and a rest, and (the last two) enough for
# Winograd's transform
CHANNELS = [(1, 32), (32, 1), (3, 5), (4, 4), (8, 24), (20, 20), (16, 3), (40, 48), (32, 64)]
SIZES = [(1, 1, 1), (3, 5, 7), (2, 8, 8), (1, 6, 3)]


# --- convolution


def layer(k, C, O, seed=2):
    return SimpleNamespace(w=random(k, k, C, O, seed=seed), b=random(O, seed=seed + 1))


def check_linear(forward, backward, x, p, layout=np.array):
    """y, dx, dw, db of an operation that is linear in x and p; backward: the method's name."""
    tape, tape64, size = [], [], []
    y = forward(NUMBA, layout(x), p, tape)
    y64 = forward(REFERENCE, x.astype(float), in_float64(p), tape64)
    within(y, y64, forward(REFERENCE, np.abs(x).astype(float), in_float64(absolute(p)), size))
    assert np.array_equal(forward(NUMBA, layout(x), p, Forget()), y), "the tape changes the output"
    # gradients are added to what is there
    dy, g = random(*y.shape, seed=6), layer(*p.w.shape[1:], seed=7)
    g64, g_size = in_float64(g), in_float64(absolute(g))
    dx = getattr(NUMBA, backward)(layout(dy), g, tape)
    dx64 = getattr(REFERENCE, backward)(dy.astype(float), g64, tape64)
    within(dx, dx64, getattr(REFERENCE, backward)(np.abs(dy).astype(float), g_size, size))
    within(g.w, g64.w, g_size.w)
    within(g.b, g64.b, g_size.b)
    assert not tape


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_conv2d(channels, option):
    k, stride, pad = option
    for size in SIZES:
        if min(size[1:]) + sum(pad) >= k:
            check_linear(
                lambda ops, x, p, tape: ops.conv2d(x, p, tape, stride, pad),
                "conv2d_backward",
                random(*size, channels[0]),
                layer(k, *channels),
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_conv2d_of_any_layout(option, layout):
    k, stride, pad = option
    for channels in [(3, 5), (32, 32)]:
        check_linear(
            lambda ops, x, p, tape: ops.conv2d(x, p, tape, stride, pad),
            "conv2d_backward",
            random(2, 6, 5, channels[0]),
            layer(k, *channels),
            layout,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_upsample_conv2d(channels, layout):
    """The kernel adds up rows of w before it multiplies: other roundings of the same terms."""
    for size in SIZES:
        check_linear(
            lambda ops, x, p, tape: ops.upsample_conv2d(x, p, tape),
            "upsample_conv2d_backward",
            random(*size, channels[0]),
            layer(3, *channels),
            layout,
        )


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_what_a_convolution_adds_on_the_way(k, channels):
    x, p, pad = random(3, 5, 4, channels[0]), layer(k, *channels), (k // 2,) * 2
    image = random(3, 5, 4, channels[1], seed=4)
    for extra in (
        {"shift": image[:, 0, 0]},
        {"shift": image[:1, 0, 0]},
        {"onto": image},
        {"onto": spread(image)},
    ):
        size = {name: np.abs(value) for name, value in extra.items()}
        within(
            NUMBA.conv2d(x, p, [], 1, pad, **extra),
            REFERENCE.conv2d(x.astype(float), in_float64(p), [], 1, pad, **extra),
            REFERENCE.conv2d(np.abs(x).astype(float), in_float64(absolute(p)), [], 1, pad, **size),
        )


def test_gradients_may_lie_anywhere():
    """g.w is a view of a flat vector at any address, or one with holes."""
    x, p = random(2, 6, 6, 32), layer(3, 32, 32)
    flat = np.zeros(9 * 32 * 32 + 1, np.float32)[1:].reshape(3, 3, 32, 32)
    grads = []
    for w in (np.zeros_like(p.w), flat, np.zeros((3, 3, 32, 64), np.float32)[..., ::2]):
        tape, g = [], SimpleNamespace(w=w, b=np.zeros(32, np.float32))
        y = NUMBA.conv2d(x, p, tape)
        NUMBA.conv2d_backward(y, g, tape)
        grads.append(g.w)
    for grad in grads[1:]:
        near(grad, grads[0], rtol=64 * U)


def test_samples_do_not_mix():
    x, p = random(5, 7, 6, 32), layer(3, 32, 32)
    norm = SimpleNamespace(w=random(32), b=random(32, seed=2))
    for op in (
        lambda x: NUMBA.conv2d(x, p, Forget()),
        lambda x: NUMBA.conv2d(x, p, Forget(), 2, (0, 1)),
        lambda x: NUMBA.upsample_conv2d(x, p, Forget()),
        lambda x: NUMBA.groupnorm_silu(x, norm, 8, Forget()),
    ):
        assert np.array_equal(np.concatenate([op(x[i : i + 1]) for i in range(5)]), op(x))


# --- normalisation, element by element

NORMS = [
    ((3, 5, 4, 8), 8),
    ((2, 7, 7, 24), 8),
    ((1, 1, 1, 8), 2),
    ((2, 8, 8, 32), 8),
    ((3, 9, 16), 4),
    ((2, 1, 3, 20), 4),
    ((1, 3, 3, 1), 1),
    ((1, 1, 1, 4), 4),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("silu", ["", "_silu"])
@pytest.mark.parametrize("shape, groups", NORMS, ids=str)
def test_groupnorm(shape, groups, silu, layout):
    """Some tens of roundings of x, which is 5 away from 0, divided by a group's deviation."""
    x, dy, C = 5 + 3 * random(*shape), random(*shape, seed=2), shape[-1]
    p, g = (SimpleNamespace(w=random(C, seed=s), b=random(C, seed=s + 1)) for s in (3, 5))
    g64, tape, tape64 = in_float64(g), [], []
    forward, backward = f"groupnorm{silu}", f"groupnorm{silu}_backward"
    y = getattr(NUMBA, forward)(layout(x), p, groups, tape)
    variance = x.reshape(len(x), -1, groups, C // groups).astype(float).var(axis=(1, 3))
    inv = 1 / np.sqrt(variance.min() + 1e-6)
    within(
        y,
        getattr(REFERENCE, forward)(x.astype(float), in_float64(p), groups, tape64),
        np.abs(p.w).max() * np.abs(x).max() * inv,
        16,
    )
    assert np.array_equal(y, getattr(NUMBA, forward)(layout(x), p, groups, Forget()))
    dx = getattr(NUMBA, backward)(layout(dy), g, tape)
    dx64 = getattr(REFERENCE, backward)(dy.astype(float), g64, tape64)
    within(dx, dx64, np.abs(dy * p.w).max() * np.abs(x).max() * inv, 16)
    total = np.abs(dy).reshape(-1, C).sum(axis=0).max() * np.abs(x).max() * inv
    within(g.w, g64.w, 1 + total, 16)
    within(g.b, g64.b, 1 + total, 16)
    assert not tape


def test_a_far_mean_keeps_its_precision():
    """Deviations of 1 about a mean of 1000: E x^2 - (E x)^2 would lose all but one digit."""
    x, p = random(2, 8, 8, 4), SimpleNamespace(w=np.ones(4, np.float32), b=np.zeros(4, np.float32))
    near(
        NUMBA.groupnorm(x + np.float32(1000), p, 2, []),
        REFERENCE.groupnorm(x, p, 2, []),
        rtol=1000 * U,
    )


def test_silu_within_five_ulps_and_its_slope():
    x = np.concatenate([np.linspace(-80, 200, 100_001), [0.0, 1e-30, -1e-30]]).astype(np.float32)
    tape, tape64 = [], []
    y, y64 = NUMBA.silu(x, tape), REFERENCE.silu(x.astype(float), tape64)
    assert np.all(np.abs(y - y64) <= 5 * np.spacing(np.abs(y64).astype(np.float32)))
    one = np.ones_like(x)
    within(
        NUMBA.silu_backward(one, tape),
        REFERENCE.silu_backward(one.astype(float), tape64),
        1 + np.abs(y64),
    )
    far = NUMBA.silu(np.array([-1e4, -200, 1e4, np.inf, np.nan], np.float32), [])
    assert (
        np.all(np.abs(far[:2]) < 1e-30) and far[2] == 1e4 and far[3] == np.inf and np.isnan(far[4])
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixel_sum_of_images_tokens_and_frames(layout):
    for shape in [(3, 5, 7, 6), (2, 9, 16), (1, 1, 1, 1)]:
        x = random(*shape)
        within(
            NUMBA.pixel_sum(layout(x)),
            REFERENCE.pixel_sum(x.astype(float)),
            REFERENCE.pixel_sum(abs(x)),
        )
    p = SimpleNamespace(w=random(6), b=random(6, seed=2))
    y = NUMBA.groupnorm_silu(random(3, 5, 7, 6), p, 2, [])
    assert np.array_equal(NUMBA.pixel_sum(y), NUMBA.pixel_sum(np.array(y)))


@pytest.mark.parametrize("rows", [(4,), (3, 4), (2, 3, 4)])
def test_linear(rows):
    p = SimpleNamespace(w=random(6, 5, seed=2), b=random(5, seed=3))
    x, dy, g, h = random(*rows, 6), random(*rows, 5, seed=4), layer(1, 1, 1), layer(1, 1, 1)
    for grads in (g, h):
        grads.w, grads.b = np.ones((6, 5), np.float32), np.ones(5, np.float32)
    tape, other = [], []
    near(NUMBA.linear(x, p, tape), REFERENCE.linear(x, p, other), rtol=8 * U)
    near(NUMBA.linear_backward(dy, g, tape), REFERENCE.linear_backward(dy, h, other), rtol=8 * U)
    near(g.w, h.w, rtol=16 * U)
    near(g.b, h.b, rtol=16 * U)
    assert not tape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", [(), (0, True)])
def test_time_embedding_in_and_beyond_its_table(dtype, settings):
    """To the bit: a table's rows are what the reference computes."""
    times = np.array([1, 999, 1000]), np.array([7]), np.array([3, 1 << 20]), np.array([-1, 2]), 5
    for t in (*times, np.array([0.5, 3.0]), np.array([4], np.int32)):
        ours = NUMBA.time_embedding(t, 10, dtype, *settings)
        theirs = REFERENCE.time_embedding(t, 10, dtype, *settings)
        assert ours.dtype == dtype and np.array_equal(ours, theirs)


# --- whole networks

NETS = {
    "vectors": UNet(base=32, mults=(1, 2), blocks=1, attention=(False, True), pad="both"),
    "ragged": UNet(
        channels=2, base=12, mults=(1, 2, 2), blocks=1, attention=(False, True, False), groups=4
    ),
    "published": UNet(
        channels=3,
        base=16,
        mults=(1, 2),
        blocks=1,
        attention=(True, False),
        up_attention=(False, True),
        head_dim=8,
        center=True,
        t_offset=-1,
        freq_shift=0,
        cos_first=True,
    ),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_unet_and_its_gradients(net):
    """A few hundred roundings in a row, each of U times the largest value met."""
    theta, x, t = (
        random_theta(net, dtype=np.float32),
        random(3, 12, 8, net.channels),
        np.array([1, 50, 900]),
    )
    dy = random(*x.shape, seed=3)
    ours = net_gradients(net, theta, x, t, dy, ops=NUMBA)
    theirs = net_gradients(net, theta.astype(float), x.astype(float), t, dy.astype(float))
    for actual, expected in zip(ours, theirs, strict=True):
        assert actual.dtype == np.float32
        near(actual, expected, rtol=300 * U)
    near(run_net(net, theta, x, t, Forget(), ops=NUMBA), theirs[0], rtol=300 * U)


def test_float64_is_the_references_bit_for_bit():
    net, ops = NETS["ragged"], NUMBA
    theta, x, t = random_theta(net), normals(2, 4, 4, 2), np.array([3, 4])
    for ours, theirs in zip(
        net_gradients(net, theta, x, t, x, ops=ops), net_gradients(net, theta, x, t, x)
    ):
        assert ours.dtype == np.float64 and np.array_equal(ours, theirs)
    c = FusedStep(1.5, -0.8, 1.0, 0.4, 0.6, 0.3)
    assert np.array_equal(ops.reverse(x, x, x, c), REFERENCE.reverse(x, x, x, c))
    assert np.array_equal(ops.noised(x, x, t / 5, t / 7), REFERENCE.noised(x, x, t / 5, t / 7))
    states = [[normals(50, seed=i) ** 2 for i in range(5)] for _ in range(2)]
    for each, (grad, *state) in zip((ops, REFERENCE), states):
        factors = AdamWFactors(0.99, 2e-3, 0.1, 0.001, 3.0, 1e-8)
        each.adamw_ema(Vectors(*state), grad, 0.5, factors, 0.05)
    assert all(np.array_equal(a, b) for a, b in zip(*states)) and states[0][0].dtype == np.float64


def test_threads_side_by_side_give_the_same_bits():
    net = NETS["vectors"]
    theta, x = random_theta(net, dtype=np.float32), random(3, 12, 8, 1)

    def once(_):
        return net_gradients(net, theta, x, np.array([1, 50, 900]), x, ops=NUMBA)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(once, range(6)))
    assert all(np.array_equal(a, b) for result in results for a, b in zip(result, results[0]))


def test_sampling_follows_weights_that_have_changed():
    """Weights laid out for sampling are kept, and made again when their numbers change in place."""
    net, ops = NETS["vectors"], numba_ops.NumbaOps()
    theta, x, t = random_theta(net, dtype=np.float32), random(2, 8, 8, 1), np.array([7])
    first = np.array(run_net(net, theta, x, t, Forget(), ops=ops))
    assert ops._prepared and np.array_equal(run_net(net, theta, x, t, Forget(), ops=ops), first)
    theta *= np.float32(1.1)
    second = run_net(net, theta, x, t, Forget(), ops=ops)
    near(second, run_net(net, theta.astype(float), x.astype(float), t, Forget()), rtol=300 * U)
    assert np.abs(second - first).max() > 1e-3


@pytest.mark.parametrize("size", [(3, 5), (2, 9000)])
def test_weights_are_looked_at_once_a_call_and_made_again_where_any_differs(size):
    """The last number too; a thread whose network was called earlier takes what another found."""
    prepared, made, w = Prepared(), [], random(*size)

    def make(w):
        made.append(w.copy())
        return len(made)

    def find(begun):
        return prepared.find(w, "any", make, begun)

    assert [find(time.perf_counter()) for _ in range(2)] == [1, 1]
    before = time.perf_counter()
    assert find(before) == 1
    w[-1, -1] += 1
    assert find(before) == 1 and find(time.perf_counter()) == 2
    w[0, 0] -= 1
    assert find(time.perf_counter()) == 3 and np.array_equal(made[-1], w)
