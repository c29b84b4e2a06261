"""The public names as an importing program uses them; mypy holds each against its type hints.

Nothing here runs. `assert_type` fails where mypy finds another type than the one that is written.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import tinyddpm as td
from tinyddpm.nn.ops import Forget, Ops
from tinyddpm.process import Coefficients

Array = NDArray[Any]
Table = NDArray[np.float64]


def schedules() -> td.Schedule:
    """Schedules and their tables."""
    s = assert_type(td.linear(T=1000, first=1e-4, last=0.02), td.Schedule)
    assert_type(td.cosine(T=100, offset=0.008), td.Schedule)
    assert_type(td.sigmoid(T=100, start=-3, end=3, tau=1), td.Schedule)
    assert_type(td.Schedule(np.array([0, 0.5])).zero_terminal_snr(), td.Schedule)
    assert_type(td.from_alpha_bar([1, 0.5, 0.1], max_beta=0.999), td.Schedule)
    assert_type(s.T, int)
    for table in (s.beta, s.alpha, s.alpha_bar, s.snr):
        assert_type(table, Table)
    assert_type(s.on(np.asarray), td.Schedule)
    assert_type(s.until(20), td.Schedule)
    assert_type(s.until(20).begins(s), bool)
    assert_type(td.spaced(s, 20, "logsnr"), list[int])
    return s


def process(s: td.Schedule, x0: Array, t: NDArray[np.int64]) -> None:
    """The closed forms, for one t and for a t each."""
    eps = assert_type(
        td.normal((8, 2), seed=1, purpose=0, step=2, first_sample=3), NDArray[np.float32]
    )
    xt = assert_type(td.q_sample(s, x0, 5, eps), Array)
    assert_type(td.q_step(s, xt, t, eps), Array)
    mean, _ = td.q_marginal(s, x0, t)
    assert_type(mean, Array)
    mean, _ = td.q_posterior(s, x0, xt, 5)
    assert_type(mean, Array)
    assert_type(td.reverse_mean(s, xt, t, eps), Array)
    for convert in (td.x0_from_eps, td.x0_from_v, td.eps_from_x0, td.eps_from_v):
        assert_type(convert(s, xt, t, eps), Array)
    assert_type(td.v_from_x0_eps(s, x0, 5, eps), Array)
    score = assert_type(td.score_from_eps(s, t, eps), Array)
    assert_type(td.eps_from_score(s, 5, score), Array)


def shown(images: Array) -> None:
    """Pictures where the program runs, and a model's own samples."""
    assert_type(td.show(images, reference=images), Path | None)
    assert_type(td.load("run").sample(4, 0, steps=5), Any)


def zeros(xt: Array, t: int) -> Array:
    """A denoiser: any function of this kind."""
    return 0 * xt


def watched(t_prev: int, x: Array, x0_hat: Array | None) -> None:
    """What a sampler calls after each step."""


def samplers(s: td.Schedule, xT: Array) -> None:
    """From noise to data and back, with each kind of steps and of noise."""
    assert_type(td.ancestral(zeros, s, xT, steps=None, variance="beta", clip=1.0, noise=3), Array)
    assert_type(td.ddim(zeros, s, xT, steps=td.spaced(s, 9), eta=0.5, watch=watched), Array)
    noise = td.Noise(seed=3, first_sample=128)
    assert_type((noise.seed, noise.first_sample), tuple[int, int])
    assert_type(td.Noise.of(3), td.Noise)
    method = td.PredictorCorrector(variance="beta_tilde", corrections=1, snr=0.16)
    assert_type((method.variance, method.corrections, method.snr), tuple[str, int, float])
    assert_type(td.langevin(zeros, s, xT, steps=20, method=method, noise=noise), Array)
    assert_type(td.ancestral(zeros, s, xT, noise=lambda t: np.full((2,), float(t))), Array)
    for solve in (td.euler, td.heun, td.dpmpp_2m):
        assert_type(solve(zeros, s, xT, steps=20, clip=None, watch=watched), Array)
    latent = assert_type(td.encode(zeros, s, xT, steps=20, clip=None), Array)
    assert_type(td.decode(zeros, s, latent, steps=20), Array)


def guidance(s: td.Schedule, x: Array) -> None:
    """Ho22 eq. 6, on predictions and on denoisers."""
    assert_type(td.guide(x, x, 2.0), Array)
    guided = td.Guided(zeros, zeros, 2.0)
    assert_type(guided(x, 5), Array)
    assert_type(guided.vjp(x, 5, x), tuple[Array, Array])
    assert_type(td.ddim(guided, s, x), Array)


def closed_forms(s: td.Schedule, x: Array) -> None:
    """Data whose best denoiser is known; a closed form is a denoiser."""
    normal = td.Gaussian([0, 1], [[1, 0], [0, 1]], s)
    mixture = td.GaussianMixture([0.5, 0.5], [[0, 1], [1, 0]], np.ones((2, 2, 2)), s)
    points = td.PointSet(x, s)
    assert_type(normal.marginal(5), tuple[Array, Array])
    for exact in (normal, mixture, points):
        assert_type(exact(x, 5), Array)
        assert_type(exact.x0_hat(x, 5), Array)
        assert_type(exact.score(x, 5), Array)
        assert_type(exact.log_density(x, 5), Array)
        assert_type(exact.vjp(x, 5, x), tuple[Array, Array])
        assert_type(exact.sample(9, seed=0, t=5), Array)
    for denoise in (normal, mixture, points):
        assert_type(td.ddim(denoise, s, x), Array)


def densities(s: td.Schedule, x0: Array) -> None:
    """The variational bound, and the density along the ODE."""
    bound = assert_type(td.bits_per_dim(zeros, s, x0, chain=td.Chain("beta"), times=9), td.Bound)
    assert_type((bound.total, bound.error, bound.prior), tuple[float, float, float])
    assert_type((bound.first, bound.terms), tuple[Array, Array])
    found = assert_type(td.log_likelihood(zeros, s, x0, divergence="exact"), td.LogLikelihood)
    assert_type((found.log_p, found.error), tuple[Array, Array])
    assert_type(td.dequantise(x0, 256, seed=0, first_sample=0), Array)
    assert_type(td.ode_bits_per_dim(found.log_p, 64, 256), Array)


def editing(s: td.Schedule, a: Array, b: Array) -> None:
    """Between two images, and inside one."""
    assert_type(td.slerp(a, b, 0.5), Array)
    assert_type(td.interpolate(zeros, s, a, b, 8, steps=20), Array)
    assert_type(td.inpaint(zeros, s, a, b > 0, method=td.RePaint(2), noise=td.Noise(1)), Array)


def networks(ops: Ops, p: SimpleNamespace, x: Array, t: NDArray[np.int64]) -> None:
    """A network's sizes, its spec, and the two passes."""
    unet = td.UNet(base=8, mults=(1, 2), blocks=1, groups=4, attention=(False, True), heads=1)
    assert_type(unet.decoder_start(), int)
    assert_type(unet.check_size(8, 8), None)
    assert_type((unet.channels, unet.base, unet.blocks, unet.heads), tuple[int, int, int, int])
    assert_type((unet.mults, unet.attention), tuple[tuple[int, ...], tuple[bool, ...]])
    assert_type((unet.pad, unet.tol, unet.out), tuple[str, float, int | None])
    assert_type(unet.channels_of_levels, tuple[int, ...])
    mlp = td.MLP(dim=2, hidden=8, layers=1, classes=3, out=None)
    assert_type((mlp.dim, mlp.hidden, mlp.layers, mlp.classes), tuple[int, int, int, int])
    for net in (unet, mlp):
        assert_type(net.spec(), dict[str, Any])
        assert_type(net.forward(ops, p, x, t, Forget(), label=t), Array)
        tape: list[Any] = []
        y = net.forward(ops, p, x, t, tape)
        assert_type(net.backward(ops, p, y, tape), Array)


def runs(images: Array, labels: NDArray[np.int64]) -> None:
    """Training, going on, loading, sampling."""
    recipe = td.Recipe(steps=10, batch=4, lr=1e-3)
    assert_type((recipe.steps, recipe.lr, recipe.target), tuple[int, float, str])

    def progress(record: dict[str, Any]) -> None:
        """Called with each step's record."""

    model = td.train(
        images, steps=10, seed=0, out="runs/mine", labels=labels, net=td.MLP(), progress=progress
    )
    assert_type(model, td.Model)
    assert_type(td.resume("runs/mine", images, 20, labels=labels, stop=lambda: False), td.Model)
    assert_type(td.load("runs/mine", backend="numba"), td.Model)
    how = td.Sampling(sampler="ddim", steps=50)
    assert_type((how.sampler, how.steps, how.clip), tuple[str, int | None, float | None])
    assert_type(how.filled(), td.Sampling)
    assert_type(td.sample("runs/mine", 4), Array)
    assert_type(td.sample(model, n=64, seed=0, sampler="ddim", steps=50), Array)
    assert_type(td.sample(model, label=[0, 1], guidance=2.0, trajectory=9), tuple[Array, Array])


def models(model: td.Model, xt: Array, t: NDArray[np.int64]) -> None:
    """A trained model as a denoiser."""
    assert_type(model(xt, 5), Array)
    assert_type(model(xt, t), Array)
    assert_type(model.x0_hat(xt, 5), Array)
    assert_type(model.predict(xt, t), tuple[Array, Array | None])
    assert_type(model.x0_and_mix(xt, 5), tuple[Array, Array])
    assert_type(model.vjp(xt, 5, xt), tuple[Array, Array])
    assert_type(model.conditioned([0, 1], guidance=1.5), td.Model)
    assert_type(model.normal((2, 2), 0, 0, 5, 0), Array)
    step = Coefficients(c_x0=0.5, c_xt=0.5, sigma=0.1)
    assert_type(model.reverse(xt, 5, step, 1.0, td.Noise()), Array)
    assert_type((model.p, model.xp), tuple[Any, Any])
    assert_type((model.classes, model.learns_variance), tuple[tuple[int | str, ...], bool])
    assert_type((model.schedule, model.target), tuple[td.Schedule, str])
    assert_type(td.ancestral(model, model.schedule, xt), Array)


def published(model: td.Model) -> None:
    """A model from a pipeline folder, and back."""
    assert_type(td.from_diffusers("folder", limit=2**30, backend="numpy"), td.Model)
    assert_type(td.to_diffusers(model, "folder"), None)
    assert_type(td.to_safetensors(model, "file.safetensors"), None)


def errors() -> str:
    """Both errors, caught as what they are."""
    try:
        td.linear(T=0)
    except td.InputError as error:
        return str(error)
    except td.TinyDDPMError as error:
        return str(error)
    return td.__version__
