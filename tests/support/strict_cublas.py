"""A stand-in for nvmath.bindings.cublas that computes with NumPy, from addresses and strides.

cuBLAS counts along columns: a matrix of m rows with leading dimension ld has element (i, j) at
i + j ld. What cuBLAS would refuse or misread is refused: leading dimensions that are too small,
addresses that are none, counts that are no whole numbers, a handle on another stream than the
current one, a handle without a workspace while a stream is captured.
"""

import sys
from types import ModuleType

import numpy as np

from support import strict_cuda
from support.strict_cuda import at_address

handles = {}  # {handle: {"stream", "workspace", "math"}}


def create():
    strict_cuda.refuse("the making of a handle")
    handles[len(handles) + 1] = {"stream": 0, "workspace": None, "math": 0}
    return len(handles)


def set_stream(handle, stream):
    handles[handle].update(stream=stream, workspace=None)  # as cuBLAS does


def set_workspace(handle, address, size):
    assert size and address
    handles[handle]["workspace"] = address, size


def set_math_mode(handle, mode):
    assert mode in (0, 3)
    handles[handle]["math"] = mode


def sgemm(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    one = a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1
    sgemm_strided_batched(handle, op_a, op_b, m, n, k, alpha, *one)


def sgemm_strided_batched(
    handle, op_a, op_b, m, n, k, alpha, a, lda, da, b, ldb, db, beta, c, ldc, dc, batch
):
    """C = alpha op(A) op(B) + beta C, (m, n), for each of a batch."""
    numbers = op_a, op_b, m, n, k, lda, da, ldb, db, ldc, dc, batch
    assert all(type(x) is int and x >= 0 for x in numbers), numbers
    assert lda >= max(1, (k if op_a else m)) and ldb >= max(1, (n if op_b else k)) and ldc >= m
    # rows, columns, how far apart they are, for each matrix as the operation sees it
    views = [
        _matrix(a, (m, k), lda, op_a, da, batch),
        _matrix(b, (k, n), ldb, op_b, db, batch),
        _matrix(c, (m, n), ldc, 0, dc, batch),
    ]
    scale, keep = (float(at_address(x, 1, np.float32)[0]) for x in (alpha, beta))
    assert batch == 1 or dc >= ldc * (n - 1) + m or _woven(dc, ldc, m, n), "results overlap"
    exact = handles[handle]["math"] == 0

    def run():
        left, right, out = views
        left, right = (x if exact else _tf32(x) for x in (left, right))
        answer = scale * np.matmul(left, right)
        out[...] = answer + keep * out if keep else answer

    _submit(handle, "sgemm", run)


def sgemv(handle, op, m, n, alpha, a, lda, x, incx, beta, y, incy):
    """y = alpha A x + beta y, A (m, n)."""
    assert all(type(number) is int for number in (op, m, n, lda, incx, incy))
    assert op == 0 and lda >= max(1, m) and incx == incy == 1
    matrix = _matrix(a, (m, n), lda, 0, 0, 1)[0]
    vector, out = at_address(x, n, np.float32), at_address(y, m, np.float32)
    scale, keep = (float(at_address(p, 1, np.float32)[0]) for p in (alpha, beta))

    def run():
        out[...] = scale * (matrix @ vector) + keep * out

    _submit(handle, "sgemv", run)


def _matrix(address, shape, ld, transposed, apart, batch):
    """The (batch, *shape) view of what lies at an address."""
    rows, columns = shape[::-1] if transposed else shape
    last = (batch - 1) * apart + (columns - 1) * ld + rows
    flat = at_address(address, max(last, 0), np.float32)
    strides = 4 * apart, *((4 * ld, 4) if transposed else (4, 4 * ld))
    return np.lib.stride_tricks.as_strided(flat, (batch, *shape), strides)


def _woven(apart, ld, m, n):
    """Whether matrices lie in each other's gaps, as the heads of attention do."""
    return apart % ld == 0 and apart >= ld * n and m <= ld


def _tf32(x):
    """x rounded to 10 bits behind the point, to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    half = np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)


def _submit(handle, name, run):
    assert handles[handle]["stream"] == strict_cuda.state.streams[-1].ptr, "a foreign stream"
    if strict_cuda.state.capturing is not None:
        assert handles[handle]["workspace"], "no workspace of its own"
    strict_cuda.submit(name, run)


def install(monkeypatch):
    """Put it where the backend looks for it."""
    module = ModuleType("nvmath.bindings.cublas")
    for function in (create, set_stream, set_workspace, set_math_mode, sgemm, sgemv):
        setattr(module, function.__name__, function)
    module.sgemm_strided_batched = sgemm_strided_batched
    for name, part in (("nvmath", ModuleType("nvmath")), ("nvmath.bindings.cublas", module)):
        part.__spec__ = "found"
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setitem(sys.modules, "nvmath.bindings", ModuleType("nvmath.bindings"))
