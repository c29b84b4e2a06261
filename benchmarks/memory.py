"""How much memory a train step takes: the peak of a process that does nothing else.

Interpreter and libraries count: it is what a machine must have free.
"""

import json
import pathlib
import re
import resource
import subprocess
import sys

from tinyddpm.errors import TinyDDPMError

from . import bench, network, report, sizes

STEPS = 3  # after which nothing new is allocated


def run(found, nets, peers=()):
    """{title: {name: peak in MB}} of every backend on the host, and of the peers by name."""
    names = [*(name for name, each in found.items() if each.place == "host"), *peers]
    pairs = [(title, name) for title in nets for name in names]
    peaks = {title: {} for title in nets}
    for title, name in report.each(pairs, "memory"):
        peaks[title][name] = _child(title, name)
    return peaks


def _child(title, name):
    """The peak of a process of its own, or None where the peer has no such network."""
    command = [sys.executable, "-m", "benchmarks.memory", title, name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_root())
    if done.returncode:
        raise TinyDDPMError(f"{title} on {name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _root():
    """The folder from which this package is found."""
    return pathlib.Path(__file__).parents[1]


def peak(title, name):
    """Take a few train steps here; returns this process's peak in MB, or None."""
    every = sizes.NETS | sizes.LARGE | sizes.TINY.nets | sizes.PEERS | sizes.TINY_PEERS
    case = every[title]
    if name.startswith("torch"):
        from . import torch_steps

        if name not in torch_steps.layouts(case):
            return None
        _repeat(torch_steps.train_step(case, network.fresh(case.net).theta, name))
    elif name.startswith("diffusers"):
        from . import peers

        _repeat(peers.train_step(case, network.fresh(case.net).theta, name))
    else:
        with bench.benches([name]) as found:
            trainer = network.training(case, found[name].ops)
            _repeat(lambda: trainer.step(found[name].share))
    return _own_peak()


def _own_peak():
    """This process's peak in MB."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        # getrusage on Linux also counts what the parent held when it started this process
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _repeat(step):
    for _ in range(STEPS):
        step()


def table(results):
    """The peaks as text: a line for each network."""
    lines = ["\npeak memory of a process that trains, MB"]
    for title, peaks in results.items():
        known = {name: mb for name, mb in peaks.items() if mb is not None}
        lines.append(f"    {title:44}" + "".join(f"{n:>16}{mb:8.0f}" for n, mb in known.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(peak(*sys.argv[1:])))
