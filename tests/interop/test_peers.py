"""The real packages beside ours: pytest -m peers, with torch and diffusers installed ([peers])."""

import warnings

import numpy as np
import pytest
from support.published import CIFAR10, SCHEDULERS, UNETS, Inputs

import tinyddpm as td
from tinyddpm.nn import params
from tinyddpm.settings import Sampling
from tinyddpm.solvers import sample_with
from tinyddpm.training import Batch, Objective, loss_and_grad

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from support import published_peer
    from support.published_peer import first, last

# widths of which none is a multiple of the first
UNEVEN = {**UNETS["heads"], "block_out_channels": [12, 8]}
FULL = {**UNETS, "full": CIFAR10, "uneven": UNEVEN}
DDPM = {name: options for name, (_, options) in SCHEDULERS.items()}
DDPM["full"], DDPM["uneven"] = {"variance_type": "fixed_large"}, DDPM["heads"]


@pytest.fixture(scope="module", params=FULL)
def pair(request, tmp_path_factory):
    """(name, folder that diffusers wrote, its net and scheduler in float32, our model, inputs)."""
    name, folder = request.param, tmp_path_factory.mktemp("peer")
    net, scheduler = published_peer.peer(name, FULL[name], DDPM[name])
    net = net.float()
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder)
    model, inputs = td.from_diffusers(folder), Inputs(FULL[name], DDPM[name])
    model = model if inputs.labels is None else model.conditioned(inputs.labels)
    return name, folder, net, scheduler, model, inputs


def error(actual, expected):
    """The largest difference over the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def output(model, x, t, label):
    """Our network's whole output."""
    p = params.views(model.net.spec(), model.theta)
    return model.net.forward(model.ops, p, x.astype(model.theta.dtype), t, [], label=label)


def test_the_full_size_is_the_published_one():
    net = diffusers.UNet2DModel(**CIFAR10)
    assert sum(p.numel() for p in net.parameters()) == 35_746_307


def test_the_prediction(pair):
    _, _, net, _, model, inputs = pair
    with torch.no_grad():
        want = published_peer.call(net, first(inputs.x0).float(), inputs.t, inputs.labels)
    assert error(output(model, inputs.x0, inputs.t, inputs.labels), last(want)) < 1e-4


def test_the_prediction_in_float64(pair, tmp_path):
    name, _, _, scheduler, _, inputs = pair
    with published_peer.exactly():
        net, _ = published_peer.peer(name, FULL[name], DDPM[name])
        want = published_peer.prediction(net, inputs)
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(tmp_path)
    model = td.from_diffusers(tmp_path)
    assert model.theta.dtype == np.float64
    assert error(output(model, inputs.x0, inputs.t, inputs.labels), want) < 1e-9


def test_ten_steps_of_ddim(pair):
    name, _, net, scheduler, model, inputs = pair
    inputs.xT = inputs.xT.astype(np.float32)
    want = published_peer.ddim(net, scheduler, inputs)
    spacing = published_peer.ddim_spacing(DDPM[name])
    offset = DDPM[name].get("steps_offset", 0) if spacing == "leading" else 0
    clip = model.meta["sampling"]["clip"]
    how = Sampling(sampler="ddim", steps=10, spacing=spacing, offset=offset, clip=clip)
    # the peer's schedule is float32, and 1 - alpha_bar a difference in it
    assert error(sample_with(model, model.schedule, inputs.xT, how), want) < 2e-3


def test_all_steps_of_ddpm(pair):
    """All of T, but at the full size, and on the largest images, as many as minutes allow."""
    name, _, net, scheduler, model, inputs = pair
    steps = {"full": 10, "cat": 50}.get(name)
    inputs.xT = inputs.xT.astype(np.float32)
    single = Inputs.z
    inputs.z = lambda t: single(inputs, t).astype(np.float32)
    want = published_peer.ancestral(net, scheduler, inputs, steps)
    how = Sampling(**{**model.meta["sampling"], "steps": steps})
    got = sample_with(model, model.schedule, inputs.xT, how, noise=inputs.z)
    assert error(got, want) < 2e-3


def test_a_training_steps_gradients(pair):
    _, _, net, scheduler, model, inputs = pair
    if model.learns_variance:
        pytest.skip("the peer has no bound; the golden file has this network's gradients")
    for name in ("x0", "eps"):
        setattr(inputs, name, getattr(inputs, name).astype(np.float32))
    net.zero_grad()
    want_loss, want = published_peer.gradients(net, scheduler, inputs)
    spec, grad = model.net.spec(), np.zeros_like(model.theta)
    p, g = params.views(spec, model.theta), params.views(spec, grad)
    batch = Batch(inputs.x0, inputs.t, inputs.eps, label=inputs.labels)
    loss = loss_and_grad(model.ops, model.net, p, g, model.schedule, batch, Objective(model.target))
    assert abs(float(loss) - want_loss) < 1e-4 * want_loss
    floor = 1e-2 * max(np.abs(value).max() for value in want.values())
    ours = td.interop.weights.write_weights(model.net, grad)
    assert set(ours) == set(want)
    for key, value in want.items():
        # a bias that a norm takes off again has no gradient, but the rounding of others
        assert np.abs(ours[key] - value).max() < 1e-4 * max(np.abs(value).max(), floor), key


def test_an_exported_folder_loads_there_and_says_the_same(pair, tmp_path):
    _, folder, net, scheduler, model, inputs = pair
    td.to_diffusers(model, tmp_path / "back")
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()
    back = diffusers.DDPMPipeline.from_pretrained(tmp_path / "back")
    x = first(inputs.x0).float()
    with torch.no_grad():
        outputs = [published_peer.call(n, x, inputs.t, inputs.labels) for n in (net, back.unet)]
    assert all(torch.equal(p, back.unet.get_parameter(k)) for k, p in net.named_parameters())
    assert error(last(outputs[1]), last(outputs[0])) < 1e-6  # its kernels go by alignment
    hidden = {"_use_default_values", "_class_name", "_diffusers_version"}
    kept = [
        {k: v for k, v in s.config.items() if k not in hidden} for s in (scheduler, back.scheduler)
    ]
    assert kept[0] == kept[1] and torch.equal(scheduler.betas, back.scheduler.betas)


def test_a_network_of_ours_is_the_same_there(tmp_path):
    """It embeds 1..T and theirs 0..T-1; a label of none is their last one."""
    net = td.UNet(channels=3, base=16, classes=3)
    theta = params.init(net.spec(), 1)
    theta = theta + np.random.Generator(np.random.PCG64(2)).normal(0, 0.1, theta.size).astype("f4")
    model = td.Model(net, theta, td.cosine(100), (8, 8, 3), "v")
    td.to_diffusers(model, tmp_path / "out")
    there = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    inputs = Inputs({"sample_size": 8}, {"num_train_timesteps": 100}, batch=3)
    x, t = inputs.x0.astype(np.float32), np.array([1, 50, 100])
    with torch.no_grad():
        want = last(published_peer.call(there.unet, first(x), t, np.array([0, 2, 3])))
    assert error(output(model, x, t, np.array([0, 2, -1])), want) < 1e-5
    ours = model.schedule.alpha_bar[1:]
    assert np.abs(there.scheduler.alphas_cumprod.numpy() - ours).max() < 1e-6
