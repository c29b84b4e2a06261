"""The U-Net of Ho et al. 2020 (Appendix B), by hand: spec, forward, backward.

The same network as the field's UNet2DModel with the settings of ddpm-cifar10-32, in any width,
depth and number of levels, heads and channels. Skip connections are a stack: forward pushes in the
encoder and pops in the decoder; backward pushes in the decoder and pops in the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from types import SimpleNamespace
from typing import Any

from ..errors import InputError
from ..settings import setting
from . import params
from .ops import Array, Ops, Recompute, Tape

PADS = {"right": (0, 1), "both": (1, 1)}  # zeros before and after each axis, at stride 2


@dataclass(frozen=True)
class UNet:
    """A U-Net from (B, H, W, channels) to (B, H, W, out or channels).

    H and W are multiples of 2^(levels - 1). Raises InputError for sizes that cannot be built.
    """

    channels: int = 1  # of the images
    base: int = setting(32, "channels of the first level (default: 24, or 32 from 16 pixels)")
    mults: tuple[int, ...] = setting((1, 2), "each level's multiple of them", metavar="M")
    blocks: int = setting(2, "residual blocks a level (default: 1, or 2 from 16 pixels)")
    # for each level, whether its blocks attend
    attention: tuple[bool, ...] = setting(
        (False, True), "the levels that attend, from 0", metavar="LEVEL"
    )
    heads: int = setting(1, "attention heads (default: 1)")
    groups: int = setting(8, "groups of GroupNorm (default: 8)")
    # "right": Ho20's code; "both": at either side
    pad: str = setting(
        "right", "how stride-2 convolutions are padded (default: right)", choices=tuple(PADS)
    )
    tol: float = 1e-6  # what GroupNorm adds to the variance
    out: int | None = None  # the output's channels; None: as many as channels
    classes: int = 0  # how many labels it knows; 0: it takes none
    no_label: bool = True  # whether the labels' table has a row for none too
    # What UNet2DModel can be beside Ho20's network; `interop` reads and writes it.
    widths: tuple[int, ...] | None = None  # each level's channels, in place of base times mults
    up_attention: tuple[bool, ...] | None = None  # as attention, on the way up; None: the same
    mid_attention: bool = True  # whether the middle attends
    head_dim: int | None = None  # channels of a head at every level, in place of heads
    center: bool = False  # whether it sees 2 x - 1
    t_offset: int = 0  # added to t, which is 1..T here and 0..T-1 elsewhere
    freq_shift: int = 1  # of the embedding of t: 1 as in Ho20's code, 0 as in Vaswani17
    cos_first: bool = False  # whether the embedding of t is [cos, sin], not [sin, cos]

    def __post_init__(self):
        out = self.channels if self.out is None else self.out
        sizes = (self.channels, self.base, *self.mults, self.blocks, self.heads, self.groups, out)
        if not self.mults or not all(isinstance(n, Integral) and n >= 1 for n in sizes):
            raise InputError(
                "a U-Net needs whole numbers of at least 1, and at least one level, in channels, "
                f"base, mults, blocks, heads, groups and out; got {self}"
            )
        widths = self.channels_of_levels
        if len(widths) != len(self.mults) or not all(isinstance(w, Integral) for w in widths):
            raise InputError(f"{len(self.mults)} levels need as many widths, got {self.widths}")
        if len(self.attention) != len(self.mults):
            raise InputError(
                f"{len(self.mults)} levels need as many attention flags, got {len(self.attention)}"
            )
        if self.base < 4 or self.base % 2:
            raise InputError(
                "base must be even and at least 4 "
                f"(it is also the time embedding's size): {self.base}"
            )
        if any(w < 1 or w % self.groups for w in [self.base, *widths]):
            raise InputError(
                f"groups = {self.groups} must divide every layer's channels {[self.base, *widths]}"
            )
        self._check_heads(widths)
        self._check_embedding()
        if not isinstance(self.classes, Integral) or self.classes < 0:
            raise InputError(f"classes must be a whole number of at least 0, got {self.classes!r}")
        if self.pad not in PADS:
            raise InputError(f"pad must be one of {', '.join(PADS)}, got {self.pad!r}")

    def _check_heads(self, widths):
        """Raises InputError unless the heads divide the channels of what attends."""
        flags = (*self.attention, *self._up_attention)
        if len(flags) != 2 * len(widths):
            raise InputError(
                f"{len(widths)} levels need as many flags in up_attention, got {self.up_attention}"
            )
        attending = [w for w, attends in zip((*widths, *widths), flags) if attends]
        attending = sorted({*attending, *(widths[-1:] if self.mid_attention else ())})
        if self.head_dim is None and any(w % self.heads for w in attending):
            raise InputError(
                f"heads = {self.heads} must divide the channels of the levels that attend "
                f"{attending}"
            )
        whole = self.head_dim is None or isinstance(self.head_dim, Integral) and self.head_dim >= 1
        if not whole or self.head_dim is not None and any(w % self.head_dim for w in attending):
            raise InputError(
                f"head_dim = {self.head_dim} must be whole and divide the channels of the levels "
                f"that attend {attending}"
            )

    def _check_embedding(self):
        """Raises InputError for an embedding of t that there is not."""
        if self.freq_shift not in (0, 1) or not isinstance(self.t_offset, Integral):
            raise InputError(
                f"freq_shift must be 0 or 1 and t_offset whole, got {self.freq_shift!r} and "
                f"{self.t_offset!r}"
            )

    @property
    def channels_of_levels(self) -> tuple[int, ...]:
        """The channels of each level."""
        return self.widths or tuple(self.base * m for m in self.mults)

    @property
    def _up_attention(self):
        return self.attention if self.up_attention is None else self.up_attention

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError unless both sides halve evenly at every level."""
        times = len(self.mults) - 1
        factor = 2**times
        if height < 1 or width < 1 or height % factor or width % factor:
            shown = factor if times < 20 else f"2^{times}"  # which may have thousands of digits
            raise InputError(
                f"images of {height} x {width} do not halve {times} times: both sides must be "
                f"multiples of {shown} (pad them, or ask for fewer levels)"
            )

    # The spec: every parameter of the network, once.

    def spec(self) -> dict[str, Any]:
        """The tree of parameters (`params`); as in Ho20's code, branches end in zeros at first."""
        widths = self.channels_of_levels
        width, skips, down, up = self.base, [self.base], [], []
        for i, (w, attends) in enumerate(zip(widths, self.attention)):
            level = []
            for _ in range(self.blocks):
                level.append(self._block_spec(width, w, attends))
                width = w
                skips.append(w)
            last = i == len(widths) - 1
            down.append({"blocks": level, "resize": None if last else params.conv(3, w, w)})
            skips += [] if last else [w]
        mid = {
            "first": self._block_spec(width, width, self.mid_attention),
            "second": self._block_spec(width, width, False),
        }
        for i, (w, attends) in reversed(list(enumerate(zip(widths, self._up_attention)))):
            level = []
            for _ in range(self.blocks + 1):
                level.append(self._block_spec(width + skips.pop(), w, attends))
                width = w
            up.append({"blocks": level, "resize": None if i == 0 else params.conv(3, w, w)})
        return {
            "time1": params.linear(self.base, 4 * self.base),
            "time2": params.linear(4 * self.base, 4 * self.base),
            "label": params.embedding(self.classes, 4 * self.base, self.no_label)
            if self.classes
            else None,
            "conv_in": params.conv(3, self.channels, self.base),
            "down": down,
            "mid": mid,
            "up": up,
            "norm_out": params.norm(width),
            "conv_out": params.conv(3, width, self.out or self.channels, gain=0.0),
        }

    def _block_spec(self, inputs, outputs, attends):
        return {
            "norm1": params.norm(inputs),
            "conv1": params.conv(3, inputs, outputs),
            "time": params.linear(4 * self.base, outputs),
            "norm2": params.norm(outputs),
            "conv2": params.conv(3, outputs, outputs, gain=0.0),
            "short": None if inputs == outputs else params.conv(1, inputs, outputs),
            "attention": self._attention_spec(outputs) if attends else None,
        }

    def _attention_spec(self, width):
        return {
            "norm": params.norm(width),
            "q": params.linear(width, width),
            "k": params.linear(width, width),
            "v": params.linear(width, width),
            "out": params.linear(width, width, gain=0.0),
        }

    # The whole network.

    def forward(
        self,
        ops: Ops,
        p: SimpleNamespace,
        x: Array,
        t: Array,
        tape: Tape,
        drop: Callable[..., Array] | None = None,
        label: Array | None = None,
    ) -> Array:
        """The network's output.

        Args:
            ops: the backend.
            p: the parameters, `params.views` of theta.
            x: (B, H, W, C).
            t: (B,), or (1,) for one t throughout, which only a Forget takes.
            tape: a list, for `backward`, such as a Recompute, or a Forget.
            drop: a callable (shape, dtype) -> dropout mask, called once a block, or None; a
                Recompute also takes a copy of it, `drop.again()`, to be asked for the same masks.
            label: (B,) or (1,) ints, -1 for no class; None: no class at all.

        Returns:
            (B, H, W, out or channels).
        """
        e = self._embed_time(ops, p, x, t, tape, label)
        h = ops.conv2d(2 * x - 1 if self.center else x, p.conv_in, tape)
        skips = [h]
        for level in p.down:
            for block in level.blocks:
                h = self._block(ops, block, h, e, tape, drop)
                skips.append(h)
            if level.resize:
                h = ops.conv2d(h, level.resize, tape, stride=2, pad=PADS[self.pad])
                skips.append(h)
        h = self._block(ops, p.mid.first, h, e, tape, drop)
        h = self._block(ops, p.mid.second, h, e, tape, drop)
        for level in p.up:
            for block in level.blocks:
                h = ops.concat(h, skips.pop(), tape)
                h = self._block(ops, block, h, e, tape, drop)
            if level.resize:
                h = ops.upsample_conv2d(h, level.resize, tape)
        h = ops.groupnorm_silu(h, p.norm_out, self.groups, tape, self.tol)
        return ops.conv2d(h, p.conv_out, tape)

    def decoder_start(self) -> int:
        """Where in the flat vector the decoder's parameters begin, which reach to its end."""
        spec = self.spec()
        names = list(spec)
        return params.size({name: spec[name] for name in names[: names.index("up")]})

    def backward(
        self,
        ops: Ops,
        g: SimpleNamespace,
        dy: Array,
        tape: list[Any],
        ready: Callable[[], object] | None = None,
    ) -> Array:
        """The gradients of the parameters, added to g, and that of x, returned.

        Args:
            ops: the backend.
            g: `params.views` of the gradient.
            dy: like the output.
            tape: what `forward` put there; empty afterwards.
            ready: called once the gradient is complete from `decoder_start` on.

        Returns:
            dx, like x.
        """
        dh = ops.conv2d_backward(dy, g.conv_out, tape)
        dh = ops.groupnorm_silu_backward(dh, g.norm_out, tape)
        dskips: list[Array] = []
        de: list[Array] = []
        for level in reversed(g.up):
            if level.resize:
                dh = ops.upsample_conv2d_backward(dh, level.resize, tape)
            for block in reversed(level.blocks):
                dh = self._block_backward(ops, block, dh, de, tape)
                dh, dskip = ops.concat_backward(dh, tape)
                dskips.append(dskip)
        if ready:
            ready()
        dh = self._block_backward(ops, g.mid.second, dh, de, tape)
        dh = self._block_backward(ops, g.mid.first, dh, de, tape, dskips.pop())
        for level in reversed(g.down):
            if level.resize:
                dh = ops.conv2d_backward(dh, level.resize, tape, dskips.pop())
            for block in reversed(level.blocks):
                dh = self._block_backward(ops, block, dh, de, tape, dskips.pop())
        dx = ops.conv2d_backward(dh, g.conv_in, tape)
        self._embed_time_backward(ops, g, sum(de), tape)
        assert not tape
        return 2 * dx if self.center else dx

    # Its parts.

    def _embed_time(self, ops, p, x, t, tape, label):
        """t and label -> e (B, 4 base), after the SiLU with which every block would begin."""
        t = t + self.t_offset if self.t_offset else t
        sines = ops.time_embedding(t, self.base, x.dtype, self.freq_shift, self.cos_first)
        e = ops.silu_linear(ops.linear(sines, p.time1, tape), p.time2, tape)
        if p.label:
            label = params.known_label(ops.xp, label, self.no_label)
            e = e + ops.embedding(label, p.label, tape)
        return ops.silu(e, tape)

    def _embed_time_backward(self, ops, g, de, tape):
        de = ops.silu_backward(de, tape)
        if g.label:
            ops.embedding_backward(de, g.label, tape)
        de = ops.silu_linear_backward(de, g.time2, tape)
        ops.linear_backward(de, g.time1, tape)

    def _block(self, ops, p, x, e, tape, drop):
        """short + conv(silu(norm(conv(silu(norm(x))) + e w))); short: x, with the new channels."""
        if isinstance(tape, Recompute):
            tape.append((p, x, e, drop and drop.again()))
            return self._block(ops, p, x, e, [], drop)  # on a tape too: by the same operations
        h = ops.groupnorm_silu(x, p.norm1, self.groups, tape, self.tol)
        short = x if p.short is None else ops.conv2d(x, p.short, tape, pad=(0, 0))
        h = ops.conv2d(h, p.conv1, tape, shift=ops.linear(e, p.time, tape))
        h = ops.groupnorm_silu(h, p.norm2, self.groups, tape, self.tol)
        h = ops.dropout(h, drop and drop(h.shape, h.dtype), tape)
        h = ops.conv2d(h, p.conv2, tape, onto=short)
        return h if p.attention is None else self._attend(ops, p.attention, h, tape)

    def _block_backward(self, ops, g, dy, de, tape, *others):
        """dx, and others, its gradients from elsewhere; e's is appended to the list de."""
        if isinstance(tape, Recompute):
            p, x, e, drop = tape.pop()
            tape = []
            self._block(ops, p, x, e, tape, drop)
        dy = dy if g.attention is None else self._attend_backward(ops, g.attention, dy, tape)
        dh = ops.conv2d_backward(dy, g.conv2, tape)
        dh = ops.dropout_backward(dh, tape)
        dh = ops.groupnorm_silu_backward(dh, g.norm2, tape)
        dshift = ops.pixel_sum(dh)
        dh = ops.conv2d_backward(dh, g.conv1, tape)
        de.append(ops.linear_backward(dshift, g.time, tape))
        dshort = dy if g.short is None else ops.conv2d_backward(dy, g.short, tape)
        return ops.groupnorm_silu_backward(dh, g.norm1, tape, dshort, *others)

    def _attend(self, ops, p, x, tape):
        """x + out(attention(q, k, v)) of its normalised pixels, read as H W tokens."""
        normalised = ops.groupnorm(x, p.norm, self.groups, tape, self.tol)
        tokens = normalised.reshape(len(x), -1, x.shape[-1])
        q, k, v = (ops.linear(tokens, layer, tape) for layer in (p.q, p.k, p.v))
        heads = self.heads if self.head_dim is None else x.shape[-1] // self.head_dim
        h = ops.linear(ops.attention(q, k, v, heads, tape), p.out, tape)
        return x + h.reshape(x.shape)

    def _attend_backward(self, ops, g, dy, tape):
        dh = ops.linear_backward(dy.reshape(len(dy), -1, dy.shape[-1]), g.out, tape)
        dq, dk, dv = ops.attention_backward(dh, tape)
        dtokens = ops.linear_backward(dv, g.v, tape)
        dtokens += ops.linear_backward(dk, g.k, tape)
        dtokens += ops.linear_backward(dq, g.q, tape)
        return ops.groupnorm_backward(dtokens.reshape(dy.shape), g.norm, tape, dy)
