"""The settings of a training run: each stated once, with its default, its bounds and its help.

The command line, the checkpoint and the checks are made from these fields.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from .errors import InputError, did_you_mean

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
    samplers: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field that carries its own help text and bounds.

    Args:
        default: the field's default value.
        help: one line for `--help`.
        low: the smallest value allowed, or None.
        below: the value that must stay below this, or None; infinity refuses infinity and NaN.
        choices: the words allowed, or None.
        metavar: the name of the value in `--help`, or None.
        samplers: the samplers that use it, or None for all of them.
    """
    about = {"help": help, "low": low, "below": below, "choices": choices, "metavar": metavar}
    return field(default=default, metadata={**about, "samplers": samplers})


def check_settings(settings: Any) -> None:
    """Bring each field of a dataclass to its type, and hold it against its bounds.

    NumPy's numbers become Python's, which a checkpoint can keep. Raises InputError, naming the
    field.
    """
    for each in fields(settings):
        value = of_type(each.name, getattr(settings, each.name), each.type)
        object.__setattr__(settings, each.name, value)
        about = each.metadata
        if about.get("choices") and value not in about["choices"]:
            listed = ", ".join(str(word) for word in about["choices"] if word is not None)
            near = did_you_mean(value, about["choices"])
            raise InputError(f"{each.name} must be one of {listed}, got {value!r}{near}")
        low, below = about.get("low"), about.get("below")
        if value is None or low is None:
            continue
        if below is None and not value >= low:
            raise InputError(f"{each.name} must be at least {low}, got {value}")
        if below is not None and not low <= value < below:
            span = f"in [{low}, {below})" if below < math.inf else "finite and not negative"
            raise InputError(f"{each.name} must be {span}, got {value}")


def split(given: dict[str, Any], *kinds: Any, own: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Sort settings by the dataclass that has a field of their name, one dict for each dataclass.

    Args:
        given: the settings.
        kinds: the dataclasses.
        own: what else the caller takes, for the hint at the nearest name.

    Raises:
        InputError: none of them has a name, with the nearest that there is.
    """
    known = [{each.name for each in fields(kind)} for kind in kinds]
    names = sorted(set().union(*known))
    for name in given:
        if name not in names:
            near = did_you_mean(name, [*names, *own]) or f": there are {', '.join(names)}"
            raise InputError(f"no setting is called {name}{near}")
    return [{name: value for name, value in given.items() if name in part} for part in known]


def of_type(name: str, value: Any, kind: Any) -> Any:
    """A value as the Python number or string that a field declares, such as int or float | None.

    Raises InputError, naming the field, where it is none; other kinds are returned as they are.
    """
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if not set(kinds) <= {*words, types.NoneType} or value is None and types.NoneType in kinds:
        return value
    flag = isinstance(value, bool) or type(value).__name__ == "bool"  # NumPy's has that name
    if bool in kinds and flag:
        return bool(value)
    if int in kinds and isinstance(value, Integral) and not flag:
        return int(value)
    if float in kinds and isinstance(value, Real) and not flag:
        return float(value)
    if str in kinds and isinstance(value, str):
        return str(value)
    wanted = " or ".join(words[each] for each in kinds if each in words)
    raise InputError(f"{name} must be {wanted}, got {value!r:.80}")


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
    accumulate: int = setting(
        1,
        "turns in which the shards of a batch are computed, for less memory; "
        "without --shards there are as many times more",
        low=1,
        metavar="N",
    )
    # Chen16
    recompute: bool = setting(
        False,
        "compute each residual block again in the backward pass, to the same bits: more time, "
        "less memory",
    )
    # Ho20 section 4
    flip: bool = setting(False, "show every image mirrored, left for right, half of the time")
    seed: int = setting(0, "of every random number", low=0, below=math.inf)

    def __repr__(self) -> str:
        """What differs from the defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = (each for each in fields(self) if values[each.name] != each.default)
        return f"Recipe({', '.join(f'{each.name}={values[each.name]!r}' for each in changed)})"

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
    # at most T, which the schedule knows
    steps: int | None = setting(
        None,
        "how many steps (default: 50; ancestral and langevin: every one of T)",
        low=1,
        metavar="N",
    )
    spacing: str | None = setting(
        None,
        "where in 1..T those steps lie (default: uniform; dpmpp_2m: logsnr)",
        choices=(None, *SPACINGS, *PUBLISHED_SPACINGS),
    )
    # diffusers' steps_offset
    offset: int = setting(0, "added to every time of spacing leading", low=0, below=math.inf)
    # Song21a eq. 16
    eta: float | None = setting(
        None, "ddim: 0 adds no noise, 1 as much as ancestral (default: 0.0)", samplers=("ddim",)
    )
    # Ho20 section 3.2, Nichol21 eq. 15
    variance: str | None = setting(
        None,
        "ancestral, langevin: sigma^2 (default: beta_tilde)",
        choices=(None, *VARIANCES),
        samplers=("ancestral", "langevin"),
    )
    # not an option: --no-clip sets it to None
    clip: float | None = setting(1.0, "bound on |x0_hat|, or None")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip must be above 0, or None, got {self.clip}")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError(f"eta must be in [0, 1], got {self.eta}")
        if self.offset and self.spacing != "leading":
            raise InputError(f"offset = {self.offset} is for spacing leading, not {self.spacing}")
        for each in fields(self):
            known = each.metadata["samplers"]
            if known and self.sampler not in known and getattr(self, each.name) is not None:
                raise InputError(
                    f"{each.name} is a setting of {' and '.join(known)}: {self.sampler} has none"
                )

    def filled(self) -> "Sampling":
        """These settings with the sampler's own defaults for what is None, but for steps."""
        defaults: dict[str, Any] = {
            "spacing": "logsnr" if self.sampler == "dpmpp_2m" else "uniform",
            "eta": 0.0 if self.sampler == "ddim" else None,
            "variance": "beta_tilde" if self.sampler in ("ancestral", "langevin") else None,
        }
        unset = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **unset)
