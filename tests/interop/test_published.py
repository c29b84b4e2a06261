"""Published models against diffusers' own answers (support/published_peer.py wrote them)."""

import json

import numpy as np
import pytest
from support.checks import load_golden
from support.published import (
    DDIM_STEPS,
    SCHEDULERS,
    UNETS,
    Inputs,
    ddim_spacing,
    direction,
    write_folder,
)

import tinyddpm as td
from tinyddpm.interop.weights import their_name
from tinyddpm.nn import params
from tinyddpm.nn.ops import Ops
from tinyddpm.settings import Sampling
from tinyddpm.solvers import sample_with
from tinyddpm.training import Batch, Objective, loss_and_grad

pytest.importorskip("safetensors")
GOLDEN, OPS = load_golden("published"), Ops()
each = pytest.mark.parametrize("name", UNETS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(name, dtype) -> a pipeline folder, written once."""
    written = {}

    def folder(name, dtype=np.float32):
        key = name, np.dtype(dtype).name
        if key not in written:
            path = tmp_path_factory.mktemp("published") / name
            written[key] = write_folder(path, name, dtype)
        return written[key]

    return folder


@pytest.fixture(scope="module")
def loaded(folders):
    """(name, dtype) -> (model, inputs), conditioned on the inputs' labels."""

    def load(name, dtype=np.float32):
        model = td.from_diffusers(folders(name, dtype))
        inputs = Inputs(UNETS[name], SCHEDULERS[name][1])
        return (model if inputs.labels is None else model.conditioned(inputs.labels)), inputs

    return load


def error(actual, name, key):
    """The largest difference to the golden array, over its largest value."""
    expected = GOLDEN[f"{name}/{key}"]
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


def output(model, x, t, label):
    """The network's whole output."""
    p = params.views(model.net.spec(), model.theta)
    return model.net.forward(model.ops, p, x.astype(model.theta.dtype), t, [], label=label)


@each
def test_the_prediction_is_diffusers(name, loaded):
    for dtype, most in ((np.float32, 1e-4), (np.float64, 1e-9)):
        model, inputs = loaded(name, dtype)
        y = output(model, inputs.x0, inputs.t, inputs.labels)
        assert y.dtype == dtype and error(y, name, "prediction") < most


@each
def test_the_ancestral_sample_is_ddpm_schedulers(name, loaded):
    """Every t, or the steps of the folder's own spacing, from the same noise."""
    model, inputs = loaded(name, np.float64)
    how = Sampling(**model.meta["sampling"], steps=SCHEDULERS[name][0])
    assert how.sampler == "ancestral"
    x = sample_with(model, model.schedule, inputs.xT, how, noise=inputs.z)
    assert error(x, name, "ancestral") < 1e-7


@each
def test_the_ddim_sample_is_ddim_schedulers(name, loaded):
    model, inputs = loaded(name, np.float64)
    options, own = SCHEDULERS[name][1], model.meta["sampling"]
    spacing = {"spacing": ddim_spacing(options)}
    spacing |= {"offset": options.get("steps_offset", 0)} if spacing["spacing"] == "leading" else {}
    how = Sampling(sampler="ddim", steps=DDIM_STEPS, clip=own["clip"], **spacing)
    assert error(sample_with(model, model.schedule, inputs.xT, how), name, "ddim") < 1e-7


@each
def test_a_training_steps_gradients_are_diffusers(name, loaded):
    model, inputs = loaded(name, np.float64)
    net, s, theta = model.net, model.schedule, model.theta
    grad, spec = np.zeros_like(theta), net.spec()
    p, g = params.views(spec, theta), params.views(spec, grad)
    batch = Batch(inputs.x0, inputs.t, inputs.eps, label=inputs.labels)
    if model.learns_variance:  # both halves against eps: the peer has no bound
        tape, eps = [], np.concatenate([inputs.eps, inputs.eps], axis=-1)
        xt = td.q_sample(s, inputs.x0, inputs.t, inputs.eps)
        loss = OPS.mse(net.forward(OPS, p, xt, inputs.t, tape), eps, 1, tape)
        net.backward(OPS, g, OPS.mse_backward(1, tape), tape)
    else:
        loss = loss_and_grad(OPS, net, p, g, s, batch, Objective(model.target))
    assert error(np.array(loss), name, "loss") < 1e-9
    slopes, sizes, offset = {}, {}, 0
    for ours, param in params.named(spec):
        size = int(np.prod(param.shape))
        part, theirs = grad[offset : offset + size].reshape(param.shape), their_name(ours)
        part = part.transpose(3, 2, 0, 1) if part.ndim == 4 else part
        part = part.T if part.ndim == 2 and ours != "label.w" else part
        slopes[theirs] = (part * direction(theirs, part.shape)).sum()
        sizes[theirs] = np.abs(part).max() if part.size else 0.0
        offset += size
    for index, key in enumerate(sorted(slopes)):
        scale = GOLDEN[f"{name}/sizes"][index] * len(GOLDEN[f"{name}/sizes"]) ** 0.5
        floor = 1e-9 * GOLDEN[f"{name}/sizes"].max()  # a key's bias has no gradient
        assert abs(slopes[key] - GOLDEN[f"{name}/slopes"][index]) <= 1e-4 * scale + floor, key
        assert abs(sizes[key] - GOLDEN[f"{name}/sizes"][index]) <= 1e-4 * scale + floor, key


@each
def test_there_and_back_is_the_same_bytes(name, folders, tmp_path):
    """Of the weights' file, and a configuration that is read as the same model."""
    for dtype in (np.float32, np.float64):
        source, back = folders(name, dtype), tmp_path / np.dtype(dtype).name
        model = td.from_diffusers(source)
        td.to_diffusers(model, back)
        file = "unet/diffusion_pytorch_model.safetensors"
        assert (back / file).read_bytes() == (source / file).read_bytes()
        again = td.from_diffusers(back)
        assert again.net == model.net and again.meta == model.meta and again.target == model.target
        assert np.array_equal(again.schedule.beta, model.schedule.beta)


@each
def test_what_is_written_says_what_was_read(name, folders, tmp_path):
    """Each entry that diffusers wrote comes back with its value, but for what means nothing."""
    td.to_diffusers(td.from_diffusers(folders(name)), tmp_path / "back")
    for file in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        theirs, ours = (
            json.loads((place / file).read_text()) for place in (folders(name), tmp_path / "back")
        )
        defaults = {"sample_max_value", "dynamic_thresholding_ratio", "num_train_timesteps"}
        absent = {key for key in theirs if key not in ours and key[0] != "_"}
        assert absent <= defaults | {
            "attn_norm_num_groups",
            "downsample_type",
            "mid_block_type",
            "time_embedding_dim",
            "upsample_type",
        }
        assert {key: theirs[key] for key in ours if key in theirs} == {
            key: value for key, value in ours.items() if key in theirs
        }
