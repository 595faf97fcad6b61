"""The baseline that the AdaAgg layer is measured against: its equations written down with one grouped convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, einsum, nn

from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.layers.surgery import aggregate, gate_layers


class GroupedAdaAgg(nn.Module):
    """y_b = (sum_i a_i(b) T_i W_i) * x_b for a whole batch: kernels side by side, one group a sample, nothing kept.

    It shares the parameters of the layer that it is made from.
    """

    def __init__(self, layer: AdaAggConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        layer = self.layer
        gates = layer.gate(x.mean((2, 3)))  # (B, m)
        kernels = layer.weight.unflatten(
            2, (layer.in_channels // layer.groups, *layer.kernel_size)
        )  # (m, O, I, kh, kw)
        if layer.alignment is not None:
            kernels = einsum("mop,mpikl->moikl", layer.alignment, kernels)
        mixed = einsum("bm,moikl->boikl", gates, kernels)
        batch, _, height, width = x.shape
        folded = x.reshape(1, batch * layer.in_channels, height, width)
        y = F.conv2d(
            folded, mixed.flatten(0, 1), None, layer.stride, layer.padding, layer.dilation, batch * layer.groups
        )  # fmt: skip
        return y.view(batch, layer.out_channels, *y.shape[2:])


def aggregate_grouped(networks: Sequence[nn.Module]) -> nn.Module:
    """`zoolib.layers.surgery.aggregate` with every layer computed in the plain way."""
    model = aggregate(networks)
    for name, layer in gate_layers(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, GroupedAdaAgg(layer))
    return model
