"""The same train and sampling steps in PyTorch, eager and channels-last, checked against our network's output."""

import numpy as np
import torch
import torch.nn.functional as F

from tinyddpm import linear, noise, params

from .names import peer_name, to_peer
from .torch_peer import TorchUNet

TOLERANCE = 1e-3            # float32 through some thirty layers


def steps(net, size, batch, named, denoise):
    """{"train": {name: step}, "sample": {name: step}} for torch as it comes and in channels-last memory."""
    names = {"train": {}, "sample": {}}
    for name, layout in (("torch", torch.contiguous_format), ("torch nhwc", torch.channels_last)):
        twin = _twin(net, size, denoise, layout)
        _check(twin, denoise, size, net.channels)
        names["train"][name] = _train_step(twin, size, batch, net.channels, layout)
        names["sample"][name] = _sample_step(twin, size, batch, net.channels, layout)
    return names


def _twin(net, size, denoise, layout):
    """A TorchUNet with our weights."""
    twin = TorchUNet(size, net.channels, net.base, net.mults, net.blocks,
                     tuple(i for i, attends in enumerate(net.attention) if attends), net.heads, net.groups,
                     padding=0 if net.pad == "right" else 1)
    state, offset = {}, 0
    for ours, param in params.named(net.spec()):
        n = int(np.prod(param.shape))
        value = denoise.theta[offset:offset + n].reshape(param.shape)
        state[peer_name(ours)] = torch.from_numpy(np.ascontiguousarray(to_peer(value)))
        offset += n
    twin.load_state_dict(state)
    return twin.to(memory_format=layout)


def _check(twin, denoise, size, channels):
    """Raises AssertionError unless both networks say the same: on random weights, since ours start at output 0."""
    x = noise.normal((4, size, size, channels), 2)
    before = denoise.theta.copy()
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    try:
        offset, changed = 0, {}
        for ours, param in params.named(denoise.net.spec()):
            n = int(np.prod(param.shape))
            value = denoise.theta[offset:offset + n]
            value += 0.02 * noise.normal((1, n), 3, noise.INIT, offset)[0]
            changed[peer_name(ours)] = torch.from_numpy(np.ascontiguousarray(to_peer(value.reshape(param.shape))))
            offset += n
        twin.load_state_dict(changed)
        with torch.no_grad():
            theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.full((4,), 500))
            theirs = theirs.numpy().transpose(0, 2, 3, 1)
        mine = denoise.output(x, 500)
        assert np.abs(mine).max() > 0.01, "the check needs an output that is not zero"
        assert np.abs(mine - theirs).max() <= TOLERANCE * np.abs(mine).max()
    finally:
        denoise.theta[:] = before
        twin.load_state_dict(state)


def _train_step(twin, size, batch, channels, layout):
    alpha_bar = torch.from_numpy(linear(1000).alpha_bar.astype(np.float32))
    data = torch.tanh(torch.randn(4 * batch, channels, size, size)).to(memory_format=layout)
    optimiser = torch.optim.AdamW(twin.parameters(), 1e-3, weight_decay=0.0, fused=True)
    ema = [p.detach().clone() for p in twin.parameters()]

    def step():
        x0 = data[torch.randint(len(data), (batch,))]
        t = torch.randint(1, 1001, (batch,))
        eps = torch.randn_like(x0)
        ab = alpha_bar[t].view(-1, 1, 1, 1)
        loss = F.mse_loss(twin(ab.sqrt() * x0 + (1 - ab).sqrt() * eps, t), eps)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(twin.parameters()), 0.005)
        return float(loss.detach())
    return step


def _sample_step(twin, size, batch, channels, layout):
    xt = torch.randn(batch, channels, size, size).to(memory_format=layout)
    alpha_bar = float(linear(1000).alpha_bar[500])
    t = torch.full((batch,), 500)

    def step():
        with torch.inference_mode():
            x0_hat = (xt - (1 - alpha_bar) ** 0.5 * twin(xt, t)) / alpha_bar**0.5
            return 0.1 * x0_hat.clamp(-1, 1) + 0.9 * xt + 0.1 * torch.randn_like(xt)
    return step
