"""tinyddpm: a denoising diffusion model (DDPM) written by hand in NumPy, to be read, tested and measured.

The papers, by the names that the docstrings cite:
    Ho20        Denoising diffusion probabilistic models, arXiv:2006.11239
    Nichol21    Improved denoising diffusion probabilistic models, arXiv:2102.09672
    Song21a     Denoising diffusion implicit models (DDIM), arXiv:2010.02502
    Song21b     Score-based generative modeling through stochastic differential equations, arXiv:2011.13456
    Kingma21    Variational diffusion models, arXiv:2107.00630
    Salimans22  Progressive distillation for fast sampling of diffusion models, arXiv:2202.00512
    Hang23      Efficient diffusion training via min-SNR weighting strategy, arXiv:2303.09556
    Lin24       Common diffusion noise schedules and sample steps are flawed, arXiv:2305.08891
    Jabri22     Scalable adaptive computation for iterative generation, arXiv:2212.11972

Reading order: schedule, process, samplers (the mathematics); noise, formulas (randomness without a state);
ops, params, mlp, unet (the network and its gradient); optim, train, run (learning); model, metrics (the result).
"""

import pathlib

# The accelerators' folder stands beside this one in a clone, and inside it in an installed package.
if not (pathlib.Path(__path__[0]) / "kernels").is_dir():
    __path__.append(str(pathlib.Path(__path__[0]).parent))

from .errors import InputError, TinyDDPMError
from .mlp import MLP
from .model import Model, load, sample
from .noise import normal
from .process import (
    eps_from_score,
    eps_from_v,
    predict_eps,
    predict_v,
    predict_x0,
    q_marginal,
    q_posterior,
    q_sample,
    q_step,
    reverse_mean,
    score_from_eps,
    x0_from_v,
)
from .run import resume, train
from .samplers import ancestral, ddim
from .schedule import Schedule, cosine, from_alpha_bar, linear, sigmoid
from .unet import UNet

__version__ = "0.1.0"
__all__ = [
    "MLP", "InputError", "Model", "Schedule", "TinyDDPMError", "UNet", "ancestral", "cosine", "ddim",
    "eps_from_score", "eps_from_v", "from_alpha_bar", "linear", "load", "normal", "predict_eps", "predict_v",
    "predict_x0", "q_marginal", "q_posterior", "q_sample", "q_step", "resume", "reverse_mean", "sample",
    "score_from_eps", "sigmoid", "train", "x0_from_v",
]
