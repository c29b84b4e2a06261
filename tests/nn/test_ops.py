"""What every operation promises: its gradient, dtypes, memory layouts, tapes, range and blocks."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.gradients import OPS, check_gradient, near
from support.op_cases import CASES, normals

from tinyddpm.nn.ops import Forget, Ops

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def answer(case, dtype=np.float64):
    """A case's arrays, an upstream gradient dy, and (y, gradients) for them."""
    arrays = {name: array.astype(dtype) for name, array in case.arrays().items()}
    dy = np.asarray(normals(*np.shape(case.forward(SimpleNamespace(**arrays), [])), seed=7)).astype(
        dtype
    )
    return arrays, dy, case.run(arrays, dy)


@every_case
def test_gradients(case):
    arrays, dy, (_, grads) = answer(case)
    assert set(grads) == set(arrays)
    for name in arrays:

        def f(value, name=name):
            return (dy * case.forward(SimpleNamespace(**(arrays | {name: value})), [])).sum()

        check_gradient(f, arrays[name], grads[name])


@every_case
def test_float32_stays_float32(case):
    """Rounding is 6e-8 an operation, a few hundred in a sum: 1e-4 of the largest entry."""
    _, _, (y, grads) = answer(case)
    _, _, (small, small_grads) = answer(case, np.float32)
    assert small.dtype == np.float32
    near(small, y, rtol=1e-4)
    for name, grad in small_grads.items():
        assert grad.dtype == np.float32, name
        near(grad, grads[name], rtol=1e-4)


@every_case
@pytest.mark.parametrize("layout", ["every second", "backwards", "column-major"])
def test_the_layout_in_memory_does_not_matter(case, layout):
    def laid(array):
        if array.ndim == 0:
            return array
        if layout == "column-major":
            return np.asfortranarray(array)
        if layout == "backwards":
            return array[::-1].copy()[::-1]
        return np.repeat(array, 2, axis=-1)[..., ::2]

    arrays, dy, (y, grads) = answer(case)
    other_y, other_grads = case.run({name: laid(array) for name, array in arrays.items()}, laid(dy))
    near(other_y, y)
    for name, grad in other_grads.items():
        near(grad, grads[name])


@every_case
def test_gradients_are_added_and_inputs_left_alone(case):
    arrays, dy, (_, once) = answer(case)
    before = {name: array.copy() for name, array in arrays.items()} | {"dy": dy.copy()}
    grads = {name: once[name].copy() for name in once if name in "wb"}
    case.run(arrays, dy, grads or None)
    for name in grads:
        near(grads[name], 2 * case.run(arrays, dy)[1][name])
    for name, array in (arrays | {"dy": dy}).items():
        assert np.array_equal(array, before[name]), name


@every_case
def test_a_forgetting_tape_changes_nothing(case):
    arrays, _, (y, _) = answer(case)
    assert np.array_equal(case.forward(SimpleNamespace(**arrays), Forget()), y)


@pytest.mark.parametrize(
    "name", [name for name in CASES if not name.startswith(("dropout", "mse"))]
)
def test_a_batch_of_one(name):
    """Samples do not mix, and w's and b's gradients are sums over them."""
    case = CASES[name]
    arrays, dy, (y, grads) = answer(case)
    total = {}
    for i in range(len(y)):
        one = {k: a if k in "wb" else a[i : i + 1] for k, a in arrays.items()}
        y_one, grads_one = case.run(one, dy[i : i + 1])
        near(y_one, y[i : i + 1])
        for k, grad in grads_one.items():
            if k in "wb":
                total[k] = total.get(k, 0) + grad
            else:
                near(grad, grads[k][i : i + 1])
    for k in total:
        near(total[k], grads[k])


# --- range, blocks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_inputs_do_not_overflow(dtype):
    x, one, tape = np.array([-1e4, -200, -90, 90, 200, 1e4], dtype), np.ones(6, dtype), []
    with np.errstate(all="raise", under="ignore"):
        y = OPS.silu(x, tape)
        near(y, np.maximum(x, 0), rtol=1e-6)
        near(OPS.silu_backward(one, tape), (x > 0) * 1.0, rtol=1e-6)
        y = OPS.softmax(x, tape)
        near(y, np.array([0, 0, 0, 0, 0, 1.0]))
        assert not OPS.softmax_backward(one, tape).any()
        near(OPS.softmax(1e4 + np.zeros(4, dtype), []), np.full(4, 0.25))


def test_groupnorm_of_a_far_mean_keeps_its_precision():
    """Deviations of 1 about a mean of 1000: E x^2 - (E x)^2 would lose all but one digit."""
    x, p = normals(2, 8, 8, 4), SimpleNamespace(w=np.ones(4), b=np.zeros(4))
    far = OPS.groupnorm(
        (x + 1000).astype(np.float32), SimpleNamespace(w=p.w.astype("f"), b=p.b.astype("f")), 2, []
    )
    near(far, OPS.groupnorm(x, p, 2, []), rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("conv")])
def test_the_block_size_does_not_matter(name, monkeypatch):
    results = []
    for block in (1, 7000, 1 << 40):
        monkeypatch.setattr(Ops, "block_bytes", block)
        results.append(answer(CASES[name]))
    assert len(OPS._parts(results[0][2][0], 9)) == 1
    monkeypatch.setattr(Ops, "block_bytes", 1)
    assert len(OPS._parts(results[0][2][0], 9)) == 3
    for _, _, (y, grads) in results[1:]:
        near(y, results[0][2][0])
        for k in grads:
            near(grads[k], results[0][2][1][k])


@pytest.mark.parametrize("name", ["conv2d", "groupnorm", "groupnorm_silu"])
def test_a_backward_adds_the_inputs_gradients_from_elsewhere(name):
    x, more = normals(3, 5, 4, 6), [normals(3, 5, 4, 6, seed=i) for i in (5, 6)]
    shape, options = ((3, 3, 6, 6), ()) if name == "conv2d" else ((6,), (3,))
    p = SimpleNamespace(w=normals(*shape, seed=2), b=normals(6, seed=3))
    found = []
    for onto in ([], more[:1], more):
        tape, g = [], SimpleNamespace(w=np.zeros(shape), b=np.zeros(6))
        y = getattr(OPS, name)(x, p, *options, tape)
        dx = getattr(OPS, f"{name}_backward")(normals(*y.shape, seed=4), g, tape, *onto)
        found.append((dx, g.w, g.b))
    alone = found[0][0]
    assert np.array_equal(found[1][0], alone + more[0])
    assert np.array_equal(found[2][0], alone + more[0] + more[1])
    assert all(np.array_equal(a, b) for each in found for a, b in zip(each[1:], found[0][1:]))


def test_embedding_is_a_one_hot_product():
    w, label = normals(4, 5), np.array([2, 0, 2, -1, 1])
    one_hot = np.eye(4)[[2, 0, 2, 3, 1]]
    dy, g, tape = normals(5, 5, seed=1), SimpleNamespace(w=np.ones((4, 5))), []
    y = OPS.embedding(label, SimpleNamespace(w=w), tape)
    OPS.embedding_backward(dy, g, tape)
    assert np.array_equal(y, one_hot @ w) and not tape
    near(g.w, 1 + one_hot.T @ dy)
