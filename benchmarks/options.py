"""The options of python -m benchmarks, and which of its groups use them."""

import argparse
import pathlib

from . import bench
from .sizes import FULL, LARGE, NETS, PEERS, QUICK, TINY

TIMED = ("steps", "ops", "network", "end", "samplers")
GROUPS = (*TIMED, "peers", "tiles", "parallel", "gpu", "roofline", "selftest")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
# The groups that an option changes something for; --json is for all.
USED_BY = {
    "backend": (*TIMED, "peers", "parallel", "gpu"),
    "peer": ("steps", "ops", "network", "gpu"),
    "networks": ("network", "peers", "gpu", "roofline"),
    "parts": ("network",),
    "memory": ("network",),
    "compile": ("network", "peers"),
    "seconds": (*TIMED, "peers", "tiles", "parallel", "gpu"),
    "quick": (*TIMED, "peers", "tiles", "parallel", "gpu"),
    "tiny": (*TIMED, "peers", "tiles", "parallel", "gpu"),
    "plot": ("steps", "samplers", "parallel", "gpu"),
    "card": ("roofline",),
    "budget": ("gpu",),
}


class Parser(argparse.ArgumentParser):
    """argparse whose every complaint is one line."""

    def error(self, message):
        """Print the line and exit with code 2."""
        self.exit(2, f"benchmarks: {message}\n")


def _seconds(text):
    """A number of seconds above 0 and at most an hour."""
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError
    return value


def parse(argv, about):
    """The options. Exits with code 2 and one line where they make no sense.

    Args:
        argv: what follows the command's name, or None for the process's own.
        about: what the help says first.
    """
    parser = _parser(about)
    args = parser.parse_args(argv)
    for group in args.groups:
        if group not in GROUPS:
            parser.error(f"no group {group!r}: choose from {', '.join(GROUPS)}")
    args.groups = args.groups or list(TIMED)
    for name, groups in USED_BY.items():
        if getattr(args, name) and not set(groups) & set(args.groups):
            several = "s" if len(groups) > 1 else ""
            parser.error(f"--{name} is for the group{several} {', '.join(groups)}")
    if args.compile and not args.peer and "peers" not in args.groups:
        parser.error("--compile is for --peer torch")
    for letter in args.networks:
        for group, known in (("network", NETS | LARGE), ("peers", PEERS)):
            if group in args.groups and letter not in {title[0] for title in known}:
                parser.error(f"the group {group} has no network {letter}")
    for path in filter(None, (args.json, args.plot)):
        if not pathlib.Path(path).resolve().parent.is_dir():
            parser.error(f"no folder to write {path} into")
    if args.plot and pathlib.Path(args.plot).suffix.lower() not in PICTURES:
        parser.error(f"cannot draw {args.plot}: name a .png, .jpg, .webp or .gif")
    args.sizes = TINY if args.tiny else QUICK if args.quick else FULL
    args.quick = args.sizes.quick
    args.seconds = args.seconds or args.sizes.seconds
    args.card = args.card or "h100"
    return args


def _parser(about):
    """The grammar of the command."""
    _seconds.__name__ = "seconds, above 0 and at most 3600,"
    parser = Parser(
        prog="python -m benchmarks",
        description=about,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    groups = f"what to measure: {', '.join(GROUPS)}\n(default: {' '.join(TIMED)})"
    add("groups", nargs="*", metavar="GROUP", help=groups)
    names = f"{', '.join(bench.NAMES)} (default: all that are there);\nnumpy is always measured"
    several = {"nargs": "+", "action": "extend", "metavar": "NAME"}
    add("--backend", **several, choices=bench.NAMES, help=names)
    add("--peer", choices=("torch",), help="also measure this library's version of the same")
    letters = sorted({title[0] for title in NETS | LARGE | PEERS})
    which = {"nargs": "+", "choices": letters, "metavar": "LETTER", "default": []}
    add("--networks", **which, help=f"of {' '.join(letters)} (default: all; of network all but d)")
    add("--parts", action="store_true", help="with network: where each step's time goes")
    add("--memory", action="store_true", help="with network: the peak of a process that trains")
    compiled = "with --peer torch and quick peers: compiled networks too (minutes)"
    add("--compile", action="store_true", help=compiled)
    add("--seconds", type=_seconds, help=f"for each line of a table (default: {FULL.seconds})")
    one = parser.add_mutually_exclusive_group().add_argument
    one("--quick", action="store_true", help="about a minute in all")
    one("--tiny", action="store_true", help="to see whether all of it runs: the times mean nothing")
    add("--json", metavar="FILE", help="also write the figures to this file")
    drawn = "also draw the steps' time against size (an image file);\n"
    drawn += "of the samplers, their error (the same name with -samplers);\n"
    drawn += "of the ranks, the model's efficiency (with -parallel)"
    add("--plot", metavar="FILE", help=drawn)
    begun = "seconds after which gpu begins nothing new (default: 270)"
    add("--budget", type=_seconds, help=begun)
    add("--card", metavar="NAME", help="whose roofline (default: h100)")
    return parser
