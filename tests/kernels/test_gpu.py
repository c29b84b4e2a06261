"""The `cupy` and `cuda` backends on a real GPU.

The checks of test_cupy_ops.py, and what only a device can show. Skipped where no device is found,
each test with the reason; with TINYDDPM_REQUIRE_GPU=1 it fails instead.
"""

import os
from functools import cache

import numpy as np
import pytest
from support.device_checks import (
    CASES,
    KNOWN,
    NET,
    check_diffusion_steps,
    check_last_block,
    check_masks_and_losses,
    check_network,
    check_noise,
    check_operation,
    check_optimiser,
    check_training_and_sampling,
    images,
    near,
    random,
)

import tinyddpm as td
from tinyddpm import backend
from tinyddpm.nn import params
from tinyddpm.nn.device import FusedStep

pytestmark = pytest.mark.gpu
reason = cache(backend.reason)


@pytest.fixture(params=["cupy", "cuda"])
def ops(request):
    """The backend's Ops where there is a device."""
    missing = reason(request.param)
    if missing:
        words = f"GPU TESTS NOT RUN: backend {request.param}: {missing}"
        (
            pytest.fail
            if os.environ.get("TINYDDPM_REQUIRE_GPU", "0") not in ("", "0")
            else pytest.skip
        )(words)
    return backend.get(request.param)


def test_philox_words_on_the_device_are_the_known_answers(ops):
    columns = [ops.asarray(np.array(column, np.uint64)) for column in zip(*KNOWN)]
    words = (
        ops.formulas.philox(*columns) if ops.name == "cupy" else _words_of_a_kernel(ops, columns)
    )
    assert [tuple(int(w) for w in row) for row in zip(*map(ops.to_host, words))] == list(
        KNOWN.values()
    )


def _words_of_a_kernel(ops, columns):
    """philox as the kernels compile it, one counter a thread."""
    from tinyddpm.kernels.gpu.philox import encipher

    counters = ops.xp.ascontiguousarray(ops.xp.stack(columns, axis=1))
    words = ops.xp.zeros((len(counters), 4), np.uint64)
    encipher[1, 32](counters, words)
    return [ops.xp.ascontiguousarray(column) for column in words.T]


def test_noise(ops):
    check_noise(ops, [(3, 5, 2), (4, 1), (2, 8, 8, 1), (1, 4099), (513, 67), (64, 28, 28, 3)])


@pytest.mark.parametrize("holes", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", CASES)
def test_operation(ops, name, holes):
    check_operation(ops, name, holes)


def test_the_rest_of_the_operations(ops):
    check_masks_and_losses(ops)
    check_diffusion_steps(ops)
    check_optimiser(ops)
    check_network(ops)


@pytest.mark.parametrize("ops", ["cuda"], indirect=True)
@pytest.mark.parametrize(
    "shape", [(64, 8, 8, 32), (128, 4, 4, 64), (300, 3, 3, 24), (7, 16, 16, 128)]
)
def test_the_last_block_of_a_slab_sums_all_samples_each_time(ops, shape):
    check_last_block(ops, shape, 200)


def test_addresses_that_are_no_multiple_of_16_bytes(ops):
    raw, z = ops.asarray(random(2 * 8 + 1)), ops.asarray(random(2, 8, seed=2))
    x = raw[1:].reshape(2, 8)
    c = FusedStep(1.5, -0.8, 1.0, 0.4, 0.6, 0.3)
    got = ops.reverse(x, z, z, c)
    near(ops.to_host(got), ops.to_host(ops.reverse(x.copy(), z, z, c)), 4)


def test_memory_layout(ops):
    """Results are contiguous float32 on the device; parameters are windows on one vector."""
    flat = ops.asarray(params.init(NET.spec(), 0))
    p, grad = params.views(NET.spec(), flat), ops.xp.zeros_like(flat)
    first, last = flat.data.ptr, flat.data.ptr + flat.nbytes
    windows = [layer.w for layer in (p.conv_in, p.mid.first.conv1, p.conv_out, p.time1)]
    assert all(first <= w.data.ptr < last and w.flags.c_contiguous for w in windows)
    tape = []
    y = NET.forward(ops, p, ops.asarray(random(2, 8, 8, 1)), ops.asarray(np.array([3, 5])), tape)
    dx = NET.backward(ops, params.views(NET.spec(), grad), ops.xp.ones_like(y), tape)
    for x in (y, dx, ops.normal((3, 8))):
        assert isinstance(x, ops.xp.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous
    p.conv_in.w[...] = 7
    assert float(abs(ops.to_host(flat)).max()) == 7


def test_20_training_steps_and_samples_are_numpys(ops):
    check_training_and_sampling(ops.name)


def test_a_run_goes_on_from_its_checkpoint(ops, tmp_path):
    common = {"net": NET, "batch": 4, "backend": ops.name, "seed": 3}
    asked = iter([False, False, True])
    td.train(images(), steps=6, out=tmp_path, stop=lambda: next(asked), **common)
    resumed, straight = (
        td.resume(tmp_path, images(), backend=ops.name),
        td.train(images(), steps=6, **common),
    )
    # a device may add a sum in another order each time it is asked
    assert np.allclose(ops.to_host(resumed.theta), ops.to_host(straight.theta), atol=1e-5)
    assert td.sample(td.load(tmp_path, ops.name), 3, steps=4).shape == (3, 8, 8, 1)
