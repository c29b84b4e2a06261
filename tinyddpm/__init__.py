"""tinyddpm: a denoising diffusion model (DDPM) written by hand in NumPy, to be read and measured.

Reading order:
    schedule, process        the forward process: marginals, posterior; x0, eps, v, score
    samplers, solvers        from noise to data: ancestral, DDIM, Langevin; the ODE
    training                 Algorithm 1: what a network learns, and how
    exact                    data whose best denoiser is known, against which all of it is tested
    likelihood, density      the variational bound; the density along the ODE
    guidance, editing        asking for a class; images between images and inside images
    noise, formulas          random numbers without a state; the formulas that kernels share
    nn                       the networks and their gradients, by hand; the optimiser
    model, metrics           the trained denoiser, and how good its samples are
    runs, datasets           a run that resumes; data
    interop                  published models: diffusers' folders, read and written
    backend, kernels         the same operations on accelerators

The papers, by the names that the docstrings cite:
    Ho20        Denoising diffusion probabilistic models, arXiv:2006.11239
    Nichol21    Improved denoising diffusion probabilistic models, arXiv:2102.09672
    Song21a     Denoising diffusion implicit models (DDIM), arXiv:2010.02502
    Song21b     Score-based generative modeling through stochastic differential equations,
                arXiv:2011.13456
    Kingma21    Variational diffusion models, arXiv:2107.00630
    Salimans22  Progressive distillation for fast sampling of diffusion models, arXiv:2202.00512
    Hang23      Efficient diffusion training via min-SNR weighting strategy, arXiv:2303.09556
    Lin24       Common diffusion noise schedules and sample steps are flawed, arXiv:2305.08891
    Jabri22     Scalable adaptive computation for iterative generation, arXiv:2212.11972
    Ho22        Classifier-free diffusion guidance, arXiv:2207.12598
    Lu22        DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models,
                arXiv:2211.01095
    Lugmayr22   RePaint: inpainting using denoising diffusion probabilistic models, arXiv:2201.09865
    Chen16      Training deep nets with sublinear memory cost, arXiv:1604.06174
    Karras22    Elucidating the design space of diffusion-based generative models, arXiv:2206.00364
    Efron11     Tweedie's formula and selection bias, Journal of the American Statistical
                Association 106
    Theis16     A note on the evaluation of generative models, arXiv:1511.01844
    Grathwohl19  FFJORD: free-form continuous dynamics for scalable reversible generative models,
    arXiv:1810.01367
    Vaswani17   Attention is all you need, arXiv:1706.03762
    Wu18        Group normalization, arXiv:1803.08494
    Elfwing17   Sigmoid-weighted linear units for neural network function approximation,
                arXiv:1702.03118
    Srivastava14  Dropout: a simple way to prevent neural networks from overfitting, JMLR 15
    Glorot10    Understanding the difficulty of training deep feedforward neural networks, AISTATS
                2010
    Kingma15    Adam: a method for stochastic optimization, arXiv:1412.6980
    Loshchilov17  SGDR: stochastic gradient descent with warm restarts, arXiv:1608.03983
    Loshchilov19  Decoupled weight decay regularization, arXiv:1711.05101
    Pascanu13   On the difficulty of training recurrent neural networks, arXiv:1211.5063
    Salmon11    Parallel random numbers: as easy as 1, 2, 3, Supercomputing 2011
    Box58       A note on the generation of random normal deviates, Annals of Mathematical
                Statistics 29
    Lemire19    Fast random integer generation in an interval, arXiv:1805.10941
    Heusel17    GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
                arXiv:1706.08500
    LopezPaz17  Revisiting classifier two-sample tests, arXiv:1610.06545
    Kynkaanniemi19  Improved precision and recall metric for assessing generative models,
    arXiv:1904.06991
    Naeem20     Reliable fidelity and diversity metrics for generative models, arXiv:2002.09797
"""

from . import starting  # noqa: F401  first, for NumPy's import is what takes long
from .density import LogLikelihood, dequantise, log_likelihood, ode_bits_per_dim
from .editing import RePaint, inpaint, interpolate, slerp
from .errors import InputError, TinyDDPMError
from .exact import Gaussian, GaussianMixture, PointSet
from .guidance import Guided, guide
from .interop.pipeline import from_diffusers, to_diffusers, to_safetensors
from .likelihood import Bound, Chain, bits_per_dim
from .model import Model
from .nn.mlp import MLP
from .nn.unet import UNet
from .noise import Noise, normal
from .plots.showing import show
from .process import (
    eps_from_score,
    eps_from_v,
    eps_from_x0,
    q_marginal,
    q_posterior,
    q_sample,
    q_step,
    reverse_mean,
    score_from_eps,
    v_from_x0_eps,
    x0_from_eps,
    x0_from_v,
)
from .renamed import find as __getattr__  # noqa: F401  what Python calls for other names
from .runs.load import load
from .runs.run import resume, train
from .runs.sample import sample
from .samplers import PredictorCorrector, ancestral, ddim, langevin
from .schedule import Schedule, cosine, from_alpha_bar, linear, sigmoid, spaced
from .settings import Recipe, Sampling
from .solvers import decode, dpmpp_2m, encode, euler, heun

__version__ = "0.2.0"
# fmt: off
__all__ = [
    "Bound", "Chain", "Gaussian", "GaussianMixture", "Guided", "InputError", "LogLikelihood", "MLP",
    "Model", "Noise", "PointSet", "PredictorCorrector", "RePaint", "Recipe", "Sampling", "Schedule",
    "TinyDDPMError", "UNet", "ancestral", "bits_per_dim", "cosine", "ddim", "decode", "dequantise",
    "dpmpp_2m", "encode", "eps_from_score", "eps_from_v", "eps_from_x0", "euler", "from_alpha_bar",
    "from_diffusers", "guide", "heun", "inpaint", "interpolate", "langevin", "linear", "load",
    "log_likelihood", "normal", "ode_bits_per_dim", "q_marginal", "q_posterior", "q_sample",
    "q_step", "resume", "reverse_mean", "sample", "score_from_eps", "show", "sigmoid", "slerp",
    "spaced", "to_diffusers", "to_safetensors", "train", "v_from_x0_eps", "x0_from_eps",
    "x0_from_v",
]
# fmt: on
