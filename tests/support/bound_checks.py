"""What the tests of the bound share: exact expectations over Gaussian data, by quadrature and by
hand.
"""

from itertools import product

import numpy as np

from support.checks import beta_tilde, tables
from tinyddpm import exact, schedule


def expectation(f, mean, var):
    """E f(x0, eps) for x0 ~ N(mean, var) and eps ~ N(0, 1), f: (9, 1), (9, 1) -> (9, ...), along
    the first axis.

    Three Gauss-Hermite nodes each are exact for polynomials up to degree five; a bound's term is
    one of degree two.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(3)
    grid = np.array(list(product(z, z)))
    weights = np.prod(list(product(weight, weight)), axis=1) / weight.sum() ** 2
    return np.tensordot(weights, f(mean + np.sqrt(var) * grid[:, :1], grid[:, 1:].copy()), axes=1)


def expected_terms(s, var, variance):
    """E L_T and E [L_0, ..., L_{T-1}] in nats for x0 ~ N(0, var), no bins, the optimal x0_hat, from
    beta alone.

    The error of x0_hat is the posterior's variance, var (1 - alpha_bar) / (alpha_bar var + 1 -
    alpha_bar).
    """
    beta, _, alpha_bar = tables(s)
    miss = var * (1 - alpha_bar[1:]) / (alpha_bar[1:] * var + 1 - alpha_bar[1:])
    var_q, weight = (
        beta_tilde(s)[1:],
        (np.sqrt(alpha_bar[:-1]) * beta[1:] / (1 - alpha_bar[1:]))[1:],
    )
    var_p = beta[2:] if variance == "beta" else var_q
    decoder = 0.5 * (np.log(2 * np.pi * beta[1]) + miss[0] / beta[1])
    terms = 0.5 * (np.log(var_p / var_q) + var_q / var_p - 1 + weight**2 * miss[1:] / var_p)
    return 0.5 * (alpha_bar[-1] * var - alpha_bar[-1] - np.log(1 - alpha_bar[-1])), np.array(
        [decoder, *terms]
    )


def entropy(var):
    """E -log p(x0) of x0 ~ N(0, var), in nats."""
    return 0.5 * np.log(2 * np.pi * np.e * var)


def even_log_snr(T):
    """A schedule whose log SNR falls in equal steps from 8 to -12, whatever T: more steps are
    finer, not earlier.
    """
    log_snr = np.concatenate([[np.inf], np.linspace(8, -12, T)])
    return schedule.from_alpha_bar(1 / (1 + np.exp(-log_snr)))


class Learned:
    """A closed-form denoiser with a constant mix of the two variances."""

    def __init__(self, denoise, mix):
        self.denoise, self.mix = denoise, mix

    def x0_and_mix(self, xt, t):
        return self.denoise.x0_hat(xt, t), np.full_like(xt, self.mix)


def normal_data(s, var=1.0, D=1):
    """x0 ~ N(0, var I), as a denoiser."""
    return exact.Gaussian(np.zeros(D), var, s)
