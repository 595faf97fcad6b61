"""Small networks of other families than the residual one: the members of `mini-hub`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Inverted residuals ---------------------------------------------------------------------------------------------------


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by a 3x3 one, narrow by a 1x1 one (Sandler et al. 2018)."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        return out + x if self.shortcut else out


class InvertedNet(nn.Module):
    """A MobileNet-V2 in small; (B, 3, H, W) -> pooled features (B, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 384
        plan = [(24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 96, 1)]  # in, out, stride
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU6(),
            *(InvertedResidual(before, after, stride, 4) for before, after, stride in plan),
            nn.Conv2d(96, self.num_features, 1, bias=False),
            nn.BatchNorm2d(self.num_features),
            nn.ReLU6(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_features)."""
        out: Tensor = self.layers(x)
        return out.mean((2, 3))


# Windowed attention ---------------------------------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Self-attention within windows of a grid of tokens, optionally shifted by half a window (Liu et al. 2021).

    The shift is cyclic and unmasked: on grids this small the rim's tokens may attend across the border.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # one for each relative position
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = place[:, :, None] - place[:, None, :] + window - 1  # (2, W*W, W*W)
        self.register_buffer("apart", apart[0] * (2 * window - 1) + apart[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C), H and W multiples of the window -> the same shape."""
        count, height, width, dim = x.shape
        size = self.window
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = x.view(count, height // size, size, width // size, size, dim).transpose(2, 3)
        x = x.reshape(-1, size * size, dim)  # (B * windows, W*W, C)
        q, k, v = self.qkv(x).view(len(x), size * size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.get_buffer("apart")].permute(2, 0, 1).to(q.dtype)  # (heads, W*W, W*W)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(len(x), -1, dim)
        x = self.out(x).view(count, height // size, width // size, size, size, dim).transpose(2, 3)
        x = x.reshape(count, height, width, dim)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class WindowBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window, shift)
        self.mlp = nn.Sequential(nn.Linear(dim, 3 * dim), nn.GELU(), nn.Linear(3 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class WindowNet(nn.Module):
    """A Swin transformer in small, for images of 32 pixels only; (B, 3, 32, 32) -> pooled features (B, 160)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 160
        self.embed = nn.Conv2d(3, 80, 4, 4)
        self.stage1 = nn.Sequential(WindowBlock(80, 4, 4, 0), WindowBlock(80, 4, 4, 2))
        self.merge = nn.Sequential(nn.LayerNorm(320), nn.Linear(320, 160, bias=False))
        self.stage2 = nn.Sequential(WindowBlock(160, 5, 4, 0), WindowBlock(160, 5, 4, 0))
        self.norm = nn.LayerNorm(160)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, num_features)."""
        x = self.stage1(self.embed(x).permute(0, 2, 3, 1))  # (B, 8, 8, 80)
        count, height, width, dim = x.shape
        x = x.reshape(count, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 2, 4, 5).flatten(3)
        x = self.stage2(self.merge(x))  # (B, 4, 4, 160)
        out: Tensor = self.norm(x.mean((1, 2)))
        return out


# ConvNeXt -------------------------------------------------------------------------------------------------------------


class NextBlock(nn.Module):
    """A 5x5 depthwise convolution, layer norm and a two-layer perceptron beside a shortcut (after Liu et al. 2022)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(dim, dim, 5, 1, 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = self.filter(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        return x + (self.scale * self.mlp(self.norm(out))).permute(0, 3, 1, 2)


class NextNet(nn.Module):
    """A ConvNeXt in small; (B, 3, H, W) -> pooled features (B, 144)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 144
        self.stem = nn.Conv2d(3, 72, 4, 4)
        self.norm1 = nn.LayerNorm(72)
        self.stage1 = nn.Sequential(NextBlock(72), NextBlock(72))
        self.down = nn.Conv2d(72, 144, 2, 2)
        self.stage2 = nn.Sequential(NextBlock(144), NextBlock(144))
        self.norm2 = nn.LayerNorm(144)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_features)."""
        x = self.norm1(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.stage2(self.down(self.stage1(x)))
        out: Tensor = self.norm2(x.mean((2, 3)))
        return out


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mini_inverted": InvertedNet,
    "mini_window": WindowNet,
    "mini_next": NextNet,
}
