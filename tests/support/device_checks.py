"""What a backend with arrays of its own must do, as checks of its Ops.

test_cupy_ops.py hands them the stand-in, test_gpu.py the GPU. The reference is NumPy in float64,
tolerances are multiples of float32's rounding U.
"""

import math
import pathlib
import runpy
from types import SimpleNamespace

import numpy as np

import tinyddpm as td
from support import gradients
from tinyddpm import noise
from tinyddpm.nn import optim, params
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Ops

U = 2.0**-24
REFERENCE = Ops()
HERE = pathlib.Path(__file__).parent
# those whose cases hold a host array of their own are looked at in check_masks_and_losses
CASES = [
    name
    for name in runpy.run_path(str(HERE / "op_cases.py"))["CASES"]
    if name == "dropout, none" or not name.startswith(("dropout", "mse"))
]
KNOWN = {  # counter and key -> words: Salmon11's own test vectors for philox4x32-10
    (0, 0, 0, 0, 0, 0): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    (0xFFFFFFFF,) * 6: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): (
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    ),
}
NET = td.UNet(channels=1, base=8, mults=(1, 2), blocks=1, attention=(False, True), groups=4)


def random(*shape, seed=1, dtype=np.float32):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(dtype)


def near(got, want, multiple, name=""):
    """Largest difference against the largest value: `multiple` roundings of it."""
    assert got.shape == np.shape(want) and got.dtype == np.float32, (name, got.shape, got.dtype)
    worst, largest = np.max(np.abs(got - want), initial=0), np.max(np.abs(want), initial=0)
    assert worst <= multiple * U * largest, (
        f"{name}: {worst / (U * largest):.0f} roundings, {multiple} allowed"
    )


def over(ops, name):
    """The case of op_cases.py of this name, its operations those of `ops`."""
    before, gradients.OPS = gradients.OPS, ops
    try:
        return runpy.run_path(str(HERE / "op_cases.py"))["CASES"][name]
    finally:
        gradients.OPS = before


def spread(x):
    """The same values, their memory with holes: every second column of a wider array."""
    return np.repeat(x, 2, axis=-1) if x.ndim else x


def check_operation(ops, name, holes=False):
    """y and every gradient of one operation; some sums have 315 terms and as many roundings."""
    host = {key: value.astype(np.float32) for key, value in over(REFERENCE, name).arrays().items()}
    want_y, want = over(REFERENCE, name).run(
        {key: value.astype(np.float64) for key, value in host.items()}, dy := _like(name)
    )
    device = {
        key: ops.asarray(spread(value))[..., ::2]
        if holes and key not in "wb"
        else ops.asarray(value)
        for key, value in host.items()
    }
    grads = {key: ops.xp.zeros_like(device[key]) for key in device if key in "wb"}
    y, got = over(ops, name).run(device, ops.asarray(dy.astype(np.float32)), grads)
    near(ops.to_host(y), want_y, 64, f"{name}: y")
    for key in want:
        near(ops.to_host(got[key]), want[key], 315, f"{name}: d{key}")


def _like(name):
    case = over(REFERENCE, name)
    y = case.forward(SimpleNamespace(**case.arrays()), [])
    return random(*y.shape, seed=7).astype(np.float64)


def check_masks_and_losses(ops):
    """Dropout with a mask, and the loss with a number or a weight for each sample."""
    x, target, mask = (
        random(3, 4, 2),
        random(3, 4, 2, seed=2),
        (random(3, 4, 2, seed=3) > 0) / np.float32(0.5),
    )
    tape = []
    y = ops.dropout(ops.asarray(x), ops.asarray(mask), tape)
    near(ops.to_host(y), x * mask, 1)
    near(ops.to_host(ops.dropout_backward(y, tape)), x * mask * mask, 1)
    for weight in (np.float32(1), random(3, 1, 1, seed=4)):
        own = ops.asarray(weight) if weight.ndim else weight
        loss = ops.mse(ops.asarray(x), ops.asarray(target), own, tape)
        near(ops.to_host(loss), np.mean(weight * (x - target.astype(np.float64)) ** 2), 24)
        near(ops.to_host(ops.mse_backward(0.5, tape)), weight * (x - target) / x.size, 4)
        assert not tape


def check_noise(ops, shapes):
    """Normals within 4 units in the last place of float64's, uniforms and words bit for bit."""
    for shape in shapes:
        for key in (
            {"seed": 0},
            {
                "seed": 2**64 - 1,
                "purpose": noise.REVERSE,
                "step": 2**32 - 1,
                "first_sample": 2**32 - shape[0] - 1,
            },
        ):
            got = ops.to_host(ops.normal(shape, **key))
            want = accurate_normal(shape, **key)
            assert got.dtype == np.float32 and got.shape == shape
            # where cos is 0 but for float64's own rounding, units of 1e-6
            unit = np.spacing(np.maximum(np.abs(want), 1e-6).astype(np.float32))
            assert np.max(np.abs(got - want) / unit, initial=0) <= 4
            assert np.array_equal(
                ops.to_host(ops.uniform(shape, **key)), noise.uniform(shape, **key)
            )


def accurate_normal(shape, **key):
    """noise.normal in float64: Box-Muller of the same words."""
    size = math.prod(shape[1:])
    w = noise.bits((shape[0], -(-size // 4), 4), **key)
    radius = np.sqrt(-2 * np.log(((w[..., ::2] >> np.uint64(9)) + 0.5) / 2**23))
    angle = np.pi * (w[..., 1::2] >> np.uint64(8)) / 2**23
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return z.reshape(shape[0], 4 * -(-size // 4))[:, :size].reshape(shape)


def check_diffusion_steps(ops):
    """Noising and the reverse step, noise given or drawn; clipping, with sigma and without."""
    for shape in ((3, 4, 4, 1), (5, 7), (2, 130)):
        x0, eps, z = (random(*shape, seed=i) for i in range(3))
        c_x0, c_eps = (
            np.float32(np.cos(np.arange(len(x0)))),
            np.float32(np.sin(np.arange(len(x0)))),
        )
        device = [ops.asarray(c) for c in (x0, eps, c_x0, c_eps)]
        near(ops.to_host(ops.noised(*device)), REFERENCE.noised(x0, eps, c_x0, c_eps), 4)
        xt, drawn = ops.noised_drawn(device[0], *device[2:], seed=3, step=5, first_sample=2)
        want_xt, want = REFERENCE.noised_drawn(x0, c_x0, c_eps, seed=3, step=5, first_sample=2)
        near(ops.to_host(drawn), want, 8)
        near(ops.to_host(xt), want_xt, 8)
        for c in (
            FusedStep(1.5, -0.8, np.inf, 0.4, 0.6, sigma=0.3),
            FusedStep(1.5, -0.8, 1.0, 0.4, 0.6, sigma=0.0),
        ):
            got = ops.reverse(device[0], device[1], ops.asarray(z), c)
            near(ops.to_host(got), REFERENCE.reverse(x0, eps, z, c), 16)
            got = ops.reverse_drawn(device[0], device[1], c, seed=4, step=9)
            near(ops.to_host(got), REFERENCE.reverse_drawn(x0, eps, c, seed=4, step=9), 16)


def check_last_block(ops, shape, times):
    """GroupNorm's dw and db, again and again without a wait: the same bits, near the reference's.

    Whichever block comes last sums over the samples, in one order: a block that comes too early, or
    does not see what others wrote, gives other bits.
    """
    B, C = shape[0], shape[-1]
    x, dy, w, b = random(*shape), random(*shape, seed=2), random(C, seed=3), random(C, seed=4)
    on = [ops.asarray(value) for value in (x, dy, w, b)]
    found = []
    for _ in range(times):
        found.append(_slopes(ops, *on))
    want = _slopes(REFERENCE, *(value.astype(np.float64) for value in (x, dy, w, b)))
    first = [ops.to_host(value) for value in found[0]]
    for got, exact in zip(first, want):
        near(got, exact, 4 * math.prod(shape[:-1]) ** 0.5 + 20)
    for i, each in enumerate(found):
        same = [np.array_equal(ops.to_host(value), old) for value, old in zip(each, first)]
        assert all(same), f"run {i} of {B} samples gives other bits than the first"


def _slopes(ops, x, dy, w, b):
    """(dw, db) of GroupNorm with SiLU, eight channels a group."""
    p = SimpleNamespace(w=w, b=b)
    g, tape = SimpleNamespace(w=ops.xp.zeros_like(w), b=ops.xp.zeros_like(b)), []
    ops.groupnorm_silu(x, p, len(w) // 8, tape)
    ops.groupnorm_silu_backward(dy, g, tape)
    return g.w, g.b


def check_optimiser(ops):
    """Clipping and AdamW in place: the same memory afterwards, and the gradient as it was."""
    for limit, grad in (
        (0.5, random(1031)),
        (1e3, random(1031)),
        (None, random(1031)),
        (1.0, np.full(1031, np.inf, np.float32)),
    ):
        vectors = [random(1031, seed=i) for i in range(2, 6)]
        vectors[2] **= 2
        device, dgrad = [ops.asarray(v.copy()) for v in vectors], ops.asarray(grad)
        pointers = [x.data.ptr for x in device]
        scale, norm = ops.clip_scale(dgrad, limit)
        want_scale, want_norm = REFERENCE.clip_scale(grad, limit)
        assert np.isclose(float(norm), want_norm, rtol=64 * U)
        assert np.isclose(ops.to_host(scale).item(), want_scale, rtol=64 * U)
        if not np.isfinite(want_norm):
            continue
        factors = optim.adamw_factors(3, 2e-3, 0.1)
        ops.adamw_ema(optim.Vectors(*device), dgrad, scale, factors, 0.05)
        REFERENCE.adamw_ema(optim.Vectors(*vectors), grad, want_scale, factors, 0.05)
        for got, want in zip(device, vectors):
            near(ops.to_host(got), want, 64)
        assert [x.data.ptr for x in device] == pointers and np.array_equal(ops.to_host(dgrad), grad)


def check_network(ops):
    """A U-Net forward and backward in float32; some hundred roundings in a row."""
    theta = params.init(NET.spec(), 0) + random(params.size(NET.spec()), seed=3) / 10
    x, t = random(2, 4, 8, 1), np.array([7, 900])
    results = []
    for backend, dtype in ((ops, np.float32), (REFERENCE, np.float64)):
        flat, tape = backend.asarray(theta.astype(dtype)), []
        grad = backend.xp.zeros_like(flat)
        y = NET.forward(
            backend,
            params.views(NET.spec(), flat),
            backend.asarray(x.astype(dtype)),
            backend.asarray(t),
            tape,
        )
        dx = NET.backward(backend, params.views(NET.spec(), grad), backend.xp.ones_like(y), tape)
        results.append([backend.to_host(a) for a in (y, dx, grad)])
    for name, got, want in zip(("y", "dx", "grad"), *results):
        near(got, want, 300, name)


def images(n=64):
    """Squares of random brightness with noise, (n, 8, 8, 1) in [-1, 1]."""
    x = 0.2 * random(n, 8, 8, 1)
    x[:, 2:6, 2:6] += random(n, 1, 1, 1, seed=2)
    return x.clip(-1, 1)


def check_training_and_sampling(backend):
    """20 steps and the images sampled afterwards, against the `numpy` backend's from the same seed.

    Adam divides by a gradient's own size, so a rounding of a tiny gradient can move a parameter by
    a share of lr = 1e-3; measured on CPU backends the difference stays below 1e-5 in theta. Images
    may differ by 1e-3, half a grey level in 8 bits being 4e-3.
    """
    runs = [
        td.train(
            images(),
            steps=20,
            seed=1,
            net=NET,
            batch=16,
            lr=1e-3,
            warmup=5,
            dropout=0.1,
            min_snr=5.0,
            backend=name,
        )
        for name in (backend, "numpy")
    ]
    theta = runs[0].ops.to_host(runs[0].theta)
    assert theta.dtype == np.float32 and np.abs(theta - runs[1].theta).max() <= 1e-4
    for settings in (
        {"sampler": "ddim", "steps": 10, "eta": 0.5},
        {"sampler": "ddim", "steps": 4, "clip": None},
    ):
        got, want = (td.sample(model, 5, seed=2, **settings) for model in runs)
        assert type(got) is np.ndarray and got.dtype == np.float32
        assert np.abs(got - want).max() <= 1e-3 * max(1, np.abs(want).max())
    return runs[0]
