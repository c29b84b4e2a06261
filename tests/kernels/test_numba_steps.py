"""The Numba backend's noise, steps and runs, and how its kernels are compiled and kept."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.gradients import near, net_gradients, random_theta
from support.op_cases import normals

import tinyddpm as td
from tinyddpm import formulas, noise
from tinyddpm.datasets import sets as data
from tinyddpm.formulas import numpy_formulas
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Ops
from tinyddpm.nn.optim import AdamWFactors, Vectors
from tinyddpm.runs import checkpoint
from tinyddpm.training import TrainState

numba = pytest.importorskip("numba")
numba_ops, steps, jit, direct, tiles = (
    importlib.import_module(f"tinyddpm.kernels.cpu.{name}")
    for name in ("ops", "fused_steps", "jit", "direct", "tiles")
)
NUMBA, REFERENCE = numba_ops.make("numba"), Ops()
U = 2.0**-24
ROOT = pathlib.Path(__file__).parents[2]
NET = td.UNet(base=16, mults=(1, 2), blocks=1, groups=4)
RUN = {"batch": 6, "warmup": 2, "log_every": 2, "save_every": 4, "net": NET, "backend": "numba"}
KEYS = [
    {"seed": 0},
    {"seed": 2**64 - 1, "purpose": noise.REVERSE, "step": 2**32 - 1, "first_sample": 2**32 - 9},
    {"seed": 0x1234567890ABCDEF, "purpose": noise.EPS, "step": 77, "first_sample": 5},
]


def random(*shape, seed=1):
    return normals(*shape, seed=seed).astype(np.float32)


def spread(x):
    """The same values, their memory with holes."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


# --- noise and the steps


def test_philox_words_are_the_references_bit_for_bit():
    counters = np.random.Generator(np.random.PCG64(3)).integers(0, 2**32, (50, 6), dtype=np.uint64)
    counters[:3] = [
        [0] * 6,
        [2**32 - 1] * 6,
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0],
    ]
    for counter in counters:
        assert [int(w) for w in steps.F.philox(*counter)] == [
            int(w) for w in numpy_formulas.philox(*counter)
        ]


def ulps(a, b):
    """The largest difference in units in the last place of b; where b is all but 0, of 1e-6."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    unit = np.spacing(np.maximum(np.abs(b), np.float32(1e-6)))
    return float(np.max(np.abs(a.astype(np.float64) - b) / unit, initial=0))


@pytest.mark.parametrize("key", KEYS, ids=["zeros", "ones", "mixed"])
@pytest.mark.parametrize(
    "shape", [(3, 4, 4, 1), (5, 7), (2, 3), (3, 1), (9, 2), (1, 130), (0, 4), (8, 1 << 16)], ids=str
)
def test_normals_within_four_ulps(shape, key):
    assert ulps(NUMBA.normal(shape, **key), noise.normal(shape, **key)) <= 4


@pytest.mark.parametrize("layout", [np.array, spread])
def test_noised(layout):
    x0, eps = layout(random(3, 5, 7)), layout(random(3, 5, 7, seed=2))
    c_x0, c_eps = normals(3, seed=3) ** 2, normals(3, seed=4) ** 2
    xt = NUMBA.noised(x0, eps, c_x0, c_eps)
    assert xt.dtype == np.float32
    near(xt, REFERENCE.noised(x0.astype(float), eps.astype(float), c_x0, c_eps), rtol=4 * U)
    drawn_xt, drawn = NUMBA.noised_drawn(x0, c_x0, c_eps, **KEYS[2])
    assert np.array_equal(drawn, NUMBA.normal(x0.shape, **KEYS[2]))
    assert np.array_equal(drawn_xt, NUMBA.noised(x0, drawn, c_x0, c_eps))


@pytest.mark.parametrize("bound", [np.inf, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("layout", [np.array, spread])
def test_reverse(layout, sigma, bound):
    c = FusedStep(1.5, -0.8, bound, 0.4, 0.6, sigma)
    xt, prediction, z = (layout(random(3, 5, 7, seed=i)) for i in range(3))
    xs = NUMBA.reverse(xt, prediction, z, c)
    assert xs.dtype == np.float32
    near(xs, REFERENCE.reverse(*(a.astype(float) for a in (xt, prediction, z)), c), rtol=8 * U)
    drawn = NUMBA.reverse_drawn(xt, prediction, c, **KEYS[2])
    assert np.array_equal(
        drawn, NUMBA.reverse(xt, prediction, NUMBA.normal(xt.shape, **KEYS[2]), c)
    )


def test_reverse_keeps_a_nan_that_clipping_could_hide():
    xt, prediction = random(2, 8), random(2, 8, seed=2)
    prediction[0, 3] = prediction[1, 4] = np.nan
    xs = NUMBA.reverse(xt, prediction, None, FusedStep(1.0, 1.0, 1.0, 1.0, 0.0, 0.0))
    assert np.array_equal(np.isnan(xs), np.isnan(prediction))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("size", [1, 3, 130])
def test_adamw_ema(size, scale):
    factors = AdamWFactors(0.99, 2e-3, 0.1, 0.001, 3.0, 1e-8)
    theta, grad, m, v, ema = (random(size + 1, seed=i)[1:] for i in range(5))
    v **= 2
    exact = Vectors(*(a.astype(float) for a in (theta, m, v, ema)))
    before = grad.copy()
    REFERENCE.adamw_ema(exact, grad.astype(float), scale, factors, 0.05)
    NUMBA.adamw_ema(Vectors(theta, m, v, ema), grad, scale, factors, 0.05)
    for ours, theirs in zip((theta, m, v, ema), exact):
        near(ours, theirs, rtol=8 * U)
    assert np.array_equal(grad, before)


# --- runs


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_twenty_steps_and_a_sample_agree_with_the_reference(tmp_path, digits):
    """Adam divides a gradient by its size: where that is rounding, theta may be a step off.

    The rest agree: in the mean square all vectors lie within 20 passes of a net, 300 U each, of the
    way they went. An image is five passes away.
    """
    start, ends, images = TrainState.fresh(NET, 0).arrays(), [], []
    for backend in ("numpy", "numba"):
        td.train(digits.x, steps=20, out=tmp_path / backend, **RUN | {"backend": backend})
        ends.append(checkpoint.load(tmp_path / backend)[0])
        images.append(td.sample(td.load(tmp_path / backend, backend), 4, steps=5, sampler="ddim"))
    for name in start:
        way = np.linalg.norm(ends[0][name].astype(float) - start[name])
        assert np.linalg.norm(ends[1][name].astype(float) - ends[0][name]) <= 20 * 300 * U * way, (
            name
        )
    near(images[1], images[0], rtol=5 * 300 * U)
    assert not np.array_equal(images[1], images[0]), "the same bits: was the backend asked?"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(steps):
    left = iter([False] * (steps - 1) + [True])
    return lambda: next(left)


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, digits, stop):
    options = RUN | {"steps": 9, "dropout": 0.1}
    td.train(digits.x, out=tmp_path / "whole", **options)
    td.train(digits.x, out=tmp_path / "parts", stop=stop_after(stop), **options)
    td.resume(tmp_path / "parts", digits.x, backend="numba")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


# --- a machine without tiles


@pytest.fixture
def fresh_probe():
    numba_ops.tiles_missing.cache_clear()
    yield
    numba_ops.tiles_missing.cache_clear()


def broken_llvm():
    """A kernel that LLVM refuses, as it would a vector that the CPU's target does not have."""
    from llvmlite import ir

    @numba.extending.intrinsic
    def wrong(typing, x):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], ir.DoubleType())  # 32 bits as 64

        return numba.types.float64(numba.types.float32), generate

    @numba.njit
    def correlate(*args):
        return wrong(np.float32(1))

    return correlate


def unknown_name():
    @numba.njit
    def correlate(*args):
        return no_such_tile(args)  # noqa: F821

    return correlate


@pytest.mark.parametrize("broken", [broken_llvm, unknown_name])
def test_without_tiles_convolutions_are_the_references_and_described_so(
    broken, monkeypatch, fresh_probe
):
    monkeypatch.setattr(direct, "correlate", broken())
    ops = numba_ops.make("numba")
    assert not ops.tiles and "im2col" in numba_ops.describe() and "\n" not in numba_ops.describe()
    x, p = random(2, 5, 4, 8), SimpleNamespace(w=random(3, 3, 8, 16), b=random(16))
    for name in ("conv2d", "upsample_conv2d"):
        results = []
        for each in (ops, REFERENCE):
            tape, g = [], SimpleNamespace(w=np.zeros_like(p.w), b=np.zeros_like(p.b))
            y = getattr(each, name)(x, p, tape)
            results.append((y, getattr(each, f"{name}_backward")(y, g, tape), g.w))
        assert all(np.array_equal(a, b) for a, b in zip(*results))
    theta, t = random_theta(NET, dtype=np.float32), np.array([3, 4])
    image = random(2, 4, 4, 1)
    for ours, theirs in zip(
        net_gradients(NET, theta, image, t, image, ops=ops),
        net_gradients(NET, theta, image, t, image, ops=REFERENCE),
    ):
        near(ours, theirs, rtol=300 * U)


def test_other_errors_are_not_taken_for_missing_tiles(monkeypatch, fresh_probe):
    def correlate(*args):
        raise MemoryError

    monkeypatch.setattr(direct, "correlate", correlate)
    with pytest.raises(MemoryError):
        numba_ops.make("numba")


def test_this_machine_has_tiles():
    assert NUMBA.tiles and f"{tiles.LANES} floats" in numba_ops.describe()


# --- the cache


def test_a_line_is_printed_while_compiling_and_nothing_once_cached(tmp_path):
    code = """if True:
        import numpy as np
        from tinyddpm.kernels.cpu.ops import NumbaOps
        for n in (4, 5):
            NumbaOps().silu(np.ones(n, np.float32), [])
        print(NumbaOps.__module__)"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    printed = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        )
        assert done.stdout.strip() == "tinyddpm.kernels.cpu.ops", done.stderr
        printed.append(done.stderr)
    assert printed[0] == jit.NOTICE + "\n" and not printed[1]
    assert [path.name for path in tmp_path.iterdir()] == [f"tinyddpm-{jit.digest()}"]


def test_another_source_is_another_cache(tmp_path, monkeypatch):
    shutil.copytree(jit.HERE, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    text, shared = tmp_path / "formulas.py", tmp_path / "polynomials.py"
    shutil.copy(formulas.__file__, text)
    shutil.copy(jit.polynomials.__file__, shared)
    seen = {jit.digest()}
    monkeypatch.setattr(jit, "HERE", tmp_path / "kernels")
    monkeypatch.setattr(jit, "formulas", SimpleNamespace(__file__=str(text)))
    monkeypatch.setattr(jit, "polynomials", SimpleNamespace(__file__=str(shared)))
    assert jit.digest() in seen
    for path in (text, shared, tmp_path / "kernels" / "direct.py"):
        path.write_text(path.read_text() + "\n")
        assert jit.digest() not in seen
        seen.add(jit.digest())


def test_the_cache_lies_where_it_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    name = f"tinyddpm-{jit.digest()}"
    monkeypatch.setattr(jit, "digest", lambda: name.removeprefix("tinyddpm-"))
    monkeypatch.setattr(jit.kept, "users_cache", lambda: tmp_path / "user")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "asked"))
    assert jit.cache_folder() == tmp_path / "asked" / name
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(jit, "HERE", tmp_path / "clone")
    assert jit.cache_folder() == tmp_path / "clone" / "__pycache__" / name
    # no folder can be made in a file
    monkeypatch.setattr(jit, "HERE", tmp_path / "file")
    assert jit.cache_folder() == tmp_path / "user" / name
    monkeypatch.setattr(jit.kept, "users_cache", lambda: tmp_path / "file")
    assert jit.cache_folder() is None


def test_wrapping_a_kernel_leaves_numbas_setting_alone():
    before = numba.config.CACHE_DIR
    assert jit.kernel(lambda x: x + 1)(1) == 2
    after = numba.config.CACHE_DIR
    assert after == before
