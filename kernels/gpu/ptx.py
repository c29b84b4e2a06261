"""The CUDA kernels compiled to PTX, NVIDIA's assembly, for a card that need not be here."""

from types import SimpleNamespace
from unittest import mock

import numba.cuda.dispatcher
from numba import cuda, types
from numba.cuda.cudadrv import nvvm

from . import fused_steps, groupnorm, im2col

FLAT = types.Array(types.float32, 1, "C", aligned=True)
INT, FLOAT, WORDS = types.int64, types.float32, types.UniTuple(types.uint32, 5)

# The types that cuda_ops launches each kernel with. The sizes of rows are int32, so that a thread
# finds its place with few instructions.
SIGNATURES = {
    "normal": (FLAT, types.int32, types.int32, WORDS),
    "noised": (*[FLAT] * 5, types.int32, types.int32),
    "noised_drawn": (*[FLAT] * 5, types.int32, types.int32, WORDS),
    "reverse": (*[FLAT] * 4, types.int32, types.int32, types.UniTuple(FLOAT, 6)),
    "reverse_drawn": (*[FLAT] * 3, types.int32, types.int32, types.UniTuple(FLOAT, 6), WORDS),
    "adamw_ema": (*[FLAT] * 6, INT, types.UniTuple(FLOAT, 6), FLOAT),
    "im2col": (FLAT, FLAT, *[INT] * 7),
    **dict.fromkeys(("norm", "norm_silu"), (*[FLAT] * 6, *[INT] * 3, FLOAT)),
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), (*[FLAT] * 9, *[INT] * 3)),
}


def kernel(name, wide=True):
    """The kernel of that name; wide: the form that moves four floats at once, where it has two."""
    if name == "im2col":
        return im2col.IM2COL[wide]
    return getattr(fused_steps.KERNELS[wide], name, None) or getattr(groupnorm, name)


def compile_ptx(name, wide=True, cc=(9, 0)):
    """PTX of the kernel of that name.

    Args:
        name: a key of SIGNATURES.
        wide: as `kernel`'s.
        cc: the compute capability; the newest below it that Numba knows is taken.
    """
    return compile_kernel(kernel(name, wide), SIGNATURES[name], cc)


def compile_kernel(kernel, signature, cc=(9, 0)):
    """PTX of any kernel, for arguments of the given types.

    Numba asks the current device for its capability wherever a device function is called, so it is
    given one here.
    """
    device = SimpleNamespace(compute_capability=cc)
    fastmath = kernel.targetoptions.get("fastmath", False)
    with mock.patch.object(numba.cuda.dispatcher, "get_current_device", lambda: device):
        return cuda.compile_ptx(kernel.py_func, signature, cc=cc, fastmath=fastmath)[0]


def newest():
    """The newest compute capability that Numba compiles for; the PTX runs on later cards too."""
    return max(nvvm.get_supported_ccs())
