"""A backend under measurement, its machine's ceilings, one case timed on all backends."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tinyddpm import backend
from tinyddpm.nn.ops import Ops
from tinyddpm.runs import threads as machine

from . import clock

NAMES = ("numpy", "numba", "cupy", "cuda")  # the simulator's time means nothing
# of the copy and of the square matrices that set the ceilings
COPY_BYTES, SIDE = 1 << 26, 1536


class WrongAnswer(Exception):
    """A backend or a peer does not agree with the reference, so its time is worth nothing."""


@dataclass(frozen=True)
class Bench:
    """A backend: its operations, and the map that runs the parts of a batch side by side."""

    name: str
    ops: Ops
    share: Callable

    @property
    def place(self):
        """Whose memory its arrays lie in: "host" or "device"."""
        return "host" if self.ops.xp is np else "device"

    def wait(self):
        """Return when all that was asked of the device is done."""
        if self.place == "device":
            self.ops.xp.cuda.Device().synchronize()


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    name: str
    batch: int
    # (ops, rows, a slice of the batch) -> a function without arguments -> a tuple of arrays
    setup: Callable
    work: float  # bytes or operations a call
    unit: str  # "GB/s" or "GFLOP/s", of work
    joined: int = 1  # so many arrays are the rows' part of the answer; the others are summed
    whole: bool = False  # not cut in parts
    terms: int = 1  # of the longest sum in it, which float32's rounding grows with


@contextmanager
def benches(names=None):
    """{name: Bench} of the backends asked for, numpy first, since the others are compared with it.

    names: None for all that are there. Raises InputError for one that is not.
    """
    names = names or [name for name in NAMES if backend.reason(name) is None]
    found = {name: backend.get(name) for name in NAMES if name == "numpy" or name in names}
    machine.keep_pages()
    with machine.workers(max(ops.shards for ops in found.values())) as share:
        yield {
            name: Bench(name, ops, share if ops.xp is np else in_turn)
            for name, ops in found.items()
        }


def in_turn(function, items):
    """The map of a device, whose stream is that of the thread that asks: no other thread's."""
    return [function(item) for item in items]


def ceilings(found, seconds):
    """{place: {"GB/s": a copy's, both ways, "GFLOP/s": sgemm's}}: the best, on all threads."""
    limits = {}
    for bench in found.values():
        if bench.place not in limits:
            limits[bench.place] = _ceilings(bench, seconds)
    return limits


def _ceilings(bench, seconds):
    """The ceilings of one place."""
    xp, parts = bench.ops.xp, range(bench.ops.shards)
    # a device is filled by more, and has larger caches
    scale = 1 if bench.place == "host" else 4
    nbytes, side = scale**2 * COPY_BYTES, scale * SIDE
    source = xp.ones((len(parts), nbytes // 4 // len(parts)), np.float32)
    target = xp.zeros_like(source)
    a, b = (xp.ones((len(parts), side, side), np.float32) for _ in range(2))
    out = xp.empty_like(a)

    def copy(i):
        target[i] = source[i]

    def product(i):
        xp.matmul(a[i], b[i], out=out[i])

    contenders = {
        "GB/s": lambda: bench.share(copy, parts),
        "GFLOP/s": lambda: bench.share(product, parts),
    }
    times = clock.interleave(contenders, seconds, dict.fromkeys(contenders, bench.wait))
    return {
        "GB/s": 2 * nbytes / min(times["GB/s"]) / 1e9,
        "GFLOP/s": 2 * len(parts) * side**3 / min(times["GFLOP/s"]) / 1e9,
    }


def contender(case, bench):
    """The case on a backend, its batch cut as training cuts it: () -> a list of tuples."""
    count = 1 if case.whole else min(bench.ops.shards, case.batch)
    cuts = np.linspace(0, case.batch, count + 1).astype(int).tolist()
    parts = [case.setup(bench.ops, slice(a, b)) for a, b in zip(cuts, cuts[1:])]
    return lambda: bench.share(lambda part: part(), parts)


def answer(case, bench, results):
    """What a contender returned, put together on the host: a list of arrays, no views."""
    columns = [[bench.ops.to_host(x) for x in column] for column in zip(*results)]
    return [
        np.concatenate(parts) if i < case.joined else sum(parts[1:], parts[0].copy())
        for i, parts in enumerate(columns)
    ]


def compare(what, got, want, terms=1, limit=None):
    """Raises WrongAnswer unless rounding explains every difference.

    Args:
        what: is compared.
        got, want: lists of arrays.
        terms: of the longest sum, in float32.
        limit: of a difference to the largest number; None: what float32 explains.
    """
    limit = limit or 32 * np.finfo(np.float32).eps * terms**0.5
    for i, (x, y) in enumerate(zip(got, want, strict=True)):
        worst = float(np.abs(x - y).max()) if x.shape == y.shape else np.inf
        if not worst <= limit * float(np.abs(y).max()):
            raise WrongAnswer(
                f"{what}: result {i} is {worst:.3g} from the reference, whose largest value is "
                f"{np.abs(y).max():.3g}; rounding explains {limit:.1g} of that"
            )


def checked(case, found):
    """({name: contender}, numpy's answer) of every backend, the answers compared with it."""
    contenders, want = {}, None
    for name, bench in found.items():
        contenders[name] = contender(case, bench)
        got = answer(case, bench, contenders[name]())
        want = got if want is None else want
        compare(f"{case.name} on {name}", got, want, case.terms)
    return contenders, want


def measure(case, found, limits, seconds, peers=None, bases=clock.BASES):
    """{name: row} of one case: times, rate, share of the ceiling, ratios.

    peers: callable (case, want) -> more contenders.
    """
    contenders, want = checked(case, found)
    contenders.update(peers(case, want) if peers else {})
    waits = {name: bench.wait for name, bench in found.items()}
    rows = clock.summary(clock.interleave(contenders, seconds, waits), bases)
    for name, row in rows.items():
        place = found[name].place if name in found else "host"
        row["rate"], row["unit"] = case.work / row["median_ms"] / 1e6, case.unit
        row["share"] = row["rate"] / limits[place][case.unit]
    return rows
