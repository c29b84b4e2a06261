"""The U-Net of tinyddpm.nn.unet in PyTorch (and the MLP): the speed benchmark's peer, built as
diffusers' UNet2DModel is.

Ho20     Denoising diffusion probabilistic models, appendix B (the architecture, the initialisation)
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

EPS_NORM = 1e-6


class ResBlock(nn.Module):
    """shortcut(x) + conv2(drop(silu(norm2(h)))), h = conv1(silu(norm1(x))) + proj(silu(temb))."""

    def __init__(self, c_in, c_out, c_temb, groups, dropout):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, EPS_NORM)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(c_temb, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, EPS_NORM)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, temb):
        """x (B, C, H, W), temb (B, c_temb) -> (B, c_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class Attention(nn.Module):
    """y = x + out(softmax(q k^T / sqrt(d)) v), q, k, v linear in norm(x), over the pixels as
    tokens.
    """

    def __init__(self, channels, heads, groups):
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, channels, EPS_NORM)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        """The layer's output for x."""
        b, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            f(tokens).view(b, h * w, self.heads, -1).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.to_out[0](y).transpose(1, 2).view(b, c, h, w)


class Resample(nn.Module):
    """Halve by a strided convolution, or double by nearest neighbours and a convolution."""

    def __init__(self, channels, down, padding=1):
        super().__init__()
        self.down, self.padding = down, padding
        self.conv = nn.Conv2d(
            channels, channels, 3, stride=2 if down else 1, padding=padding if down else 1
        )

    def forward(self, x):
        """The layer's output for x."""
        if not self.down:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        # padding 0 means Ho20's own: one zero row and column after the last, none before the first
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Level(nn.Module):
    """The resnet blocks of one resolution, each with its attention, and the way to the next
    resolution.
    """

    def __init__(self, sizes, c_temb, groups, dropout, heads, attention):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(i, o, c_temb, groups, dropout) for i, o in sizes)
        self.attentions = nn.ModuleList(Attention(o, heads, groups) for _, o in sizes if attention)

    def block(self, i, h, temb):
        """The i-th resnet block of the level, and its attention."""
        h = self.resnets[i](h, temb)
        return self.attentions[i](h) if self.attentions else h


class TorchUNet(nn.Module):
    """Our UNet in PyTorch: eps_hat = net(xt, t), xt (B, C, H, W), t (B,) -> (B, C, H, W).

    Parameter names are diffusers' own. net: the UNet whose shape it has.
    """

    def __init__(self, net):
        super().__init__()
        channels, base, blocks = net.channels, net.base, net.blocks
        heads, groups = net.heads, net.groups
        padding, dropout = {"right": 0, "both": 1}[net.pad], 0.0  # 0: Ho20's (0, 1, 0, 1)
        attention = [i for i, attends in enumerate(net.attention) if attends]
        self.base, c_temb, widths = base, 4 * base, [base * m for m in net.mults]
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(base, c_temb), "linear_2": nn.Linear(c_temb, c_temb)}
        )

        self.down_blocks, skips, c = nn.ModuleList(), [base], base
        for i, width in enumerate(widths):
            sizes = [(c, width)] + [(width, width)] * (blocks - 1)
            level = Level(sizes, c_temb, groups, dropout, heads, i in attention)
            last = i == len(widths) - 1
            level.downsamplers = nn.ModuleList([] if last else [Resample(width, True, padding)])
            skips += [width] * (blocks + (not last))
            self.down_blocks.append(level)
            c = width

        self.mid_block = Level([(c, c)] * 2, c_temb, groups, dropout, heads, False)
        self.mid_block.attentions.append(Attention(c, heads, groups))

        self.up_blocks = nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            sizes = []
            for _ in range(blocks + 1):
                sizes.append((c + skips.pop(), width))
                c = width
            level = Level(sizes, c_temb, groups, dropout, heads, i in attention)
            level.upsamplers = nn.ModuleList([] if i == 0 else [Resample(width, False)])
            self.up_blocks.append(level)

        self.conv_norm_out = nn.GroupNorm(groups, c, EPS_NORM)
        self.conv_out = nn.Conv2d(c, channels, 3, padding=1)
        init_(self)

    def forward(self, xt, t):
        """The prediction at (xt, t)."""
        emb = self.time_embedding
        temb = emb["linear_2"](F.silu(emb["linear_1"](time_embedding(t, self.base).to(xt.dtype))))

        h = self.conv_in(xt)
        skips = [h]
        for level in self.down_blocks:
            for i in range(len(level.resnets)):
                h = level.block(i, h, temb)
                skips.append(h)
            for down in level.downsamplers:
                h = down(h)
                skips.append(h)

        first, last = self.mid_block.resnets
        h = last(self.mid_block.attentions[0](first(h, temb)), temb)

        for level in self.up_blocks:
            for i in range(len(level.resnets)):
                h = level.block(i, torch.cat([h, skips.pop()], 1), temb)
            for up in level.upsamplers:
                h = up(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class TorchMLP(nn.Module):
    """tinyddpm.nn.mlp's network, v = net(xt, t) with xt (B, dim), t (B,); its parameters have our
    names.
    """

    def __init__(self, dim=2, hidden=128, layers=3):
        super().__init__()
        self.time, self.input, self.output = (
            Affine(hidden, hidden),
            Affine(dim, hidden),
            Affine(hidden, dim),
        )
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: Affine(hidden, hidden) for name in ("a", "time", "b")})
            for _ in range(layers)
        )

    def forward(self, xt, t):
        """The prediction at (xt, t)."""
        e = F.silu(self.time(time_embedding(t, self.time.w.shape[1])))
        h = self.input(xt)
        for block in self.blocks:
            h = h + block["b"](F.silu(block["a"](h) + block["time"](e)))
        return self.output(F.silu(h))


class Affine(nn.Module):
    """y = x w^T + b under our names."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.w, self.b = (
            nn.Parameter(torch.empty(outputs, inputs)),
            nn.Parameter(torch.empty(outputs)),
        )

    def forward(self, x):
        """The layer's output for x."""
        return F.linear(x, self.w, self.b)


def time_embedding(t, dim):
    """[sin(t w), cos(t w)], w_i = 10000^(-i/(dim/2 - 1)), in float32 as diffusers: t (B,) -> (B,
    dim).
    """
    half = dim // 2
    place = torch.arange(half, dtype=torch.float32, device=t.device)
    frequency = torch.exp(-math.log(10000.0) * place / (half - 1))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


def init_(net):
    """Ho20's initialisation: uniform of variance 2/(fan_in + fan_out), zero biases, zero branch
    ends.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            if name.endswith((".conv2", ".to_out.0")) or name == "conv_out":
                nn.init.zeros_(layer.weight)
