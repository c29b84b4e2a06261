"""The files of published folders as inputs of `reader_cases`: configurations and weights."""

import functools
import json
import math
import pathlib
import tempfile

import numpy as np

import tinyddpm as td
from support.published import write_folder
from tinyddpm.nn import params

FILES = {
    "unet.json": "unet/config.json",
    "scheduler.json": "scheduler/scheduler_config.json",
    "safetensors": "unet/diffusion_pytorch_model.safetensors",
}
NAMES = ("classes", "learned")  # the two smallest


@functools.cache
def folders():
    """{name: {file: bytes}} of two small published folders, the second in float64."""
    made = {}
    for name, dtype in zip(NAMES, (np.float32, np.float64)):
        with tempfile.TemporaryDirectory() as top:
            folder = write_folder(pathlib.Path(top) / name, name, dtype)
            made[name] = {file: (folder / file).read_bytes() for file in FILES.values()}
    return made


def inputs(kind):
    """A file's content in both folders."""
    return [files[FILES[kind]] for files in folders().values()]


def read(kind, folder, content):
    """The folder with this content in place of one file; what is read is used once.

    The other files are those of the folder whose own file is nearest in length.
    """
    name = min(NAMES, key=lambda name: abs(len(folders()[name][FILES[kind]]) - len(content)))
    for file, valid in folders()[name].items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if file == FILES[kind] else valid)
    try:
        found = td.from_diffusers(folder, limit=2**20)
    except td.InputError as error:
        assert str(error).startswith(str(folder)), error
        raise
    side = 2 ** (len(found.net.mults) - 1)
    model = found.conditioned(0) if found.net.classes else found
    assert found.theta.size == params.size(found.net.spec()) and np.isfinite(found.theta).all()
    assert math.prod(found.shape) > 0 and json.loads(json.dumps(found.meta)) is not None
    with np.errstate(all="ignore"):
        y = model.predict(np.zeros((1, side, side, found.net.channels), np.float32), 1)[0]
    assert y.shape == (1, side, side, found.net.channels)
    assert found.meta["scheduler"]["num_train_timesteps"] == found.schedule.T
