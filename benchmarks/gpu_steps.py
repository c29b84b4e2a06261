"""Whole steps on a device: ours recorded, ours launched one by one, PyTorch's eager and as a graph,
in turn; beside each what the model of device_time.py says.
"""

import contextlib
import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from tinyddpm import backend
from tinyddpm.errors import InputError
from tinyddpm.nn import params

from . import device_time, gpu_clock, gpu_nodes, network, roofline, sizes
from .bench import WrongAnswer, compare
from .blank import total

LAUNCHED = "cuda, one by one"
# TF32 keeps 10 bits behind the point: 2^-11 of the result's spread for each of some thirty products
# one behind the other, and eight times that
TF32 = 8 * 2.0**-11 * 30**0.5
LARGE, FEW = 10**7, 8  # from so many parameters on answers are compared on so few samples
AGAIN = 2  # more steps, with which they are recorded and replayed
GRAPHS, EAGER = ("torch, graph", "torch nhwc, graph"), ("torch", "torch nhwc")


@dataclass(frozen=True)
class Setting:
    """What all networks are measured with."""

    session: object  # gpu_session.Session
    found: dict  # {name: Bench}
    pace: gpu_clock.Pace  # for each table
    peer: bool  # PyTorch's too
    busy: object  # as gpu_nodes.by_events takes it
    free: object  # gives memory back


def networks(args):
    """{title: Net} of what was asked for: a to d, d at the batch that it was measured with.

    Raises InputError for a letter that --tiny has no network for.
    """
    letters = args.networks or ("abc" if args.quick else "abcd")
    if not args.tiny:
        return roofline.networks(letters)
    tiny = {title[0]: title for title in sizes.SMALLEST}
    missing = set(args.networks) - set(tiny)
    if missing:
        raise InputError(f"--tiny has no network {', '.join(sorted(missing))} for gpu")
    return {tiny[letter]: sizes.SMALLEST[tiny[letter]] for letter in letters if letter in tiny}


def run(setting, nets):
    """Yields ("NET, PRECISION", figures) of every network."""
    for title, case in nets.items():
        many = params.size(case.net.spec()) > LARGE
        reference = case._replace(batch=min(case.batch, FEW)) if many else case
        numpy = reference, setting.found["numpy"]
        first = setting.session.attempt(f"{title}, numpy's answers", network.ours, *numpy)
        works = setting.session.attempt(f"{title}, prediction", predicted, case)
        for precision in backend.PRECISIONS if first else ():
            one = Network(setting, title, case, reference, precision)
            with one.products():
                figures = one.measure(first[2], works)
            setting.free()
            yield one.what, figures


def kernels(setting, nets, figures):
    """Yields ("NET, PRECISION", where the time of its train step goes) of what has been timed.

    To be called when all is timed: launches are slower when CUPTI has been at work.
    """
    for (title, case), precision in itertools.product(nets.items(), backend.PRECISIONS):
        one = Network(setting, title, case, case, precision)
        rows = figures.get(one.what, {}).get("train step", {})
        if "cuda" in rows and LAUNCHED in rows:
            found = setting.session.attempt(f"{one.what}, kernels", one.shares, rows)
            setting.free()
            if found:
                yield one.what, found


def predicted(case):
    """{"train": {kind: Work}, "sampling": {kind: Work}}."""
    from . import tracing

    nodes = tracing.trace(*case)
    return {"train": total(nodes["train"]), "sampling": total(nodes["sample"])}


@dataclass(frozen=True)
class Network:
    """One network in one precision."""

    setting: Setting
    title: str
    case: sizes.Net
    reference: sizes.Net  # whose batch the answers are compared at
    precision: str

    @property
    def what(self):
        """The network's name and the precision."""
        return f"{self.title}, {self.precision}"

    def products(self):
        """A context in which PyTorch's products have the precision."""
        if not self.setting.peer:
            return contextlib.nullcontext()
        from . import torch_card

        return torch_card.products(self.precision)

    def measure(self, want, works):
        """{"train step": rows, "sampling step": rows, "nodes", "predicted"}."""
        attempt, found = self.setting.session.attempt, {}
        contenders, marks = self._contenders(want)
        for kind, functions in contenders.items():
            if functions:
                given = functions, marks, self.setting.pace, (*GRAPHS, *EAGER)
                found[f"{kind} step"] = attempt(f"{self.what}, {kind} step", gpu_clock.rows, *given)
        found = {kind: rows for kind, rows in found.items() if rows}
        found |= {"nodes": {}, "predicted": {}}
        for kind, functions in contenders.items():
            rows = found.get(f"{kind} step", {})
            if LAUNCHED in functions and self.precision == "fp32":  # the same in both
                found["nodes"][kind] = attempt(
                    f"{self.what}, {kind} nodes",
                    gpu_nodes.count,
                    self.launched,
                    functions[LAUNCHED],
                )
            if works and "cuda" in rows:
                found["predicted"][kind] = self._predicted(works[kind], rows["cuda"])
        return found

    def shares(self, rows):
        """Where a train step's time goes, as `gpu_nodes.shares`; rows: its times."""
        seconds = rows["cuda"]["median_ms"] / 1e3, rows[LAUNCHED]["host_ms"] / 1e3
        train, *_ = network.ours(self.case, self.recorded)
        for _ in range(AGAIN):
            train()
        given = train, self.case, self.launched, self.setting.busy, seconds, self.setting.peer
        return gpu_nodes.shares(*given)

    @functools.cached_property
    def recorded(self):
        """The backend `cuda`."""
        return replace(self.setting.found["cuda"], ops=backend.get("cuda", self.precision))

    @functools.cached_property
    def launched(self):
        """The backend `cuda`, launched one by one."""
        bench = self.setting.found["cuda"]
        ops = backend.get("cuda", self.precision)
        ops.recorded = False
        return replace(bench, ops=ops)

    def _predicted(self, works, row):
        """The model's time of a step, and its error."""
        ms = 1e3 * sum(device_time.predict(works, self.precision).values())
        nodes = sum(work.nodes for work in works.values())
        return {"ms": ms, "nodes": nodes, "error": ms / row["median_ms"] - 1}

    def _contenders(self, want):
        """({kind: {name: step}}, {name: Events}) of all that can be timed."""
        attempt, steps, marks = self.setting.session.attempt, {"train": {}, "sampling": {}}, {}
        last, benches = None, {LAUNCHED: self.launched, "cuda": self.recorded, **self._others()}
        for name, bench in benches.items():
            same = last if name == "cuda" else None
            found = attempt(f"{self.what}, {name}", self._ours, name, bench, want, same)
            if found:
                steps["train"][name], steps["sampling"][name], last = found
                marks[name] = gpu_clock.events(bench)
        if self.setting.peer:
            self._torch(steps, marks)
        return steps, marks

    def _others(self):
        """The backends that have fp32 alone; of the host's none where a step takes seconds."""
        if self.precision != "fp32":
            return {}
        others = {name: b for name, b in self.setting.found.items() if name != "cuda"}
        large = self.reference is not self.case
        return {name: b for name, b in others.items() if b.place == "device" or not large}

    def _ours(self, name, bench, want, same):
        """(train step, sampling step, answers after some steps), the answers compared.

        Args:
            name: the backend's.
            bench: the backend.
            want: numpy's answers.
            same: those of the same kernels launched one by one, after some steps, or None.
        """
        limit, what = self._limit(), f"{self.what}, {name}"
        train, sample, got = network.ours(self.reference, bench)
        compare(what, got, want, network.TERMS, limit)
        if self.reference is not self.case:
            train, sample, _ = network.ours(self.case, bench)
        if bench.place == "host":
            return train, sample, None
        for _ in range(AGAIN):
            record, images = train(), sample()
        read = [np.reshape(float(record[key]), 1) for key in ("loss", "grad_norm")]
        again = [np.concatenate([bench.ops.to_host(half) for half in images]), *read]
        if not all(np.isfinite(x).all() for x in again):
            raise WrongAnswer(f"{what}: not finite after {AGAIN} steps")
        if same:
            compare(f"{what}, recorded against launched one by one", again, same, network.TERMS)
        return train, sample, again

    def _limit(self):
        """How far answers may be from numpy's, as `bench.compare` takes it."""
        return None if self.precision == "fp32" else TF32

    def _torch(self, steps, marks):
        """Add PyTorch's steps, a layout at a time."""
        from . import torch_card, torch_steps

        theta = network.fresh(self.case.net).theta
        for layout in torch_steps.layouts(self.case):
            given = self.case, theta, layout, self.reference, self._limit()
            found = self.setting.session.attempt(f"{self.what}, {layout}", torch_card.steps, *given)
            for kind, functions in (found or {}).items():
                steps[kind].update(functions)
                marks.update(dict.fromkeys(functions, torch_card.events()))


# What is printed.

HEAD = f"{'':44}{'device ms':>11}{'min ms':>10}{'host ms':>10}{'x its graph':>13}{'x eager':>9}"


def table(what, figures):
    """The figures of one network in one precision as text."""
    lines = [f"\n{what}"]
    for kind in ("train", "sampling"):
        rows = figures.get(f"{kind} step")
        if rows:
            lines += [f"{kind + ' step':44}{HEAD[44:]}"]
            lines += [_line(name, rows) for name in rows]
        nodes, model = figures["nodes"].get(kind), figures["predicted"].get(kind)
        if nodes:
            parts = ", ".join(f"{number} {name}" for name, number in nodes.items())
            lines.append(f"    nodes: {sum(nodes.values())} ({parts})")
        if model:
            lines.append(
                f"    predicted for an H200: {model['ms']:.3f} ms, {model['nodes']} nodes; "
                f"{model['error']:+.0%} from what was measured"
            )
    return "\n".join(lines)


def shares_table(what, found):
    """Where the time of a train step goes, as text."""
    whole = sum(ms for ms, _ in found["ms"].values()) or 1
    lines = [f"\n{what}: train step by kernel ({found['by']})"]
    for name, (ms, number) in found["ms"].items():
        lines.append(f"    {name:40}{ms:11.3f} ms{ms / whole:7.0%}{number:8.0f} kernels")
    return "\n".join(lines)


def _line(name, rows):
    """One row; ratios are to the faster of PyTorch's layouts."""
    row, ratios = rows[name], []
    for bases in (GRAPHS, EAGER):
        there = [base for base in bases if base in rows]
        best = min(there, key=lambda base: rows[base]["median_ms"], default=None)
        ratios.append(f"{row['ratio'][best]:.2f}" if best else "")
    times = f"{row['median_ms']:11.3f}{row['min_ms']:10.3f}{row['host_ms']:10.3f}"
    return f"    {name:40}{times}{ratios[0]:>13}{ratios[1]:>9}"
