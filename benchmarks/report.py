"""The tables, the files of figures and pictures, and the line of progress."""

import io
import json
import pathlib

from tinyddpm.runs.files import write_atomic
from tinyddpm.runs.progress import Bar

from . import clock


def each(items, title):
    """The items one after another, under a line of progress on standard error."""
    items = list(items)
    with Bar(len(items), title, "case", show=True) as bar:
        for item in items:
            yield item
            bar()


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
    """Write the figures as JSON, into a folder made where it is missing.

    Raises OSError, TinyDDPMError. The file that was there before is replaced whole or stays.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{json.dumps(figures, indent=1)}\n".encode())


def write_picture(path, image):
    """Write an image in the format that its name's ending stands for, as `write` does."""
    from PIL import Image  # here, for `memory` measures processes that draw nothing

    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[pathlib.Path(path).suffix.lower()])
    write_atomic(path, buffer.getvalue())
