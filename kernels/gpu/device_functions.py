"""The functions that CUDA kernels call: the formulas, and loads and stores of four floats.

Under Numba's simulator (NUMBA_ENABLE_CUDASIM=1, read when Numba is imported) the same names stand
for plain Python, because a simulated kernel is an interpreted one and knows neither libdevice nor
intrinsics.
"""

import numpy as np
from numba import config, cuda

from tinyddpm.formulas import Arithmetic, make, make_norm, product

from .. import polynomials
from . import toolkit

# A batch of eight is eight blocks for some kernels: Numba would warn of each such launch.
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
SIMULATED = bool(config.ENABLE_CUDASIM)
ZERO = np.float32(0)
# Flat indices are unsigned all through: for a signed one Numba asks at every access whether it is
# negative.
ONE, TWO, THREE, FOUR = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


def device(function):
    """Compile a function that kernels call.

    Without fastmath, so that a NaN stays one; products and sums are fused all the same.
    """
    return cuda.jit(function, device=True)


def _view(dtype):
    """A float32's bits as an int32, or back, for the simulator's scalars."""
    return lambda x: np.asarray(x, np.float32 if dtype is np.int32 else np.int32).view(dtype)[()]


@device
def minimum(a, b):
    """The smaller; a where a is NaN, as NumPy's (the device's own fmin would hide it)."""
    return b if a > b else a


@device
def maximum(a, b):
    """The larger; a where a is NaN."""
    return b if a < b else a


@device
def select(condition, a, b):
    """a where the condition holds, else b."""
    return a if condition else b


if SIMULATED:
    f32, sqrt, bits, value = np.float32, np.sqrt, _view(np.int32), _view(np.float32)
    whole, multiply = np.float32, product

    def fma(a, b, c):
        """a b + c, rounded once."""
        return np.float32(float(a) * float(b) + float(c))

    def exp(x):
        """exp(x), infinite beyond float32's range."""
        with np.errstate(over="ignore"):
            return np.exp(x)

    def reciprocal(x):
        """1 / x."""
        return np.float32(1) / x

    def load4(x, i):
        """x[i : i + 4], one by one."""
        return x[i], x[i + ONE], x[i + TWO], x[i + THREE]

    def store4(x, i, a, b, c, d):
        """x[i : i + 4] = a, b, c, d, one by one."""
        x[i], x[i + ONE], x[i + TWO], x[i + THREE] = a, b, c, d

else:
    from llvmlite import ir
    from numba.core import types
    from numba.cuda import libdevice
    from numba.extending import intrinsic

    toolkit.use_wheels()
    sqrt, exp, fma, bits = libdevice.sqrtf, libdevice.expf, libdevice.fmaf, libdevice.float_as_int
    INT, VECTOR = ir.IntType(32), ir.VectorType(ir.FloatType(), 4)

    @device
    def f32(u):
        """A word below 2**32 as a float32, by 32 bits: the conversion of 64 is long."""
        return np.float32(np.uint32(u))

    @device
    def whole(i):
        """An int32 as a float32; Numba has made it an int64 on the way."""
        return np.float32(np.int32(i))

    @device
    def value(i):
        """The float32 whose bits are those of i."""
        return libdevice.int_as_float(np.int32(i))

    @device
    def reciprocal(x):
        """1 / x within 2 units in the last place, and 0 beyond 2**126."""
        return libdevice.fast_fdividef(np.float32(1), x)

    def multiply(a, b):
        """formulas.product in words of 32 bits: one instruction, where that of 64 takes two."""
        a, b = np.int32(a), np.int32(b)
        return np.uint32(libdevice.umulhi(a, b)), np.uint32(a * b)

    def _address(context, builder, signature, args):
        """The address of x[i] as one of four floats."""
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.bitcast(
            builder.gep(array.data, [args[1]]), VECTOR.as_pointer(array.data.type.addrspace)
        )

    @intrinsic
    def load4(typing, x, i):
        """x[i : i + 4] in one 16-byte load; x: flat float32, x[i] at a multiple of 16 bytes."""

        def generate(context, builder, signature, args):
            vector = builder.load(_address(context, builder, signature, args), align=16)
            parts = [builder.extract_element(vector, ir.Constant(INT, k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(types.float32, 4)(x, types.uint64), generate

    @intrinsic
    def store4(typing, x, i, a, b, c, d):
        """x[i : i + 4] = a, b, c, d in one 16-byte store; x[i] at a multiple of 16 bytes."""

        def generate(context, builder, signature, args):
            vector = ir.Constant(VECTOR, ir.Undefined)
            for k, value in enumerate(args[2:]):
                vector = builder.insert_element(vector, value, ir.Constant(INT, k))
            builder.store(vector, _address(context, builder, signature, args), align=16)
            return context.get_dummy_value()

        return types.void(x, types.uint64, *[types.float32] * 4), generate


circle = polynomials.make(device, fma, bits, value, whole, select)
arithmetic = Arithmetic(
    f32, circle.log, sqrt, circle.cospi, circle.sinpi, minimum, maximum, multiply
)
formulas = make(device, arithmetic)
norm_formulas = make_norm(device, exp, reciprocal)


def access(wide):
    """(load, store) of four neighbouring values, at once where `wide`, else one by one.

    load(x, i, left, fill) -> four values, those beyond `left` being `fill`;
    store(x, i, left, a, b, c, d) writes no more than `left`.
    """
    if wide:

        @device
        def load(x, i, left, fill):
            return load4(x, i)

        @device
        def store(x, i, left, a, b, c, d):
            store4(x, i, a, b, c, d)
    else:

        @device
        def load(x, i, left, fill):
            return (
                x[i],
                x[i + ONE] if left > 1 else fill,
                x[i + TWO] if left > 2 else fill,
                x[i + THREE] if left > 3 else fill,
            )

        @device
        def store(x, i, left, a, b, c, d):
            x[i] = a
            if left > 1:
                x[i + ONE] = b
            if left > 2:
                x[i + TWO] = c
            if left > 3:
                x[i + THREE] = d

    return load, store
