"""Every CUDA kernel under Numba's simulator against the reference; test_cuda_sim.py runs it.

Tolerances are in float32's rounding. A sum of n terms differs from another order of the same sum by
sqrt(n) u times the terms' root mean square and more rarely by a multiple of it; 8 multiples are
granted.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from tinyddpm.kernels.gpu import cuda_ops, device_functions, launch, layers, linear
from tinyddpm.kernels.gpu.cuda_ops import make

import tinyddpm as td
from support import strict_cuda
from support.device_checks import check_last_block
from tinyddpm import noise
from tinyddpm.errors import InputError
from tinyddpm.formulas import numpy_formulas
from tinyddpm.nn import optim, params
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Forget, Ops
from tinyddpm.nn.optim import AdamWFactors, Vectors
from tinyddpm.nn.unet import UNet

U = 2.0**-24


SIM, REFERENCE = make("cuda-sim"), Ops()
# samples and a sample's shape: rows of 4k, rows with a rest, rows shorter than four, one element,
# many short rows
SHAPES = [(3, 4, 4, 1), (5, 7), (2, 3), (3, 1), (9, 2), (1, 130), (2, 5, 3, 2), (0, 4)]
SHORT = [(3, 8), (5, 7), (9, 2)]
KEYS = [
    {"seed": 0},
    {"seed": 2**64 - 1, "purpose": noise.REVERSE, "step": 2**32 - 1, "first_sample": 2**32 - 9},
    {"seed": 0x1234567890ABCDEF, "purpose": noise.EPS, "step": 77, "first_sample": 5},
]


def random(*shape, seed=1):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def ulps(a, b):
    """The largest difference in units in the last place of b; where b is all but 0, of 1e-6."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    unit = np.spacing(np.maximum(np.abs(b), np.float32(1e-6)))
    return float(np.max(np.abs(a.astype(np.float64) - b) / unit, initial=0))


def spread(x):
    """The same values, their memory with holes: every second column of a wider array."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


def shifted(x):
    """The same values at an address that is no multiple of 16 bytes."""
    raw = np.zeros(x.size + 5, np.float32)
    start = next(i for i in range(1, 5) if raw[i:].ctypes.data % 16)
    raw[start : start + x.size] = x.reshape(-1)
    return raw[start : start + x.size].reshape(x.shape)


def test_philox_words_are_the_references_bit_for_bit():
    counters = np.random.Generator(np.random.PCG64(3)).integers(0, 2**32, (50, 6), dtype=np.uint64)
    counters[:3] = [
        [0] * 6,
        [2**32 - 1] * 6,
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0],
    ]
    for counter in counters:
        assert [int(w) for w in device_functions.formulas.philox(*counter)] == [
            int(w) for w in numpy_formulas.philox(*counter)
        ]


@pytest.mark.parametrize("key", KEYS, ids=["zeros", "ones", "mixed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normal(shape, key):
    assert ulps(SIM.normal(shape, **key), noise.normal(shape, **key)) <= 4


@pytest.mark.parametrize("layout", [np.array, spread, shifted])
@pytest.mark.parametrize("shape", SHORT, ids=str)
def test_noised(shape, layout):
    x0, eps = layout(random(*shape)), layout(random(*shape, seed=2))
    c_x0, c_eps = random(len(x0), seed=3) ** 2, random(len(x0), seed=4) ** 2
    expected = c_x0[:, None] * x0 + c_eps[:, None] * eps
    assert np.allclose(SIM.noised(x0, eps, c_x0, c_eps), expected, rtol=0, atol=4 * U * 30)
    xt, drawn = SIM.noised_drawn(x0, c_x0, c_eps, **KEYS[2])
    assert np.array_equal(drawn, SIM.normal(shape, **KEYS[2]))
    assert np.array_equal(xt, SIM.noised(x0, drawn, c_x0, c_eps))


@pytest.mark.parametrize("bound", [np.inf, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("layout", [np.array, spread, shifted])
@pytest.mark.parametrize("shape", SHORT, ids=str)
def test_reverse(shape, layout, sigma, bound):
    c = FusedStep(1.5, -0.8, bound, 0.4, 0.6, sigma)
    xt, prediction, z = (layout(random(*shape, seed=i)) for i in range(3))
    expected = numpy_formulas.reverse(xt, prediction, z, np.float32(c))
    assert np.allclose(SIM.reverse(xt, prediction, z, c), expected, rtol=0, atol=8 * U * 10)
    drawn = SIM.reverse_drawn(xt, prediction, c, **KEYS[2])
    assert np.array_equal(drawn, SIM.reverse(xt, prediction, SIM.normal(shape, **KEYS[2]), c))


def test_reverse_keeps_a_nan_that_clipping_could_hide():
    xt, prediction, z = random(2, 8), random(2, 8, seed=2), np.zeros((2, 8), np.float32)
    prediction[0, 3] = prediction[1, 4] = np.nan
    xs = SIM.reverse(xt, prediction, z, FusedStep(1.0, 1.0, 1.0, 1.0, 0.0, 0.0))
    assert np.array_equal(np.isnan(xs), np.isnan(prediction))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("layout", [np.array, shifted])
@pytest.mark.parametrize("size", [1, 3, 4, 130])
def test_adamw_ema(size, layout, scale):
    theta, grad, m, v, ema = (layout(random(size, seed=i)) for i in range(5))
    v **= 2
    factors = AdamWFactors(*np.float32((0.99, 2e-3, 0.1, 0.001, 3.0, 1e-8)))
    weight = np.float32(0.05)
    expected = numpy_formulas.adamw(theta, grad * np.float32(scale), m, v, factors)
    average = numpy_formulas.average(ema, expected[0], weight)
    before = grad.copy()
    vectors = Vectors(theta, m, v, ema)
    SIM.adamw_ema(vectors, grad, np.float32([scale]), factors, weight)
    for got, want in zip((theta, m, v, ema), (*expected, average)):
        assert np.allclose(got, want, rtol=0, atol=16 * U * 4)
    assert np.array_equal(grad, before)


@pytest.mark.parametrize("limit", [None, 0.5, 1e3])
def test_clip_scale_is_the_references_factor(limit):
    for grad in (random(50), np.full(50, np.inf, np.float32), np.full(50, np.nan, np.float32)):
        clipped = grad.copy()
        norm = optim.clip_by_norm(clipped, limit)
        scale, kept = SIM.clip_scale(grad, limit)
        assert scale.dtype == np.float32 and scale.shape == (1,) and kept.shape == ()
        assert np.allclose(kept, norm, rtol=8 * U, equal_nan=True)
        assert np.allclose(scale * grad, clipped, rtol=8 * U, equal_nan=True)


def test_a_unet_and_its_gradient_are_the_references(monkeypatch):
    for module in (cuda_ops, launch, layers):
        monkeypatch.setattr(module, "STEP_THREADS", 1)
    monkeypatch.setattr(cuda_ops, "NORM_THREADS", 1)
    monkeypatch.setattr(layers, "SUM_THREADS", 1)
    monkeypatch.setattr(linear, "DENSE_THREADS", 1)
    strict_cuda.one_thread_a_block(monkeypatch)
    net = UNet(channels=1, base=4, mults=(1,), blocks=1, attention=(True,), groups=2)
    theta = params.init(net.spec(), 0) + random(params.size(net.spec()), seed=3) / 10
    x, t = random(1, 3, 2, 1), np.array([7])
    results = []
    for ops, dtype in ((SIM, np.float32), (REFERENCE, np.float64)):
        grad, tape = np.zeros(theta.size, dtype), []
        y = net.forward(
            ops, params.views(net.spec(), theta.astype(dtype)), x.astype(dtype), t, tape
        )
        dx = net.backward(ops, params.views(net.spec(), grad), np.ones_like(y), tape)
        results.append((y, dx, grad))
    for got, want in zip(*results):
        assert got.dtype == np.float32
        # some hundred roundings in a row, each of U times the largest value met
        assert np.max(np.abs(got - want)) <= 300 * U * np.max(np.abs(want))


# sizes of a sample and groups: more pixels than threads, fewer, channels of a group beyond a block,
# no pixel axis; several slabs, a group over two loads, slabs of several turns
NORMS = [
    ((2, 3, 3, 4), 2, spread),
    ((1, 2, 1, 3), 3, spread),
    ((1, 3, 20), 2, np.array),
    ((2, 6), 2, np.array),
    ((1, 7, 1, 5), 1, np.array),
    ((2, 2, 16), 4, np.array),
    ((1, 33, 8), 1, np.array),
    ((2, 3, 8), 8, shifted),
    ((1, 2, 24), 2, np.array),
]


@pytest.mark.parametrize("silu", ["", "_silu"])
@pytest.mark.parametrize("shape, groups, layout", NORMS, ids=str)
def test_groupnorm(shape, groups, silu, layout):
    x, dy = layout(3 + 2 * random(*shape)), layout(random(*shape, seed=2))
    p = SimpleNamespace(w=1 + random(shape[-1], seed=3) / 2, b=random(shape[-1], seed=4))
    results = []
    for ops, dtype in ((SIM, np.float32), (REFERENCE, np.float64)):
        tape, q = [], SimpleNamespace(w=p.w.astype(dtype), b=p.b.astype(dtype))
        g = SimpleNamespace(w=np.ones_like(q.w), b=np.ones_like(q.b))
        y = getattr(ops, "groupnorm" + silu)(x.astype(dtype), q, groups, tape, 1e-3)
        dx = getattr(ops, f"groupnorm{silu}_backward")(dy.astype(dtype), g, tape)
        assert not tape
        results.append((y, dx, g.w, g.b))
    for got, want in zip(*results):
        assert got.dtype == np.float32 and got.shape == want.shape
        assert np.allclose(got, want, rtol=0, atol=8 * U * 20), np.abs(got - want).max()


def test_groupnorm_far_from_zero_keeps_its_digits():
    """Of values 1e4 away: one pass over squares would leave no digit of the variance."""
    x, p = 1e4 + random(2, 9, 4), SimpleNamespace(w=np.ones(4, "f"), b=np.zeros(4, "f"))
    got, want = (ops.groupnorm(x, p, 2, []) for ops in (SIM, REFERENCE))
    want = REFERENCE.groupnorm(x.astype(np.float64), p, 2, [])
    assert np.abs(got - want).max() <= 1e4 * 4 * U  # the rounding of x - mean


def test_groupnorms_gradients_are_added_each_time():
    """The blocks of a slab count themselves, from zero again at each launch."""
    x, dy = random(2, 2, 8), random(2, 2, 8, seed=2)
    p = SimpleNamespace(w=random(8, seed=3), b=random(8, seed=4))
    g, sums, tape = SimpleNamespace(w=np.zeros(8, "f"), b=np.zeros(8, "f")), [], []
    SIM.groupnorm(x, p, 4, tape)
    for _ in range(3):
        SIM.groupnorm_backward(dy, g, [*tape])
        sums.append(np.concatenate([g.w, g.b]))
    assert not any(count.any() for count in SIM._counts.values())
    assert np.allclose(sums[1], 2 * sums[0], rtol=1e-6, atol=1e-6) and np.any(sums[0])
    assert np.allclose(sums[2], 3 * sums[0], rtol=1e-6, atol=1e-6)


def test_the_last_block_of_a_slab_sums_all_samples_each_time():
    check_last_block(SIM, (3, 2, 1, 8), 2)


def test_how_a_normalisation_is_cut_into_slabs():
    """At least 32 bytes of a pixel, whole groups, about two blocks a processor."""
    cut = {
        ((128, 8, 8, 32), 8): 16,
        ((64, 28, 28, 32), 8): 8,
        ((128, 32, 32, 256), 32): 64,
        ((128, 4, 4, 256), 32): 64,
        ((64, 7, 7, 64), 8): 16,
        ((2, 4, 4, 12), 4): 12,  # groups of three channels, loads of four
    }
    for (shape, groups), slab in cut.items():
        grid, block, sizes = cuda_ops.slab_launch(shape, groups, wide=True)
        assert (grid, sizes[3]) == ((shape[0], shape[-1] // slab), slab), shape
        assert block[1] & (block[1] - 1) == 0 and block[0] * block[1] <= cuda_ops.NORM_THREADS, (
            block
        )
    grid, _, sizes = cuda_ops.slab_launch((2, 3, 10), 2, wide=False)
    assert grid == (2, 1) and sizes[3] == 10


def test_groupnorm_forgets_at_inference_and_leaves_float64_to_the_reference():
    x, p = random(2, 3, 3, 4), SimpleNamespace(w=random(4), b=random(4))
    assert SIM.groupnorm_silu(x, p, 2, Forget()).shape == x.shape
    p64, tape = SimpleNamespace(w=p.w.astype(float), b=p.b.astype(float)), []
    y = SIM.groupnorm_silu(x.astype(float), p64, 2, tape)
    assert y.dtype == np.float64
    assert np.array_equal(y, REFERENCE.groupnorm_silu(x.astype(float), p64, 2, []))
    g = SimpleNamespace(w=np.zeros(4), b=np.zeros(4))
    assert SIM.groupnorm_silu_backward(y, g, tape).dtype == np.float64 and not tape


@pytest.mark.parametrize("layout", [np.array, spread, shifted])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "k, stride, pad",
    [
        (3, 1, (1, 1)),
        (3, 2, (0, 1)),
        (3, 2, (1, 1)),
        (1, 2, (0, 0)),
        (1, 1, (0, 0)),
        (3, 1, (0, 0)),
    ],
    ids=str,
)
def test_im2col(k, stride, pad, channels, layout):
    x = layout(random(2, 5, 4, channels))
    size = [(n + sum(pad) - k) // stride + 1 for n in x.shape[1:3]]
    padded = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    expected = REFERENCE._patches(padded, k, stride, size)
    assert np.array_equal(SIM._patches(layout(padded), k, stride, size), expected)
    assert np.array_equal(SIM._patches(x, k, stride, size, before=pad[0]), expected)


def test_what_the_kernels_refuse():
    x, one = random(2, 8), np.ones(2, np.float32)
    c, factors = FusedStep(*[1] * 6), AdamWFactors(*[1] * 6)

    def adamw(vectors, grad):
        SIM.adamw_ema(vectors, grad, one[:1], factors, 1)

    refused = [
        (lambda: SIM.noised(x.astype(np.float64), x, one, one), "float32"),
        (lambda: SIM.noised(x, x[:, :4], one, one), "shape"),
        (lambda: SIM.noised(x, x, one[:1], one), "shape"),
        (lambda: SIM.reverse(x, x, x[:1], c), "shape"),
        (lambda: adamw(Vectors(x[:, 0], one, one, one), one), "contiguous"),
        (lambda: adamw(Vectors(x[0], x[0], x[0], one), x[0]), "shape"),
        (lambda: SIM.normal((2, 3), step=2**32), "step"),
        (lambda: SIM.normal((2, 3), first_sample=2**32 - 1), "sample"),
        (lambda: SIM.normal((1, 8 * 16 * 65535 + 1)), "elements"),
    ]
    for call, words in refused:
        with pytest.raises(InputError, match=words):
            call()


def test_a_run_on_the_simulated_backend_is_numpys():
    points = random(40, 2).clip(-1, 1)
    runs = [
        td.train(points, steps=3, net=td.MLP(dim=2, hidden=8, layers=1), batch=4, backend=name)
        for name in ("cuda-sim", "numpy")
    ]
    assert (runs[0].ops.name, runs[1].ops.name) == ("cuda-sim", "numpy")
    # a tenth of the rate, which Adam divides by
    assert np.abs(runs[0].theta - runs[1].theta).max() <= 1e-4
    images = [td.sample(model, 3, steps=3, eta=0.5) for model in runs]
    assert np.abs(images[0] - images[1]).max() <= 1e-3
