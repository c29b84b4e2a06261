"""Pipeline folders: model_index.json, unet/ and scheduler/, as diffusers reads and writes them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from ..backend import get
from ..datasets.untrusted import LIMIT
from ..errors import InputError, TinyDDPMError
from ..model import Model
from ..runs import checkpoint, files
from ..runs.load import net_to_meta
from ..runs.start import VLB
from ..settings import Recipe
from .config import read_json
from .network import read_network, write_network
from .scheduler import read_scheduler, write_scheduler
from .tensors import PICKLES, TensorFile, packed, refuse_pickle
from .weights import embed_t_less_one, plain_weights, read_weights, write_weights

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIPELINES = {"DDPMScheduler": "DDPMPipeline", "DDIMScheduler": "DDIMPipeline"}


def from_diffusers(folder: str | Path, limit: int = LIMIT, backend: str = "numpy") -> Model:
    """The model in a folder of a DDPMPipeline or DDIMPipeline; nothing in it is executed.

    Its float64 weights stay float64, all others become float32; its t is ours less one.

    Args:
        folder: it holds unet/ and scheduler/, or, as the oldest ones do, the files of both.
        limit: the most bytes that the weights may take.
        backend: a name in `backend.NAMES`.

    Raises:
        InputError: an option is not supported, a file is missing, damaged or too large.
    """
    ops, folder = get(backend), Path(folder)
    if folder.suffix in PICKLES and folder.is_file():
        raise refuse_pickle(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder of a published model")
    network_path = _inside(folder, "unet", "config.json")
    scheduler_path = _inside(folder, "scheduler", "scheduler_config.json")
    with _named(network_path):
        network = read_network(read_json(network_path), str(network_path))
    with _named(scheduler_path):
        scheduler = read_scheduler(read_json(scheduler_path), str(scheduler_path))
    net, learned = network.net, scheduler.sampling.get("variance") == "learned"
    if (net.out or net.channels) != net.channels * (1 + learned):
        raise InputError(
            f"{network_path}: out_channels = {net.out or net.channels} for {net.channels} channels "
            f"{'with' if learned else 'without'} a learned variance"
        )
    theta = read_weights(net, _weights_file(network_path.parent, limit))
    recipe = Recipe(
        target=scheduler.target,
        dropout=network.dropout,
        label_dropout=0.0,
        vlb=VLB if learned else 0.0,
    )
    meta = {
        "net": net_to_meta(net),
        "recipe": asdict(recipe),
        "shape": list(network.shape),
        "classes": list(range(net.classes)),
        "step": 0,
        "sampling": scheduler.sampling,
        "scheduler": scheduler.config,
    }
    theta = ops.asarray(theta)
    return Model(net, theta, scheduler.schedule, network.shape, scheduler.target, meta, ops)


def _inside(folder, part, name):
    """The path of a part's file: in its own folder, or where there is none in the top one."""
    place = folder / part if (folder / part).is_dir() else folder
    return place / name


def _weights_file(folder, limit):
    """The weights in a folder. Raises InputError, with the reason, where only a pickle is there."""
    path = folder / WEIGHTS
    if not path.exists():
        for other in sorted(folder.glob("*model*")):
            if other.suffix in PICKLES:
                raise refuse_pickle(other)
            if ".safetensors" in other.name:
                raise InputError(f"{other}: is a part or a variant; {WEIGHTS} alone is read")
    return TensorFile(path, limit)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Every InputError of the block names the file."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def save_imported(model: Model, out: str | Path) -> None:
    """A run folder of a model that was read from a published folder.

    It can be sampled, judged, exported, and started from (`train --from`); there are no moments to
    resume. Raises InputError where there is a run already, TinyDDPMError where the disk refuses.
    """
    if checkpoint.holds_run(out):
        raise InputError(f"{out} already holds a run: choose another folder")
    _make(out)
    arrays = {"ema": model.ops.to_host(model.theta), "beta": model.schedule.beta}
    checkpoint.save_run(out, arrays, model.meta)


def to_diffusers(model: Model, folder: str | Path) -> None:
    """Write a model as a pipeline folder, which diffusers' DDPMPipeline reads.

    A network that embeds t, as ours do, is written as the one that embeds t - 1 and predicts the
    same to rounding; a model that came from such a folder goes back with the same bytes of weights.

    Args:
        model: a trained U-Net.
        folder: to be made, or empty.

    Raises:
        InputError: UNet2DModel has no such network, the folder is not empty or no folder.
        TinyDDPMError: the disk refuses.
    """
    folder, net, theta = files.named(folder), model.net, model.ops.to_host(model.theta)
    recipe, sampling = model.meta.get("recipe", {}), dict(model.meta.get("sampling", {}))
    network = write_network(net, model.shape, float(recipe.get("dropout", 0.0)))
    if net.t_offset != -1:
        theta, net = embed_t_less_one(net, theta), replace(net, t_offset=-1)
    if model.learns_variance:
        sampling["variance"] = "learned"
    known = model.meta.get("scheduler")
    scheduler = write_scheduler(model.schedule, model.target, sampling, known)
    weights = packed(write_weights(net, theta))
    there = files.kind(folder)
    if there not in ("", "folder"):
        raise InputError(f"{folder} is no folder: choose another name")
    if there and files.entries(folder):
        raise InputError(f"{folder} is there and not empty: choose another folder")
    kind = scheduler["_class_name"]
    index = {
        "_class_name": PIPELINES[kind],
        "scheduler": ["diffusers", kind],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for part in ("unet", "scheduler"):
        _make(folder / part)
    files.write_atomic(folder / "unet" / WEIGHTS, weights)
    for path, entries in (
        (folder / "unet" / "config.json", network),
        (folder / "scheduler" / "scheduler_config.json", scheduler),
        (folder / "model_index.json", index),  # last: without it there is no pipeline
    ):
        text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
        files.write_atomic(path, text.encode())


def to_safetensors(model: Model, path: str | Path) -> None:
    """Write a model's parameters to one .safetensors file, under our own names and layouts.

    Raises TinyDDPMError where the disk refuses.
    """
    theta = model.ops.to_host(model.theta)
    files.write_atomic(path, packed(plain_weights(model.net, theta)))


def _make(folder):
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinyDDPMError(f"cannot make the folder {folder}: {error.strerror}") from None
