"""The noise schedule: beta_1..beta_T, and what follows from it.

Letters as in Ho et al. 2020: alpha = 1 - beta is the factor of one step, alpha_bar the product of
them all. Tables have T + 1 entries and are indexed by the papers' t: index 0 is clean data, so
beta[0] = 0 and alpha_bar[0] = 1, and "t - 1" needs no shadow table.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .settings import PUBLISHED_SPACINGS, SPACINGS

Table = NDArray[np.float64]  # (T + 1,)
MOST_STEPS = 10**7  # T of a named schedule: its tables take 0.1 GB each


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance schedule (Ho20 eq. 2), given by beta alone.

    Everything is float64. Raises InputError unless beta[0] = 0 and 0 < beta[t] < 1; beta[T] may be
    1, and then x_T holds nothing of x_0.
    """

    beta: Table  # (T + 1,)

    def __post_init__(self) -> None:
        try:
            beta = np.array(self.beta, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError("beta must be an array of numbers") from None
        if beta.ndim != 1 or beta.size < 2:
            raise InputError(f"beta must have shape (T + 1,) with T >= 1, got shape {beta.shape}")
        if beta[0] != 0:
            raise InputError(f"beta[0] stands for clean data and must be 0, got {beta[0]}")
        if not (np.all(beta[1:] > 0) and np.all(beta[1:-1] < 1) and beta[-1] <= 1):
            raise InputError("beta[1:] must lie in (0, 1); only beta[T] may be 1")
        if not np.all(np.diff(np.cumprod(1 - beta)) < 0):
            raise InputError(
                "beta is too small or too large for float64: alpha_bar must fall at every step"
            )
        beta.flags.writeable = False
        object.__setattr__(self, "beta", beta)

    def __repr__(self) -> str:
        first, last = self.alpha_bar[[1, -1]]
        return f"Schedule(T = {self.T}, alpha_bar from {first:.4g} to {last:.4g})"

    @property
    def T(self) -> int:
        """The number of steps."""
        return self.beta.size - 1

    @cached_property
    def alpha(self) -> Table:
        """alpha_t = 1 - beta_t (Ho20, below eq. 3), float64 (T + 1,)."""
        return _frozen(1 - self.beta)

    @cached_property
    def alpha_bar(self) -> Table:
        """alpha_bar_t = alpha_1 alpha_2 .. alpha_t (Ho20 eq. 4), float64 (T + 1,), from 1 down."""
        return _frozen(np.cumprod(self.alpha))

    @cached_property
    def snr(self) -> Table:
        """SNR_t = alpha_bar_t / (1 - alpha_bar_t) (Kingma21 eq. 2), float64 (T + 1,), from inf."""
        with np.errstate(divide="ignore"):
            return _frozen(self.alpha_bar / (1 - self.alpha_bar))

    def on(self, asarray: Callable[[Table], Any]) -> "Schedule":
        """This schedule with its tables where `asarray` puts them, such as on a device."""
        moved = copy.copy(self)
        tables = {name: asarray(getattr(self, name)) for name in ("alpha", "alpha_bar", "snr")}
        moved.__dict__.update(beta=asarray(self.beta), **tables)
        return moved

    def until(self, t: int) -> "Schedule":
        """The first t steps of this schedule."""
        return Schedule(self.beta[: t + 1])

    def begins(self, other: "Schedule") -> bool:
        """Whether this is another schedule, or the first steps of it, up to rounding."""
        first = other.alpha_bar[: self.T + 1]
        return self.T <= other.T and bool(np.allclose(self.alpha_bar, first, rtol=1e-6, atol=0))

    def zero_terminal_snr(self) -> "Schedule":
        """This schedule, sqrt(alpha_bar) shifted and scaled to SNR_T = 0 (Lin24 Algorithm 1).

        sqrt(alpha_bar)' = (sqrt(alpha_bar_t) - sqrt(alpha_bar_T)) sqrt(alpha_bar_1) /
        (sqrt(alpha_bar_1) - sqrt(alpha_bar_T)), which keeps alpha_bar_1. At t = T only x0 or v can
        be learned: eps is x_T itself. Raises InputError for T = 1, where alpha_bar_1 would have
        to be kept and to be 0.
        """
        if self.T < 2:
            raise InputError("zero terminal SNR needs T >= 2")
        root = np.sqrt(self.alpha_bar)
        scaled = (root - root[-1]) * root[1] / (root[1] - root[-1])
        scaled[0] = 1.0
        return from_alpha_bar(scaled**2, max_beta=1.0)


def _frozen(table):
    """Make a table read-only: it is shared by all that use the schedule."""
    table.flags.writeable = False
    return table


def from_alpha_bar(alpha_bar: ArrayLike, max_beta: float = 0.999) -> Schedule:
    """The schedule with a given alpha_bar, as far as beta's bound allows.

    beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, max_beta)   (Nichol21, below eq. 17)

    alpha_bar: (T + 1,), falling from alpha_bar[0] = 1. Raises InputError where Schedule does.
    """
    alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
    beta = np.zeros_like(alpha_bar)
    beta[1:] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return Schedule(beta)


def _time(T: int) -> Table:
    """0..T, after the check that T is a whole number of steps whose tables can be had."""
    if not isinstance(T, (int, np.integer)) or isinstance(T, bool) or not 1 <= T <= MOST_STEPS:
        raise InputError(f"T must be a whole number in 1..{MOST_STEPS:,}, got {T!r:.40}")
    return np.arange(T + 1, dtype=np.float64)


def linear(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """beta rising in equal steps from 1e-4 to 0.02 (Ho20 section 4), both times 1000 / T.

    The factor keeps alpha_bar_T about the same for every T (Nichol21's code); beta stays at or
    below 0.999, which matters for T < 20. Raises InputError for T < 1.
    """
    t = _time(T)
    scale = 1000 / T
    beta = np.minimum(np.linspace(scale * first, scale * last, T), 0.999)
    return Schedule(np.concatenate([t[:1], beta]))


def cosine(T: int = 1000, offset: float = 0.008) -> Schedule:
    """alpha_bar_t falling as a squared cosine in t/T (Nichol21 eq. 17), beta <= 0.999.

    alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + 0.008) / 1.008 pi/2). Raises InputError for
    T < 1.
    """
    f = np.cos((_time(T) / T + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_alpha_bar(f / f[0])


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar_t falling as a sigmoid in t/T (Jabri22 Algorithm 2), beta <= 0.999.

    alpha_bar_t = (sg(end/tau) - sg((t/T (end - start) + start)/tau))
                  / (sg(end/tau) - sg(start/tau)), sg the logistic function

    Args:
        T: the number of steps.
        start: the sigmoid's argument at t = 0.
        end: its argument at t = T.
        tau: what both are divided by; smaller is steeper.

    Returns:
        The schedule.

    Raises:
        InputError: T < 1.
    """

    def sg(u):
        return 1 / (1 + np.exp(-u / tau))

    alpha_bar = (sg(end) - sg(_time(T) / T * (end - start) + start)) / (sg(end) - sg(start))
    return from_alpha_bar(alpha_bar)


KINDS: dict[str, Callable[..., Schedule]] = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}


def spaced(s: Schedule, steps: int, spacing: str = "uniform") -> list[int]:
    """Choose `steps` times that fall strictly from T to 1; steps = 1 is the one jump from T.

    "uniform" is even in t, "logsnr" in log SNR (Lu22), "quadratic" in sqrt(t) (Song21a appendix
    D.3): the last two have more steps near data. Times that round to the same t are pushed apart.

    Raises InputError for another spacing, and unless 1 <= steps <= T.
    """
    if not isinstance(s, Schedule):
        raise InputError(f"spaced takes a schedule and a number of steps, got {s!r:.40} first")
    if spacing not in SPACINGS:
        raise InputError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= s.T:
        raise InputError(f"steps must be a whole number in 1..T = {s.T}, got {steps!r}")
    if spacing == "uniform" or steps == 1:
        return [int(t) for t in np.rint(np.linspace(s.T, 1, steps))]
    if spacing == "quadratic":
        rising = np.linspace(1, math.sqrt(s.T), steps) ** 2
    else:
        snr = s.snr[1:].copy()
        if snr[-1] == 0:  # at alpha_bar_T = 0 its logarithm is -inf: take the next one
            snr[-1] = snr[-2]
        log_snr = np.log(snr)
        # np.interp wants a rising table, so the SNR and the times both run from T down to 1.
        falling = np.arange(s.T, 0, -1.0)
        rising = np.interp(np.linspace(log_snr[0], log_snr[-1], steps), log_snr[::-1], falling)
    place, rising = np.arange(steps), np.rint(rising).astype(int)
    rising[0], rising[-1] = 1, s.T
    rising = np.maximum.accumulate(rising - place) + place  # each is above the last one ...
    rising = np.minimum(rising, s.T - place[::-1])  # ... and leaves room for the rest
    return rising[::-1].tolist()


def published_times(s: Schedule, steps: int, spacing: str, offset: int = 0) -> list[int]:
    """The falling times of diffusers' timestep_spacing, each one more than theirs (Lin24 Table 2).

    Args:
        s: the schedule.
        steps: how many; T of them are every t.
        spacing: "leading", from 1 + offset upwards, so that the first lies below T; "trailing",
            from T downwards; "linspace", from 1 to T.
        offset: diffusers' steps_offset; 0 but for "leading".

    Raises:
        InputError: for another spacing, for steps outside of 1..T, and for times beyond T.
    """
    if spacing not in PUBLISHED_SPACINGS:
        raise InputError(f"spacing must be one of {', '.join(PUBLISHED_SPACINGS)}, got {spacing!r}")
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= s.T:
        raise InputError(f"steps must be a whole number in 1..T = {s.T}, got {steps!r}")
    rising: NDArray[Any]
    if steps == s.T:
        rising = np.arange(1, s.T + 1)
    elif spacing == "leading":
        rising = 1 + offset + np.arange(steps) * (s.T // steps)
    elif spacing == "trailing":
        rising = np.round(np.arange(s.T, 0, -s.T / steps))[:steps][::-1]
    else:
        rising = 1 + np.round(np.linspace(0, s.T - 1, steps))
    if rising[-1] > s.T:
        raise InputError(f"offset = {offset} puts the first time, {rising[-1]}, beyond T = {s.T}")
    return [int(t) for t in rising[::-1]]
