"""Published models in small: configurations that use every option, and their numbers.

Weights, inputs and noise are uniform numbers of NumPy's PCG64, so that a machine without diffusers
makes the folders for which `golden/published.npz` holds diffusers' answers.
"""

import json
import math

import numpy as np

from support.checks import load_golden

# What Ho20's published networks have in common.
HO20 = {
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
}
# The first is google/ddpm-cifar10-32's configuration, with fewer channels.
UNETS = {
    "cifar10": {
        "sample_size": 8,
        "block_out_channels": [8, 16, 16, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        **HO20,
    },
    # and google/ddpm-cat-256's
    "cat": {
        "sample_size": 32,
        "block_out_channels": [4, 4, 8, 8, 16, 16],
        "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        **HO20,
    },
    "heads": {
        "sample_size": [8, 4],
        "block_out_channels": [8, 16],
        "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "norm_eps": 1e-5,
        "downsample_padding": 1,
        "attention_head_dim": 4,
    },
    "classes": {
        "sample_size": 4,
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "center_input_sample": True,
        "num_class_embeds": 5,
        "freq_shift": 1,
    },
    "learned": {
        "sample_size": 4,
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": [8, 24],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "flip_sin_to_cos": False,
    },
    "asymmetric": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [8, 16, 8],
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 3,
        "norm_num_groups": 8,
        "add_attention": False,
        "attention_head_dim": 2,
    },
}
# The steps of the ancestral chain, None for all, and a scheduler for each network.
SCHEDULERS = {
    "cifar10": (10, {"variance_type": "fixed_large", "num_train_timesteps": 1000}),
    "cat": (5, {"variance_type": "fixed_small", "beta_schedule": "scaled_linear"}),
    "heads": (
        10,
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "variance_type": "fixed_small_log",
            "beta_schedule": "linear",
        },
    ),
    # every one of the thousand steps, on the smallest network
    "classes": (
        None,
        {
            "prediction_type": "sample",
            "beta_schedule": "squaredcos_cap_v2",
            "steps_offset": 1,
            "clip_sample_range": 1.5,
        },
    ),
    "learned": (
        None,
        {
            "variance_type": "learned_range",
            "num_train_timesteps": 20,
            "trained_betas": [0.02 + 0.01 * i for i in range(20)],
            "timestep_spacing": "linspace",
            "clip_sample": False,
        },
    ),
    "asymmetric": (
        7,
        {
            "beta_schedule": "sigmoid",
            "beta_start": 0.001,
            "beta_end": 0.05,
            "num_train_timesteps": 100,
            "timestep_spacing": "linspace",
            "variance_type": "fixed_large",
        },
    ),
}
DDIM_STEPS = 10


def ddim_spacing(scheduler):
    """The spacing of DDIM's steps; at zero SNR, T itself must be among them.

    With "linspace" diffusers' DDIM takes other steps than the times it lists.
    """
    return "trailing" if scheduler.get("rescale_betas_zero_snr") else "leading"


CIFAR10 = {**UNETS["cifar10"], "sample_size": 32, "norm_num_groups": 32} | {
    "block_out_channels": [128, 256, 256, 256]
}


def uniform(shape, *seed):
    """Uniform numbers of mean 0 and variance 1, float64."""
    rng = np.random.Generator(np.random.PCG64([len(shape), *seed]))
    return (rng.random(shape) - 0.5) * math.sqrt(12)


def weight(name, shape, index):
    """A tensor's numbers: scales near 1, shifts near 0, weights of variance 1 / fan-in."""
    u = uniform(shape, 11, index)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * u
    if len(shape) == 1:
        return 0.2 * u
    return u if "class" in name else u / math.sqrt(math.prod(shape[1:]))


def weights(shapes):
    """{name: float64 array} for {name: shape}, in the order of the names."""
    return {name: weight(name, shapes[name], i) for i, name in enumerate(sorted(shapes))}


def size_of(unet):
    """(H, W, C) of a configuration's samples."""
    side = unet["sample_size"]
    return (*(side if isinstance(side, list) else [side, side]), unet.get("in_channels", 3))


class Inputs:
    """What a model is given: x, t, labels, noise; channels-last, float64."""

    def __init__(self, unet, scheduler, batch=2):
        self.shape = batch, *size_of(unet)
        self.T = scheduler.get("num_train_timesteps", 1000)
        self.x0, self.eps, self.xT = (uniform(self.shape, seed) for seed in (1, 2, 3))
        # 1..T, as ours are
        self.t = np.array([max(1, round(self.T * 0.37)), self.T - 1, 1])[:batch]
        classes = unet.get("num_class_embeds")
        self.labels = None if classes is None else np.arange(batch) * 3 % classes

    def z(self, t):
        """The noise of the step from t."""
        return uniform(self.shape, 4, int(t))


def direction(name, shape):
    """What a tensor's gradient is multiplied by before it is summed."""
    return uniform(shape, 5, sum(name.encode()))


def write_folder(folder, name, dtype=np.float32):
    """A golden model's folder, with the configurations and the names that diffusers wrote."""
    from safetensors.numpy import save_file

    golden = load_golden("published")
    about = json.loads(str(golden[f"{name}/about"]))
    for part, file in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        (folder / part).mkdir(parents=True)
        (folder / part / file).write_text(json.dumps(about[part]))
    shapes = {key: tuple(shape) for key, shape in about["shapes"].items()}
    arrays = {key: array.astype(dtype) for key, array in weights(shapes).items()}
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(arrays, path, {"format": "pt"})
    (folder / "model_index.json").write_text(json.dumps(about["index"]))
    return folder
