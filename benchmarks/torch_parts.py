"""Where a step of PyTorch's goes, as its profiler counts it, under the names of parts.py."""

import time
from collections import defaultdict

from torch.profiler import ProfilerActivity, profile

from . import network, parts, torch_steps

# What a profiled operation's name holds, and the part that it belongs to; the first that fits.
NAMES = {
    "group_norm_backward": "GroupNorm with SiLU, backward",
    "group_norm": "GroupNorm with SiLU, forward",
    "silu_backward": "GroupNorm with SiLU, backward",
    "silu": "GroupNorm with SiLU, forward",
    "addmm": "linear layers",
    "aten::mm": "linear layers",
    "bmm": "attention",
    "attention": "attention",
    "softmax": "attention",
    "adam": "optimiser",
    "normal": "noise and diffusion's steps",
    "norm": "optimiser",
    "lerp": "optimiser",
    "randn": "noise and diffusion's steps",
    "mse": "loss",
    "cat": parts.MOVED,
    "upsample": parts.MOVED,
    "copy_": parts.MOVED,
    "contiguous": parts.MOVED,
}


def measure(case, seconds):
    """{"train": {name: figures}, "sampling": {name: figures}} of eager torch in both layouts."""
    found = torch_steps.steps(case, network.fresh(case.net).theta)
    return {
        kind: {name: _step_parts(step, seconds) for name, step in each.items()}
        for kind, each in found.items()
    }


def _step_parts(step, seconds):
    """`parts.step_parts` of a step of torch's."""
    for _ in range(2):
        step()
    calls, start = 0, time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
        while calls < 3 or time.perf_counter() - start < seconds:
            step()
            calls += 1
        total = (time.perf_counter() - start) / calls
    taken, work = defaultdict(float), defaultdict(float)
    events = found.key_averages(group_by_input_shape=True)
    # the time stands with the kernel, the operations with the call around it
    flops = {_shapes(event): event.flops for event in events if event.key == "aten::conv2d"}
    for event in events:
        part, operations = _part(event, flops)
        if part:
            taken[part] += event.self_cpu_time_total / 1e6 / calls
            work[part] += operations / calls
    return parts.figures(total, taken, work)


def _shapes(event):
    """The shapes of a convolution's input and weights."""
    return tuple(map(tuple, event.input_shapes[:2]))


def _part(event, flops):
    """(part, operations of all its calls) of a line of the profile; (None, 0): of the rest."""
    if event.key == "aten::mkldnn_convolution":
        (B, C, H, W), (O, _, k, _) = _shapes(event)
        size = H, W
        if flops[_shapes(event)] < 2 * event.count * B * H * W * O * C * k * k:
            size = (H - 1) // 2, (W - 1) // 2  # stride 2, of a padded image
        return f"{parts.convolution(k, C, O, size)}, forward", flops[_shapes(event)]
    if event.key == "aten::convolution_backward":
        (B, O, H, W), _, (_, C, k, _) = event.input_shapes[:3]
        part = f"{parts.convolution(k, C, O, (H, W))}, backward"
        return part, event.count * 4 * B * H * W * O * C * k * k
    return next((part for text, part in NAMES.items() if text in event.key), None), 0
