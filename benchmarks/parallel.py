"""Two ranks against one, and PyTorch's; what a reduction costs, and how far that scales by a model.

Every rank is a process with one thread, pinned to a core. The answers come first: one rank and two
must have the same bytes of parameters, and MPI's own sum the same numbers but for rounding.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys

from tinyddpm import backend
from tinyddpm.errors import InputError
from tinyddpm.parallel import starter
from tinyddpm.runs.new import default_net
from tinyddpm.runs.threads import cores

from . import clock, loopback, report, scaling
from .bench import WrongAnswer
from .sizes import LARGE, TINY, Net

CASES = {"default: 8x8x1, batch 64": Net(default_net((8, 8, 1)), (8, 8, 1), 64)}
CASES |= {f"cifar10-32: {title[3:]}": net for title, net in LARGE.items()}
SMALL = {f"tiny: {title}": net for title, net in TINY.nets.items() if title == "images"}
LENGTHS = tuple(4**k for k in range(5, 13))  # floats: 4 KiB to 64 MiB
WORKER = "benchmarks.parallel_rank"
OURS = ("ours, 1 rank", "ours, 2 ranks", "ours, 2 ranks, sum")
PATIENCE = 900  # seconds


def run(seconds, name="numpy", tiny=False):
    """Measure; returns {"steps": ..., "reduction": ..., "link": ..., "network": ..., ...}.

    Raises InputError without MPI, WrongAnswer where the ranks' results differ.
    """
    if not _there("mpi4py") or not starter():
        raise InputError("ranks need MPI: pip install -e '.[mpi]'")
    machine = clock.machine() | {f"backend {name}": backend.about(name), "ranks": "of one thread"}
    figures = {"machine": machine, "steps": {}, "efficiency": {}}
    for title in report.each(SMALL if tiny else CASES, "parallel"):
        figures["steps"][title] = _steps(title, seconds, name)
    measured = {reduce: _sizes(seconds, reduce) for reduce in ("tree", "sum")}
    link = scaling.fit(measured["tree"])
    figures |= {"reduction": measured, "link": link._asdict()}
    figures |= {"error": scaling.error(link, measured["tree"]), "network": behind(seconds, link)}
    figures["overlap"] = {}
    if "refused" not in figures["network"]:
        for title, rows in figures["steps"].items():
            figures["overlap"][title] = _overlap(title, seconds, name, rows[OURS[0]]["crc"])
    for title, rows in figures["steps"].items():
        two = rows[OURS[1]]
        compute = two["step"] - two["wait"] - two["reduction"]
        figures["efficiency"][title] = scaling.curves(link, compute, 4 * two["parameters"])
    return figures


def _steps(title, seconds, name):
    """{who: its figures} for one network. Raises WrongAnswer."""
    rows = {}
    for who, ranks, reduce in zip(OURS, (1, 2, 2), ("tree", "tree", "sum")):
        rows[who] = _ranks(ranks, "ours", title, seconds, reduce, name)
        nbytes = 4 * rows[who]["parameters"]
        rows[who]["bytes"] = scaling.sent(scaling.SHARDS, ranks, nbytes, reduce)
    check(title, *(rows[who] for who in OURS))
    if _there("torch"):
        for ranks in (1, 2):
            who = f"torch, {ranks} process" + ("es, DDP, gloo" if ranks > 1 else "")
            rows[who] = _torch(ranks, title, seconds)
    for one, two in ((OURS[0], OURS[1:]), ("torch, 1 process", ["torch, 2 processes, DDP, gloo"])):
        for who in two:
            if who in rows:
                rows[who]["efficiency"] = rows[one]["step"] / rows[who]["step"] / 2
    return rows


def check(title, one, two, added):
    """Raises WrongAnswer unless two ranks have one's bytes, and MPI's own sum its numbers."""
    if one["crc"] != two["crc"]:
        raise WrongAnswer(f"{title}: two ranks' parameters are not the bytes of one's")
    if not abs(added["norm"] - one["norm"]) <= 1e-4 * one["norm"]:
        raise WrongAnswer(f"{title}: with --reduce sum |theta| is not that of one rank")


def _sizes(seconds, reduce):
    found = _ranks(2, "sizes", "-", seconds, reduce, "numpy")
    return {int(nbytes): took for nbytes, took in found.items()}


def behind(seconds, link):
    """{rate: {bytes: [measured, by the model]}} behind a slow loopback, or {"refused": why}."""
    why = loopback.refusal()
    if why:
        return {"refused": why}
    found = {}
    for rate in loopback.RATES:
        slow = scaling.network(link, rate, latency=0)
        words = 2, "sizes", "-", seconds, "tree", "numpy"
        took = _ranks(*words, before=loopback.command(rate), **loopback.TCP)
        found[rate] = {
            int(nbytes): [each, scaling.seconds(slow, 2 * scaling.SHARDS, 2, int(nbytes))]
            for nbytes, each in took.items()
        }
    return found


def _overlap(title, seconds, name, crc):
    """{"after", "early": a step behind a slow loopback}, added after it or from its middle on."""
    found = {}
    for how, reduce in (("after", "tree"), ("early", "early")):
        words = 2, "ours", title, seconds, reduce, name
        row = _ranks(*words, before=loopback.command(loopback.STEPS), **loopback.TCP)
        if row["crc"] != crc:
            raise WrongAnswer(f"{title}: {how} the step, the parameters are not those of one rank")
        found[how] = row["step"]
    return found


def _there(package):
    return importlib.util.find_spec(package) is not None


def _environment(**more):
    """This process's, with one thread for each rank."""
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    return {**os.environ, **one, **more}


def _ranks(ranks, *words, before=(), **more):
    """What rank 0 of so many says; `before` are the words before its command."""
    command = [*before, starter(), "-n", str(ranks), sys.executable, "-m", WORKER]
    command += map(str, words)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.Popen(command, env=_environment(**more), **pipes)
    return _said(words, [done])


def _torch(ranks, title, seconds):
    """What the first of PyTorch's processes says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", WORKER, "torch", title, str(seconds), "-", "-"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env=_environment(RANK=str(rank), **about), **pipes)
        for rank in range(ranks)
    ]
    return _said(("torch", title), processes)


def _said(what, processes):
    """The figures on the first one's standard output. Raises WrongAnswer where one failed."""
    try:
        texts = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, texts):
        if process.returncode:
            last = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise WrongAnswer(f"{' '.join(map(str, what))}: {last[0]}")
    return json.loads(texts[0][0].strip().splitlines()[-1])


def table(figures):
    """The figures as text."""
    lines = [f"ranks of one thread, {cores()} cores; two ranks' parameters are the bytes of one's"]
    head = ("step ms", "reduction ms", "waiting ms", "efficiency", "MB a step")
    lines.append(f"{'':36}" + "".join(f"{word:>14}" for word in head))
    for title, rows in figures["steps"].items():
        lines.append(title)
        for who, row in rows.items():
            values = [1e3 * row[k] if k in row else None for k in ("step", "reduction", "wait")]
            values += [row.get("efficiency"), row["bytes"] / 1e6 if "bytes" in row else None]
            cells = ("" if value is None else f"{value:.2f}" for value in values)
            lines.append(f"    {who:32}" + "".join(f"{cell:>14}" for cell in cells))
    if not _there("torch"):
        lines.append("PyTorch's DDP is left out: torch is not installed")
    link = figures["link"]
    lines.append(
        f"fitted: {1e6 * link['alpha']:.1f} us a message, {1e9 * link['beta']:.3f} ns a byte; "
        f"its largest error {figures['error']:.0%}"
    )
    lines.append("reduction by 2 ranks, ms: bytes, tree, sum, the model of the tree")
    for nbytes, took in figures["reduction"]["tree"].items():
        model = scaling.seconds(scaling.Link(**link), 2 * scaling.SHARDS, 2, nbytes)
        values = (took, figures["reduction"]["sum"][nbytes], model)
        lines.append(f"{nbytes:12}" + "".join(f"{1e3 * value:12.3f}" for value in values))
    lines += slow(figures["network"])
    for title, row in figures["overlap"].items():
        took = f"{1e3 * row['after']:.1f} ms, {1e3 * row['early']:.1f} where it begins early"
        lines.append(f"a step with its reduction at {loopback.STEPS} Gb/s, {title}: {took}")
    for title, lines_of in figures["efficiency"].items():
        lines.append(f"{title}: efficiency by the model (not measured), ranks {scaling.RANKS}")
        for name, points in lines_of.items():
            lines.append(f"    {name:10}" + "".join(f"{value:8.2f}" for value in points.values()))
    return "\n".join(lines)


def slow(network):
    """The lines of the reductions behind a slow loopback."""
    if "refused" in network:
        why = network["refused"]
        return [f"the model is not checked on a slow loopback, which needs root and tc: {why}"]
    lines = ["reduction by 2 ranks behind a slow loopback, ms (and the model, with no latency)"]
    for nbytes in next(iter(network.values())):
        cells = (
            f"{1e3 * took:10.2f} ({1e3 * model:.2f})"
            for took, model in (sizes[nbytes] for sizes in network.values())
        )
        lines.append(f"{nbytes:12}" + "".join(f"{cell:>24}" for cell in cells))
    lines.insert(1, " " * 12 + "".join(f"{f'{rate:g} Gb/s':>24}" for rate in network))
    return lines
