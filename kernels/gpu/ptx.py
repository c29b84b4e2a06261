"""Every CUDA kernel compiled for a card without having one: its PTX, and what ptxas makes of that."""

from types import SimpleNamespace
from unittest import mock

import numba.cuda.dispatcher
from numba import cuda, types
from numba.cuda.cudadrv import nvvm

from . import fused_steps as steps
from . import layers as norms

FLAT = types.Array(types.float32, 1, "C", aligned=True)
INT, FLOAT, WORDS = types.int64, types.float32, types.UniTuple(types.uint32, 5)

# The types that cuda_ops launches each kernel with. Sizes of rows are int32, so that a thread's
# place is cheap.
SIGNATURES = {
    "normal": (FLAT, types.int32, types.int32, WORDS),
    "noised": (*[FLAT] * 5, types.int32, types.int32),
    "noised_drawn": (*[FLAT] * 5, types.int32, types.int32, WORDS),
    "reverse": (*[FLAT] * 4, types.int32, types.int32, types.UniTuple(FLOAT, 6)),
    "reverse_drawn": (*[FLAT] * 3, types.int32, types.int32, types.UniTuple(FLOAT, 6), WORDS),
    "adamw_ema": (*[FLAT] * 6, INT, types.UniTuple(FLOAT, 7)),
    "im2col": (FLAT, FLAT, *[INT] * 7),
    **dict.fromkeys(("norm", "norm_silu"), (*[FLAT] * 6, *[INT] * 3, FLOAT)),
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), (*[FLAT] * 9, *[INT] * 3)),
}


def kernel(name, wide=True):
    """The kernel of that name; of the two that move data four floats at a time or one, the one
    asked for.
    """
    if name == "im2col":
        return norms.IM2COL[wide]
    return getattr(steps.KERNELS[wide], name, None) or getattr(norms, name)


def compile_ptx(name, wide=True, cc=(9, 0)):
    """PTX of a kernel for a compute capability (or the newest below it that Numba knows).

    Numba asks the current device for its capability wherever a device function is called, so it is
    told one.
    """
    device = SimpleNamespace(compute_capability=cc)
    with mock.patch.object(numba.cuda.dispatcher, "get_current_device", lambda: device):
        found = kernel(name, wide)
        return cuda.compile_ptx(
            found.py_func,
            SIGNATURES[name],
            cc=cc,
            fastmath=found.targetoptions.get("fastmath", False),
        )[0]


def newest():
    """The newest compute capability that Numba compiles for; the PTX runs on later cards too."""
    return max(nvvm.get_supported_ccs())
