"""What the CUDA kernels cost an element: bytes, and instructions counted in their assembly.

A kernel waits for memory as long as its instructions an element fit in the time that its bytes
take. Counted is what the assembler made (SASS) where ptxas and cuobjdump are found, else PTX, which
is near it.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from .toolkit import ptxas, tool


class Card(NamedTuple):
    """A graphics card, each of whose processors issues for 128 threads a cycle."""

    bandwidth: float  # of its memory, bytes a second
    processors: int
    clock: float  # Hz

    def budget(self, size):
        """The instructions that can be issued in the time that `size` bytes take."""
        return self.processors * 128 * self.clock * size / self.bandwidth


CARDS = {
    "h100": Card(3.35e12, 132, 1.70e9),
    "a100": Card(2.04e12, 108, 1.41e9),
    "rtx4090": Card(1.01e12, 128, 2.52e9),
    "t4": Card(0.32e12, 40, 1.59e9),
}
# Bytes an element that must cross the memory bus: every input read once, every output written once,
# caches granted (the passes of a normalisation over one group; the nine readers of a pixel of
# im2col).
BYTES = {
    "normal": 4,
    "noised": 12,
    "noised_drawn": 12,
    "reverse": 16,
    "reverse_drawn": 12,
    "adamw_ema": 36,
    "bias": 8,
    "bias_shift": 8,
    "bias_onto": 12,
    "bias_shift_onto": 12,
    "silu": 8,
    "silu_backward": 12,
    "dropout_mask": 4,
    "softmax": 8,
    "softmax_backward": 12,
    "square_sums": 4,
    "im2col": 4,
    "norm": 8,
    "norm_silu": 8,
    "norm_backward": 12,
    "norm_silu_backward": 12,
}
# Which loops do a kernel's work, and elements a turn; a kernel not named here takes four elements a
# thread, once, or EIGHT.
EIGHT = ("normal",)
LOOPS = {
    **dict.fromkeys(("norm", "norm_silu"), ("passes", 1)),  # arrays that a pass reads
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), ("passes", 2)),
    **dict.fromkeys(("softmax", "softmax_backward", "square_sums"), ("inner", 1)),
    "im2col": ("outer", 4),
}
MEMORY = r"LDG|STG|(ld|st)\.global"  # instructions that touch it
LOAD_4, STORE_4 = r"LDG\.E\.128|ld\.global\S*\.v4", r"STG\.E\.128|st\.global\S*\.v4"


class Assembled(NamedTuple):
    """What ptxas makes of a kernel."""

    registers: int  # of a thread
    stack: int  # bytes
    spills: int  # bytes
    code: list | None  # (address, instruction); None without cuobjdump


def assemble(ptx, cc):
    """PTX -> Assembled, or None without ptxas. Raises RuntimeError where ptxas refuses."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        done = ptxas(ptx, cc, cubin)
        if done is None:
            return None
        if done.returncode:
            raise RuntimeError(f"ptxas (is it of NVVM's version?): {done.stdout}{done.stderr}")
        registers, stack = (
            int(re.search(pattern, done.stderr)[1])
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack frame")
        )
        spills = sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))
        code = None
        if tool("cuobjdump"):
            command = [tool("cuobjdump"), "-sass", str(cubin)]
            listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            code = [
                (int(address, 16), text.strip())
                for address, text in re.findall(r"/\*([0-9a-f]{4})\*/\s+([^;/]*);", listing)
            ]  # none where cuobjdump lacks its nvdisasm
    return Assembled(registers, stack, spills, code)


def sass_loops(code):
    """(first, last) indices of every loop: a branch back to an address before it."""
    place = {address: i for i, (address, _) in enumerate(code)}
    back = [
        (place.get(int(target[1], 16), i), i)
        for i, (_, text) in enumerate(code)
        if (target := re.search(r"BRA .*?0x([0-9a-f]+)", text))
    ]
    return [(first, last) for first, last in back if first < last]


def ptx_code(ptx):
    """The instructions of PTX and its loops, as `sass_loops` gives them."""
    code, labels = [], {}
    for line in ptx[ptx.index(".entry") :].splitlines():
        if label := re.match(r"(\$\w+):", line):
            labels[label[1]] = len(code)
        elif re.match(r"\s+(@!?%p\d+\s+)?[a-z]", line):
            code.append((len(code), line.strip()))
    back = [
        (labels[target[1]], i)
        for i, (_, text) in enumerate(code)
        if (target := re.search(r"bra\S*\s+(\$\w+)", text))
    ]
    return code, [(first, last) for first, last in back if first <= last]


def instructions(name, code, loops):
    """Instructions an element: those of the loops over the elements or, without loops, all.

    The latter counts a branch not taken too, so it is an upper bound. Subroutines lie after the
    last EXIT.
    """
    if name not in LOOPS:
        ends = [i for i, (_, text) in enumerate(code) if re.search(r"\b(EXIT|ret)\b", text)]
        return (max(ends) + 1) / (8 if name in EIGHT else 4)
    kind, elements = LOOPS[name]
    if kind == "passes":
        return _passes(code, loops, elements)
    total = 0
    for one in loops:
        pairs = ((two, one) if kind == "inner" else (one, two) for two in loops)
        body = "\n".join(text for _, text in code[one[0] : one[1] + 1])
        if not any(_within(*pair) for pair in pairs) and re.search(MEMORY, body):
            total += one[1] - one[0] + 1
    return total / elements


def _passes(code, loops, arrays):
    """Instructions an element of two passes over `arrays` arrays: one that sums, one that stores.

    Of the loops of a pass the one with the fewest an element: it takes most of them, the others
    what is left over.
    """
    found = {False: [], True: []}
    for first, last in loops:
        body = "\n".join(text for _, text in code[first : last + 1])
        inner = not any(_within(two, (first, last)) for two in loops)
        if inner and (loads := len(re.findall(LOAD_4, body))):
            elements = 4 * loads / arrays
            found[bool(re.search(STORE_4, body))].append((last - first + 1) / elements)
    return sum(map(min, found.values()))


def _within(one, two):
    """Whether loop `one` lies inside loop `two`."""
    return one != two and two[0] <= one[0] and one[1] <= two[1]


def count(name, wide=True, cc=(9, 0)):
    """{"instructions", "from" (SASS or PTX), "registers"} of a kernel."""
    from .ptx import compile_ptx  # needs a compiler, which the numbers above do not

    ptx = compile_ptx(name, wide, cc)
    made = assemble(ptx, cc)
    if made and made.code:
        return {
            "instructions": instructions(name, made.code, sass_loops(made.code)),
            "from": "SASS",
            "registers": made.registers,
        }
    return {
        "instructions": instructions(name, *ptx_code(ptx)),
        "from": "PTX",
        "registers": made.registers if made else None,
    }
