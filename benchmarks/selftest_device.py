"""Checks of the prediction of a step's time on a device, on cases worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np

from tinyddpm import MLP, UNet, linear, noise
from tinyddpm.nn import params
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Ops
from tinyddpm.nn.optim import AdamWFactors, Vectors
from tinyddpm.training import Batch, Objective, loss_and_grad

from . import blank, device_time, gpu_kernels, gpu_nodes, roofline, tracing
from .gpu_session import Session
from .precision import CardsProducts, apart, tf32


def _noted(xp):
    """The nodes so far, which are forgotten."""
    found = [tuple(node) for node in xp.nodes]
    xp.nodes.clear()
    return found


def an_operation_moves_its_inputs_and_its_output():
    """What a broadcast repeats is read once."""
    xp = blank.Module([])
    x, b = xp.empty((6, 5), np.float32), xp.empty(5, np.float32)
    y = x + b
    assert (y.shape, y.dtype) == ((6, 5), np.float32)
    assert _noted(xp) == [("elementwise", 4 * (30 + 5 + 30), 0)]
    y += 1
    assert _noted(xp) == [("elementwise", 4 * (30 + 30), 0)]
    assert (x * xp.broadcast_to(b, (6, 5))).shape == (6, 5)
    assert _noted(xp) == [("elementwise", 4 * (30 + 5 + 30), 0)]
    assert (x > 0).dtype == bool and _noted(xp) == [("elementwise", 4 * 30 + 30, 0)]
    assert xp.exp(x).dtype == np.float32 and len(_noted(xp)) == 1


def a_product_is_two_operations_a_multiplication():
    """Of a batch of matrices; with what is added, which is read; and the sum of rows."""
    xp = blank.Module([])
    a, b = xp.empty((2, 3, 4), np.float32), xp.empty((4, 5), np.float32)
    assert (a @ b).shape == (2, 3, 5)
    assert _noted(xp) == [("product", 4 * (24 + 20 + 30), 2 * 2 * 3 * 4 * 5)]
    products, out = tracing.Products(xp.nodes), xp.empty((3, 5), np.float32)
    assert products.product(a[0], b, out=out, add=True) is out
    assert _noted(xp) == [("product", 4 * (12 + 20 + 15 + 15), 2 * 3 * 4 * 5)]
    products.add_rows(a[0], b[0, :4])
    assert _noted(xp) == [("product", 4 * (12 + 4 + 4), 2 * 12)]


def sums_copies_and_clearing_are_nodes():
    """One each, of what they read and write."""
    xp = blank.Module([])
    x = xp.empty((2, 3, 4), np.float32)
    assert x.sum(axis=(0, 1)).shape == (4,) and _noted(xp) == [("sum", 4 * (24 + 4), 0)]
    assert x.max(axis=-1, keepdims=True).shape == (2, 3, 1) and _noted(xp) == [("sum", 4 * 30, 0)]
    assert x.mean().shape == () and _noted(xp) == [("sum", 4 * 25, 0)]
    x[:] = 0
    assert _noted(xp) == [("memset", 4 * 24, 0)]
    x[0] = x[1]
    assert _noted(xp) == [("copy", 4 * 24, 0)]
    assert x[xp.empty(7, np.int64)].shape == (7, 3, 4)
    assert _noted(xp) == [("copy", 8 * 7 + 2 * 4 * 7 * 12, 0)]
    assert len(xp.zeros(3, np.float32)) == len(xp.empty(3)) == len(xp.ones(3, np.float32))
    assert _noted(xp) == [("memset", 12, 0), ("copy", 12, 0)]
    assert xp.concatenate([x, x], axis=-1).shape == (2, 3, 8)
    assert _noted(xp) == [("copy", 4 * 96, 0)]


def a_view_is_no_node():
    """A reshape is a copy where no strides give it."""
    xp = blank.Module([])
    x = xp.empty((2, 3, 4), np.float32)
    assert x.reshape(6, -1).shape == (6, 4) and x[:, ::2].shape == (2, 2, 4)
    assert x.swapaxes(0, 1)[..., None].shape == (3, 2, 4, 1) and x.T.shape == (4, 3, 2)
    assert x[:, :, :2].reshape(2, 3, 2, 1).shape == (2, 3, 2, 1)
    assert xp.ascontiguousarray(x) is x and x.astype(np.float32, copy=False) is x
    assert _noted(xp) == []
    assert x.swapaxes(0, 1).reshape(-1).shape == (24,) and _noted(xp) == [("copy", 4 * 48, 0)]


def what_cannot_be_counted_is_refused():
    """Nothing is left out unseen."""
    x = blank.blank([], (3, 3), np.float32)
    for call in (np.cumsum, np.linalg.inv, np.add.accumulate, lambda x: x[x, x]):
        try:
            call(x)
        except NotImplementedError as error:
            assert "not counted" in str(error)
        else:
            raise AssertionError(call)


def a_kernel_moves_its_arrays():
    """What it changes in place crosses twice; its numbers and its clock are a few words."""
    ops = tracing.TracedOps()
    n, x = 2 * 8, ops.xp.empty((2, 8), np.float32)
    ops.normal((2, 8), seed=3)  # makes the clock
    ops.normal((2, 8), seed=3)
    assert ops.nodes[-1] == ("normal", 4 * n + 20, 0)
    ops.reverse_drawn(x, x.copy(), FusedStep(*[0.5] * 6))
    assert ops.nodes[-1] == ("reverse_drawn", 12 * n + 4 * 6 + 20, 0)
    *flat, grad = (ops.xp.empty(n, np.float32) for _ in range(5))
    scale = ops.xp.empty(1, np.float32)
    ops.adamw_ema(Vectors(*flat), grad, scale, AdamWFactors(*[0.5] * 6), 0.5)
    assert ops.nodes[-1] == ("adamw_ema", 36 * n + 4 * (1 + 6 + 1), 0)


def a_small_layer_is_one_node():
    """Forward; backward two: what the gradients are added to is read, and so is dx's sum."""
    ops, tape = tracing.TracedOps(), []
    x, y = ops.xp.empty((6, 4), np.float32), ops.xp.empty((6, 8), np.float32)
    p = SimpleNamespace(w=ops.xp.empty((4, 8), np.float32), b=ops.xp.empty(8, np.float32))
    ops.silu_linear(x, p, tape, onto=y)
    assert ops.nodes == [("dense", 4 * (24 + 32 + 8 + 48 + 48), 2 * 6 * 4 * 8)]
    ops.linear_backward(y, p, tape, onto=x)
    weights, inputs = ops.nodes[1:]
    assert weights == ("dense_weights", 4 * (24 + 48 + 2 * (32 + 8)), 2 * 6 * 4 * 8)
    assert inputs == ("dense_backward", 4 * (48 + 32 + 2 * 24), 2 * 6 * 4 * 8)
    # 2.5 us; bytes at 0.9 of the copy; operations at 10e12 a second, in every precision
    seconds = 2.5e-6 + 640 / (0.9 * 4.2e12) + 384 / 10e12
    for precision in device_time.PRODUCTS:
        found = device_time.seconds("dense", blank.Work(1, 640, 384), precision)
        assert math.isclose(found, seconds)


def the_products_of_a_step_are_the_networks():
    """An MLP on points: two operations for each sample and weight that it meets."""
    B, d, h, layers = 16, 2, 8, 2
    steps = tracing.trace(MLP(dim=d, hidden=h, layers=layers), (d,), B)
    weights = d * h + h * d + layers * 2 * h * h
    of_t = h * h + layers * h * h  # a sampling step has one t for the batch
    done = sum(node.operations for node in steps["sample"])
    assert done == 2 * (B * weights + of_t)
    # each sample has its t; forward once, backward twice. The gradients of biases are products
    # too where a layer is no node of its own: one multiplication for each row
    done = sum(node.operations for node in steps["train"])
    biases = 2 * h + layers * 3 * h + d
    assert done - 3 * 2 * B * (weights + of_t) in (0, 2 * B * biases)


def tf32_keeps_ten_bits():
    """Of factors written down by hand, to even where two are as near."""
    x = np.float32([1, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -3 - 2**-9, 1 + 2**-12])
    assert tf32(x).tolist() == [1, 1 + 2**-10, 1, 1 + 2**-9, -3 - 2**-9, 1]


def products_of_exact_factors_are_the_references():
    """A U-Net of odd sides, by tiles and by patches; of rounded factors some 2^-11 apart."""
    net = UNet(base=8, mults=(1, 2), blocks=1, groups=4, attention=(False, True))
    theta = 0.2 * noise.normal((1, params.size(net.spec())), 1)[0]
    x0, eps = (noise.normal((2, 10, 6, 1), seed) for seed in (2, 3))
    batch = Batch(x0, np.array([3, 70]), eps)

    def answer(ops):
        grad = np.zeros_like(theta)
        p, g = (params.views(net.spec(), flat) for flat in (theta, grad))
        loss_and_grad(ops, net, p, g, linear(100), batch, Objective())
        return net.forward(ops, p, x0, batch.t, []), grad

    want = answer(Ops())
    for fewest, most in ((0, 1e9), (1e18, 0)):
        for name, low, high in (("fp32", 0, 1e-5), ("tf32", 2**-14, 2**-6)):
            ops = CardsProducts(name, 1)
            ops.fewest, ops.most = fewest, most
            for got, right in zip(answer(ops), want):
                assert low <= apart(got, right) <= high, (name, fewest)


def predicted_seconds_are_sums():
    """100 nodes, 42 MB and 5 GFLOP, added up by hand."""
    work = blank.Work(100, 42_000_000, 5_000_000_000)
    # 100 x 5 us; 42e6 / 4.2e12 s = 10 us; 5e9 / 50e12 s = 100 us, or / 320e12 s = 15.625 us
    assert math.isclose(device_time.seconds("product", work), 610e-6)
    assert math.isclose(device_time.seconds("product", work, "tf32"), 525.625e-6)
    # 100 x 1.6 us; 10 us at 0.9 of the copy
    work = work._replace(operations=0)
    assert math.isclose(device_time.seconds("adamw_ema", work), 160e-6 + 10e-6 / 0.9)
    predicted = device_time.predict({"adamw_ema": work, "memset": work._replace(nodes=200)})
    assert list(predicted) == ["memset", "adamw_ema"]  # the longest first
    assert math.isclose(predicted["memset"], 330e-6)


def the_steps_that_were_measured_are_counted_as_by_their_profile():
    """Kernels of a step, counted on the card, against the traces that are kept."""
    figures = device_time.before()
    norms = "norm", "norm_silu", "norm_backward", "norm_silu_backward"
    seen = 0
    for title, profile in figures["breakdown_ms"].items():
        counts = figures["counts"][title[0]]["train"]
        for name, kinds in {"im2col": ("im2col",), "GroupNorm": norms}.items():
            if (nodes := profile[name][1]) is not None:
                assert nodes == sum(counts.get(kind, [0])[0] for kind in kinds), (title, name)
                seen += 1
    assert seen == 5 and figures["commit"] == "c5e0171"


def the_prediction_is_as_far_off_as_docs_say():
    """Where the constants were fitted; docs/benchmarks.md has these figures."""
    most = {"fp32": 0.06, "tf32": 0.13}
    of_c = {("train", "fp32"): 0.06, ("train", "tf32"): 0.16}
    of_c |= {("sample", "fp32"): 0.29, ("sample", "tf32"): 0.36}
    found = device_time.errors()
    assert len(found) == 16
    for (net, step, precision), (predicted, measured) in found.items():
        allowed = of_c[step, precision] if net == "c" else most[precision]
        assert abs(predicted / measured - 1) < allowed, (net, step, precision)
    lines = roofline.steps_table(roofline.steps("c")).splitlines()
    assert lines[1].startswith("PREDICTED, not measured") and len(lines) == 7
    assert "-5% to +28% in fp32, -6% to +36% in tf32" in lines[3]


def arrays_on_a_card_fit_its_memory():
    """100 bytes an element; a power of two, at most what is asked for."""
    assert gpu_kernels.fitting(100 << 20) == 1 << 20 == gpu_kernels.fitting((200 << 20) - 1)
    assert gpu_kernels.fitting(141 << 30) == 1 << 28 and gpu_kernels.fitting(8 << 30) == 1 << 26
    assert gpu_kernels.fitting(1 << 40, most=1 << 9) == 1 << 9


def a_kernel_is_known_by_its_name():
    """As a profiler gives it."""
    names = {
        "tinyddpm_norm_silu_backward": "norm_silu_backward",
        "sm90_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x32": "product",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float>": "product",
        "void gemv2T_kernel_val<int, int, float>": "product",
        "cupy_add__float32_float32_float32": "elementwise",
        "cupy_copy__float32_float32": "copy",
        "cupy_sum": "sum",
        "void cub::DeviceReduceKernel<float>": "sum",
        "Memcpy DtoD (Device -> Device)": "copy",
        "Memset (Device)": "memset",
        "void at::native::vectorized_elementwise_kernel<4>": "other",
    }
    assert {name: gpu_nodes.kind(name) for name in names} == names


def what_fails_or_is_late_is_one_line():
    """And the rest goes on; memory is given back after a failure."""
    told, freed = [], []
    session = Session(100.0, lambda: freed.append(1), told.append)

    def full():
        raise MemoryError("no room\nfor this")

    assert session.attempt("a", full) is None and session.attempt("b", max, 1, 2) == 2
    session.budget = 0.0
    assert session.attempt("c", max, 1, 2) is None and freed == [1]
    assert session.failed == {"a": "MemoryError: no room for this"}
    assert told == [
        "a: failed: MemoryError: no room for this",
        "c: dropped: the budget of 0 s is spent",
    ]


CHECKS = (
    an_operation_moves_its_inputs_and_its_output,
    a_product_is_two_operations_a_multiplication,
    sums_copies_and_clearing_are_nodes,
    a_view_is_no_node,
    what_cannot_be_counted_is_refused,
    a_kernel_moves_its_arrays,
    a_small_layer_is_one_node,
    the_products_of_a_step_are_the_networks,
    tf32_keeps_ten_bits,
    products_of_exact_factors_are_the_references,
    predicted_seconds_are_sums,
    the_steps_that_were_measured_are_counted_as_by_their_profile,
    the_prediction_is_as_far_off_as_docs_say,
    arrays_on_a_card_fit_its_memory,
    a_kernel_is_known_by_its_name,
    what_fails_or_is_late_is_one_line,
)
