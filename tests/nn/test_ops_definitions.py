"""Every operation against its definition written out, and against the peer's layers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from support.gradients import OPS, near
from support.op_cases import CONVS, MASK, attention, conv, linear, norm, normals, plain

# --- definitions, written out


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_convolution_is_its_definition(options):
    case, (k, s, (before, after)) = conv(*options), options[:3]
    arrays = case.arrays()
    y = case.forward(SimpleNamespace(**arrays), [])
    x = np.pad(arrays["x"], ((0, 0), (before, after), (before, after), (0, 0)))
    assert y.shape[1:3] == tuple(len(range(0, n - k + 1, s)) for n in x.shape[1:3])
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            patch = np.einsum(
                "buvc,uvco->bo", x[:, s * i : s * i + k, s * j : s * j + k], arrays["w"]
            )
            near(y[:, i, j], patch + arrays["b"], rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groupnorm_is_its_definition(groups):
    case = norm(groups, tol=1e-3)
    a = SimpleNamespace(**case.arrays())
    y, size = case.forward(a, []), 6 // groups
    for first in range(0, 6, size):
        part = slice(first, first + size)
        x = a.x[..., part]
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=(1, 2, 3), keepdims=True)
        near(y[..., part], (x - mean) / np.sqrt(variance + 1e-3) * a.w[part] + a.b[part])


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_is_its_definition(heads):
    q, k, v = (normals(2, 5, 6, seed=i) for i in range(3))
    y, size = OPS.attention(q, k, v, heads, []), 6 // heads
    for first in range(0, 6, size):
        part = slice(first, first + size)
        score = np.exp(np.einsum("bic,bjc->bij", q[..., part], k[..., part]) / math.sqrt(size))
        score /= score.sum(axis=2, keepdims=True)
        near(y[..., part], np.einsum("bij,bjc->bic", score, v[..., part]))


def test_operations_without_arithmetic_are_their_definitions():
    x = normals(2, 2, 3, 4)
    assert np.array_equal(OPS.upsample(x, []), x.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(OPS.concat(x, x[..., :1], []), np.concatenate([x, x[..., :1]], axis=3))
    assert np.array_equal(OPS.dropout(MASK, MASK, []), MASK * MASK)
    assert OPS.dropout(x, None, []) is x
    near(OPS.pixel_sum(x), x.sum(axis=(1, 2)))


def test_the_two_gradients_of_concat_may_be_written_to():
    tape, dy = [], normals(2, 3, 3, 7)
    OPS.concat(dy[..., :3], dy[..., 3:], tape)
    da, db = OPS.concat_backward(dy, tape)
    for part in (da, db):
        part += 1
    assert np.array_equal(dy, normals(2, 3, 3, 7))


def test_mse_is_a_weighted_mean_over_elements():
    y, target, weight = (
        normals(3, 4, seed=1),
        normals(3, 4, seed=2),
        np.array([[0.0], [1.0], [5.0]]),
    )
    expected = (
        sum(weight[i, 0] * (y[i, j] - target[i, j]) ** 2 for i in range(3) for j in range(4)) / 12
    )
    near(OPS.mse(y, target, weight, []), expected)


@pytest.mark.parametrize("dim", [4, 6, 32])
def test_time_embedding_is_its_definition(dim):
    t, half = np.array([1, 17, 1000]), dim // 2
    e = OPS.time_embedding(t, dim, np.float64)
    assert e.shape == (3, dim)
    for row, time in zip(e, t, strict=True):
        for i in range(half):
            angle = time / 10000 ** (i / (half - 1))
            # an angle up to 1000 keeps an absolute error of 1000 * 2e-16 through its sine
            assert abs(row[i] - math.sin(angle)) < 1e-12
            assert abs(row[half + i] - math.cos(angle)) < 1e-12
    assert OPS.time_embedding(t, dim, np.float32).dtype == np.float32


def test_the_other_time_embeddings_are_their_definitions():
    """Vaswani17's frequencies, 10000^(-2 i / dim), and the cosines before the sines."""
    e = OPS.time_embedding(np.array([3, 700]), 6, np.float64, 0, True)
    for row, time in zip(e, (3, 700), strict=True):
        for i in range(3):
            angle = time / 10000 ** (2 * i / 6)
            assert abs(row[i] - math.cos(angle)) < 1e-12
            assert abs(row[3 + i] - math.sin(angle)) < 1e-12


# --- the peer's layers, in its layouts


def from_peer(array):
    """(B, C, H, W) -> (B, H, W, C); other arrays as they are."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def weight_from_peer(array):
    """(O, C, k, k) -> (k, k, C, O), (O, I) -> (I, O), (C,) as it is."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


# The peer normalised in 2 groups with 1e-6 (others miss its answer by more than 1e-5).
PEERS = {
    "linear": linear(4),
    "conv3x3_pad1": conv(3, 1, (1, 1)),
    "conv1x1": conv(1, 1, (0, 0)),
    "conv3x3_stride2_pad1": conv(3, 2, (1, 1)),
    "conv3x3_stride2_padright": conv(3, 2, (0, 1)),
    "groupnorm": norm(2, tol=1e-6),
    "silu": plain("silu", x=()),
    "softmax": plain("softmax", x=()),
    "upsample_nearest2": plain("upsample", x=()),
}


@pytest.mark.parametrize("name", PEERS)
def test_the_peer_agrees(name, golden):
    peer = {
        key.split("/")[1]: array
        for key, array in golden("torch_layers").items()
        if key.startswith(name + "/")
    }
    convert = {k: weight_from_peer if k.endswith("w") else from_peer for k in peer}
    peer = {k: convert[k](array) for k, array in peer.items()}
    y, grads = PEERS[name].run({k: peer[k] for k in ("x", "w", "b") if k in peer}, peer["dy"])
    near(y, peer["y"], rtol=1e-10)
    for k, grad in grads.items():
        near(grad, peer["d" + k], rtol=1e-10)


def test_the_peer_agrees_on_attention(golden):
    """Its one head is an axis of its own: (B, 1, N, d)."""
    peer = {
        k: golden("torch_layers")[f"attention/{k}"][:, 0]
        for k in ("q", "k", "v", "y", "dy", "dq", "dk", "dv")
    }
    y, grads = attention(1).run({k: peer[k] for k in "qkv"}, peer["dy"])
    near(y, peer["y"], rtol=1e-10)
    for k, grad in grads.items():
        near(grad, peer["d" + k], rtol=1e-10)


def test_the_peer_agrees_on_mse(golden):
    peer, tape = golden("torch_layers"), []
    near(OPS.mse(peer["mse/x"], peer["mse/target"], 1.0, tape), peer["mse/y"][0], rtol=1e-10)
    near(OPS.mse_backward(peer["mse/dy"][0], tape), peer["mse/dx"], rtol=1e-10)
