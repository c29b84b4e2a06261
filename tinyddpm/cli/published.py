"""The commands for published models: import and export."""

import argparse
import pathlib

from ..errors import InputError
from ..interop import pipeline
from ..runs.load import load


def read(args: argparse.Namespace) -> int:
    """tinyddpm import: a run folder from a published pipeline folder."""
    model = pipeline.from_diffusers(args.folder, args.limit)
    pipeline.save_imported(model, args.out)
    height, width, channels = model.shape
    how = model.meta["sampling"]
    args.say(
        f"{args.out}: {model.theta.size:,} parameters for {height} x {width} x {channels}, "
        f"T = {model.schedule.T}, predicts {model.target}, sampler {how['sampler']}"
    )
    args.say(f"draw from it: tinyddpm sample {args.out}")
    return 0


def write(args: argparse.Namespace) -> int:
    """tinyddpm export: a published pipeline folder, or our own names in one file, from a run."""
    if not args.out and not args.plain:
        raise InputError("export needs --out FOLDER, --plain FILE.safetensors, or both")
    if args.plain and pathlib.Path(args.plain).suffix != ".safetensors":
        raise InputError(f"--plain {args.plain}: it is a .safetensors file that is written there")
    model = load(args.run)
    if args.out:
        pipeline.to_diffusers(model, args.out)
        args.say(args.out)
    if args.plain:
        pipeline.to_safetensors(model, args.plain)
        args.say(args.plain)
    return 0
