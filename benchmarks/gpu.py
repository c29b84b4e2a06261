"""python -m benchmarks gpu: all that is measured in a session on a GPU machine.

Philox's known answers; what a launch costs; one rank by NCCL; every kernel's rate against a device
copy and against CuPy's elementwise operations; the networks' steps, recorded and launched one by
one, beside PyTorch and beside what the model predicts; crossover sizes against the CPU. What fails,
or what the budget has no time for, is one line, and the rest goes on.
"""

import gc
import importlib.util
import pathlib
import re
import sys

from tinyddpm import backend
from tinyddpm.errors import InputError

from . import bench, crossover, gpu_clock, gpu_kernels, gpu_steps, report, sizes
from .gpu_session import Session

ROOT = pathlib.Path(__file__).parent.parent
BUDGET = 270.0  # seconds after which nothing new is begun, so that all ends within five minutes


def run(args):
    """Do it all and print it; returns (figures, where to write them). Raises InputError where there
    is no GPU.
    """
    missing = backend.reason("cuda")
    if missing:
        raise InputError(f"no GPU to measure: {missing}")
    if args.peer and importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install torch")
    with bench.benches(args.backend) as found:
        if "cuda" not in found:
            raise InputError(
                "the group gpu measures the backend cuda: name it, or no --backend at all"
            )
        return Card(args, found).measure()


class Card:
    """The session on one card.

    Args:
        args: the options.
        found: {name: Bench}, with numpy and cuda.
    """

    def __init__(self, args, found):
        self.args, self.found, self.ops = args, found, found["cuda"].ops
        self.session = Session(args.budget or BUDGET, self._free, _tell)
        self.nets = gpu_steps.networks(args)
        self.name = backend.about("cuda").rsplit(", ", 1)[-1]
        self.figures = {"failed": self.session.failed, "dropped": self.session.dropped}
        self.peer = bool(args.peer) and self.session.attempt("PyTorch", _torch) is not None

    def measure(self):
        """(figures, path): they are written after each part, so that nothing is lost."""
        size = sizes.CARD_TINY if self.args.tiny else sizes.CARD
        elements = gpu_kernels.fitting(gpu_kernels.free_bytes(self.ops), size.elements)
        device, pace = self.found["cuda"], gpu_clock.Pace(self.args.seconds, *size.pace)
        short = pace._replace(seconds=min(pace.seconds, 1))
        limits = self.session.attempt(
            "ceilings", gpu_kernels.ceilings, device, elements, size.side, short
        )
        self._header(limits)
        self._keep("launches", self._launches(size))
        self._keep("one rank", self._one_rank(short))
        limits = limits or {}
        given = self.session, self.found, limits, elements, short
        self._keep("kernels", gpu_kernels.run(*given), gpu_kernels.table)
        setting = self._setting(elements, limits, pace)
        self._keep("steps", self._steps(setting))
        self._keep("crossover", self._crossover(size, limits))
        self._keep("kernels of a step", self._shares(setting))
        self.figures["seconds"] = self.session.spent()
        for word in ("failed", "dropped"):
            print(f"\n{word}: {'; '.join(self.figures[word]) or 'nothing'}")
        return self.figures, self.path

    @property
    def path(self):
        """Where the figures are written."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        kept = ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
        return pathlib.Path(self.args.json) if self.args.json else kept

    def _free(self):
        gc.collect()
        gpu_kernels.free(self.ops)
        if "torch" in sys.modules and self.args.peer:
            sys.modules["torch"].cuda.empty_cache()  # which does nothing where there is no card

    def _keep(self, title, part, table=None):
        """Print a part and write all parts so far."""
        self.figures[title] = part
        if table and part:
            _tell(table(part))
        report.write(self.path, {"gpu": self.figures})

    def _header(self, limits):
        """Print and keep what all is measured on."""
        about = report.header(
            self.found, {"device": limits} if limits else {}, self.peer and self.args.peer
        )
        self.figures["machine"], self.figures["ceilings"] = about, limits
        _tell("\n".join(f"{name}: {text}" for name, text in about.items()))

    def _launches(self, size):
        from . import gpu_launch

        known = self.session.attempt("Philox, known answers", gpu_launch.known_answers)
        if known:
            _tell(f"Philox, known answers: {known} words, bit for bit")
        given = self.session, self.found["cuda"], self.peer, size.launches, size.readings
        rows = gpu_launch.overhead(*given)
        _tell(gpu_launch.table(rows))
        return rows

    def _one_rank(self, pace):
        from . import gpu_ranks

        small = [*sizes.SMALLEST.values()][-1] if self.args.tiny else gpu_ranks.CASE
        given = self.ops, self.found["cuda"].wait, pace.seconds, small
        rows = self.session.attempt("one rank", gpu_ranks.one_rank, *given) or {}
        for what, value in rows.items():
            _tell(f"{what}: {value if isinstance(value, str) else f'{value:.1f} us'}")
        return rows

    def _setting(self, elements, limits, pace):
        """What the networks are measured with."""
        busy = gpu_kernels.busy(self.found["cuda"], elements, limits.get("GB/s", 1e3))
        given = self.found, pace, self.peer, busy, self._free
        return gpu_steps.Setting(self.session, *given)

    def _shares(self, setting):
        """Where the networks' time goes, each printed when it is there."""
        figures = {}
        for what, found in gpu_steps.kernels(setting, self.nets, self.figures["steps"]):
            figures[what] = found
            _tell(gpu_steps.shares_table(what, found))
        return figures

    def _steps(self, setting):
        """The networks' figures, each printed and written when it is there."""
        figures = {}
        for what, found in gpu_steps.run(setting, self.nets):
            figures[what] = found
            self._keep("steps", figures)
            _tell(gpu_steps.table(what, found))
        return figures

    def _crossover(self, size, limits):
        """The curves, and the sizes from which on a device beats the best CPU backend at hand."""
        curves, seconds = {}, min(self.args.seconds, 1) / 4
        for power in size.powers:
            given = self.found, seconds, [power]
            more = self.session.attempt(f"curves, 2^{power}", crossover.measure, *given)
            for step, lines in (more or {}).items():
                for name, points in lines.items():
                    curves.setdefault(step, {}).setdefault(name, []).extend(points)
        base = "numba" if "numba" in self.found else "numpy"
        found = {"curves": curves, "from": crossover.crossings(curves, base)}
        _tell(f"\nelements from which on a backend beats {base}")
        for step, names in found["from"].items():
            _tell(f"    {step:40}{', '.join(f'{name} {size}' for name, size in names.items())}")
        if self.args.plot and curves:
            crossover.draw(curves, self.args.plot, limits.get("GB/s"))
        return found


def _torch():
    """PyTorch's GPU. Raises InputError, or what breaks when it is imported."""
    from . import torch_card

    return torch_card.device()


def _tell(line):
    print(line, flush=True)
