"""Matrix products over rows as NumPy lays them, on a device by NVIDIA's cuBLAS.

CuPy calls cuBLAS too, but not while a graph is recorded. nvmath-python's bindings can: a handle, a
stream and a workspace for each place where products run.
"""

import importlib
import importlib.util

import numpy as np

WORKSPACE = 1 << 26  # bytes, kept as long as the handle: a recorded graph uses it again
MATH = {"fp32": 0, "tf32": 3}  # cublasMath_t: CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH
AS_IT_IS, TRANSPOSED = 0, 1  # cublasOperation_t


class PlainProducts:
    """Products of the array module itself, NumPy or CuPy: nothing that a graph could record."""

    why = None  # why they are taken in place of cuBLAS

    def __init__(self, xp, why=None):
        self.xp, self.why = xp, why

    def product(self, a, b, out=None, add=False):
        """a b over the last two axes.

        Args:
            a, b: (m, k) and (k, n), or a batch of them: (B, m, k), (B, k, n).
            out: where it goes; None: into a new array.
            add: whether it is added to what out holds.

        Returns:
            out.
        """
        if out is None:
            return self.xp.matmul(a, b)
        if add:
            out += self.xp.matmul(a, b)
        else:
            out[...] = self.xp.matmul(a, b)
        return out

    def add_rows(self, x, out):
        """out (n,) += the sum of the rows of x, (m, n)."""
        out += x.sum(axis=0)


class Cublas(PlainProducts):
    """The same by cuBLAS, float32; other types are the module's own.

    Args:
        xp: CuPy.
        precision: "fp32", or "tf32" for products on the matrix units, of 10 bits.
    """

    def __init__(self, xp, precision="fp32"):
        super().__init__(xp)
        self.cublas = importlib.import_module("nvmath.bindings.cublas")
        self.precision, self.handles, self.ones = precision, {}, {}
        self.zero, self.one = np.zeros(1, np.float32), np.ones(1, np.float32)

    def _handle(self):
        """The handle of the current device and stream, whose workspace no other stream writes."""
        cuda = self.xp.cuda
        key = cuda.runtime.getDevice(), cuda.get_current_stream().ptr
        if key not in self.handles:
            handle, room = self.cublas.create(), self.xp.empty(WORKSPACE, np.uint8)
            self.cublas.set_stream(handle, key[1])
            self.cublas.set_workspace(handle, room.data.ptr, WORKSPACE)
            self.cublas.set_math_mode(handle, MATH[self.precision])
            self.handles[key] = handle, room
        return self.handles[key][0]

    def product(self, a, b, out=None, add=False):
        """PlainProducts.product; what is neither row by row nor column by column is copied."""
        if {x.dtype for x in (a, b)} != {np.dtype(np.float32)}:
            return super().product(a, b, out, add)
        shape = (a.shape[-2], b.shape[-1])
        batch = max(len(x) if x.ndim == 3 else 1 for x in (a, b))
        if out is None:
            out = self.xp.empty((batch, *shape) if 3 in (a.ndim, b.ndim) else shape, np.float32)
        if 0 in (batch, *shape):
            return out
        (a, op_a, ld_a), (b, op_b, ld_b) = (self._laid(x) for x in (a, b))
        same, operation, ld = self._laid(out)
        if same is not out or operation != AS_IT_IS:
            raise ValueError(f"a product's rows must lie in order, got strides {out.strides}")
        # cuBLAS counts along columns, so that our rows are its columns: out^T = b^T a^T
        beta = (self.one if add else self.zero).ctypes.data
        sizes = op_b, op_a, shape[1], shape[0], a.shape[-1], self.one.ctypes.data
        if batch == 1:
            pointers = b.data.ptr, ld_b, a.data.ptr, ld_a, beta, out.data.ptr, ld
            self.cublas.sgemm(self._handle(), *sizes, *pointers)
        else:
            b, a, c = ((x.data.ptr, n, _apart(x)) for x, n in ((b, ld_b), (a, ld_a), (out, ld)))
            self.cublas.sgemm_strided_batched(self._handle(), *sizes, *b, *a, beta, *c, batch)
        return out

    def add_rows(self, x, out):
        """PlainProducts.add_rows: a product with ones, into out."""
        if x.dtype != np.float32 or out.dtype != np.float32:
            return super().add_rows(x, out)
        x, operation, ld = self._laid(x)
        rows, columns = x.shape
        if rows == 0 or columns == 0:
            return
        if operation != AS_IT_IS:
            x, ld = self.xp.ascontiguousarray(x), columns
        if rows not in self.ones:
            self.ones[rows] = self.xp.ones(rows, np.float32)
        one, vector = self.one.ctypes.data, self.ones[rows].data.ptr
        given = columns, rows, one, x.data.ptr, ld, vector, 1, one, out.data.ptr, 1
        self.cublas.sgemv(self._handle(), AS_IT_IS, *given)

    def _laid(self, x):
        """(x, or a copy in order; AS_IT_IS or TRANSPOSED; how far apart its rows or columns are)"""
        (rows, columns), (down, across) = x.shape[-2:], (s // x.itemsize for s in x.strides[-2:])
        if columns == 1 or across == 1:
            ld = down if rows > 1 else columns
            if ld >= columns:
                return x, AS_IT_IS, max(ld, 1)
        if rows == 1 or down == 1:
            ld = across if columns > 1 else rows
            if ld >= rows:
                return x, TRANSPOSED, max(ld, 1)
        x = self.xp.ascontiguousarray(x)
        return x, AS_IT_IS, max(columns, 1)


def _apart(x):
    """How far apart the matrices of a batch are, in elements; 0 for one that is taken each time."""
    return x.strides[0] // x.itemsize if x.ndim == 3 and len(x) > 1 else 0


def make(xp, precision):
    """The products of the backend `cuda`: cuBLAS's, or CuPy's own where the bindings are missing.

    Args:
        xp: CuPy.
        precision: "fp32" or "tf32".
    """
    if importlib.util.find_spec("nvmath") is None:
        return PlainProducts(xp, "nvmath-python is not installed")
    try:
        return Cublas(xp, precision)
    except (ImportError, RuntimeError, OSError) as error:
        return PlainProducts(xp, f"nvmath-python does not load: {' '.join(str(error).split())}")
