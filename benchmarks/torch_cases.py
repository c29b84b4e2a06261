"""PyTorch's version of the cases: the same inputs, in its own layout and channels-last, answers
compared first.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tinyddpm import linear
from tinyddpm.interop.weights import turned
from tinyddpm.nn import optim
from tinyddpm.nn.ops import Forget, Ops

from .bench import WrongAnswer, compare
from .cases import GROUPS, adamw_inputs, draw, parameters, reverse_step

OPS = Ops()
LAYOUTS = {"torch": torch.contiguous_format, "torch nhwc": torch.channels_last}


def peers(case, want):
    """{name: function} for a case of the groups `steps` and `ops`. Raises WrongAnswer."""
    kind, *rest = case.name.split(" ")
    if kind in ("conv2d", "groupnorm_silu"):
        return _operation(case, kind, rest, want)
    step = _steps(case, want)[kind]
    for i, (x, y) in enumerate(zip(step(), want)):
        # its noise is another, so all that can be compared of what it drew are mean and spread
        near = abs(float(x.mean()) - y.mean()) + abs(float(x.std()) - y.std()) <= 0.02 * y.std()
        if not near:
            raise WrongAnswer(
                f"{case.name} on torch: result {i} has another mean or spread than the reference's"
            )
    return {"torch": step}


def _steps(case, want):
    """The step kernels in torch's own operations, each in a function of its own so that only one is
    set up.
    """
    shape = want[0].shape

    def normal():
        return (torch.randn(shape),)

    if len(shape) == 1:
        return {"adamw_ema": _adamw(case.batch, shape[0] // case.batch)}
    s = linear(1000)
    alpha_bar = torch.from_numpy(s.alpha_bar[np.linspace(1, s.T, shape[0]).astype(int)]).float()[
        :, None
    ]
    c_x0, c_eps = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x, prediction = (torch.from_numpy(draw(shape, i)) for i in (0, 1))
    c = reverse_step()

    def noised_drawn():
        eps = torch.randn_like(x)
        return c_x0 * x + c_eps * eps, eps

    def reverse_drawn():
        x0_hat = (c.a_xt * x + c.a_prediction * prediction).clamp_(-c.bound, c.bound)
        return (c.c_x0 * x0_hat + c.c_xt * x + c.sigma * torch.randn_like(x),)

    return {"normal": normal, "noised_drawn": noised_drawn, "reverse_drawn": reverse_drawn}


def _adamw(rows, width):
    """torch's fused AdamW, with its own moments, on the clipped gradient; and the average."""
    (theta, grad, m, v, ema), scale = adamw_inputs(OPS, rows, width)
    theta, ema = torch.from_numpy(theta).requires_grad_(), torch.from_numpy(ema)
    theta.grad = torch.from_numpy(scale * grad)
    optimiser = torch.optim.AdamW([theta], 1e-3, weight_decay=0.0, fused=True)
    optimiser.step()
    optimiser.state[theta]["exp_avg"].copy_(torch.from_numpy(m))
    optimiser.state[theta]["exp_avg_sq"].copy_(torch.from_numpy(v))

    def step():
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_([ema], [theta], optim.ema_weight(100, 0.995))
        return (
            theta.detach(),
            optimiser.state[theta]["exp_avg"],
            optimiser.state[theta]["exp_avg_sq"],
            ema,
        )

    return step


def _operation(case, kind, rest, want):
    """{layout: function} of a convolution or a normalisation with SiLU, forward or backward."""
    B, H, W, C = map(int, rest[0].split("x"))
    backward, O = rest[-1] == "backward", int(rest[2]) if kind == "conv2d" else C
    conv, norm = parameters(OPS, C, O)
    x, dy = draw((B, H, W, C), 0), None
    if kind == "conv2d":
        x = OPS.groupnorm_silu(x, norm, GROUPS, Forget())
        if backward:
            dy = _normalised_gradient((B, H, W, O))
    elif backward:
        dy = draw((B, H, W, C), 1)
    functions = {}
    for name, layout in LAYOUTS.items():
        functions[name] = _function(kind, x, dy, conv if kind == "conv2d" else norm, layout)
        got = [_ours(y) for y in functions[name]()]
        compare(f"{case.name} on {name}", got, want, case.terms)
    return functions


def _normalised_gradient(shape):
    """The dy that cases.convolution takes its backward at."""
    _, norm = parameters(OPS, shape[-1], shape[-1])
    _, g = parameters(OPS, shape[-1], shape[-1])
    tape = []
    OPS.groupnorm_silu(draw(shape, 6), norm, GROUPS, tape)
    return OPS.groupnorm_silu_backward(draw(shape, 1), g, tape)


def _function(kind, x, dy, p, layout):
    x, w, b = (
        _theirs(x, layout),
        torch.from_numpy(np.ascontiguousarray(turned("w", p.w))),
        torch.from_numpy(p.b),
    )
    if kind == "conv2d":
        w = w.to(memory_format=layout)

    def apply():
        return (
            F.conv2d(x, w, b, padding=1)
            if kind == "conv2d"
            else F.silu(F.group_norm(x, GROUPS, w, b, 1e-6))
        )

    if dy is None:

        def forward():
            with torch.inference_mode():
                return (apply(),)

        return forward
    leaves = [leaf.requires_grad_() for leaf in (x, w, b)]
    y, dy = apply(), _theirs(dy, layout)
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def _theirs(x, layout):
    """Channels-last images as a torch tensor (B, C, H, W) in a layout."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(memory_format=layout)


def _ours(y):
    """A torch result in our order: images (B, H, W, C), kernels (k, k, C, O)."""
    y = y.detach().numpy()
    if y.ndim != 4:
        return y
    return y.transpose(2, 3, 1, 0) if y.shape[-1] == y.shape[-2] == 3 else y.transpose(0, 2, 3, 1)
