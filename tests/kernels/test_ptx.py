"""The CUDA kernels compiled for four generations of cards, without a card.

The simulator cannot see a float32 that has become a float64; this can.
"""

import functools
import math
import pathlib
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba")

from tinyddpm.kernels.gpu import roofline  # noqa: E402

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
NAMES = [*roofline.BYTES, "assign", "clip", "col2im"]
ROWS = ["normal", "noised", "noised_drawn", "reverse", "reverse_drawn"]
# 16-byte loads and stores of each kernel that has a wide variant (im2col's stores: with and without
# a pixel to load)
VECTORS = {
    "normal": (0, 2),
    "noised": (2, 1),
    "noised_drawn": (1, 2),
    "reverse": (3, 1),
    "reverse_drawn": (2, 1),
    "adamw_ema": (5, 4),
    "bias": (2, 1),
    "bias_shift": (3, 1),
    "bias_onto": (3, 1),
    "bias_shift_onto": (4, 1),
    "silu": (1, 1),
    "silu_backward": (2, 1),
    "dropout_mask": (0, 1),
    # the shift, four pixels, what is left; two pixels, what is left, both stored, and the moments
    **dict.fromkeys(("norm", "norm_silu"), (1 + 4 + 1 + 2 + 1, 2 + 1 + 2)),
    # in both passes two moments; of x and dy two pixels, what is left; one pixel, stored
    **dict.fromkeys(("norm_backward", "norm_silu_backward"), (2 * 2 + 2 * 3 + 2, 1)),
    "im2col": (1, 2),
    "col2im": (1, 2),
}
TILED = [
    *("winograd_input", "winograd_slope", "winograd_gather"),
    *("winograd_weights", "winograd_weights_backward"),
    *(f"winograd_output{end}" for end in ("", "_shift", "_onto", "_shift_onto")),
]
DENSE = ["dense", "dense_backward", "dense_weights"]
FORMS = [(name, wide) for name in NAMES for wide in (True, False) if wide or name in VECTORS]
VARIANTS = [(*form, cc) for cc in CAPABILITIES for form in FORMS]
# the largest kernels, for the oldest card and for one of today
VARIANTS += [(name, True, cc) for cc in ((7, 5), (9, 0)) for name in [*TILED, *DENSE]]
VARIANTS += [(name, False, (9, 0)) for name in DENSE]


def on_every_card(test):
    names = [f"sm_{cc[0]}{cc[1]}-{name}-{'wide' if w else 'narrow'}" for name, w, cc in VARIANTS]
    return pytest.mark.parametrize("name, wide, cc", VARIANTS, ids=names)(test)


def ptx(name, wide, cc):
    return compiled(name, wide, min(cc, compiler().newest()))


@functools.cache
def compiled(name, wide, cc):
    return compiler().compile_ptx(name, wide, cc)


def compiler():
    """tinyddpm.kernels.gpu.ptx, or a skip that says what is missing."""
    from numba import config
    from numba.cuda.cudadrv import error

    if config.ENABLE_CUDASIM:
        pytest.skip("under the simulator nothing is compiled")
    try:
        from numba.cuda.cudadrv.nvvm import NVVM
        from tinyddpm.kernels.gpu import ptx as cuda_compile

        NVVM()
    except (error.NvvmSupportError, OSError) as reason:
        pytest.skip(f"no NVVM to compile with: {reason}")
    return cuda_compile


def assembled(name, wide, cc):
    found = roofline.assemble(ptx(name, wide, cc), cc)
    if found is None:
        pytest.skip("no ptxas")
    return found


@on_every_card
def test_no_double_precision_and_no_local_memory(name, wide, cc):
    text = ptx(name, wide, cc)
    assert not re.search(r"\.f64\b", text)
    assert not re.search(r"\b(ld|st)\.local\b|\.local\b", text)
    assert not re.search(r"\bdiv\.[us]64\b|\brem\.[us]64\b", text), (
        "a division of 64-bit integers is 100 instructions"
    )
    target = int(re.search(r"\.target sm_(\d+)", text)[1])
    assert target <= 10 * cc[0] + cc[1]


@pytest.mark.parametrize("cc", CAPABILITIES, ids=str)
@pytest.mark.parametrize("name", VECTORS)
def test_wide_kernels_move_sixteen_bytes_at_once_and_narrow_ones_do_not(name, cc):
    counts = [
        tuple(
            len(re.findall(rf"\b{way}\.global\.v4\.f32\b", ptx(name, wide, cc)))
            for way in ("ld", "st")
        )
        for wide in (True, False)
    ]
    if name == "col2im":  # whose loop over a patch may be unrolled
        counts[0] = min(counts[0][0], 1), counts[0][1]
    assert counts == [VECTORS[name], (0, 0)]


@pytest.mark.parametrize("name", ROWS)
def test_wide_step_kernels_move_no_element_alone(name):
    text = ptx(name, True, (9, 0))
    alone = len(re.findall(r"\bld\.global\.f32\b", text))
    # the row's c_x0 and c_eps; the step's six numbers, of which sigma may be looked at twice
    assert alone in {"noised": (2,), "noised_drawn": (2,), "normal": (0,)}.get(name, (6, 7))
    assert not re.search(r"\bst\.global\.f32\b", text)


@on_every_card
def test_few_registers_no_stack_no_spills(name, wide, cc):
    found = assembled(name, wide, cc)
    assert (found.stack, found.spills) == (0, 0)
    # a normalisation has several loads under way in each thread: two blocks of 256 fit a processor
    norm = name.startswith("norm_") or name == "norm"
    most = 96 if name in DENSE else 72 if name in TILED else 64 if name == "col2im" else 40
    most = 48 if name == "normal" else most  # which holds two counters
    assert found.registers <= (65536 // (2 * 256) if norm else most)


@pytest.mark.parametrize("name", roofline.BYTES)
def test_instructions_stay_below_what_an_h100_issues_while_it_waits_for_memory(name):
    found = roofline.count(name)
    if found["from"] != "SASS":
        pytest.skip("no ptxas or no cuobjdump to count with")
    if name in ("normal", "dropout_mask"):  # write four bytes and read none: arithmetic is all
        assert found["instructions"] < (43 if name == "normal" else 60)
    elif name.startswith("softmax"):  # passes over a row in the nearest cache
        assert found["instructions"] < 2 * roofline.CARDS["h100"].budget(roofline.BYTES[name])
    else:
        assert found["instructions"] < roofline.CARDS["h100"].budget(roofline.BYTES[name])
    if name in ROWS:
        assert found["instructions"] < 65


def test_what_is_compiled_here_is_what_the_operations_launch():
    """Every kernel is launched with the argument types that the PTX above was made for."""
    signatures = compiler().SIGNATURES
    from numba import typeof
    from tinyddpm.kernels.gpu.cuda_ops import CudaKernels
    from tinyddpm.kernels.gpu.products import PlainProducts

    from tinyddpm.nn.device import FusedStep
    from tinyddpm.nn.ops import Ops
    from tinyddpm.nn.optim import AdamWFactors, Vectors

    launched = {}

    class Recorder(CudaKernels, Ops):
        products, fewest = PlainProducts(np), math.inf

        def _launch(self, name, grid, block, *arguments, wide=True):
            assert 1 <= block[0] * math.prod(block[1:]) <= 256 and max(grid[1:], default=1) <= 65535
            launched.setdefault(name, set()).add(tuple(map(typeof, arguments)))

    ops, tape = Recorder(), []
    one, c = np.ones(2, np.float32), FusedStep(*[0.5] * 6)
    for x in (np.ones((2, 3, 3, 4), np.float32), np.ones((2, 3, 3, 5), np.float32)):
        p = SimpleNamespace(w=x[0, 0, 0], b=x[0, 0, 0])
        ops.normal(x.shape)
        ops.noised(x, x, one, one)
        ops.noised_drawn(x, one, one)
        ops.reverse(x, x, x, c)
        ops.reverse_drawn(x, x, c)
        vectors, grad = Vectors(*np.ones((4, 8), np.float32)), np.ones(8, np.float32)
        ops.adamw_ema(vectors, grad, one[:1], AdamWFactors(*[0.5] * 6), 0.5)
        with np.errstate(all="ignore"):  # nothing is computed
            _layers(ops, x)
        for silu in ("", "_silu"):
            getattr(ops, "groupnorm" + silu)(x, p, 1, tape)
            getattr(ops, f"groupnorm{silu}_backward")(x, p, tape)
    ops._assign(np.zeros(8, np.uint32), np.zeros(8, np.float32), (1, 2), (0.5,) * 6)
    assert set(launched) == set(signatures)
    for name, types in launched.items():
        assert types == {signatures[name]}, name


def _layers(ops, x):
    """Every layer once, forward and backward."""
    channels, tape = x.shape[-1], []
    p = SimpleNamespace(w=np.ones((3, 3, channels, channels), np.float32), b=x[0, 0, 0])
    g = SimpleNamespace(w=np.ones_like(p.w), b=np.ones_like(p.b))
    for shift, onto in ((None, None), (x[:, 0, 0], None), (None, x), (x[:, 0, 0], x)):
        y = ops.conv2d(x, p, tape, shift=shift, onto=onto)
        ops.conv2d_backward(y, g, tape)
        if channels == 4:
            type(ops).fewest = 0
            ops.conv2d_backward(ops.conv2d(x, p, tape, shift=shift, onto=onto), g, tape)
            type(ops).fewest = math.inf
    rows, q = x.reshape(-1, channels), SimpleNamespace(w=p.w[0, 0], b=p.b)
    f = SimpleNamespace(w=g.w[0, 0], b=g.b)
    for most in (0, math.inf):
        type(ops).most_dense = most
        ops.linear_backward(ops.linear(rows, q, tape, rows[:1], rows), f, tape, onto=rows)
        ops.silu_linear_backward(ops.silu_linear(rows, q, tape, rows, rows), f, tape)
    ops.silu_backward(ops.silu(x, tape), tape)
    tokens = x.reshape(2, -1, channels)
    ops.attention_backward(ops.attention(tokens, tokens, tokens, 1, tape), tape)
    ops.clip_scale(x.reshape(-1), 1.0)
    ops.dropout_mask(x.shape, x.dtype, 0.5, 0, 0, 1, 0)


WIDTHS = {"u64": 8, "u32": 4, "f32": 4}  # bytes of a parameter in PTX


@pytest.mark.parametrize("name", [*NAMES, *TILED, *DENSE])
def test_a_launch_hands_over_what_the_compiled_kernel_takes(name):
    """Word by word: as many, each of its size, floats where it takes floats."""
    signatures = compiler().SIGNATURES
    from tinyddpm.kernels.gpu.launch import CASTS, parameters

    array = SimpleNamespace(size=3, itemsize=4, data=SimpleNamespace(ptr=4096))
    arguments = [
        array if hasattr(kind, "ndim") else (1,) * len(kind) if hasattr(kind, "count") else 1
        for kind in signatures[name]
    ]
    handed = [np.int64(x) if type(x) is int else x for x in parameters(signatures[name], arguments)]
    taken = re.findall(r"\.param \.(\w+) tinyddpm_\w+_param_\d+", ptx(name, True, (9, 0)))
    assert [x.itemsize for x in handed] == [WIDTHS[kind] for kind in taken]
    assert [x.dtype.kind == "f" for x in handed] == [kind[0] == "f" for kind in taken]
    assert set(map(str, CASTS)) == {"int64", "int32", "uint32", "float32"}


def test_a_kernel_is_kept_on_disk_for_its_card(tmp_path, monkeypatch, capsys):
    """A cubin where ptxas is, which says for which card it is; a second process finds it."""
    compiler()
    from tinyddpm.kernels.gpu import cubins, ptx, toolkit

    monkeypatch.setattr(cubins, "folder", lambda: tmp_path)
    cubins._notice.cache_clear()
    first = cubins.path("reverse", True, (9, 0))
    assert capsys.readouterr().err == cubins.NOTICE + "\n"
    code = first.read_bytes()
    assert code.startswith(b"\x7fELF" if toolkit.tool("ptxas") else b"//") and (
        b"tinyddpm_reverse" in code
    )
    monkeypatch.setattr(ptx, "compile_ptx", None)
    assert cubins.path("reverse", True, (9, 0)) == first and list(tmp_path.iterdir()) == [first]


def test_without_an_assembler_for_the_card_the_file_holds_ptx(monkeypatch):
    """As where ptxas is older than the card: the driver assembles it."""
    compiler()
    from tinyddpm.kernels.gpu import cubins, toolkit

    monkeypatch.setattr(toolkit, "tool", lambda name: None)
    assert b".entry tinyddpm_reverse(" in cubins.build("reverse", True, (9, 0))


def test_the_folder_of_the_kept_kernels_changes_with_what_they_are_made_of(tmp_path, monkeypatch):
    compiler()
    from tinyddpm.kernels.gpu import cubins

    shared = tmp_path / "formulas.py"
    shared.write_bytes(pathlib.Path(cubins.formulas.__file__).read_bytes())
    before = cubins.digest()
    monkeypatch.setattr(cubins, "formulas", SimpleNamespace(__file__=str(shared)))
    assert cubins.digest() == before
    shared.write_text(shared.read_text() + "\n")
    assert cubins.digest() != before
    monkeypatch.undo()
    monkeypatch.setattr(cubins.importlib.metadata, "version", lambda package: "0")
    assert cubins.digest() != before


def test_the_kernel_of_the_known_answers_compiles():
    """A kernel that names an attribute of a namespace does not type: it once did so unseen."""
    found = compiler()
    from numba import types
    from tinyddpm.kernels.gpu.philox import encipher

    words = types.Array(types.uint64, 2, "C")
    assert "mul" in found.compile_kernel(encipher, (words, words))


def test_a_launch_of_few_blocks_warns_of_nothing():
    """Numba warns of grids of fewer than 128 blocks, unless it is asked not to."""
    config = pytest.importorskip("numba").config
    if config.ENABLE_CUDASIM:
        pytest.skip("the simulator has no such warning")
    from tinyddpm.kernels.gpu import fused_steps

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused_steps.KERNELS[True].normal[1, 64].griddim == (1, 1, 1)


def test_a_double_and_a_scalar_access_would_be_seen():
    """The assertions above can fail: the same kernel written carelessly has both faults."""
    compiler()
    from numba import cuda, float32

    def careless(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = x[i] * 1.1

    text = cuda.compile_ptx(careless, (float32[::1], float32[::1]), cc=(9, 0))[0]
    assert re.search(r"\.f64\b", text) and not re.search(r"v4\.f32", text)


def test_the_budget_of_the_h100():
    assert round(roofline.CARDS["h100"].budget(12)) == 103


def test_counting_on_a_listing_written_by_hand():
    code = [
        (0, "S2R R0"),
        (16, "LDG.E R1"),
        (32, "FADD R1"),
        (48, "BRA 0x10"),
        (64, "FADD"),
        (80, "BRA 0x40"),
        (96, "EXIT"),
        (112, "NOP"),
        (128, "BRA 0x80"),
    ]
    loops = roofline.sass_loops(code)
    assert loops == [(1, 3), (4, 5)]
    # the second loop touches no memory
    assert roofline.instructions("softmax", code, loops) == 3
    assert roofline.instructions("silu", code, loops) == 7 / 4
    assert roofline.instructions("normal", code, loops) == 7 / 8


def test_counting_the_passes_of_a_normalisation_by_hand():
    """Six instructions for two loads of four elements, in the first pass; five for one of both
    arrays and a store, in the second; what is left over takes a loop of its own.
    """
    bodies = [
        ["LDG.E.128 R4", "LDG.E.128 R8", "FADD", "FADD", "FADD"],
        ["LDG.E.128 R4", "FADD", "FADD", "FADD"],
        ["LDG.E.128 R4", "LDG.E.128 R8", "FMUL", "STG.E.128 R4"],
        ["LDS R1", "FADD"],
    ]
    code = []
    for body in bodies:
        start = 16 * len(code)
        code += [(16 * (len(code) + i), text) for i, text in enumerate(body)]
        code.append((16 * len(code), f"BRA 0x{start:x}"))
    loops = roofline.sass_loops(code)
    assert roofline.instructions("norm", code, loops) == 6 / 8 + 5 / 8
    assert roofline.instructions("norm_backward", code, loops) == 6 / 4 + 5 / 4
