"""python -m benchmarks roofline: what the CUDA kernels and whole steps cost, counted, not timed."""

from tinyddpm.kernels.gpu.roofline import BYTES, CARDS, count

from . import device_time, sizes
from .blank import total

HEAD = "{:20} {:>9} {:>10} {:>10} {:>7} {:>11} {:>16}   on {}"
LINE = "{:20} {:>9} {:10.1f} {:10} {:7.0f} {:>11} {:16.0f}   {}"
STEP_HEAD = "{:51} {:>6} {:>7} {:>7} {:>9} {:>9} {:>11}   {}"
STEP_LINE = "{:51} {:6} {:7.2f} {:7.1f} {:9.3f} {:9.3f} {:>11}   {}"
BATCH_D = 128  # of network d, as it was measured


def table(card="h100"):
    """A line for each kernel: its costs an element, the card's budget, and what bounds its rate."""
    names = "registers", "instr/elem", "bytes/elem", "budget", "waits for", "Gelem/s at most"
    lines = [HEAD.format("kernel", *names, card)]
    for name, size in BYTES.items():
        found, limit = count(name), CARDS[card].budget(size)
        needed = found["instructions"]
        rate = CARDS[card].bandwidth / size * min(1, limit / needed) / 1e9
        bound = "memory" if needed <= limit else "arithmetic"
        numbers = found["registers"] or "?", needed, size, limit, bound, rate
        lines.append(LINE.format(name, *numbers, found["from"]))
    return "\n".join(lines)


def networks(letters=()):
    """{title: Net} of the networks of these letters, of all where there are none."""
    nets = dict(sizes.NETS)
    for title, net in sizes.LARGE.items():
        title = title.replace(f"batch {net.batch}", f"batch {BATCH_D}")
        nets[title] = net._replace(batch=BATCH_D)
    return {title: net for title, net in nets.items() if not letters or title[0] in letters}


def steps(letters=()):
    """The predictions of the networks' steps on one H200.

    Returns:
        {"NET, train": {"nodes", "GB", "GFLOP" (of fp32), "ms": {precision: time}, "to torch":
        {precision: time over that of torch's CUDA graph, measured}, "parts": {kind: ms in fp32}},
        ...}, and likewise "NET, sample".
    """
    from . import tracing  # needs Numba, which the rest does not

    found, measured = {}, device_time.before()["steps_ms"]
    for title, net in networks(letters).items():
        traced = {precision: tracing.trace(*net, precision) for precision in device_time.PRODUCTS}
        for kind, nodes in traced["fp32"].items():
            works = total(nodes)
            parts = {name: 1e3 * time for name, time in device_time.predict(works).items()}
            times = {
                precision: 1e3 * sum(device_time.predict(total(steps[kind]), precision).values())
                for precision, steps in traced.items()
            }
            torch = measured[f"{title[0]} {kind}"]
            found[f"{title}, {kind}"] = {
                "nodes": len(nodes),
                "GB": sum(work.bytes for work in works.values()) / 1e9,
                "GFLOP": sum(work.operations for work in works.values()) / 1e9,
                "ms": times,
                "to torch": {
                    name: time / torch[f"torch, CUDA graph, {name}"] for name, time in times.items()
                },
                "parts": parts,
            }
    return found


def steps_table(found):
    """The lines of `steps`, which say that they are predictions, and how far off they may be."""
    ranges = [(name, *device_time.worst(name)) for name in device_time.PRODUCTS]
    parts = [f"{low:+.0%} to {high:+.0%} in {name}" for name, low, high in ranges]
    lines = [
        "",
        "PREDICTED, not measured: a step replayed as one CUDA graph on an H200, from its nodes,",
        "bytes and operations. On the steps measured on 2026-11-28 (commit c5e0171) this is off by",
        f"{', '.join(parts)}. To torch: over the time of PyTorch's CUDA graph, measured then.",
    ]
    names = "nodes", "GB", "GFLOP", "fp32, ms", "TF32, ms", "to torch", "most of it in fp32, ms"
    lines.append(STEP_HEAD.format("step", *names))
    for title, step in found.items():
        where = ", ".join(f"{name} {time:.3g}" for name, time in [*step["parts"].items()][:4])
        ratio = " / ".join(f"{ratio:.2f}" for ratio in step["to torch"].values())
        numbers = step["nodes"], step["GB"], step["GFLOP"], *step["ms"].values()
        lines.append(STEP_LINE.format(title, *numbers, ratio, where))
    return "\n".join(lines)
