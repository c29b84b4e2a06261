"""The settings of a training run: each stated once, with its default, its bounds and its help.

The command line, the checkpoint and the checks are made from these fields.
"""

import math
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from .errors import InputError

TARGETS = ("eps", "x0", "v")  # what a network may be trained to predict
DECAYS = ("cosine", "constant")
TIMES = ("stratified", "independent")


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    below: float | None = None,
    choices: tuple[str | None, ...] | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that carries its own help text and bounds.

    Args:
        default: the field's default value.
        help: one line for `--help`.
        low: the smallest value allowed, or None.
        below: the value that must stay below this, or None; infinity refuses infinity and NaN.
        choices: the words allowed, or None.
        metavar: the name of the value in `--help`, or None.
    """
    about = {"help": help, "low": low, "below": below, "choices": choices, "metavar": metavar}
    return field(default=default, metadata=about)


def check_settings(settings: Any) -> None:
    """Hold each field of a dataclass against its bounds. Raises InputError, naming the field."""
    for each in fields(settings):
        value, about = getattr(settings, each.name), each.metadata
        if about.get("choices") and value not in about["choices"]:
            listed = ", ".join(map(str, about["choices"]))
            raise InputError(f"{each.name} must be one of {listed}, got {value!r}")
        low, below = about.get("low"), about.get("below")
        if below is None and low is not None and not value >= low:
            raise InputError(f"{each.name} must be at least {low}, got {value}")
        if below is not None and not low <= value < below:
            span = f"in [{low}, {below})" if below < math.inf else "finite and not negative"
            raise InputError(f"{each.name} must be {span}, got {value}")


def split(given: dict[str, Any], *kinds: Any) -> list[dict[str, Any]]:
    """Sort settings by the dataclass that has a field of their name, one dict for each dataclass.

    Raises InputError for a name that none of them has, with the nearest that one has.
    """
    known = [{each.name for each in fields(kind)} for kind in kinds]
    for name in given:
        names = sorted(set().union(*known))
        if name not in names:
            near = get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise InputError(f"no setting is called {name}: {meant}")
    return [{name: value for name, value in given.items() if name in own} for own in known]


@dataclass(frozen=True)
class Recipe:
    """How to train (Ho20 Algorithm 1). Raises InputError for a value out of its bounds."""

    steps: int = setting(3000, "how many steps", low=1, metavar="N")
    batch: int = setting(64, "samples a step", low=1, metavar="N")
    lr: float = setting(2e-3, "AdamW's peak learning rate", low=0, below=math.inf)
    warmup: int = setting(100, "steps of linear warm-up", low=0, below=math.inf, metavar="N")
    decay: str = setting("cosine", "the rate after warm-up", choices=DECAYS)
    weight_decay: float = setting(0.0, "AdamW's decay", low=0, below=math.inf)
    clip_norm: float = setting(1.0, "bound on the gradient's norm, 0 = off", low=0, below=math.inf)
    ema: float = setting(0.995, "decay of the averaged parameters", low=0, below=1)
    target: str = setting("v", "what the network predicts", choices=TARGETS)
    times: str = setting("stratified", "how the t of a batch are drawn from 1..T", choices=TIMES)
    # Hang23 section 3.4
    min_snr: float = setting(
        0.0, "min-SNR weighting, 0 = off", low=0, below=math.inf, metavar="GAMMA"
    )
    dropout: float = setting(0.0, "rate, in every residual block", low=0, below=1)
    # Ho22 Algorithm 1
    label_dropout: float = setting(
        0.1,
        "how often a sample is shown without its label, which --guidance needs",
        low=0,
        below=1,
        metavar="RATE",
    )
    # Nichol21 eq. 16
    vlb: float = setting(
        0.0,
        "learn the reverse variance too, with this weight of the variational bound "
        "(0.001 in Nichol21), 0 = off",
        low=0,
        below=math.inf,
        metavar="LAMBDA",
    )
    # the bound's decoder needs it (Ho20 eq. 13); not an option: the data says it
    levels: int = setting(256, "grey levels of the data, 0 = continuous", low=0, below=math.inf)
    shards: int = setting(
        2,
        "parts of a batch that threads and ranks share; a sum's last bits depend on how many",
        low=1,
        metavar="N",
    )
    seed: int = setting(0, "of every random number", low=0, below=math.inf)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.levels == 1:
            raise InputError("levels must be 0, for continuous data, or at least 2, got 1")


SAMPLERS = ("ddim", "ancestral", "langevin", "euler", "heun", "dpmpp_2m")
SPACINGS = ("uniform", "logsnr", "quadratic")
PUBLISHED_SPACINGS = ("leading", "trailing", "linspace")  # diffusers', whose first may lie below T
VARIANCES = ("beta", "beta_tilde", "learned")


@dataclass(frozen=True)
class Sampling:
    """How to draw samples. Raises InputError for a value out of its bounds."""

    sampler: str = setting("ddim", "how to go from noise to data", choices=SAMPLERS)
    # checked by the sampler, which knows T
    steps: int | None = setting(
        None, "how many steps (default: 50; ancestral and langevin: every one of T)", metavar="N"
    )
    spacing: str | None = setting(
        None,
        "where in 1..T those steps lie (default: uniform; dpmpp_2m: logsnr)",
        choices=(None, *SPACINGS, *PUBLISHED_SPACINGS),
    )
    # diffusers' steps_offset
    offset: int = setting(0, "added to every time of spacing leading", low=0, below=math.inf)
    # Song21a eq. 16
    eta: float = setting(0.0, "ddim: 0 adds no noise, 1 as much as ancestral")
    # Ho20 section 3.2, Nichol21 eq. 15
    variance: str = setting("beta_tilde", "ancestral, langevin: sigma^2", choices=VARIANCES)
    # not an option: --no-clip sets it to None
    clip: float | None = setting(1.0, "bound on |x0_hat|, or None")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.offset and self.spacing != "leading":
            raise InputError(f"offset = {self.offset} is for spacing leading, not {self.spacing}")
