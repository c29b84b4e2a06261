"""How time is taken on a device: what the host needs to ask for a call, and how long the device is
at it, by events before and after.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from . import clock


class Events(NamedTuple):
    """Marks in what a device is told to do, and the time between two of them."""

    mark: Callable[[], Any]
    seconds: Callable[[Any, Any], float]  # waits for the second one


class Reading(NamedTuple):
    """Seconds of a call."""

    host: float  # until it is asked for
    device: float  # between the events, which holds what the device waits for the host


class Pace(NamedTuple):
    """How long a few functions are timed in turn."""

    seconds: float  # for all of them
    warm: int = 2  # calls of each before the first reading
    least: int = 3  # readings of each


def events(bench):
    """The Events of a backend: CuPy's, or the host's own clock."""
    if bench.place == "host":
        return Events(time.perf_counter, lambda first, last: last - first)
    cuda = bench.ops.xp.cuda

    def mark():
        event = cuda.Event()
        event.record()
        return event

    def seconds(first, last):
        last.synchronize()
        return cuda.get_elapsed_time(first, last) / 1e3

    return Events(mark, seconds)


def reading(function, marks, calls):
    """The Reading of one of `calls` calls; marks: Events."""
    first, start = marks.mark(), time.perf_counter()
    for _ in range(calls):
        function()
    host = (time.perf_counter() - start) / calls
    return Reading(host, marks.seconds(first, marks.mark()) / calls)


def rows(contenders, marks, pace, bases=()):
    """{name: row} of functions timed in turn, as `clock.summary`, of the device; with "host_ms".

    Args:
        contenders: {name: function}.
        marks: {name: Events}.
        pace: Pace.
        bases: whom ratios are taken to.
    """
    times = clock.interleave(contenders, pace.seconds, marks, pace.warm, pace.least, reading)
    found = clock.summary({name: [r.device for r in each] for name, each in times.items()}, bases)
    for name, each in times.items():
        found[name]["host_ms"] = 1e3 * statistics.median(r.host for r in each)
    return found
