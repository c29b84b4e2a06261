"""python -m benchmarks: correctness first, then time."""

import argparse
import json
import sys

from . import clock, network


def main(argv=None):
    """Measure what was asked for and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("group", nargs="?", default="network", choices=("network",), help="what to measure")
    parser.add_argument("--peer", choices=("torch",), help="also measure this library's version of the same network")
    parser.add_argument("--seconds", type=float, default=20, help="for each case and kind of step (default: 20)")
    parser.add_argument("--quick", action="store_true", help="two seconds each")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args(argv)
    about = clock.machine()
    if args.peer:
        try:
            import torch
        except ImportError:
            print("benchmarks: torch is not installed: pip install torch", file=sys.stderr)
            return 2
        about["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    print(", ".join(f"{name} {text}" for name, text in about.items()))
    results = network.compare(2 if args.quick else args.seconds, args.peer)
    for case, kinds in results.items():
        print(f"\n{case}\n{'':8}{'':14}{'median ms':>10}{'min ms':>10}{'ratio':>8}")
        for kind, rows in kinds.items():
            for name, row in rows.items():
                print(f"{kind:8}{name:14}{row['median_ms']:10.1f}{row['min_ms']:10.1f}{row['ratio'] or 1:8.2f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": about, "network": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
