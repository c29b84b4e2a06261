"""The operations over CuPy's arrays: the reference's code, a few of CuPy's kernels for each line.

A convolution is unrolled patches and `cupy.matmul` (CuPy 14 has no cuDNN). Nothing here copies
between host and device or waits for the device, except `asarray` and `to_host`.
"""

from contextlib import contextmanager

from tinyddpm.errors import DeviceFull
from tinyddpm.formulas import over_arrays
from tinyddpm.nn import optim
from tinyddpm.nn.ops import Ops

from . import nccl


class CupyOps(Ops):
    """Ops over the arrays of `cupy`, the module, on its current device and stream."""

    name = "cupy"
    lazy = True
    shards = 1  # a device is filled by a whole batch
    block_bytes = 1 << 28  # of patches: a device has room for many, and is slow with few

    def repeated(self, function):
        """Steps.repeated, as it is; a device that is full says so in one line."""

        def step(numbers, *arrays):
            with self.room():
                return function(numbers, *arrays)

        return step

    @contextmanager
    def room(self):
        """A context in which the device's memory may run out: DeviceFull is raised then."""
        try:
            yield
        except self.xp.cuda.memory.OutOfMemoryError as error:
            words = " ".join(str(error).split())
            raise DeviceFull(
                f"the GPU's memory does not hold this step: {words} a smaller batch needs less"
            ) from None

    def free_bytes(self):
        """Steps.free_bytes: the driver's, and what CuPy's pool holds for nobody."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return free + self.xp.get_default_memory_pool().free_bytes()

    def __init__(self, cupy):
        self.xp = cupy
        self.formulas = over_arrays(cupy)

    def asarray(self, host):
        """A NumPy array copied to the device."""
        return self.xp.asarray(host)

    def to_host(self, x):
        """The device's array as a NumPy array, once all that it waits for is done."""
        return self.xp.asnumpy(x)

    def between(self, comm, place):
        """Steps.between: NCCL, and a card of this process's own."""
        nccl.use_own_device(self.xp, comm, place)
        return nccl.Nccl(self.xp, comm)

    def clip_scale(self, grad, limit):
        """(scale, norm) as arrays () on the device (`optim.clip_scale_unread`)."""
        return optim.clip_scale_unread(self.xp, grad, limit)

    def adamw_ema(self, vectors, grad, scale, factors, ema_weight):
        """Ops.adamw_ema on whole vectors; scale may be an array () on the device."""
        theta, m, v, ema = vectors
        theta[:], m[:], v[:] = self.formulas.adamw(theta, scale * grad, m, v, factors)
        ema[:] = self.formulas.average(ema, theta, ema_weight)

    def pixel_dot(self, x, y):
        """The sum of x y over the middle axis; CuPy's einsum would transpose both first."""
        return self.pixel_sum(x * y)


def make(name):
    """The backend, for `backend.get`."""
    import cupy

    return CupyOps(cupy)
