"""diffusers' answers for the models of `published`; run as a program, it writes the golden file:

    pip install -e '.[peers]' && python -W ignore tests/support/published_peer.py

It was made with diffusers 0.42.1 and torch 2.13.0, in float64 on a CPU. diffusers makes schedules
and embeds t in float32 whatever the network's kind; for the golden file torch.float32 is float64
in its lines.
"""

import contextlib
import json
import pathlib
import sys
import tempfile
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from support import published
from support.published import SCHEDULERS, UNETS, Inputs, ddim_spacing, direction, weights


@contextlib.contextmanager
def exactly():
    """Within it diffusers' own lines make their schedules, and embed t, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float32", torch.float64):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def peer(name, unet=None, scheduler=None):
    """(UNet2DModel in float64 with the weights of `published`, DDPMScheduler)."""
    net = diffusers.UNet2DModel(**(unet or UNETS[name])).double().eval()
    shapes = {key: tuple(p.shape) for key, p in net.named_parameters()}
    with torch.no_grad():
        for key, array in weights(shapes).items():
            net.get_parameter(key).copy_(torch.from_numpy(array))
    return net, diffusers.DDPMScheduler(**(scheduler or SCHEDULERS[name][1]))


def first(x):
    """Channels-last to channels-first, as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def last(x):
    """Channels-first to channels-last, as an array."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def call(net, x, t, labels):
    """The network's output for our t."""
    labels = None if labels is None else torch.from_numpy(labels)
    return net(x, torch.as_tensor(t) - 1, class_labels=labels).sample


def prediction(net, inputs):
    """The output at x_0 and the inputs' times."""
    with torch.no_grad():
        return last(call(net, first(inputs.x0), inputs.t, inputs.labels))


def ancestral(net, scheduler, inputs, steps):
    """DDPMScheduler's chain, with the inputs' noise."""
    if steps:
        scheduler.set_timesteps(steps)
    x = first(inputs.xT)
    for t in scheduler.timesteps:
        z = first(inputs.z(t + 1))
        with (
            torch.no_grad(),
            mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z),
        ):
            x = scheduler.step(call(net, x, t + 1, inputs.labels), t, x).prev_sample
    return last(x)


DDIM_TAKES = ("prediction_type", "clip_sample", "clip_sample_range", "steps_offset")


def ddim(net, scheduler, inputs):
    """DDIMScheduler's chain of ten; eps_hat is that of the clipped x0_hat, as it is here."""
    config = scheduler.config
    steps = diffusers.DDIMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        trained_betas=scheduler.betas.tolist(),  # it knows no sigmoid
        timestep_spacing=ddim_spacing(config),
        **{key: config[key] for key in DDIM_TAKES},
    )
    steps.set_timesteps(published.DDIM_STEPS)
    x = first(inputs.xT)
    for t in steps.timesteps:
        with torch.no_grad():
            y = call(net, x, t + 1, inputs.labels)[:, : x.shape[1]]
            x = steps.step(y, t, x, use_clipped_model_output=True).prev_sample
    return last(x)


def gradients(net, scheduler, inputs):
    """(loss, {name: gradient}) of one training step: the mean squared error of the target."""
    x0, eps, t = first(inputs.x0), first(inputs.eps), torch.as_tensor(inputs.t) - 1
    xt = scheduler.add_noise(x0, eps, t)
    kind = scheduler.config.prediction_type
    target = {"epsilon": eps, "sample": x0}.get(kind)
    target = scheduler.get_velocity(x0, eps, t) if target is None else target
    y = call(net, xt, inputs.t, inputs.labels)
    if y.shape[1] != x0.shape[1]:
        target = torch.cat([target, target], dim=1)
    loss = (y - target).square().mean()
    loss.backward()
    return float(loss), {key: p.grad.numpy() for key, p in net.named_parameters()}


def saved(folder, net, scheduler):
    """What save_pretrained writes of the configurations, as {part: entries}."""
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder)
    files = {
        "unet": "unet/config.json",
        "scheduler": "scheduler/scheduler_config.json",
        "index": "model_index.json",
    }
    return {part: json.loads((pathlib.Path(folder) / f).read_text()) for part, f in files.items()}


def answers(name):
    """The golden arrays of a model."""
    steps, options = SCHEDULERS[name]
    inputs = Inputs(UNETS[name], options)
    net, scheduler = peer(name)
    with tempfile.TemporaryDirectory() as folder:
        about = saved(folder, net, scheduler)
    about["shapes"] = {key: list(p.shape) for key, p in net.named_parameters()}
    with exactly():
        net, scheduler = peer(name)
        loss, grads = gradients(net, scheduler, inputs)
        arrays = {
            "prediction": prediction(net, inputs),
            "ancestral": ancestral(net, scheduler, inputs, steps),
            "ddim": ddim(net, scheduler, inputs),
        }
    names = sorted(grads)
    arrays["loss"] = loss
    arrays["slopes"] = [(grads[k] * direction(k, grads[k].shape)).sum() for k in names]
    arrays["sizes"] = [np.abs(grads[k]).max() for k in names]
    return {"about": json.dumps(about), **arrays}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {f"{name}/{key}": v for name in UNETS for key, v in answers(name).items()}
    path = pathlib.Path(__file__).parents[1] / "golden" / "published.npz"
    np.savez_compressed(path, **found)
    print(path, path.stat().st_size)
