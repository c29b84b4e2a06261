"""python -m benchmarks [GROUP ...]: correctness first, then time.

steps: the diffusion's and the optimiser's fused steps; ops: convolution, GroupNorm with SiLU;
network: train and sampling steps; end: end to end; samplers: each of them, whole, and its error
where the truth is known. gpu: all that a session on a GPU machine should do; roofline: the CUDA
kernels' instructions, counted, and whole steps' time on a GPU, predicted, neither of which needs
one; peers: diffusers' network and ours, of the same weights, side by side; parallel: MPI's ranks,
and a model of how far they scale; tiles: whether the convolutions'
register tiles are the best ones for this CPU; selftest: that the benchmark itself is right.
"""

import pathlib
import sys

from tinyddpm import backend
from tinyddpm.errors import InputError, TinyDDPMError

from . import (
    accuracy,
    bench,
    cases,
    clock,
    crossover,
    end,
    memory,
    network,
    parts,
    report,
    sampling,
)
from .options import TIMED, parse
from .sizes import LARGE, NETS, PEERS, TINY_PEERS


def _timed(args):
    """The groups that are timed on every backend: print their tables, return the figures."""
    peers = _peers(args.peer)
    with bench.benches(args.backend) as found:
        limits = bench.ceilings(found, min(args.seconds, 1))
        about = report.header(found, limits, args.peer)
        print("\n".join(f"{name}: {text}" for name, text in about.items()))
        print(
            "rates count bytes that must move and a direct convolution's operations: "
            "caches and Winograd can pass 100%",
            flush=True,
        )
        figures = {"machine": about, "ceilings": limits}
        for group in (group for group in TIMED if group in args.groups):
            figures[group] = _group(group, found, limits, peers, args)
            print(report.table(group, figures[group]), flush=True)
            if group == "samplers":
                figures["accuracy"] = accuracy.measure(args.quick)
                print(accuracy.table(figures["accuracy"]), flush=True)
        if args.memory:
            peer = ("torch", "torch nhwc") if args.peer else ()
            figures["memory"] = memory.run(found, _networks(args), peer)
            print(memory.table(figures["memory"]), flush=True)
        if args.parts:
            figures["parts"] = parts.run(found, args.seconds, _networks(args), args.peer)
            print(parts.table(figures["parts"]), flush=True)
        if args.plot:
            figures |= _plots(figures, found, args)
    return figures


def _group(group, found, limits, peers, args):
    """The rows of one group's table."""
    sizes, seconds = args.sizes, args.seconds
    if group == "network":
        return network.run(found, seconds, args.peer, args.compile, _networks(args))
    if group == "end":
        return end.measure(found, seconds, sizes)
    if group == "samplers":
        return sampling.measure(found, seconds, sizes)
    chosen = cases.steps(*sizes.steps) if group == "steps" else cases.operations(sizes.images)
    chosen = report.each(chosen, group)
    return {case.name: bench.measure(case, found, limits, seconds, peers) for case in chosen}


def _networks(args):
    """The networks that are asked for, {title: Net}."""
    asked = {title: net for title, net in (NETS | LARGE).items() if title[0] in args.networks}
    return asked or args.sizes.nets


def _peers(name):
    """The peer's version of a case, as `bench.measure` takes it. Raises InputError."""
    if not name:
        return None
    try:
        from .torch_cases import peers
    except ImportError:
        raise InputError("torch is not installed: pip install torch") from None
    return peers


def _plots(figures, found, args):
    """Draw the samplers' error and the steps' time against size, of what was asked for."""
    path = pathlib.Path(args.plot)
    if "accuracy" in figures:
        picture = accuracy.draw(figures["accuracy"])
        report.write_picture(path.with_stem(f"{path.stem}-samplers"), picture)
    if "steps" not in args.groups:
        return {}
    curves = crossover.measure(found, min(args.seconds, 1) / 8, range(8, 21, 2))
    crossover.draw(curves, path)
    return {"crossover": curves}


def main(argv=None):
    """Measure what was asked for and print it.

    Returns the exit code: 1 for a wrong answer, 2 for bad input.
    """
    args = parse(argv, __doc__)
    if args.tiny:
        clock.brief()
    try:
        figures, path = {}, args.json
        if "selftest" in args.groups:
            from . import selftest

            figures["selftest"] = selftest.run()
        if "roofline" in args.groups:
            figures["roofline"] = _roofline(args)
        if "tiles" in args.groups:
            figures["tiles"] = _tiles(args)
        if "peers" in args.groups:
            figures["peers"] = _published(args)
        if "parallel" in args.groups:
            figures["parallel"] = _parallel(args)
        if "gpu" in args.groups:
            from . import gpu

            figures["gpu"], path = gpu.run(args)
        if set(TIMED) & set(args.groups):
            figures.update(_timed(args))
        if path:
            report.write(path, figures)
    except (InputError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except (bench.WrongAnswer, TinyDDPMError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 1 if figures.get("gpu", {}).get("failed") else 0


def _tiles(args):
    """Measure the tiles and print their table. Raises InputError where Numba is missing."""
    from . import tiles

    missing = backend.reason("numba")
    if missing:
        raise InputError(f"the kernels cannot be compiled: {missing}")
    images = tiles.IMAGES[:1] if args.tiny else tiles.IMAGES
    figures = tiles.run(min(args.seconds, 0.5), images, tiles.SOME if args.tiny else None)
    print(tiles.table(figures, images))
    return figures


def _published(args):
    """Measure diffusers' network and ours, print the tables. Raises InputError without it."""
    from . import peers

    host = [name for name in ("numpy", "numba") if backend.reason(name) is None]
    if set(args.backend or ()) - {"numpy", "numba"}:
        raise InputError("peers are compared on the host: numpy, numba")
    peers.check_installed()
    nets = TINY_PEERS if args.tiny else PEERS
    nets = {title: net for title, net in nets.items() if title[0] in args.networks} or nets
    with bench.benches(args.backend or host) as found:
        about = report.header(found, {}, "torch")
        print("\n".join(f"{name}: {text}" for name, text in about.items()), flush=True)
        figures = peers.run(found, nets, args.seconds, args.compile or not args.quick)
    print(peers.table(figures), flush=True)
    return {"machine": about, **figures}


def _parallel(args):
    """Measure the ranks, print the table, draw the model. Raises InputError without MPI."""
    from . import parallel, scaling

    if set(args.backend or ()) - {"numpy", "numba"} or len(args.backend or ()) > 1:
        raise InputError("ranks compute on one backend of the host: numpy or numba")
    name = args.backend[0] if args.backend else "numpy"
    missing = backend.reason(name)
    if missing:
        raise InputError(f"{name} does not work here: {missing}")
    figures = parallel.run(args.seconds, name, args.tiny)
    print(parallel.table(figures), flush=True)
    if args.plot:
        path = pathlib.Path(args.plot)
        picture = scaling.figures.to_image(scaling.plot(figures["efficiency"]))
        report.write_picture(path.with_stem(f"{path.stem}-parallel"), picture)
    return figures


def _roofline(args):
    """Print the tables of roofline.py; returns their figures. Raises InputError."""
    from . import roofline

    if args.card not in roofline.CARDS:
        raise InputError(f"no card {args.card!r}: choose from {', '.join(roofline.CARDS)}")
    missing = backend.reason("numba")
    if missing:
        raise InputError(f"the kernels cannot be compiled: {missing}")
    kernels = roofline.table(args.card)
    print(kernels, flush=True)
    steps = roofline.steps(args.networks)
    print(roofline.steps_table(steps))
    return {"kernels": kernels.splitlines(), "steps, predicted": steps}


if __name__ == "__main__":
    sys.exit(main())
