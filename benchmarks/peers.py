"""diffusers' UNet2DModel beside ours: the same weights, a train and a sampling step, peak memory.

Its network is read from the folder that `td.to_diffusers` writes; the steps around it are those of
torch_steps. Every contender's prediction, loss and gradient are compared with the reference before
anything is timed.
"""

import importlib.util
import tempfile
import warnings

import numpy as np

from tinyddpm import Model, linear, noise, process, to_diffusers
from tinyddpm.errors import InputError
from tinyddpm.nn import params
from tinyddpm.nn.ops import Ops
from tinyddpm.training import Batch, Objective, loss_and_grad

from . import clock, memory, network, report
from .bench import compare

BEST = "best"
# of numba over the best of the peers, at most; in memory where the network is the largest
BARS = {"time": 0.55, "memory": 1.2}
PACKAGES = "torch", "diffusers", "safetensors"


def check_installed():
    """Raises InputError, naming them, where packages are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"without {', '.join(missing)} here: pip install 'tinyddpm[peers]'")


def run(found, nets, seconds, compiled=True):
    """Compare and time every network, then measure the peak memory of each.

    Args:
        found: {name: Bench}, numpy first.
        nets: {title: Net}, of networks whose t is ours less one.
        seconds: for each line of the table.
        compiled: whether compiled networks are among the peers.

    Returns:
        {"times": {"NET, train step": rows}, "memory": {NET: {name: MB}}}.

    Raises:
        WrongAnswer: a contender does not agree with the reference.
    """
    results = {}
    for title, case in report.each(nets.items(), "peers"):
        for kind, contenders in _contenders(title, case, found, compiled).items():
            times = clock.interleave(contenders, seconds)
            results[f"{title}, {kind} step"] = _rows(times)
    return {"times": results, "memory": memory.run(found, nets, _names(compiled))}


def _names(compiled):
    """The peers by name."""
    names = ["diffusers", "diffusers nhwc"]
    return [each + more for each in names for more in ("", " compiled")[: 1 + compiled]]


def _contenders(title, case, found, compiled):
    """{"train": {name: step}, "sampling": {name: step}} of all, compared with numpy's."""
    from . import torch_steps

    contenders, want = {"train": {}, "sampling": {}}, None
    for name, bench in found.items():
        contenders["train"][name], contenders["sampling"][name], got = network.ours(case, bench)
        want = got if want is None else want
        compare(f"{title} on {name}", got, want, terms=network.TERMS)
    theta = network.fresh(case.net).theta
    batch, want_gradient = _gradient(case, theta)
    for name in _names(compiled):
        net, layout = twin(case, theta, name)
        torch_steps.check(name, net, case, theta)
        compare(name, _their_gradient(net, batch), want_gradient, terms=network.TERMS)
        contenders["train"][name] = torch_steps.training(net, case, layout)
        contenders["sampling"][name] = torch_steps.sampling(net, case, layout)
    return contenders


def _rows(times):
    """`clock.summary` of the readings; the base beside numpy is the fastest of the peers."""
    medians = {name: np.median(values) for name, values in times.items()}
    best = min((name for name in times if name.startswith("diffusers")), key=medians.get)
    rows = clock.summary(times, ("numpy", best))
    for row in rows.values():
        row["ratio"][BEST] = row["ratio"].pop(best)
    return rows


def twin(case, theta, name):
    """(diffusers' network with our weights, its memory layout), compiled if its name says so.

    It is called as torch_steps calls one: net(xt, t) with t in 1..T.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it would use if it were there
        import diffusers

    class Peer(torch.nn.Module):
        """Its t is ours less one."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, xt, t):
            return self.net(xt, t - 1, return_dict=False)[0]

    model = Model(case.net, theta, linear(1000), case.shape, "v")
    with tempfile.TemporaryDirectory() as folder:
        to_diffusers(model, f"{folder}/peer")
        # its way to less memory needs one more package, and says so
        how = {"subfolder": "unet", "low_cpu_mem_usage": False}
        net = diffusers.UNet2DModel.from_pretrained(f"{folder}/peer", **how)
    layout = torch.channels_last if "nhwc" in name else torch.contiguous_format
    net = Peer(net.train()).to(memory_format=layout)
    # one shape each, all of it known to the compiler
    return torch.compile(net, dynamic=False) if name.endswith("compiled") else net, layout


def train_step(case, theta, name):
    """The train step of one of the peers alone."""
    from . import torch_steps

    net, layout = twin(case, theta, name)
    return torch_steps.training(net, case, layout)


def _gradient(case, theta):
    """A batch, and the loss and the norm of the gradient that the reference finds on it."""
    s, ops, shape = linear(1000), Ops(), (case.batch, *case.shape)
    t = np.linspace(1, s.T, case.batch).astype(np.int64)
    batch = Batch(np.tanh(noise.normal(shape, 1)), t, noise.normal(shape, 2))
    grad = np.zeros_like(theta)
    p, g = params.views(case.net.spec(), theta), params.views(case.net.spec(), grad)
    loss = loss_and_grad(ops, case.net, p, g, s, batch, Objective("v"))
    # in float32 the sum of 36 million squares is off by a thousandth
    return batch, [np.reshape(loss, 1), np.reshape(np.linalg.norm(grad.astype(np.float64)), 1)]


def _their_gradient(net, batch):
    """The same of a torch network."""
    import torch

    def theirs(x):
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    s = linear(1000)
    xt = process.q_sample(s, batch.x0, batch.t, batch.eps)
    target = process.target_from(s, batch.x0, batch.t, batch.eps, "v")
    loss = torch.nn.functional.mse_loss(net(theirs(xt), torch.from_numpy(batch.t)), theirs(target))
    net.zero_grad()
    loss.backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in net.parameters()]))
    net.zero_grad()
    return [np.array([float(value.detach())]) for value in (loss, norm)]


def table(figures):
    """The times and the peaks as text, and ours against the best of the peers."""
    times, peaks = figures["times"], figures["memory"]
    goals = f"numba's goals on two cores: {BARS['time']} in time, {BARS['memory']} in memory"
    lines = [report.table("peers", times, ("numpy", BEST)), memory.table(peaks)]
    lines.append(f"\nours over the best peer ({goals})")
    for title, rows in times.items():
        lines.append(_line(title, {name: row["ratio"][BEST] for name, row in rows.items()}))
    for title, row in peaks.items():
        best = min(mb for name, mb in row.items() if name.startswith("diffusers"))
        lines.append(_line(f"{title}, memory", {name: mb / best for name, mb in row.items()}))
    return "\n".join(lines)


def _line(title, ratios):
    """A line of the ratios of ours."""
    ours = {name: ratio for name, ratio in ratios.items() if not name.startswith("diffusers")}
    return f"    {title:44}" + "".join(f"{name:>8}{ratio:6.2f}" for name, ratio in ours.items())
