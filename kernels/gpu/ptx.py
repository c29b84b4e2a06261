"""The CUDA kernels compiled to PTX, NVIDIA's assembly, for a card that need not be here."""

import re
from types import SimpleNamespace
from unittest import mock

import numba.cuda.dispatcher
from numba import cuda
from numba.cuda.cudadrv import nvvm

from .cubins import entry
from .signatures import SIGNATURES, kernel


def compile_ptx(name, wide=True, cc=(9, 0)):
    """PTX of the kernel of that name, which it calls entry(name).

    Args:
        name: a key of SIGNATURES.
        wide: as `signatures.kernel`'s.
        cc: the compute capability; the newest below it that Numba knows is taken.
    """
    text = compile_kernel(kernel(name, wide), SIGNATURES[name], cc)
    return text.replace(re.search(r"\.entry\s+(\w+)", text)[1], entry(name))


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
