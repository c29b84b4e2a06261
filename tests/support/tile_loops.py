"""The innermost loops of the register tiles, as LLVM compiles them: run in a process of its own.

NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name the CPU; nothing compiled is run. Prints JSON: for each
kernel [multiply-adds, vectors kept on the stack] of each of its innermost loops.
"""

import json
import re

from numba import types
from tinyddpm.kernels.cpu import direct, tiles, winograd

FLOATS, TABLE, INT = (
    types.Array(types.float32, 1, "C"),
    types.Array(types.int32, 1, "C"),
    types.int64,
)
ROWS = types.Array(types.float32, 2, "C")
KERNELS = {
    "direct.correlate": (
        direct.correlate,
        (FLOATS, TABLE, *[INT] * 3, *[FLOATS] * 3, TABLE, FLOATS, TABLE),
    ),
    "direct.outer": (
        direct.outer,
        (FLOATS, TABLE, *[INT] * 3, FLOATS, TABLE, INT, FLOATS, INT, FLOATS),
    ),
    "direct.correlate_narrow": (
        direct.correlate_narrow,
        (FLOATS, TABLE, *[INT] * 3, ROWS, *[FLOATS] * 2, TABLE, FLOATS, TABLE),
    ),
    "direct.outer_narrow": (
        direct.outer_narrow,
        (FLOATS, TABLE, *[INT] * 3, FLOATS, TABLE, INT, ROWS, FLOATS),
    ),
    "winograd.correlate": (winograd._multiply, (FLOATS, INT, INT, FLOATS, FLOATS, *[INT] * 3)),
    "winograd.outer": (
        winograd._multiply_slopes,
        (FLOATS, TABLE, INT, INT, FLOATS, *[INT] * 3, FLOATS, INT),
    ),
}


def loops(assembly):
    """[multiply-adds, vectors on the stack] of each block that jumps back to its own start."""
    found = []
    for block in re.split(r"\n(?=\.LBB\w+:)", assembly):
        label = re.match(r"(\.LBB\w+):", block)
        sums = len(re.findall(r"\bvfmadd\w+ps", block))
        if label and sums and re.search(rf"\bj\w+\s+{re.escape(label[1])}\b", block):
            vectors = [line for line in block.split("\n") if re.search(r"[xyz]mm", line)]
            spilled = [line for line in vectors if re.search(r"\(%rsp[,)]", line)]
            found.append([sums, len(spilled)])
    return found


if __name__ == "__main__":
    result = {"tiles": str(tiles.TILES), "kernels": {}}
    for name, (kernel, signature) in KERNELS.items():
        kernel.compile(signature)
        result["kernels"][name] = loops("".join(kernel.inspect_asm().values()))
    print(json.dumps(result))
