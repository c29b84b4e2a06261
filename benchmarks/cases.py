"""What is timed by itself: the steps of the diffusion and of the optimiser, convolution, GroupNorm
with SiLU.
"""

import math
from types import SimpleNamespace

import numpy as np
from tinyddpm.kernels.gpu.roofline import BYTES

from tinyddpm import linear, noise, samplers
from tinyddpm.nn import optim
from tinyddpm.nn.device import FusedStep
from tinyddpm.nn.ops import Forget
from tinyddpm.process import x0_weights

from .bench import Case

GROUPS = 8
T = 500  # a time in the middle of linear(1000)
MOST = 1 << 22  # elements drawn on the host; more are drawn where they are needed


def draw(shape, index, first=0):
    """Inputs, the same for every backend and every cut of the batch; float32 on the host."""
    return noise.normal(shape, 0, noise.DATA, index, first)


def given_to(ops, shape, index, first=0):
    """`draw` on a backend. Large arrays it draws itself, equal to the host's but for rounding."""
    if math.prod(shape) <= MOST:
        return ops.asarray(draw(shape, index, first))
    return ops.normal(shape, 0, noise.DATA, index, first)


def adamw_inputs(ops, rows, width, first=0):
    """(theta, grad, m, v, ema), flat, and the gradient's scale, which is that of another one."""
    drawn = [given_to(ops, (rows, width), i, first).reshape(-1) for i in range(5)]
    theta, grad, m, v, ema = drawn
    scale, _ = ops.clip_scale(ops.asarray(draw((1, width), 5)[0]), 1.0)
    return (theta, grad, m, v * v, ema), scale


def reverse_step(clip=1.0):
    """A clipped ancestral step at T, from a network that predicts v."""
    s = linear(1000)
    c = samplers.ancestral_coefficients(s, T, T - 1)
    return FusedStep(*x0_weights(s, T, "v"), clip, c.c_x0, c.c_xt, c.sigma)


def steps(rows, width):
    """The fused steps on `rows` samples of `width` elements; AdamW on as many parameters."""
    n, s = rows * width, linear(1000)
    alpha_bar = s.alpha_bar[np.linspace(1, s.T, rows).astype(int)]
    coefficients = [np.sqrt(c).astype(np.float32) for c in (alpha_bar, 1 - alpha_bar)]

    def normal(ops, part):
        shape = (part.stop - part.start, width)
        return lambda: (ops.normal(shape, 1, first_sample=part.start),)

    def noised_drawn(ops, part):
        x0 = given_to(ops, (part.stop - part.start, width), 0, part.start)
        c_x0, c_eps = (ops.asarray(c[part]) for c in coefficients)
        return lambda: ops.noised_drawn(x0, c_x0, c_eps, 1, first_sample=part.start)

    def reverse_drawn(ops, part):
        shape = (part.stop - part.start, width)
        xt, prediction = (given_to(ops, shape, i, part.start) for i in (0, 1))
        c = reverse_step()
        return lambda: (ops.reverse_drawn(xt, prediction, c, 1, noise.REVERSE, T, part.start),)

    def adamw_ema(ops, part):
        drawn, scale = adamw_inputs(ops, part.stop - part.start, width, part.start)
        theta, grad, m, v, ema = drawn
        factors, weight = optim.adamw_factors(100, 1e-3), optim.ema_weight(100, 0.995)

        def step():
            ops.adamw_ema(optim.Vectors(theta, m, v, ema), grad, scale, factors, weight)
            return theta, m, v, ema

        return step

    makers = {
        "normal": (normal, 1),
        "noised_drawn": (noised_drawn, 2),
        "reverse_drawn": (reverse_drawn, 1),
        "adamw_ema": (adamw_ema, 4),
    }
    return [
        Case(name, rows, setup, BYTES[name] * n, "GB/s", joined, whole=name == "adamw_ema")
        for name, (setup, joined) in makers.items()
    ]


def given(rows, width):
    """The steps whose noise is an input, which the drawn ones are to beat, and im2col of 16 x 16
    images.
    """
    alpha_bar = linear(1000).alpha_bar[np.linspace(1, 1000, rows).astype(int)]
    coefficients = [np.sqrt(c).astype(np.float32) for c in (alpha_bar, 1 - alpha_bar)]

    def inputs(ops, part, count):
        shape = (part.stop - part.start, width)
        return [given_to(ops, shape, i, part.start) for i in range(count)]

    def noised(ops, part):
        x0, eps, (c_x0, c_eps) = (
            *inputs(ops, part, 2),
            (ops.asarray(c[part]) for c in coefficients),
        )
        return lambda: (ops.noised(x0, eps, c_x0, c_eps),)

    def reverse(ops, part):
        xt, prediction, z = inputs(ops, part, 3)
        return lambda: (ops.reverse(xt, prediction, z, reverse_step()),)

    def im2col(ops, part):
        x = inputs(ops, part, 1)[0].reshape(-1, 16, 16, width // 256)
        return lambda: (ops._patches(x, 3, 1, (14, 14)),)

    # im2col's answer is nine times its input, and it is counted by what it writes
    sizes = {
        "noised": (noised, rows * width),
        "reverse": (reverse, rows * width),
        "im2col": (im2col, 9 * 14 * 14 * rows * (width // 256)),
    }
    return [Case(name, rows, setup, BYTES[name] * n, "GB/s") for name, (setup, n) in sizes.items()]


def parameters(ops, C, O):
    """Weights and gradients of a 3x3 convolution and of a normalisation before it, on a backend."""
    conv = SimpleNamespace(
        w=ops.asarray(draw((3, 3, C, O), 2) / np.float32(3 * math.sqrt(C))),
        b=ops.asarray(draw((1, O), 3)[0]),
    )
    norm = SimpleNamespace(
        w=ops.asarray(1 + draw((1, C), 4)[0] / 8), b=ops.asarray(draw((1, C), 5)[0])
    )
    return conv, norm


def zeros(ops, p):
    """Gradients that start at zero, of the names and shapes of p."""
    return SimpleNamespace(w=ops.xp.zeros_like(p.w), b=ops.xp.zeros_like(p.b))


def convolution(B, H, W, C, O):
    """conv2d forward and backward, x and dy as the normalisations beside it hand them over."""

    def inputs(ops, part):
        conv, norm = parameters(ops, C, O)
        x = ops.asarray(draw((part.stop - part.start, H, W, C), 0, part.start))
        return conv, ops.groupnorm_silu(x, norm, GROUPS, Forget())

    def forward(ops, part):
        conv, x = inputs(ops, part)
        return lambda: (ops.conv2d(x, conv, Forget()),)

    def backward(ops, part):
        conv, x = inputs(ops, part)
        _, norm = parameters(ops, O, O)
        before, tape = [], []
        ops.groupnorm_silu(
            ops.asarray(draw((len(x), H, W, O), 6, part.start)), norm, GROUPS, before
        )
        dy = ops.groupnorm_silu_backward(
            ops.asarray(draw((len(x), H, W, O), 1, part.start)), zeros(ops, norm), before
        )
        ops.conv2d(x, conv, tape)
        return backward_of(ops, ops.conv2d_backward, dy, conv, tape)

    name, flops = f"conv2d {B}x{H}x{W}x{C} to {O}", 2 * 9 * B * H * W * C * O
    return [
        Case(f"{name} forward", B, forward, flops, "GFLOP/s", terms=9 * C),
        Case(f"{name} backward", B, backward, 2 * flops, "GFLOP/s", terms=B * H * W),
    ]


def normalisation(B, H, W, C, kind="groupnorm_silu"):
    """groupnorm_silu, or groupnorm, forward and backward."""

    def inputs(ops, part):
        _, norm = parameters(ops, C, C)
        shape = (part.stop - part.start, H, W, C)
        return norm, *(given_to(ops, shape, i, part.start) for i in (0, 1))

    def forward(ops, part):
        norm, x, _ = inputs(ops, part)
        return lambda: (getattr(ops, kind)(x, norm, GROUPS, Forget()),)

    def backward(ops, part):
        norm, x, dy = inputs(ops, part)
        tape = []
        getattr(ops, kind)(x, norm, GROUPS, tape)
        return backward_of(ops, getattr(ops, f"{kind}_backward"), dy, norm, tape)

    name, n = f"{kind} {B}x{H}x{W}x{C}", B * H * W * C
    return [
        Case(
            f"{name} forward", B, forward, BYTES["norm_silu"] * n, "GB/s", terms=H * W * C // GROUPS
        ),
        Case(
            f"{name} backward",
            B,
            backward,
            BYTES["norm_silu_backward"] * n,
            "GB/s",
            terms=B * H * W,
        ),
    ]


def backward_of(ops, function, dy, p, tape):
    """A function -> (dx, dw, db) that can be called again and again: with its own copy of what the
    tape holds.
    """

    def run():
        g = zeros(ops, p)
        return function(dy, g, list(tape)), g.w, g.b

    return run


def operations(images):
    """Every case of the group `ops`, for images (B, H, W, C, O)."""
    return [
        case
        for B, H, W, C, O in images
        for case in (*convolution(B, H, W, C, O), *normalisation(B, H, W, C))
    ]
