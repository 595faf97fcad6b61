"""Small residual networks for places where no library offers one: the packaged zoos and Hub-Pathway's generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoolib.families import FAMILIES


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet(nn.Module):
    """One basic block a stage, named as in torchvision; (B, 3, H, W) -> pooled features (B, widths[-1])."""

    def __init__(self, widths: Sequence[int], stem_kernel: int, stem_stride: int, stem_pool: bool) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.conv1 = nn.Conv2d(3, widths[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem_pool else nn.Identity()
        self.stages = [f"layer{index + 1}" for index in range(len(widths))]
        before = widths[0]
        for index, (name, width) in enumerate(zip(self.stages, widths, strict=True)):
            self.add_module(name, BasicBlock(before, width, 1 if index == 0 else 2))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last feature map (B, widths[-1], h, w)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_features)."""
        return self.forward_features(x).mean((2, 3))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 one has a quarter of the channels (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // 4
        self.conv1 = nn.Conv2d(in_channels, narrow, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class BottleneckResNet(nn.Module):
    """ResNet-50's layout in small, named as in torchvision: stem (stride 2), four stages of bottlenecks, mean.

    Stages after the first halve the side, so that an image of 32 pixels has maps of 16, 8, 4 and 2.
    """

    def __init__(self, stem: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.widths = tuple(widths)
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = [f"layer{index + 1}" for index in range(len(widths))]
        before = stem
        for index, (name, width, count) in enumerate(zip(self.stages, widths, blocks, strict=True)):
            stride = 1 if index == 0 else 2
            first = Bottleneck(before, width, stride)
            self.add_module(name, nn.Sequential(first, *(Bottleneck(width, width, 1) for _ in range(count - 1))))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the stages' outputs, (B, widths[i], H / 2^(i+1), W / 2^(i+1))."""
        x = F.relu(self.bn1(self.conv1(x)))
        out = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            out.append(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_features)."""
        return self.maps(x)[-1].mean((2, 3))


def tiny_resnet() -> ResNet:
    """Seven convolutions, 0.08 M parameters, for images of 16 to 32 pixels."""
    return ResNet((16, 32, 64), stem_kernel=3, stem_stride=2, stem_pool=False)


def resnet9(width: int) -> ResNet:
    """Nine convolutions, widths w, 2w, 4w, 8w: the trunk of Hub-Pathway's generator (4.90 M parameters at width 64)."""
    return ResNet((width, 2 * width, 4 * width, 8 * width), stem_kernel=7, stem_stride=2, stem_pool=True)


def mini_resnet() -> BottleneckResNet:
    """Six bottlenecks, 0.59 M parameters, 10 M multiply-adds for an image of 32 pixels."""
    return BottleneckResNet(32, (64, 128, 256, 512), (1, 2, 2, 1))


def mini_basic() -> ResNet:
    """Three basic blocks, 0.5 M parameters, for images of 32 pixels."""
    return ResNet((40, 80, 160), stem_kernel=3, stem_stride=2, stem_pool=False)


NETS = {"tiny_resnet": tiny_resnet, "mini_resnet": mini_resnet, "mini_basic": mini_basic, **FAMILIES}
