"""The same train and sampling steps in PyTorch: eager, channels-last, compiled; checked against our
network first.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tinyddpm import UNet, linear, model, noise
from tinyddpm.interop.weights import plain_weights, turned, write_weights

from .bench import compare
from .network import TERMS
from .torch_peer import TorchMLP, TorchUNet


def steps(case, theta, compiled=False):
    """{"train": {name: step}, "sampling": {name: step}} for torch as it comes, in channels-last
    memory, compiled.

    case: a network.Net; theta: its parameters. Raises WrongAnswer where the networks disagree.
    """
    if compiled:
        import torch._dynamo as dynamo  # which takes seconds

        # every case, layout and mode is a build of its own; past the limit torch would quietly go
        # on uncompiled
        dynamo.config.recompile_limit, dynamo.config.fail_on_recompile_limit_hit = 64, True
    names = {"train": {}, "sampling": {}}
    for name, layout in layouts(case).items():
        for title in (name, f"{name} compiled")[: 2 if compiled else 1]:
            twin = twin_of(case, theta, layout)
            if title != name:
                # one shape each, all of it known to the compiler
                twin = torch.compile(twin, dynamic=False)
            check(title, twin, case, theta)
            names["train"][title] = training(twin, case, layout)
            names["sampling"][title] = sampling(twin, case, layout)
    return names


def layouts(case):
    """{name: memory format} that a network is timed in: points have no layout."""
    found = {"torch": torch.contiguous_format}
    return found | {"torch nhwc": torch.channels_last} if isinstance(case.net, UNet) else found


def train_step(case, theta, name):
    """The train step in one layout alone."""
    layout = layouts(case)[name]
    return training(twin_of(case, theta, layout), case, layout)


def twin_of(case, theta, layout, device="cpu"):
    """The torch network with our weights, on a device."""
    net = case.net
    if isinstance(net, UNet):
        twin, weights = TorchUNet(net), write_weights(net, theta)
    else:
        twin = TorchMLP(net.dim, net.hidden, net.layers)
        weights = {name: turned(name, w) for name, w in plain_weights(net, theta).items()}
    twin.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in weights.items()}
    )
    return twin.to(memory_format=layout).to(device)


def _place(twin):
    """The device of a network."""
    return next(twin.parameters()).device


def _theirs(x, layout, device):
    """Our samples as a tensor: images become (B, C, H, W)."""
    if x.ndim != 4:
        return torch.from_numpy(x).to(device)
    x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return x.to(memory_format=layout).to(device)


def check(title, twin, case, theta, limit=None):
    """Raises WrongAnswer unless both networks predict the same from the same x at the same t.

    Args:
        title: what is compared.
        twin: the torch network.
        case: a network.Net.
        theta: its parameters.
        limit: as `bench.compare`'s.
    """
    x, device = noise.normal((case.batch, *case.shape), 2), _place(twin)
    with torch.no_grad():
        t = torch.full((case.batch,), 500, device=device)
        theirs = twin(_theirs(x, torch.contiguous_format, device), t).cpu().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    want = model.Model(case.net, theta, linear(1000), case.shape).predict(x, 500)[0]
    compare(title, [theirs], [want], TERMS, limit)


def training(twin, case, layout):
    """The train step; what it returns is not read, since a device would be waited for."""
    device = _place(twin)
    alpha_bar = torch.from_numpy(linear(1000).alpha_bar.astype(np.float32)).to(device)
    data = _theirs(np.tanh(noise.normal((4 * case.batch, *case.shape), 1)), layout, device)
    optimiser = torch.optim.AdamW(
        twin.parameters(), 1e-3, weight_decay=0.0, fused=True, capturable=device.type == "cuda"
    )
    ema = [p.detach().clone() for p in twin.parameters()]

    def step():
        x0 = data[torch.randint(len(data), (case.batch,), device=device)]
        t = torch.randint(1, 1001, (case.batch,), device=device)
        eps = torch.randn_like(x0)
        ab = alpha_bar[t].view(-1, *(1,) * (x0.ndim - 1))
        root, rest = ab.sqrt(), (1 - ab).sqrt()
        loss = F.mse_loss(twin(root * x0 + rest * eps, t), root * eps - rest * x0)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(twin.parameters()), 0.005)
        return loss.detach()

    return step


def sampling(twin, case, layout):
    """The sampling step."""
    device = _place(twin)
    xt = _theirs(noise.normal((case.batch, *case.shape)), layout, device)
    alpha_bar = float(linear(1000).alpha_bar[500])
    root, rest = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    t = torch.full((case.batch,), 500, device=device)

    def step():
        with torch.inference_mode():
            x0_hat = root * xt - rest * twin(xt, t)
            return 0.1 * x0_hat.clamp(-1, 1) + 0.9 * xt + 0.1 * torch.randn_like(xt)

    return step
