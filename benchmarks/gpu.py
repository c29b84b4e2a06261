"""python -m benchmarks gpu: all that a first session on a GPU machine should do, each part whatever
became of the last.

The `gpu` tests; Philox's known answers; launch overhead; every kernel's rate against a device copy
and against CuPy's elementwise operations; crossover sizes against the CPU; the networks' steps; the
roofline.
"""

import os
import pathlib
import re
import subprocess
import sys

from tinyddpm import backend
from tinyddpm.errors import InputError

from . import bench, cases, crossover, network, report, roofline

ROOT = pathlib.Path(__file__).parent.parent
BASES = ("cupy",)


def run(args):
    """Do it all and print it; returns (figures, where to write them). Raises InputError where there
    is no GPU.
    """
    missing = backend.reason("cuda")
    if missing:
        raise InputError(f"no GPU to measure: {missing}")
    from . import gpu_launch

    figures, failed = {"tests": _tests()}, []
    with bench.benches(args.backend) as found:
        device = {name: one for name, one in found.items() if one.place == "device"}
        if "cuda" not in device:
            raise InputError(
                "the group gpu measures the backend cuda: name it, or no --backend at all"
            )
        limits = bench.ceilings(found, min(args.seconds, 1))
        figures["machine"], figures["ceilings"] = report.header(found, limits), limits
        print("\n".join(f"{name}: {text}" for name, text in figures["machine"].items()), flush=True)
        name = backend.about("cuda").rsplit(", ", 1)[-1]
        parts = {
            "Philox, known answers": lambda: f"{gpu_launch.known_answers()} words, bit for bit",
            "launch overhead": lambda: gpu_launch.overhead(device["cuda"]),
            "kernels": lambda: _kernels(found, device, limits, args),
            "crossover": lambda: _crossover(found, args),
            "network": lambda: network.run(found, args.seconds),
            "roofline": lambda: roofline.table(card(name)).splitlines(),
        }
        for title, part in parts.items():
            try:
                figures[title] = part()
            except (
                Exception
            ) as error:  # of a machine never seen before the rest is worth having all the same
                figures[title] = {"failed": f"{type(error).__name__}: {error}"}
                failed.append(title)
            _show(title, figures[title])
    figures["failed"] = failed + ([] if figures["tests"]["exit"] == 0 else ["tests"])
    print(f"\nfailed: {', '.join(figures['failed']) or 'nothing'}")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = (
        pathlib.Path(args.json)
        if args.json
        else ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
    )
    return figures, path


def card(name):
    """The key of roofline.CARDS that a device's name holds; the H100 where there is none."""
    words = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((key for key in roofline.CARDS if key in words), "h100")


def _tests():
    """Run the tests marked gpu; a missing device is a failure.

    Returns {"exit": the exit code, "last": the last line that pytest printed}.
    """
    options = ["-m", "gpu", "--tb=short", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TINYDDPM_REQUIRE_GPU": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(
        done.stdout[-3000:] if done.returncode else done.stdout.strip().splitlines()[-1], flush=True
    )
    return {
        "exit": done.returncode,
        "last": (done.stdout.strip() or done.stderr.strip()).splitlines()[-1],
    }


def kernel_cases(rows, width, batch):
    """A case for every CUDA kernel."""
    return [
        *cases.steps(rows, width),
        *cases.given(rows, width),
        *cases.normalisation(batch, 28, 28, 32),
        *cases.normalisation(batch, 28, 28, 32, "groupnorm"),
    ]


def _kernels(found, device, limits, args):
    """Every kernel, small against numpy, then beyond the card's cache against CuPy's own
    operations.
    """
    for case in kernel_cases(64, 1024, 4):
        bench.checked(case, found)
    large = kernel_cases(1024, 4096, 64) if args.quick else kernel_cases(4096, 4096, 1024)
    order = {name: device[name] for name in ("cupy", "cuda") if name in device}
    return {
        case.name: bench.measure(case, order, limits, args.seconds, bases=BASES) for case in large
    }


def _crossover(found, args):
    """The curves, and the sizes from which on a device beats the best CPU backend at hand."""
    curves = crossover.measure(
        found, min(args.seconds, 1) / 4, range(8, 19 if args.quick else 23, 2)
    )
    if args.plot:
        crossover.draw(curves, args.plot)
    return {
        "curves": curves,
        "from": crossover.crossings(curves, "numba" if "numba" in found else "numpy"),
    }


def _show(title, part):
    """Print one part's figures."""
    if title in ("kernels", "network") and "failed" not in part:
        print(report.table(title, part, BASES if title == "kernels" else ("numpy",)), flush=True)
        return
    print(f"\n{title}")
    part = part.get("from", part) if isinstance(part, dict) else part
    if isinstance(part, dict):
        part = [
            f"    {what:44} {f'{value:.2f} us' if isinstance(value, float) else value}"
            for what, value in part.items()
        ]
    print(part if isinstance(part, str) else "\n".join(part), flush=True)
