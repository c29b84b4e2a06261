"""The noise schedule: beta_1..beta_T, and what follows from it.

Letters as in Ho et al. 2020: alpha = 1 - beta is the factor of one step, alpha_bar the product of
them all. Tables have T + 1 entries and are indexed by the papers' t: index 0 is clean data, so
beta[0] = 0 and alpha_bar[0] = 1, and "t - 1" needs no shadow table.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import InputError


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance schedule (Ho20 eq. 2), given by beta alone: (T + 1,) with beta[0] = 0 and 0 <
    beta[t] <= 1.

    Everything is float64. beta[T] = 1 means that x_T holds nothing of x_0. Raises InputError for
    any other beta.
    """

    beta: np.ndarray

    def __post_init__(self):
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

    @property
    def T(self):
        """The number of steps."""
        return self.beta.size - 1

    @cached_property
    def alpha(self):
        """alpha_t = 1 - beta_t (Ho20, below eq. 3), float64 (T + 1,)."""
        return _frozen(1 - self.beta)

    @cached_property
    def alpha_bar(self):
        """alpha_bar_t = product of alpha_1..alpha_t (Ho20 eq. 4), float64 (T + 1,); alpha_bar[0] =
        1.
        """
        return _frozen(np.cumprod(self.alpha))

    @cached_property
    def snr(self):
        """SNR_t = alpha_bar_t / (1 - alpha_bar_t) (Kingma21 eq. 2), float64 (T + 1,); snr[0] = inf."""
        with np.errstate(divide="ignore"):
            return _frozen(self.alpha_bar / (1 - self.alpha_bar))

    def zero_terminal_snr(self):
        """This schedule with sqrt(alpha_bar) shifted and scaled so that SNR_T = 0 (Lin24 Algorithm
        1).

        sqrt(alpha_bar)' = (sqrt(alpha_bar_t) - sqrt(alpha_bar_T)) sqrt(alpha_bar_1) /
        (sqrt(alpha_bar_1) - sqrt(alpha_bar_T)), which keeps alpha_bar_1. At t = T only x0 or v can
        be learnt: eps is x_T itself. Raises InputError for T = 1, where alpha_bar_1 cannot both
        stay and vanish.
        """
        if self.T < 2:
            raise InputError("zero terminal SNR needs T >= 2")
        root = np.sqrt(self.alpha_bar)
        scaled = (root - root[-1]) * root[1] / (root[1] - root[-1])
        scaled[0] = 1.0
        return from_alpha_bar(scaled**2, max_beta=1.0)


def _frozen(table):
    """Tables are shared by everyone who holds the schedule: nobody may write to them."""
    table.flags.writeable = False
    return table


def from_alpha_bar(alpha_bar, max_beta=0.999):
    """The schedule with beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, max_beta) (Nichol21 below
    eq. 17).

    alpha_bar: (T + 1,), falling from alpha_bar[0] = 1. Raises InputError where Schedule does.
    """
    alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
    beta = np.zeros_like(alpha_bar)
    beta[1:] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return Schedule(beta)


def _time(T):
    """0..T, after the check that T is a whole number of at least one step."""
    if not isinstance(T, (int, np.integer)) or isinstance(T, bool) or T < 1:
        raise InputError(f"T must be a whole number >= 1, got {T!r}")
    return np.arange(T + 1, dtype=np.float64)


def linear(T=1000, first=1e-4, last=0.02):
    """beta rising in equal steps from 1e-4 to 0.02 (Ho20 section 4), both times 1000 / T, and below
    0.999.

    The factor keeps alpha_bar_T about the same for every T (Nichol21's code); the bound matters for
    T < 20. Raises InputError for T < 1.
    """
    t = _time(T)
    scale = 1000 / T
    beta = np.minimum(np.linspace(scale * first, scale * last, T), 0.999)
    return Schedule(np.concatenate([t[:1], beta]))


def cosine(T=1000, offset=0.008):
    """alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + 0.008) / 1.008 pi/2) (Nichol21 eq. 17), beta
    <= 0.999.

    Raises InputError for T < 1.
    """
    f = np.cos((_time(T) / T + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_alpha_bar(f / f[0])


def sigmoid(T=1000, start=-3.0, end=3.0, tau=1.0):
    """alpha_bar_t falling as a sigmoid in t/T from `start` to `end` (Jabri22 Algorithm 2), beta <=
    0.999.

    alpha_bar_t = (sg(end/tau) - sg((t/T (end - start) + start)/tau)) / (sg(end/tau) -
    sg(start/tau)), where sg is the logistic function. Raises InputError for T < 1.
    """

    def sg(u):
        return 1 / (1 + np.exp(-u / tau))

    alpha_bar = (sg(end) - sg(_time(T) / T * (end - start) + start)) / (sg(end) - sg(start))
    return from_alpha_bar(alpha_bar)


KINDS = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}
