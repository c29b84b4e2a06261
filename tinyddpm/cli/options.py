"""The options of the command line: each command's arguments, in groups, with their defaults.

An option that is a field of Recipe, Sampling, UNet or MLP is made from that field: its type, its
bounds and its help stand there alone.
"""

import argparse
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Any

from .. import __version__, backend, schedule
from ..datasets.untrusted import LIMIT
from ..nn.mlp import MLP
from ..nn.unet import UNet
from ..runs.kept import RunSettings
from ..settings import Recipe, Sampling
from .parser import Help, Parser

Command = Callable[[argparse.Namespace], int]

# The fields that are options, by their groups in --help.
DATA = ("flip", "label_dropout")
TRAINING = (
    "steps",
    "batch",
    "lr",
    "warmup",
    "decay",
    "weight_decay",
    "clip_norm",
    "ema",
    "dropout",
    "accumulate",
    "recompute",
    "seed",
)
DIFFUSION = ("target", "times", "vlb", "min_snr")
SAMPLING = ("sampler", "steps", "spacing", "offset", "eta", "variance")
UNET = ("base", "mults", "blocks", "attention", "heads", "groups", "pad")
PERCEPTRON = ("hidden", "layers")


# The defaults of those options of `train` that are no fields.
DEFAULTS = {
    "schedule": "cosine",
    "T": 1000,
    "zero_snr": False,
    "classes": False,
    "gray": False,
    "limit": LIMIT,
    "backend": "numpy",
}
SAMPLES = 64  # that `sample` draws


def filled(args: argparse.Namespace) -> argparse.Namespace:
    """The options of `train`, None until given, with the defaults of those that are no fields."""
    unset = {name: value for name, value in DEFAULTS.items() if getattr(args, name) is None}
    return argparse.Namespace(**{**vars(args), **unset})


def parser(
    train: Command,
    sample: Command,
    evaluate: Command,
    backends: Command,
    tour: Command,
    read: Command,
    write: Command,
) -> argparse.ArgumentParser:
    """Make the command line's parser; it sets `command` to the function of the command given.

    Args:
        train: the function of `tinyddpm train`, called with the options.
        sample: that of `tinyddpm sample`.
        evaluate: that of `tinyddpm eval`.
        backends: that of `tinyddpm backends`.
        tour: that of `tinyddpm tour`.
        read: that of `tinyddpm import`.
        write: that of `tinyddpm export`.

    Returns:
        The parser.
    """
    top = Parser(
        prog="tinyddpm", description="A denoising diffusion model written by hand in NumPy."
    )
    top.add_argument("--version", action="version", version=f"tinyddpm {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=Help
        )
        sub.set_defaults(command=function)
        return sub

    _train_options(command("train", train, "train a network and draw samples from it"))
    _sample_options(command("sample", sample, "draw samples from a trained run"))
    _eval_options(command("eval", evaluate, "judge a run's samples against the data it never saw"))
    command("backends", backends, "list the backends that work here, and what the others lack")
    _import_options(command("import", read, "make a run of a published model's folder"))
    _export_options(command("export", write, "make a published model's folder of a run"))
    text = "walk through the mathematics in nine chapters, with figures and a page"
    _tour_options(command("tour", tour, text))
    return top


def _train_options(sub):
    sub.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="digits, moons, swissroll, rings, or the path of a .npy, .npz, IDX (.gz too) or "
        "CIFAR .bin file, of cifar-10-python.tar.gz, or of a folder of pictures or of one such "
        "folder for each class (default: digits)",
    )
    _quiet_option(sub)
    _run_options(sub.add_argument_group("run"))
    _data_options(sub.add_argument_group("data"))
    group = sub.add_argument_group("training")
    for name in TRAINING:
        _add(group, Recipe, name, **_unset(Recipe, name))
    text = f"{_field(Recipe, 'shards').metadata['help']} (default: 2; on a device 1)"
    _add(group, Recipe, "shards", default=None, help=text)
    group.add_argument(
        "--reduce",
        choices=("tree", "sum"),
        help="how ranks add gradients: tree (default), the same bits for any --ranks, or sum, "
        "whose last bits depend on it",
    )
    group = sub.add_argument_group("diffusion")
    text = "how beta rises (default: cosine)"
    group.add_argument("--schedule", choices=schedule.KINDS, help=text)
    group.add_argument("--T", type=int, help="diffusion steps (default: 1000)")
    text = "rescale to zero terminal SNR (target x0 or v)"
    group.add_argument("--zero-snr", action="store_true", default=None, help=text)
    for name in DIFFUSION:
        _add(group, Recipe, name, **_unset(Recipe, name))
    group = sub.add_argument_group("network", "what is not given is chosen to fit the data")
    for owner, names in ((UNet, UNET), (MLP, PERCEPTRON)):
        for name in names:
            changes = {"type": int, "nargs": "*"} if name == "attention" else {}
            _add(group, owner, name, default=None, **changes)


def _run_options(group):
    group.add_argument(
        "--out",
        metavar="RUN",
        help="the folder to make (default: runs/NAME, the first that is free)",
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with this run, to the same bits as if it had never stopped; of its settings "
        "only --backend, --save-every, --keep, --log-every and --steps may change, and other "
        "--steps change how the learning rate falls, and so the bits",
    )
    group.add_argument(
        "--from",
        dest="start",
        metavar="RUN",
        help="fine-tune this run's model, which may be an imported one: its network, its "
        "schedule and its target",
    )
    group.add_argument(
        "--data",
        dest="moved",
        metavar="DATA",
        help="with --resume: where the run's data is now (default: where it was)",
    )
    _backend_option(group, default=None)
    _ranks_option(group)
    for name, metavar in (("save-every", "N"), ("keep", "K"), ("log-every", "N")):
        about = _unset(RunSettings, name.replace("-", "_"))
        group.add_argument(f"--{name}", type=int, metavar=metavar, **about)


def _data_options(group):
    group.add_argument(
        "--holdout",
        type=float,
        metavar="FRACTION",
        help="what eval is to judge by and training never sees "
        "(default: 0.5 of the built-in sets, 0.1 of others)",
    )
    group.add_argument(
        "--classes",
        action="store_true",
        default=None,
        help="learn from the data's labels too, so that sample --class can ask for one",
    )
    for name in DATA:
        _add(group, Recipe, name, **_unset(Recipe, name))
    group.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="for pictures: resize the shorter side to N, antialiased, and keep the centre square",
    )
    text = "for pictures: make all of them grey"
    group.add_argument("--gray", action="store_true", default=None, help=text)
    text = "the most memory that the samples may take; where it is given, that training may too "
    group.add_argument("--limit", type=int, metavar="BYTES", help=f"{text}(default: {LIMIT})")
    group.add_argument(
        "--range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="what the file's numbers span (default: 0 255 for bytes, -1 1 for floats)",
    )


def _sample_options(sub):
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    _quiet_option(sub)
    _sampling_options(sub, n=SAMPLES, help="samples", seed=None)
    sub.add_argument(
        "--class",
        nargs="+",
        dest="label",
        metavar="K",
        help="samples of this class, or of these in turn, from a run with --classes",
    )
    files = sub.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="PNG",
        help="the picture to write (default: RUN/samples-..., named after what made it)",
    )
    files.add_argument(
        "--array", metavar="NPY", help="also write the samples, in the data's own range"
    )
    files.add_argument("--gif", metavar="GIF", help="also write the reverse process")


def _eval_options(sub):
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    _quiet_option(sub)
    sub.add_argument(
        "--data", metavar="DATA", help="where the run's data is now (default: where it was)"
    )
    _limit_option(sub, "samples")
    _sampling_options(sub, n=None, help="samples (default: as many as held out)", seed=0)


def _import_options(sub):
    sub.add_argument(
        "folder",
        metavar="FOLDER",
        help="a diffusers pipeline folder of a UNet2DModel, with .safetensors",
    )
    sub.add_argument("--out", metavar="RUN", required=True, help="the run folder to make")
    _limit_option(sub, "weights")


def _export_options(sub):
    sub.add_argument("run", metavar="RUN", help="a run folder or checkpoint file")
    sub.add_argument("--out", metavar="FOLDER", help="the diffusers pipeline folder to make")
    sub.add_argument(
        "--plain", metavar="FILE", help="a .safetensors file for the weights under our own names"
    )


def _tour_options(sub):
    _quiet_option(sub)
    sub.add_argument(
        "--out", metavar="DIR", default="tour", help="the folder for the figures and index.html"
    )
    _add(sub, Recipe, "seed")
    _backend_option(sub, precision=False)


def _limit_option(group, what):
    text = f"the most memory that the {what} may take"
    group.add_argument("--limit", type=int, default=LIMIT, metavar="BYTES", help=text)


def _ranks_option(group):
    group.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="share the work among N processes, under MPI's mpiexec",
    )


def _backend_option(group, precision=True, default="numpy"):
    text = "what to compute with"
    if default is None:
        text += " (default: numpy, or what the run that is resumed was trained with)"
    group.add_argument("--backend", choices=backend.NAMES, default=default, help=text)
    if precision:
        group.add_argument(
            "--precision",
            choices=backend.PRECISIONS,
            help="of cuda's matrix products: tf32 keeps 10 bits of their factors (default: fp32, "
            "or what the run that is resumed has)",
        )


def _quiet_option(sub):
    sub.add_argument("--quiet", action="store_true", help="show no progress, results alone")


def _sampling_options(sub, n, help, seed):
    group = sub.add_argument_group("sampling")
    _backend_option(group)
    _ranks_option(group)
    group.add_argument("--n", type=int, default=n, help=help)
    text = "of the noise" + (" (default: a new one, which is printed)" if seed is None else "")
    group.add_argument("--seed", type=int, default=seed, help=text)
    for name in SAMPLING:
        # a published model has its own way to sample, for what is not given
        given = _field(Sampling, name).default is not None
        _add(group, Sampling, name, **(_unset(Sampling, name) if given else {}))
    group.add_argument(
        "--guidance",
        type=float,
        default=0.0,
        metavar="W",
        help="classifier-free guidance's weight, for a run with --classes: "
        "0 is the class alone, more is more of it",
    )
    group.add_argument("--no-clip", action="store_true", help="do not bound x0_hat to [-1, 1]")


def of_names(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the options that were given, by name."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def how(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of Sampling that the options of a command give."""
    return of_names(args, SAMPLING) | ({"clip": None} if args.no_clip else {})


def _add(group, owner, name, **changes):
    """Add the option of a dataclass's field, with its default, type, choices and help."""
    field = _field(owner, name)
    kind, words = _kind(field), {"default": field.default, "help": field.metadata["help"]}
    if kind is bool:
        words["action"] = "store_true"
    elif field.metadata["choices"]:
        words["choices"] = [choice for choice in field.metadata["choices"] if choice is not None]
    else:
        words |= {"type": kind, "metavar": field.metadata["metavar"]}
    if typing.get_origin(kind) is tuple:
        words |= {"type": typing.get_args(kind)[0], "nargs": "+"}
    group.add_argument(f"--{name.replace('_', '-')}", **(words | changes))


def _unset(owner, name):
    """For `_add`: the default None, for an option not given; the help has the field's default."""
    field = _field(owner, name)
    shown = "" if field.default is False else f" (default: {field.default})"
    return {"default": None, "help": f"{field.metadata['help']}{shown}"}


def _field(owner: Any, name: str) -> "Field[Any]":
    return next(field for field in fields(owner) if field.name == name)


def _kind(field):
    """The type of a field's value, None left aside."""
    kinds = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    return kinds[0] if isinstance(field.type, types.UnionType) else field.type
