"""What of a published folder is refused: one line that names the entry, before anything is made."""

import json
import struct

import numpy as np
import pytest
from support.published import write_folder

import tinyddpm as td
from tinyddpm.errors import InputError
from tinyddpm.nn import params

pytest.importorskip("safetensors")
from safetensors.numpy import load_file, save_file  # noqa: E402

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A folder that is read as it is."""
    return write_folder(tmp_path / "published", "heads")


def refused(folder, *words, **settings):
    """The folder is refused in one line with these words."""
    with pytest.raises(InputError) as caught:
        td.from_diffusers(folder, **settings)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in (str(folder), *words)), text


def change(folder, file, **entries):
    """Put entries into a configuration; those that are ... go."""
    known = json.loads((folder / file).read_text()) | entries
    left = {key: value for key, value in known.items() if value is not ...}
    (folder / file).write_text(json.dumps(left))


@pytest.mark.parametrize(
    "file, key, value, word",
    [
        (UNET, "_class_name", "UNet2DConditionModel", "UNet2DModel is"),
        (UNET, "act_fn", "gelu", "silu"),
        (UNET, "resnet_time_scale_shift", "scale_shift", "default"),
        (UNET, "mid_block_scale_factor", 1.41, "1 is"),
        (UNET, "time_embedding_type", "fourier", "positional"),
        (UNET, "class_embed_type", "timestep", "null"),
        (UNET, "down_block_types", ["SkipDownBlock2D", "DownBlock2D"], "AttnDownBlock2D are"),
        (UNET, "down_block_types", ["DownBlock2D"], "levels"),
        (UNET, "block_out_channels", [8, 0], "at least 1"),
        (UNET, "block_out_channels", [], "list"),
        (UNET, "downsample_padding", 2, "0 or 1"),
        (UNET, "downsample_type", "resnet", "conv"),
        (UNET, "attention_head_dim", 3, "head_dim"),
        (UNET, "attention_head_dim", 2.5, "whole"),
        (UNET, "norm_num_groups", 3, "groups"),
        (UNET, "norm_eps", 0, "above 0"),
        (UNET, "freq_shift", 0.5, "0 or 1"),
        (UNET, "sample_size", None, "side"),
        (UNET, "sample_size", 7, "halve"),
        (UNET, "layers_per_block", 10**9, "in 1..64"),
        (UNET, "encoder_hid_dim", 4, "not supported"),
        (UNET, "out_channels", 6, "out_channels"),
        (UNET, "dropout", 1.0, "[0, 1)"),
        (SCHEDULER, "_class_name", "PNDMScheduler", "DDPMScheduler"),
        (SCHEDULER, "beta_schedule", "laplace", "sigmoid are"),
        (SCHEDULER, "variance_type", "learned", "learned_range are"),
        (SCHEDULER, "variance_type", "learned_range", "out_channels"),
        (SCHEDULER, "prediction_type", "flow", "v_prediction are"),
        (SCHEDULER, "prediction_type", "epsilon", "v_prediction or sample"),
        (SCHEDULER, "thresholding", True, "false is"),
        (SCHEDULER, "timestep_spacing", "karras", "linspace are"),
        (SCHEDULER, "steps_offset", -1, "whole number from 0"),
        (SCHEDULER, "trained_betas", [0.1], "1000"),
        (SCHEDULER, "num_train_timesteps", 10**7, "100,000"),
        (SCHEDULER, "num_train_timesteps", True, "whole"),
        (SCHEDULER, "beta_end", float("nan"), "above 0"),
        (SCHEDULER, "beta_end", 3.0, "beta"),
        (SCHEDULER, "clip_sample", "yes", "true or false"),
        (SCHEDULER, "use_karras_sigmas", True, "not supported"),
    ],
)
def test_an_option_that_is_not_supported_is_named(folder, file, key, value, word):
    change(folder, file, **{key: value})
    refused(folder, word)


def test_ddim_that_does_not_end_at_data_is_refused(folder):
    change(folder, SCHEDULER, _class_name="DDIMScheduler", set_alpha_to_one=False)
    refused(folder, "set_alpha_to_one")
    change(folder, SCHEDULER, set_alpha_to_one=True, variance_type=...)
    assert td.from_diffusers(folder).meta["sampling"]["sampler"] == "ddim"


def tensors(folder, alter):
    """Write the folder's weights again, altered."""
    arrays = load_file(folder / WEIGHTS)
    alter(arrays)
    save_file(arrays, folder / WEIGHTS)


def test_weights_of_another_network_are_refused(folder):
    key = "mid_block.attentions.0.to_q.weight"
    tensors(folder, lambda arrays: arrays.pop(key))
    refused(folder, f"lacks {key}")
    tensors(folder, lambda arrays: arrays.update({key: np.zeros((8, 32), np.float32)}))
    refused(folder, key, "(8, 32)", "(16, 16)")
    tensors(folder, lambda arrays: arrays.update({key: np.zeros((16, 16), np.float32)}))
    td.from_diffusers(folder)
    tensors(folder, lambda arrays: arrays.update(extra=np.zeros(3, np.float32)))
    refused(folder, "extra")


def test_numbers_that_no_network_holds_are_refused(folder):
    key = "conv_in.bias"
    tensors(folder, lambda arrays: arrays.update({key: np.full(8, np.nan, np.float32)}))
    refused(folder, key, "not finite")
    tensors(folder, lambda arrays: arrays.update({key: np.zeros(8, np.int32)}))
    refused(folder, key, "I32")


def test_a_file_larger_than_the_limit_is_refused_by_its_header(folder):
    refused(folder, "limit is 4,000", limit=4000)
    # a header that claims a terabyte, and a file without it
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}})
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header.encode())
    refused(folder)


def test_pickles_are_refused_with_the_reason(folder):
    pickle = folder / "unet" / "diffusion_pytorch_model.bin"
    (folder / WEIGHTS).rename(pickle)
    refused(folder, "execute", ".safetensors")
    with pytest.raises(InputError, match="execute"):
        td.from_diffusers(pickle)
    pickle.rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    refused(folder, "variant")


@pytest.mark.parametrize("file", [UNET, SCHEDULER, WEIGHTS])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    refused(folder, file, "no such file")


def test_files_that_are_no_json_are_refused(folder):
    for text in (b"", b"[]", b"\xff", b"[" * 100000, b" " * (2**22 + 1)):
        (folder / UNET).write_bytes(text)
        refused(folder)


def test_the_package_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pip install 'tinyddpm\[interop\]'"):
        td.from_diffusers(folder)


def test_half_floats_and_old_names_are_read(folder):
    """F16 and BF16 become float32; files before 2023 name attention otherwise."""
    whole = td.from_diffusers(folder).theta
    tensors(folder, lambda arrays: arrays.update({k: a.astype("f2") for k, a in arrays.items()}))
    half = td.from_diffusers(folder).theta
    assert half.dtype == np.float32 and np.abs(half - whole).max() <= 2**-11 * np.abs(whole).max()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(arrays):
        for key in list(arrays):
            for new, name in old.items():
                if f".{new}." in key:
                    arrays[key.replace(new, name)] = arrays.pop(key)

    tensors(folder, rename)
    assert np.array_equal(td.from_diffusers(folder).theta, half)
    # the upper halves of float32 words, in a file put together by hand: NumPy has no such kind
    header, data = {}, b""
    for key, array in load_file(folder / WEIGHTS).items():
        piece = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        span = [len(data), len(data) + len(piece)]
        header[key] = {"dtype": "BF16", "shape": array.shape, "data_offsets": span}
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    brief = td.from_diffusers(folder).theta
    assert brief.dtype == np.float32 and np.abs(brief - half).max() <= 2**-7 * np.abs(half).max()


def test_the_oldest_form_is_read(folder, tmp_path):
    """One folder, GaussianDDPMScheduler, timesteps; predict_epsilon false stands for "sample"."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (UNET, WEIGHTS, SCHEDULER, "model_index.json"):
        (flat / file.rsplit("/")[-1]).write_bytes((folder / file).read_bytes())
    change(
        flat,
        "scheduler_config.json",
        **dict.fromkeys(
            ("num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset"), ...
        ),
        **dict.fromkeys(("rescale_betas_zero_snr", "thresholding", "clip_sample_range"), ...),
        _class_name="GaussianDDPMScheduler",
        timesteps=40,
        tensor_format="pt",
        predict_epsilon=False,
    )
    model = td.from_diffusers(flat)
    assert model.schedule.T == 40 and model.target == "x0"
    assert np.allclose(model.schedule.beta[1:], np.linspace(1e-4, 0.02, 40), rtol=1e-12)
    td.to_diffusers(model, tmp_path / "new")
    written = json.loads((tmp_path / "new" / SCHEDULER).read_text())
    assert written["_class_name"] == "DDPMScheduler" and written["num_train_timesteps"] == 40
    assert written["prediction_type"] == "sample" and written["timestep_spacing"] == "leading"


def test_networks_that_the_peer_has_not_are_refused(tmp_path):
    s = td.linear(10)
    for net, word in (
        (td.UNet(mults=(2, 1)), "first level"),
        (td.UNet(heads=2, attention=(True, True)), "heads of one size"),
    ):
        model = td.Model(net, params.init(net.spec()), s, (8, 8, 1))
        with pytest.raises(InputError, match=word):
            td.to_diffusers(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
