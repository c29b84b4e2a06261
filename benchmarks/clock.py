"""How time is taken: contenders in turn, A B A B, after a warm-up; medians and ratios, since machines drift."""

import platform
import statistics
import time

import numpy as np

from tinyddpm.machine import cores

# Other libraries' threads spin for a while after their work; a pause keeps that off the next contender's clock.
PAUSE = 0.02


def interleave(contenders, seconds):
    """Run {name: function} in turn for about `seconds` in all; returns {name: [seconds of each call]}."""
    times = {name: [] for name in contenders}
    for function in contenders.values():
        function()
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, function in contenders.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def summary(times, base=None):
    """Median and minimum in ms, and the median of the pairwise ratios to the contender `base`, for each name."""
    rows = {}
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, times[base])) if base in times else None
        rows[name] = {"median_ms": 1e3 * statistics.median(values), "min_ms": 1e3 * min(values), "ratio": ratio,
                      "calls": len(values)}
    return rows


def machine():
    """What the figures were measured on, as a dict of short texts."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:             # not Linux: the platform's own word has to do
        pass
    return {"cpu": model, "cores": str(cores()), "python": platform.python_version(), "numpy": np.__version__}
