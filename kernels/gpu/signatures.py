"""Every CUDA kernel by its name, and the types of the arguments that it is launched with."""

from numba import types

from . import (
    dense,
    elementwise,
    fused_steps,
    groupnorm,
    groupnorm_backward,
    im2col,
    reductions,
    winograd,
)

FLAT = types.Array(types.float32, 1, "C", aligned=True)
UNSIGNED = types.Array(types.uint32, 1, "C", aligned=True)
INT, FLOAT = types.int64, types.float32
WORDS = types.UniTuple(types.uint32, 5), UNSIGNED  # and the clock
ROWS = types.int32, types.int32  # so that a thread finds its place with few instructions

SIGNATURES = {
    "assign": (UNSIGNED, FLAT, types.UniTuple(types.uint32, 8), types.UniTuple(FLOAT, 8)),
    "normal": (FLAT, *ROWS, *WORDS),
    "noised": (*[FLAT] * 5, *ROWS),
    "noised_drawn": (*[FLAT] * 5, *ROWS, *WORDS),
    "reverse": (*[FLAT] * 4, *ROWS, FLAT),
    "reverse_drawn": (*[FLAT] * 3, *ROWS, FLAT, *WORDS),
    "adamw_ema": (*[FLAT] * 6, INT, FLAT, FLAT),
    **dict.fromkeys(("bias", "bias_shift", "bias_onto", "bias_shift_onto"), (*[FLAT] * 4, *ROWS)),
    "silu": (FLAT, FLAT, *ROWS),
    "silu_backward": (FLAT, FLAT, FLAT, *ROWS),
    "dropout_mask": (FLAT, *ROWS, *WORDS, INT, FLOAT),
    "softmax": (FLAT, INT, FLOAT),
    "softmax_backward": (FLAT, FLAT, INT, FLOAT),
    "square_sums": (FLAT, FLAT, INT),
    "clip": (FLAT, FLAT, FLAT, INT, FLOAT),
    **dict.fromkeys(("winograd_input", "winograd_slope"), (FLAT, FLAT, *[INT] * 5)),
    **dict.fromkeys(
        (
            "winograd_output",
            "winograd_output_shift",
            "winograd_output_onto",
            "winograd_output_shift_onto",
        ),
        (*[FLAT] * 5, *[INT] * 6),
    ),
    "dense": (*[FLAT] * 6, *[types.int32] * 6),
    "dense_backward": (*[FLAT] * 5, *[types.int32] * 5),
    "dense_weights": (*[FLAT] * 4, *[types.int32] * 4),
    "winograd_gather": (FLAT, FLAT, *[INT] * 6),
    **dict.fromkeys(("winograd_weights", "winograd_weights_backward"), (FLAT, FLAT, INT, INT)),
    "im2col": (FLAT, FLAT, *[INT] * 8),
    "col2im": (FLAT, FLAT, *[INT] * 9),
    **dict.fromkeys(("norm", "norm_silu"), (*[FLAT] * 6, *[INT] * 4, FLOAT)),
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), (*[FLAT] * 11, UNSIGNED, *[INT] * 4)),
}


BY_FORM = {
    wide: groupnorm.FORWARD[wide] | groupnorm_backward.BACKWARD[wide] | dense.KERNELS[wide]
    for wide in (True, False)
}


def kernel(name, wide=True):
    """The kernel of that name; wide: the form that moves four floats at once, where it has two."""
    if name in ("im2col", "col2im"):
        return getattr(im2col, name.upper())[wide]
    places = fused_steps.KERNELS[wide], elementwise.KERNELS[wide], fused_steps
    found = (getattr(place, name, None) for place in (*places, reductions, winograd))
    return BY_FORM[wide].get(name) or next(filter(None, found))
