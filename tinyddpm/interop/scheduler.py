"""A scheduler's configuration: diffusers' DDPMScheduler and DDIMScheduler, and the older names.

Their t is ours less one, and they compute in float32 what is float64 here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..process import Array
from ..schedule import Schedule, cosine
from ..settings import PUBLISHED_SPACINGS
from .config import Config, is_number

CLASSES = {
    "DDPMScheduler": "ancestral",
    "GaussianDDPMScheduler": "ancestral",
    "DDIMScheduler": "ddim",
}
TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
THEIRS = {ours: theirs for theirs, ours in TARGETS.items()}
SPACINGS = {word: word for word in PUBLISHED_SPACINGS}
VARIANCES = {
    "fixed_small": "beta_tilde",
    "fixed_small_log": "beta_tilde",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
    "learned_range": "learned",
}
# What is read and means nothing: how tensors were stored, and the settings of what is refused.
UNREAD = ("tensor_format", "dynamic_thresholding_ratio", "sample_max_value")
MOST = 10**5  # steps


@dataclass(frozen=True)
class Published:
    """What a scheduler's configuration says."""

    schedule: Schedule
    target: str  # what the network predicts
    sampling: dict[str, Any]  # how it samples: fields of `settings.Sampling`
    config: dict[str, Any]  # the configuration in the newest names


def read_scheduler(entries: Any, name: str) -> Published:
    """What a scheduler does. Raises InputError, naming the entry that is not supported.

    Args:
        entries: the parsed scheduler_config.json.
        name: the file's, for errors.
    """
    c = Config(entries, name)
    sampler = c.word("_class_name", "DDPMScheduler", CLASSES)
    s, written = _schedule(c)
    target = _target(c)
    if s.alpha_bar[-1] == 0 and target == "eps":
        raise c.refuse("rescale_betas_zero_snr", True, "needs v_prediction or sample")
    clip = c.flag(
        "clip_predicted_image" if "clip_predicted_image" in c.left else "clip_sample", True
    )
    bound = c.number("clip_sample_range", 1.0)
    spacing, offset = c.word("timestep_spacing", "leading", SPACINGS), c.whole("steps_offset", 0, 0)
    sampling = {"sampler": sampler, "clip": bound if clip else None, "spacing": spacing}
    sampling |= {"offset": offset} if spacing == "leading" else {}
    written |= {
        "_class_name": "DDIMScheduler" if sampler == "ddim" else "DDPMScheduler",
        "clip_sample": clip,
        "clip_sample_range": bound,
        "prediction_type": THEIRS[target],
        "steps_offset": offset,
        "thresholding": False,
        "timestep_spacing": spacing,
    }
    if sampler == "ddim":
        c.only("set_alpha_to_one", True, True)
        written["set_alpha_to_one"] = True
    else:
        written["variance_type"] = c.left.get("variance_type", "fixed_small")
        sampling["variance"] = c.word("variance_type", "fixed_small", VARIANCES)
    c.only("thresholding", False, False)
    c.only("timestep_values", None, None)
    c.finish(*UNREAD)
    return Published(s, target, sampling, written)


def _schedule(c):
    """The schedule, and the entries that say it in the newest names."""
    T = c.whole("timesteps" if "timesteps" in c.left else "num_train_timesteps", 1000)
    if T > MOST:
        raise c.refuse("num_train_timesteps", T, f"is more than {MOST:,}")
    kind = c.left.get("beta_schedule", "linear")
    first, last = c.number("beta_start", 1e-4), c.number("beta_end", 0.02)
    trained = c.take("trained_betas", None, lambda v: v is None or _betas(v), "a list of numbers")
    beta = c.word("beta_schedule", "linear", BETAS)(T, first, last)
    if trained is not None and len(trained) != T:
        raise c.refuse("trained_betas", len(trained), f"are not {T}, as num_train_timesteps")
    s = Schedule(np.concatenate([[0.0], beta if trained is None else np.array(trained, float)]))
    zero_snr = c.flag("rescale_betas_zero_snr", False)
    return s.zero_terminal_snr() if zero_snr else s, {
        "beta_end": last,
        "beta_schedule": kind,
        "beta_start": first,
        "num_train_timesteps": T,
        "rescale_betas_zero_snr": zero_snr,
        "trained_betas": trained,
    }


def _target(c):
    """What the network predicts; in the oldest files `predict_epsilon` says it."""
    default = "epsilon" if c.flag("predict_epsilon", True) else "sample"
    return c.word("prediction_type", default, TARGETS)


def _betas(value):
    return isinstance(value, list) and 0 < len(value) <= MOST and all(map(is_number, value))


# beta_1..beta_T by the names of the schedules.


def _linear(T: int, first: float, last: float) -> Array:
    return np.linspace(first, last, T)


def _scaled_linear(T, first, last):
    """Linear in sqrt(beta), as latent diffusion's code has it."""
    return np.linspace(first**0.5, last**0.5, T) ** 2


def _squared_cosine(T, first, last):
    """Nichol21 eq. 17."""
    return cosine(T).beta[1:]


def _sigmoid(T, first, last):
    """beta itself a sigmoid, from -6 to 6, between its ends."""
    return (last - first) / (1 + np.exp(-np.linspace(-6, 6, T))) + first


BETAS = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": _sigmoid,
}


def write_scheduler(
    s: Schedule, target: str, sampling: dict[str, Any], known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration of a schedule and a way to sample.

    Args:
        s: the schedule.
        target: what the network predicts.
        sampling: fields of `settings.Sampling`.
        known: the configuration that the schedule came from, or None.
    """
    if known:
        kept = read_scheduler(known, "the run's scheduler")
        if kept.target == target and np.array_equal(kept.schedule.beta, s.beta):
            return kept.config
    clip = sampling.get("clip", 1.0)
    variances = {ours: theirs for theirs, ours in reversed(VARIANCES.items())}
    config = {
        "_class_name": "DDPMScheduler",
        "clip_sample": clip is not None,
        "clip_sample_range": 1.0 if clip is None else clip,
        "num_train_timesteps": s.T,
        "prediction_type": THEIRS[target],
        "steps_offset": 0,
        "timestep_spacing": "linspace",
        "variance_type": variances[sampling.get("variance", "beta_tilde")],
    }
    for kind, beta in BETAS.items():
        ends = float(s.beta[1]), float(s.beta[-1])
        if np.allclose(beta(s.T, *ends), s.beta[1:], rtol=1e-12, atol=0):
            return {**config, "beta_schedule": kind, "beta_start": ends[0], "beta_end": ends[1]}
    return {**config, "beta_schedule": "linear", "trained_betas": s.beta[1:].tolist()}
