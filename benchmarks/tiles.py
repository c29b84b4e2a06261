"""The register tiles of the convolutions on this CPU: each candidate's rate, and the choice's.

A candidate is built in a process of its own, since Numba compiles a tile's shape into its kernels.
One thread; the rate is that of the direct convolution's operations, so Winograd passes the peak.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np

from tinyddpm.errors import TinyDDPMError
from tinyddpm.runs import threads

from . import report
from .clock import interleave

# (B, H, W, C): the benchmark networks' 3 x 3 convolutions, half a batch for one thread
IMAGES = ((64, 8, 8, 32), (32, 28, 28, 32), (32, 14, 14, 64), (32, 7, 7, 128))
PIXELS = {4: (4, 6), 8: (4, 5, 6), 16: (6, 8, 10, 12, 14)}
VECTORS = {4: (2, 4), 8: (1, 2), 16: (1, 2)}
KINDS = ("direct", "winograd")
SOME = ((8, 2, 6), (8, 1, 6))  # for a look at whether it runs
NEAR = 0.97  # a choice within so much of the fastest is as good: the machine's noise


def candidates(lanes):
    """The tiles to try, as (lanes, vectors, pixels): this vector's, and the next shorter one's."""
    tried = [lanes] + ([lanes // 2] if lanes > 4 else [])
    return [(n, v, p) for n in tried for v in VECTORS[n] for p in PIXELS[n]]


def run(seconds, images=IMAGES, tried=None):
    """Measure the candidates; returns {"choice": text, "rates": {tile: {kind: [GFLOP/s ...]}}}."""
    from tinyddpm.kernels.cpu.tiles import TILES

    rates = {}
    for lanes, vectors, pixels in report.each(tried or candidates(TILES.lanes), "tiles"):
        name = f"{lanes}:{vectors}x{pixels}"
        rates[name] = _child(f"{name}:{vectors}x{pixels}", seconds, images)
    return {"choice": str(TILES), "rates": rates}


def _child(tile, seconds, images):
    """{kind: [[forward, backward] GFLOP/s of each of the images]} of a tile, or why it failed."""
    command = [sys.executable, "-m", "benchmarks.tiles", str(seconds), json.dumps(images)]
    environment = {**os.environ, "TINYDDPM_TILE": tile, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise TinyDDPMError(f"tile {tile}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(seconds, images):
    """What a child prints: each kind's rates on each of the images, forward and backward."""
    return {kind: [rate(kind, tuple(shape), seconds) for shape in images] for kind in KINDS}


def rate(kind, shape, seconds):
    """[forward, backward] of one convolution C to C in GFLOP/s."""
    from tinyddpm.kernels.cpu import convolution
    from tinyddpm.kernels.cpu.ops import NumbaOps

    threads.keep_pages()
    ops, x = NumbaOps(), np.ones(shape, np.float32)
    C, flops = shape[-1], 2 * np.prod(shape) * 9 * shape[-1]
    p = SimpleNamespace(w=np.full((3, 3, C, C), 1e-3, np.float32), b=np.zeros(C, np.float32))
    g = SimpleNamespace(w=np.zeros_like(p.w), b=np.zeros_like(p.b))

    def forward():
        tape = []
        return ops.conv2d(x, p, tape), tape

    def both():
        y, tape = forward()
        ops.conv2d_backward(y, g, tape)

    before = convolution.WORTH
    convolution.WORTH = before if kind == "winograd" else 0
    try:
        times = interleave({"forward": forward, "both": both}, seconds)
    finally:
        convolution.WORTH = before
    best = {name: min(taken) for name, taken in times.items()}
    return [flops / best["forward"] / 1e9, 2 * flops / (best["both"] - best["forward"]) / 1e9]


def speed(rates):
    """The geometric mean of all rates of a tile, GFLOP/s."""
    return float(np.exp(np.mean(np.log(rates))))


def table(figures, images=IMAGES):
    """The rates as text, and for each kind whether the choice is the fastest here."""
    lanes, *chosen = figures["choice"].split(":")
    lines = [f"\ntiles in use: {figures['choice']} (lanes, direct, winograd); GFLOP/s, one thread"]
    for kind, shape in zip(KINDS, chosen):
        named = " ".join("x".join(map(str, (*image, image[-1]))).rjust(16) for image in images)
        lines.append(f"{kind:12}{named}    mean    forward/backward")
        speeds = {tile: speed(rates[kind]) for tile, rates in figures["rates"].items()}
        for tile, rates in figures["rates"].items():
            cells = " ".join(f"{a:.0f}/{b:.0f}".rjust(16) for a, b in rates[kind])
            lines.append(f"{tile:12}{cells}{speeds[tile]:8.0f}")
        best, own = max(speeds, key=speeds.get), f"{lanes}:{shape}"
        share = speeds.get(own, 0.0) / speeds[best]
        verdict = "as good as any" if share >= NEAR else f"{share:.0%} of {best}: not the best here"
        verdict = verdict if share else "not among them"
        lines.append(f"{kind}: {own} is {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]), json.loads(sys.argv[2]))))
