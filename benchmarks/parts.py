"""Where a step's time goes: each operation of a backend is timed while the step runs.

An operation inside another one counts as the outer one's, except those that only move numbers: they
are a part of their own wherever they are. Two parts of a batch run side by side, each on a thread,
so a part's time is its mean over the threads. What lies between the operations is the rest: Python,
additions of whole images, gradients set to zero, waiting for the slower thread.
"""

import copy
import threading
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial

from tinyddpm.nn.ops import Forget

from . import network, report

REST, MOVED, FEW = "the rest", "copies and layout", 8
# Operations with a backward, {name: part}; for None the part is named by the convolution's shape.
PAIRS = {
    "conv2d": None,
    "upsample_conv2d": None,
    "groupnorm": "GroupNorm with SiLU",
    "groupnorm_silu": "GroupNorm with SiLU",
    "silu": "SiLU alone",
}
SINGLE = {
    "linear": "linear layers",
    "linear_backward": "linear layers",
    "attention": "attention",
    "attention_backward": "attention",
    "pixel_sum": "sums over pixels",
    "dropout": "dropout",
    "dropout_backward": "dropout",
    "embedding": "embeddings",
    "embedding_backward": "embeddings",
    "time_embedding": "embeddings",
    "mse": "loss",
    "mse_backward": "loss",
    "normal": "noise and diffusion's steps",
    "uniform": "noise and diffusion's steps",
    "noised_drawn": "noise and diffusion's steps",
    "reverse_drawn": "noise and diffusion's steps",
    "clip_scale": "optimiser",
    "adamw_ema": "optimiser",
}
# What only moves numbers, inside or outside of other operations.
MOVES = (
    *("concat", "concat_backward", "upsample", "upsample_backward"),
    *("_patches", "_pad_spread", "_framed", "_prepare"),
)


class Ledger:
    """The seconds of each part, filled in by the operations of a `timed` backend."""

    def __init__(self, shards=1, read=time.perf_counter):
        self.shards, self.read = shards, read
        self.seconds, self.flops = defaultdict(float), defaultdict(float)
        self.lock, self.local = threading.Lock(), threading.local()

    def time(self, name, call, args):
        """Call call(*args), an operation of this name, and count its time."""
        mine = self.local.__dict__
        inner, tape = mine.setdefault("inner", []), mine.setdefault("tape", [])
        if inner and name not in MOVES:
            return call(*args)
        inner.append(0.0)
        start = self.read()
        result = call(*args)
        took = self.read() - start
        self._add(*_part(name, args, result, tape), took - inner.pop())
        if inner:
            inner[-1] += took
        return result

    def _add(self, part, flops, seconds):
        side_by_side = threading.current_thread() is not threading.main_thread()
        with self.lock:
            self.seconds[part] += seconds / (self.shards if side_by_side else 1)
            self.flops[part] += flops


def _part(name, args, result, tape):
    """(part, operations of a direct convolution) of a call; tape: the forward convolutions'."""
    if name in MOVES:
        return MOVED, 0
    if name in SINGLE:
        return SINGLE[name], 0
    forward = name.removesuffix("_backward")
    way = "forward" if forward == name else "backward"
    if PAIRS[forward]:
        return f"{PAIRS[forward]}, {way}", 0
    if way == "backward":
        part, flops = tape.pop()
        return f"{part}, backward", 2 * flops
    _, p, kept, *_ = args
    (k, _, C, O), (B, H, W, _) = p.w.shape, result.shape
    kind = "upsampled " if forward == "upsample_conv2d" else ""
    part, flops = kind + convolution(k, C, O, (H, W)), 2 * B * H * W * k * k * C * O
    if not isinstance(kept, Forget):
        tape.append((part, flops))
    return f"{part}, forward", flops


def convolution(k, C, O, size):
    """What a convolution is called: its kernel, its output's size, its channels if they are few."""
    few = f", {C} to {O}" if min(C, O) < FEW else ""
    return f"{k}x{k} convolution at {'x'.join(map(str, size))}{few}"


def timed(ops, ledger):
    """A copy of a backend whose operations count their time in a Ledger."""
    kind, body = type(ops), {}
    names = [*PAIRS, *(f"{name}_backward" for name in PAIRS), *SINGLE, *MOVES]
    for name in filter(partial(hasattr, kind), names):
        body[name] = _timed(name, getattr(kind, name), ledger)
    twin = copy.copy(ops)
    twin.__class__ = type(kind.__name__, (kind,), body)
    return twin


def _timed(name, function, ledger):
    """The method in its place."""

    def method(self, *args, **options):
        return ledger.time(name, partial(function, self, **options), args)

    return method


def step_parts(step, ledger, seconds, least=5):
    """{"step_ms", "parts": {part: ms}, "rates": {part: GFLOP/s}} of the step of median length."""
    taken, end = [], ledger.read() + seconds
    step()
    while len(taken) < least or ledger.read() < end:
        ledger.seconds.clear()
        ledger.flops.clear()
        start = ledger.read()
        step()
        taken.append((ledger.read() - start, dict(ledger.seconds), dict(ledger.flops)))
    return figures(*sorted(taken, key=lambda each: each[0])[len(taken) // 2])


def figures(total, parts, flops):
    """The figures of one step: the parts and the rest sum to it."""
    parts = {**parts, REST: total - sum(parts.values())}
    rates = {part: flops[part] / parts[part] / 1e9 for part in parts if flops.get(part)}
    return {
        "step_ms": 1e3 * total,
        "parts": {part: 1e3 * seconds for part, seconds in parts.items()},
        "rates": rates,
    }


def run(found, seconds, nets, peer=None):
    """{"NET, train step": {name: figures}} of every backend on the host, and of the peer."""
    results = {}
    for title, case in report.each(nets.items(), "parts"):
        rows = {"train": {}, "sampling": {}}
        for name, bench in found.items():
            if bench.place != "host":
                continue  # a device works on while the next operation is asked for
            ledger = Ledger(bench.ops.shards)
            steps = network.ours(case, replace(bench, ops=timed(bench.ops, ledger)))
            for kind, step in zip(rows, steps):
                rows[kind][name] = step_parts(step, ledger, seconds)
        if peer == "torch":
            from . import torch_parts

            for kind, figures in torch_parts.measure(case, seconds).items():
                rows[kind].update(figures)
        results |= {f"{title}, {kind} step": each for kind, each in rows.items()}
    return results


def table(results):
    """The parts as text: a line for each, a column for each backend, ms and GFLOP/s."""
    lines = []
    for title, rows in results.items():
        heads = "".join(f"{name:>12}{'GFLOP/s':>9}" for name in rows)
        lines += [f"\n{title + ': ms by part':56}{heads}"]
        names = dict.fromkeys(part for row in rows.values() for part in row["parts"])
        for part in sorted(names, key=_order):
            lines.append(f"    {part:52}" + "".join(_cell(row, part) for row in rows.values()))
        total = "".join(f"{row['step_ms']:12.2f}{'':9}" for row in rows.values())
        lines.append(f"    {'the step':52}{total}")
    return "\n".join(lines)


def _order(part):
    """Convolutions first, the rest last."""
    return part == REST, "convolution" not in part, part


def _cell(row, part):
    """One backend's time of a part, and its rate where it has one."""
    ms = f"{row['parts'][part]:12.2f}" if part in row["parts"] else " " * 12
    return ms + (f"{row['rates'][part]:9.0f}" if part in row["rates"] else " " * 9)
