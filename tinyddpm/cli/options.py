"""The grammar of the command line: every option, in groups, with its default."""

import argparse

from .. import __version__, backend, schedule
from ..datasets import readers
from ..nn.unet import PADS
from ..process import TARGETS
from ..samplers import SPACINGS, VARIANCES
from ..settings import DECAYS, TIMES, Recipe
from ..solvers import SAMPLERS


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default, except where it is None and the text itself says what happens then."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parser(train, sample, evaluate, backends, tour):
    """The command line's grammar; each command's function is called with the options it was given."""
    top = argparse.ArgumentParser(
        prog="tinyddpm", description="A denoising diffusion model written by hand in NumPy."
    )
    top.add_argument("--version", action="version", version=f"tinyddpm {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=_Help
        )
        sub.set_defaults(command=function)
        return sub

    _train_options(command("train", train, "train a network and draw samples from it"))
    sub = command("sample", sample, "draw samples from a trained run")
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    _sampler_options(sub, 64)
    sub.add_argument(
        "--class",
        type=int,
        nargs="+",
        dest="label",
        metavar="K",
        help="samples of this class, or of these in turn, from a run with --classes",
    )
    files = sub.add_argument_group("files")
    files.add_argument(
        "--out", metavar="PNG", help="the picture to write (default: RUN/samples-SEED.png)"
    )
    files.add_argument(
        "--array", metavar="NPY", help="also write the samples, in the data's own range"
    )
    files.add_argument("--gif", metavar="GIF", help="also write the reverse process")
    sub = command("eval", evaluate, "judge a run's samples against the data it never saw")
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    sub.add_argument(
        "--data", metavar="DATA", help="where the run's data is now (default: where it was)"
    )
    _sampler_options(sub, None)
    command("backends", backends, "list who can compute here, and what the absent ones lack")
    sub = command(
        "tour", tour, "walk through the mathematics in nine chapters, with figures and a page"
    )
    sub.add_argument(
        "--out", metavar="DIR", default="tour", help="the folder for the figures and index.html"
    )
    sub.add_argument("--seed", type=int, default=0, help="of every random number")
    _backend_option(sub)
    return top


def _train_options(sub):
    r = Recipe()
    sub.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="digits, moons, swissroll, rings, or the path of a .npy, "
        ".npz, IDX (.gz too) or CIFAR .bin file, or of a folder of PNGs or of one such folder for each "
        "class (default: digits)",
    )
    group = sub.add_argument_group("run")
    group.add_argument(
        "--out",
        metavar="RUN",
        help="the folder to make (default: runs/NAME, the first that is free)",
    )
    group.add_argument(
        "--resume", metavar="RUN", help="go on with this run; only --steps may change"
    )
    _backend_option(group)
    group.add_argument(
        "--save-every", type=int, default=500, metavar="N", help="steps between checkpoints"
    )
    group.add_argument(
        "--keep", type=int, default=2, metavar="K", help="the newest checkpoints that stay"
    )
    group.add_argument(
        "--log-every", type=int, default=10, metavar="N", help="steps between lines of the log"
    )
    group = sub.add_argument_group("data")
    group.add_argument(
        "--holdout",
        type=float,
        metavar="FRACTION",
        help="what eval is to judge by and training never "
        "sees (default: 0.5 of the built-in sets, 0.1 of others)",
    )
    group.add_argument(
        "--classes",
        action="store_true",
        help="learn from the data's labels too, so that sample --class can ask for one",
    )
    group.add_argument(
        "--label-dropout",
        type=float,
        default=r.label_dropout,
        metavar="RATE",
        help="how often a sample is shown without its label, which --guidance needs",
    )
    group.add_argument(
        "--limit",
        type=int,
        default=readers.LIMIT,
        metavar="BYTES",
        help="the most memory that the samples may take",
    )
    group.add_argument(
        "--range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="what the file's numbers span (default: 0 255 for bytes, -1 1 for floats)",
    )
    group = sub.add_argument_group("training")
    group.add_argument(
        "--steps", type=int, metavar="N", help=f"how many steps (default: {r.steps})"
    )
    group.add_argument("--batch", type=int, default=r.batch, metavar="N", help="samples a step")
    group.add_argument("--lr", type=float, default=r.lr, help="AdamW's peak learning rate")
    group.add_argument(
        "--warmup", type=int, default=r.warmup, metavar="N", help="steps of linear warm-up"
    )
    group.add_argument("--decay", choices=DECAYS, default=r.decay, help="the rate after warm-up")
    group.add_argument("--weight-decay", type=float, default=r.weight_decay, help="AdamW's decay")
    group.add_argument(
        "--clip-norm", type=float, default=r.clip_norm, help="bound on the gradient's norm, 0 = off"
    )
    group.add_argument("--ema", type=float, default=r.ema, help="decay of the averaged parameters")
    group.add_argument(
        "--dropout", type=float, default=r.dropout, help="rate, in every residual block"
    )
    group.add_argument("--seed", type=int, default=r.seed, help="of every random number")
    group = sub.add_argument_group("diffusion")
    group.add_argument(
        "--schedule", choices=schedule.KINDS, default="cosine", help="how beta rises"
    )
    group.add_argument("--T", type=int, default=1000, help="diffusion steps")
    group.add_argument(
        "--zero-snr", action="store_true", help="rescale to zero terminal SNR (target x0 or v)"
    )
    group.add_argument(
        "--target", choices=TARGETS, default=r.target, help="what the network predicts"
    )
    group.add_argument(
        "--times", choices=TIMES, default=r.times, help="how the t of a batch are drawn from 1..T"
    )
    group.add_argument(
        "--vlb",
        type=float,
        default=r.vlb,
        metavar="LAMBDA",
        help="learn the reverse variance too, "
        "with this weight of the variational bound (0.001 in Nichol21), 0 = off",
    )
    group.add_argument(
        "--min-snr",
        type=float,
        default=r.min_snr,
        metavar="GAMMA",
        help="min-SNR weighting, 0 = off",
    )
    group = sub.add_argument_group("network", "what is not given is chosen to fit the data")
    group.add_argument(
        "--base", type=int, help="channels of the first level (default: 24, or 32 from 16 pixels)"
    )
    group.add_argument(
        "--mults", type=int, nargs="+", metavar="M", help="each level's multiple of them"
    )
    group.add_argument(
        "--blocks", type=int, help="residual blocks a level (default: 1, or 2 from 16 pixels)"
    )
    group.add_argument(
        "--attention", type=int, nargs="*", metavar="LEVEL", help="the levels that attend, from 0"
    )
    group.add_argument("--heads", type=int, help="attention heads (default: 1)")
    group.add_argument("--groups", type=int, help="groups of GroupNorm (default: 8)")
    group.add_argument(
        "--pad", choices=PADS, help="how stride-2 convolutions are padded (default: right)"
    )
    group.add_argument(
        "--hidden", type=int, help="width of the perceptron for points (default: 128)"
    )
    group.add_argument("--layers", type=int, help="residual layers of the perceptron (default: 3)")


def _backend_option(group):
    group.add_argument("--backend", choices=backend.NAMES, default="numpy", help="who computes")


def _sampler_options(sub, n):
    group = sub.add_argument_group("sampling")
    _backend_option(group)
    group.add_argument(
        "--n",
        type=int,
        default=n,
        help="samples" if n else "samples (default: as many as held out)",
    )
    group.add_argument("--seed", type=int, default=0, help="of the noise")
    group.add_argument(
        "--sampler", choices=SAMPLERS, default="ddim", help="how to walk from noise to data"
    )
    group.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps of the walk (default: 50; ancestral and langevin: every one of T)",
    )
    group.add_argument(
        "--spacing",
        choices=SPACINGS,
        help="where in 1..T those steps lie (default: uniform; dpmpp_2m: logsnr)",
    )
    group.add_argument(
        "--eta", type=float, default=0.0, help="ddim: 0 adds no noise, 1 as much as ancestral"
    )
    group.add_argument(
        "--variance", choices=VARIANCES, default="beta_tilde", help="ancestral, langevin: sigma^2"
    )
    group.add_argument(
        "--guidance",
        type=float,
        default=0.0,
        metavar="W",
        help="classifier-free guidance's weight, "
        "for a run with --classes: 0 is the class alone, more is more of it",
    )
    group.add_argument("--no-clip", action="store_true", help="do not bound x0_hat to [-1, 1]")
