"""The backend `cuda` over the stand-in: kernels are launched by cupy.RawModule, word by word.

Numba's simulator runs the kernels; test_cuda_sim.py runs this file.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from tinyddpm.kernels.gpu import cubins, cuda_ops, launch, layers, linear, products, tiled
from tinyddpm.kernels.gpu.cuda_ops import CudaOps, CudaSimOps
from tinyddpm.kernels.gpu.launch import parameters
from tinyddpm.kernels.gpu.tiled import Tiled

from support import strict_cublas, strict_cuda, strict_cupy
from support.device_checks import CASES, check_diffusion_steps, check_noise, check_operation
from tinyddpm import noise
from tinyddpm.nn import optim
from tinyddpm.nn.ops import Ops

XP = strict_cupy.strict()
OPS, SIM = CudaOps(XP), CudaSimOps()


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path_factory):
    """Files that name their kernel, in a folder of their own."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(cubins, "build", strict_cuda.code)
    monkeypatch.setattr(cubins, "folder", lambda: folder)
    return folder


def random(*shape, seed=1):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def one_thread(monkeypatch):
    """cuBLAS, and blocks of one thread, which the simulator is fast at."""
    strict_cublas.install(monkeypatch)
    for module in (cuda_ops, launch, layers, tiled):
        monkeypatch.setattr(module, "STEP_THREADS", 1)
    monkeypatch.setattr(cuda_ops, "NORM_THREADS", 1)
    monkeypatch.setattr(layers, "SUM_THREADS", 1)
    monkeypatch.setattr(linear, "DENSE_THREADS", 1)
    strict_cuda.one_thread_a_block(monkeypatch)


def test_noise_and_the_steps_of_diffusion():
    check_noise(OPS, [(3, 5, 2), (4, 1), (2, 8)])
    check_diffusion_steps(OPS)


@pytest.mark.parametrize("size", [1, 12, 131])
def test_the_optimisers_step(size):
    vectors, grad = [random(size, seed=i) ** 2 for i in range(4)], random(size, seed=5)
    device = [OPS.asarray(x) for x in vectors]
    factors = optim.adamw_factors(3, 2e-3, 0.1)
    scale = np.float32([0.5])
    OPS.adamw_ema(optim.Vectors(*device), OPS.asarray(grad), OPS.asarray(scale), factors, 0.05)
    SIM.adamw_ema(optim.Vectors(*vectors), grad, scale, factors, 0.05)
    for got, want in zip(device, vectors):
        assert np.array_equal(OPS.to_host(got), want)


@pytest.mark.parametrize("name", ["groupnorm in 2", "groupnorm_silu", "conv 3x3"])
def test_operations(name):
    check_operation(OPS, name)


@pytest.mark.parametrize("holes", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", CASES)
def test_operations_with_cublas(name, holes, monkeypatch):
    """Every operation, with products from addresses, strides and leading dimensions."""
    one_thread(monkeypatch)
    ops = cuda_ops.CudaOps(XP)
    assert ops.products.why is None
    check_operation(ops, name, holes)


LINEAR = [name for name in CASES if "linear" in name]


@pytest.mark.parametrize("holes", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("most_dense", [0, np.inf], ids=["cuBLAS", "one node"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_by_cublas_and_in_one_node(name, most_dense, holes, monkeypatch):
    """Blocks of several threads too, whose sums are shared."""
    strict_cublas.install(monkeypatch)
    monkeypatch.setattr(CudaOps, "most_dense", most_dense)
    check_operation(cuda_ops.CudaOps(XP), name, holes)


def test_a_small_layer_of_many_rows(monkeypatch):
    """Its weights' gradient is a product, the others are of one node."""
    one_thread(monkeypatch)
    monkeypatch.setattr(linear, "MOST_ROWS", 3)
    for name in LINEAR:
        check_operation(cuda_ops.CudaOps(XP), name)
    ops, x = cuda_ops.CudaOps(XP), OPS.asarray(random(4, 6))
    p = SimpleNamespace(w=OPS.asarray(random(6, 5)), b=OPS.asarray(random(5)))
    ops.linear(x, p, tape := [])
    assert isinstance(tape[-1], linear.Dense)
    ops.silu_linear(x, p, tape)
    assert isinstance(tape[-1], linear.Dense) and not tape[-1].activate


@pytest.mark.parametrize("most_dense", [0, np.inf], ids=["cuBLAS", "one node"])
def test_one_shift_for_every_row(most_dense, monkeypatch):
    one_thread(monkeypatch)
    monkeypatch.setattr(CudaOps, "most_dense", most_dense)
    ops, x, w = cuda_ops.CudaOps(XP), random(5, 6), random(6, 3, seed=2)
    b, shift = random(3, seed=3), random(1, 3, seed=4)
    p = SimpleNamespace(w=OPS.asarray(w), b=OPS.asarray(b))
    got = OPS.to_host(ops.linear(OPS.asarray(x), p, [], shift=OPS.asarray(shift)))
    assert np.abs(got - (x.astype(np.float64) @ w + b + shift)).max() <= 64 * 2.0**-24 * 10


def test_dropout_masks_are_the_references(monkeypatch):
    for rate in (0.1, 0.5, 0.999999):
        how = np.dtype(np.float32), rate, 3, noise.DROPOUT, 5, 2
        got, want = OPS.dropout_mask((3, 6), *how), Ops().dropout_mask((3, 6), *how)
        assert np.array_equal(OPS.to_host(got), want)


# shapes of a and b, and how they lie in memory: (m, k) (k, n), or batches of them
PRODUCTS = [
    ((3, 4), (4, 5)),
    ((1, 4), (4, 5)),
    ((3, 1), (1, 5)),
    ((3, 4), (4, 1)),
    ((1, 1), (1, 1)),
    ((2, 3, 4), (2, 4, 5)),
    ((1, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((0, 4), (4, 5)),
]


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_products(shapes, add, monkeypatch):
    """Rows in order, turned, with gaps, every second element; into a window of something wider."""
    strict_cublas.install(monkeypatch)
    product = products.Cublas(XP).product
    a, b = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    out = random(*np.matmul(a, b).shape, seed=3)
    want = np.matmul(a, b) + add * out
    layouts = [
        lambda x: OPS.asarray(x),
        lambda x: OPS.asarray(np.ascontiguousarray(x.swapaxes(-1, -2))).swapaxes(-1, -2),
        lambda x: OPS.asarray(np.pad(x, [*[(0, 0)] * (x.ndim - 1), (1, 2)]))[..., 1:-2],
        lambda x: OPS.asarray(np.repeat(x, 2, axis=-1))[..., ::2],
    ]
    for lay_a in layouts:
        for lay_b in layouts:
            for lay_out in (layouts[0], layouts[2]):
                into = lay_out(out)
                got = product(lay_a(a), lay_b(b), out=into, add=add)
                assert got is into and np.allclose(OPS.to_host(got), want, atol=1e-5)
            if not add:
                got = product(lay_a(a), lay_b(b))
                assert np.allclose(OPS.to_host(got), want, atol=1e-5)


def test_sums_of_rows_are_added(monkeypatch):
    strict_cublas.install(monkeypatch)
    x, out = random(7, 6), random(4, seed=2)
    for given in (OPS.asarray(x)[:, 1:5], OPS.asarray(np.ascontiguousarray(x[:, 1:5].T)).T):
        into = OPS.asarray(out)
        products.Cublas(XP).add_rows(given, into)
        assert np.allclose(OPS.to_host(into), out + x[:, 1:5].sum(axis=0), atol=1e-5)


def test_tf32_rounds_the_factors_of_a_product_to_ten_bits(monkeypatch):
    strict_cublas.install(monkeypatch)
    a, b = random(8, 64), random(64, 8, seed=2)
    exact, rounded = (
        OPS.to_host(products.Cublas(XP, way).product(OPS.asarray(a), OPS.asarray(b)))
        for way in ("fp32", "tf32")
    )
    error = np.abs(rounded - a.astype(np.float64) @ b).max() / np.abs(a @ b).max()
    assert np.allclose(exact, a @ b, atol=1e-5) and 2**-16 < error < 2**-9


def test_what_the_stand_in_for_cublas_refuses(monkeypatch):
    strict_cublas.install(monkeypatch)
    cublas, one = products.Cublas(XP), np.ones(1, np.float32).ctypes.data
    x, handle = OPS.asarray(random(4, 4)).data.ptr, cublas._handle()
    for sizes, ld in (((4, 4, 4), (3, 4, 4)), ((4, 4, 4), (4, 3, 4)), ((4, 4, 4), (4, 4, 3))):
        with pytest.raises(AssertionError):
            strict_cublas.sgemm(handle, 0, 0, *sizes, one, x, ld[0], x, ld[1], one, x, ld[2])
    with XP.cuda.Stream(), pytest.raises(AssertionError, match="a foreign stream"):
        strict_cublas.sgemm(handle, 0, 0, 4, 4, 4, one, x, 4, x, 4, one, x, 4)


def test_a_launch_moves_nothing_between_host_and_device():
    x, z = OPS.asarray(random(2, 8)), OPS.asarray(random(2, 8, seed=2))
    OPS.normal((2, 8))
    with strict_cupy.Counted() as seen:
        OPS.normal((2, 8), seed=3)
        OPS.reverse_drawn(x, z, (1.0, 0.5, 1.0, 0.5, 0.5, 0.1), step=3)
    assert not any(seen.all.values())


def test_a_clock_on_the_device_moves_the_noise_on():
    """Every word of the counter but the purpose's can lie on the device."""
    seed, step, first = 0x1234567890ABCDEF, 77, 5
    clock = OPS.asarray(np.array([seed & 0xFFFFFFFF, seed >> 32, 0, step, first], np.uint32))
    got = OPS.normal((3, 6), seed=0, step=clock)
    want = OPS.normal((3, 6), seed=seed, step=step, first_sample=first)
    assert np.array_equal(OPS.to_host(got), OPS.to_host(want))


def test_the_words_of_a_launch():
    """Seven words an array: the stand-in reads them as the compiled code does."""
    from numba import types

    array = types.Array(types.float32, 1, "C", aligned=True)
    x = OPS.asarray(random(6))
    signature = array, types.int64, types.UniTuple(types.uint32, 2), types.float32
    words = parameters(signature, (x, 3, (1, 2**32 - 1), 0.5))
    assert words == (0, 0, 6, 4, x.data.ptr, 6, 4, 3, 1, 2**32 - 1, 0.5)
    read = strict_cuda.unpacked(signature, words)
    assert np.array_equal(read[0], OPS.to_host(x)) and read[1:] == [3, (1, 2**32 - 1), 0.5]
    for wrong in (words[1:], (*words, 1), (*words[:-1], 0.5 + 0j), (0.0, *words[1:])):
        with pytest.raises((AssertionError, IndexError)):
            strict_cuda.unpacked(signature, wrong)


def test_a_kernel_is_compiled_once(kept, monkeypatch):
    built = []
    monkeypatch.setattr(cubins, "build", lambda *how: built.append(how) or strict_cuda.code(*how))
    monkeypatch.setattr(cubins, "folder", lambda: kept / "once")
    (kept / "once").mkdir()
    for _ in range(2):
        CudaOps.functions.clear()
        OPS.normal((2, 8))
    assert built == [("normal", True, (9, 0))]
    assert [path.name for path in (kept / "once").iterdir()] == ["normal-wide-sm_90.cubin"]


@pytest.mark.parametrize("parts", [1 << 28, 1], ids=["whole", "in parts"])
@pytest.mark.parametrize("epilogue", ["", "shift", "onto", "shift onto"])
@pytest.mark.parametrize("shape", [(2, 4, 6, 4, 8), (1, 5, 3, 8, 4), (1, 1, 2, 4, 4)], ids=str)
def test_convolution_by_tiles(shape, epilogue, parts, monkeypatch):
    """Winograd's transforms and their adjoints against the reference, in float64; odd sides too."""
    one_thread(monkeypatch)
    monkeypatch.setattr(CudaOps, "fewest", 0)
    monkeypatch.setattr(CudaOps, "block_bytes", parts)
    ops, (B, H, W, C, O) = cuda_ops.CudaOps(XP), shape
    x, dy = random(B, H, W, C), random(B, H, W, O, seed=2)
    w, b = random(3, 3, C, O, seed=3), random(O, seed=4)
    extra = {"shift": random(B, O, seed=5), "onto": random(B, H, W, O, seed=6)}
    extra = {name: value for name, value in extra.items() if name in epilogue}
    results = []
    for one, kind in ((ops, np.float32), (Ops(), np.float64)):

        def here(value, one=one, kind=kind):
            return one.asarray(value.astype(kind))

        p, tape = SimpleNamespace(w=here(w), b=here(b)), []
        g = SimpleNamespace(w=here(w), b=here(b))  # what the gradients are added to
        y = one.conv2d(here(x), p, tape, **{name: here(value) for name, value in extra.items()})
        assert one is not ops or isinstance(tape[-1], Tiled)
        dx = one.conv2d_backward(here(dy), g, tape)
        results.append([one.to_host(a) for a in (y, dx, g.w, g.b)])
    for got, want in zip(*results):
        assert np.abs(got - want).max() <= 64 * 2.0**-24 * np.abs(want).max()
