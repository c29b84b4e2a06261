"""How time is taken: contenders in turn, A B A B, after a warm-up; medians and ratios, since
machines drift.
"""

import math
import platform
import statistics
import time

import numpy as np

from tinyddpm.runs.threads import cores

# Other libraries' threads spin for a while after their work; a pause keeps that off the next
# contender's clock.
PAUSE = 0.02
# Shorter calls are timed several at once: what counts is neither the clock, nor one wait for a
# device, nor how a core wakes from the pause.
READING = 3e-2
BASES = "numpy", "torch"  # what the others are compared with


def brief():
    """From now on neither pause nor fill a reading, so that times mean nothing."""
    global PAUSE, READING
    PAUSE = READING = 0.0


def reading(function, wait, calls):
    """Seconds of one of `calls` calls, the wait for the device included."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - start) / calls


def interleave(contenders, seconds, waits=None, warm=2, least=3, read=reading):
    """Run {name: function} in turn for about `seconds` in all.

    Args:
        contenders: {name: function}.
        seconds: for all of them.
        waits: {name: function that returns when its device is done}, or what else `read` takes.
        warm: calls of each before the first reading.
        least: readings of each, however long they take.
        read: like `reading`; it may give several times of a call, in a tuple.

    Returns:
        {name: [what `read` gave, each time]}.
    """
    waits = {name: (waits or {}).get(name, _nothing) for name in contenders}
    times = {name: [] for name in contenders}
    bunch = {name: _warm(contenders[name], waits[name], warm, read) for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < least:
        for name, function in contenders.items():
            time.sleep(PAUSE)
            times[name].append(read(function, waits[name], bunch[name]))
    return times


def _warm(function, wait, calls, read):
    """Call it `calls` times; returns how many calls fill a READING, 1 where none was asked for."""
    took = math.inf
    for _ in range(calls):
        took = np.max(read(function, wait, 1))
    return max(1, math.ceil(READING / took))


def _nothing():
    """A CPU's functions are done when they return."""


def summary(times, bases=BASES):
    """For each name: median and minimum in ms, readings, and {base: median of the pairwise ratios
    to it}.
    """
    rows = {}
    for name, values in times.items():
        ratios = {
            base: statistics.median(v / b for v, b in zip(values, times[base]))
            for base in bases
            if base in times
        }
        rows[name] = {
            "median_ms": 1e3 * statistics.median(values),
            "min_ms": 1e3 * min(values),
            "readings": len(values),
            "ratio": ratios,
        }
    return rows


def machine():
    """What the figures were measured on, as a dict of short texts."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(
                (line.split(":")[1].strip() for line in file if line.startswith("model name")),
                model,
            )
    except OSError:  # not Linux: the platform's own word has to do
        pass
    return {
        "cpu": model,
        "cores": str(cores()),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
