"""The kernels alone, on arrays that fill a device, against its own copy."""

import numpy as np

from . import bench, cases, gpu_clock

MOST = 1 << 28  # elements of an array; fewer where memory does not hold them
WIDTH = 4096  # elements of a sample of the steps
IMAGES = ((28, 28, 32), (32, 32, 128))  # (H, W, C) that GroupNorm is timed on
HELD = 100  # bytes an element that a case may hold: CuPy's own operations draw noise in 64 bits
TAIL = 3  # samples of a large answer, its last ones, that are compared
SIDE = 1 << 13  # of the matrices whose product is timed


def fitting(free, most=MOST):
    """The largest power of two of elements, at most `most`, whose arrays fit in `free` bytes."""
    return min(most, 1 << max(0, (free // HELD).bit_length() - 1))


def free_bytes(ops):
    """The device's free memory."""
    return ops.xp.cuda.runtime.memGetInfo()[0]


def free(ops):
    """Give back the memory that CuPy keeps for later."""
    ops.xp.get_default_memory_pool().free_all_blocks()


def ceilings(one, elements, side, pace):
    """{"GB/s": of a copy of so many elements, both ways, "GFLOP/s": of fp32 products}.

    Args:
        one: a Bench on a device.
        elements: that are copied.
        side: of the matrices.
        pace: Pace for both.
    """
    xp, products = one.ops.xp, one.ops.products
    source, target = (xp.ones(elements, np.float32) for _ in range(2))
    a, b = (xp.ones((side, side), np.float32) for _ in range(2))
    out = xp.empty_like(a)
    contenders = {
        "copy": lambda: target.__setitem__(slice(None), source),
        "product": lambda: products.product(a, b, out=out),
    }
    marks = dict.fromkeys(contenders, gpu_clock.events(one))
    rows = gpu_clock.rows(contenders, marks, pace)
    return {
        "GB/s": 8 * elements / rows["copy"]["min_ms"] / 1e6,
        "GFLOP/s": 2 * side**3 / rows["product"]["min_ms"] / 1e6,
    }


def busy(one, elements, rate):
    """(seconds) -> copies asked for that keep the device busy for as long, at `rate` GB/s."""
    xp = one.ops.xp

    def fill(seconds):
        source, target = (xp.ones(elements, np.float32) for _ in range(2))
        for _ in range(1 + int(seconds * rate * 1e9 / (8 * elements))):
            target[:] = source

    return fill


def small():
    """Every kind of case, on a few numbers, for the answers alone."""
    return [
        *cases.steps(5, 12),
        *cases.given(2, 256),
        *cases.normalisation(2, 3, 2, 16),
        *cases.normalisation(2, 3, 2, 16, "groupnorm"),
    ]


def large(elements):
    """The cases on arrays of so many elements, or a little fewer."""
    width = min(WIDTH, max(256, elements // 8))
    rows = max(TAIL, elements // width)
    found = cases.steps(rows, width)
    noised, reverse, _ = cases.given(rows, width)
    # im2col writes nine times what it reads
    *_, im2col = cases.given(max(TAIL, rows // 8), width)
    found += [noised, reverse, im2col]
    for H, W, C in IMAGES:
        if elements < TAIL * H * W * C:  # of a look at whether it runs
            H = W = 2
        found += cases.normalisation(max(TAIL, elements // (H * W * C)), H, W, C)
    return found


def run(session, found, limits, elements, pace):
    """{case: {backend: row}} of `cuda`, and of CuPy's own operations where it is among `found`.

    Args:
        session: a Session.
        found: {name: Bench}, with numpy.
        limits: as `ceilings` gives them.
        elements: of an array.
        pace: Pace for each case and backend.
    """
    names = [name for name in ("cuda", "cupy") if name in found]
    for case in small():
        for name in names:
            pair = {"numpy": found["numpy"], name: found[name]}
            session.attempt(f"{case.name}, a few numbers on {name}", bench.checked, case, pair)
    rows = {}
    for case in large(elements):
        for name in names:
            given = case, found["numpy"], found[name], limits, pace
            row = session.attempt(f"{case.name} on {name}", alone, *given)
            if row:
                rows.setdefault(case.name, {})[name] = row
            free(found[name].ops)
    return rows


def alone(case, numpy, one, limits, pace):
    """The row of one case on one backend, its last samples compared with numpy's.

    Raises WrongAnswer.
    """
    call = case.setup(one.ops, slice(0, case.batch))
    got = [one.ops.to_host(x[-_part(x, case) :]) for x in call()[: case.joined]]
    want = case.setup(numpy.ops, slice(case.batch - TAIL, case.batch))()[: case.joined]
    bench.compare(f"{case.name}, its end", got, want, case.terms)
    row = gpu_clock.rows({"it": call}, {"it": gpu_clock.events(one)}, pace)["it"]
    row["rate"], row["unit"] = case.work / row["median_ms"] / 1e6, case.unit
    if case.unit in limits:
        row["share"] = row["rate"] / limits[case.unit]
    return row


def _part(x, case):
    """How much of an answer's first axis the last samples are: of a flat vector, their elements."""
    return TAIL * len(x) // case.batch


def table(rows):
    """The rows as text."""
    lines = [f"\n{'kernels alone':44}{'device ms':>11}{'GB/s':>10}{'of copy':>10}"]
    for case, backends in rows.items():
        for name, row in backends.items():
            share = f"{row['share']:10.0%}" if "share" in row else ""
            numbers = f"{row['median_ms']:11.3f}{row['rate']:10.0f}{share}"
            lines.append(f"    {f'{case}, {name}':40}{numbers}")
    return "\n".join(lines)
