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
    Ho22        Classifier-free diffusion guidance, arXiv:2207.12598
    Lu22        DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models, arXiv:2211.01095
    Lugmayr22   RePaint: inpainting using denoising diffusion probabilistic models, arXiv:2201.09865
    Karras22    Elucidating the design space of diffusion-based generative models, arXiv:2206.00364
    Efron11     Tweedie's formula and selection bias, Journal of the American Statistical Association 106

Reading order:
    schedule, process           the forward process: marginals, posterior, what one prediction says of another
    samplers, solvers, editing  from noise to data: ancestral, DDIM, Langevin; the ODE; images between and inside images
    exact, closed_form          data whose best denoiser is known, against which all of this is proved
    likelihood, flow            the variational bound; the density along the ODE
    noise, formulas             random numbers without a state
    ops, params, mlp, unet      the network and its gradient, by hand
    optim, train, run           learning, and a run that survives
    guidance, model, metrics    asking for a class; the trained denoiser; how good it is
"""

import pathlib

# The accelerators' folder stands beside this one in a clone, and inside it in an installed package.
if not (pathlib.Path(__path__[0]) / "kernels").is_dir():
    __path__.append(str(pathlib.Path(__path__[0]).parent))

from .editing import inpaint, interpolate, slerp
from .errors import InputError, TinyDDPMError
from .exact import Gaussian, GaussianMixture, PointSet
from .flow import dequantise, log_likelihood, ode_bits_per_dim
from .guidance import Guided, guide
from .likelihood import bits_per_dim
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
from .samplers import ancestral, ddim, langevin
from .schedule import Schedule, cosine, from_alpha_bar, linear, sigmoid
from .solvers import decode, dpmpp_2m, encode, euler, heun
from .unet import UNet

__version__ = "0.1.0"
__all__ = [
    "Gaussian", "GaussianMixture", "Guided", "InputError", "MLP", "Model", "PointSet", "Schedule", "TinyDDPMError",
    "UNet", "ancestral", "bits_per_dim", "cosine", "ddim", "decode", "dequantise", "dpmpp_2m", "encode",
    "eps_from_score", "eps_from_v", "euler", "from_alpha_bar", "guide", "heun", "inpaint", "interpolate", "langevin",
    "linear", "load", "log_likelihood", "normal", "ode_bits_per_dim", "predict_eps", "predict_v", "predict_x0",
    "q_marginal", "q_posterior", "q_sample", "q_step", "resume", "reverse_mean", "sample", "score_from_eps",
    "sigmoid", "slerp", "train", "x0_from_v",
]
