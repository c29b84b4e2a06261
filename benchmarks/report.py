"""The tables and the file of figures."""

import json
import pathlib

from . import clock


def header(found, limits, peer=None):
    """What the figures were measured on and with, as a dict of short texts."""
    from tinyddpm import backend

    about = clock.machine() | {"threads": str(max(bench.ops.shards for bench in found.values()))}
    about |= {f"backend {name}": backend.about(name) for name in found}
    for place, rates in limits.items():
        about[f"{place} ceilings"] = ", ".join(
            f"{what} {rate:.0f} {unit}"
            for what, (unit, rate) in zip(("copy", "sgemm"), rates.items())
        )
    if peer:
        import torch

        about["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    return about


def table(group, results, bases=clock.BASES):
    """One group's table as text, of {case: {name: row}} with rows as clock.summary and
    bench.measure make them.
    """
    lines = [
        f"\n{group}",
        f"{'':44}{'median ms':>11}{'min ms':>11}{'rate':>15}{'of ceiling':>11}"
        + "".join(f"{'x ' + base:>9}" for base in bases),
    ]
    for case, rows in results.items():
        for i, (name, row) in enumerate(rows.items()):
            rate = f"{row['rate']:.1f} {row['unit']}" if "rate" in row else ""
            share = f"{row['share']:.0%}" if "share" in row else ""
            ratios = "".join(
                f"{row['ratio'][base]:9.2f}" if base in row["ratio"] else " " * 9 for base in bases
            )
            times = f"{row['median_ms']:11.3f}{row['min_ms']:11.3f}"
            lines += [case] if i == 0 else []
            lines.append(f"    {name:40}{times}{rate:>15}{share:>11}{ratios}")
    return "\n".join(lines)


def write(path, figures):
    """Write the figures as JSON, into a folder made where it is missing. Raises OSError."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(figures, file, indent=1)
        file.write("\n")
