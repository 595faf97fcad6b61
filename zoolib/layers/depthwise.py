"""Depthwise convolutions with a fast gradient where the kernel is larger than its map, for training on a CPU.

oneDNN computes that gradient channel by channel: 30 ms for 672 kernels of 5x5 on maps of 4x4 at batch 32, where the
convolution itself takes half a millisecond. On images of 64 pixels it was a quarter or more of an EfficientNet's step.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

Pair = tuple[int, int]


def kernel_gradient(x: Tensor, grad: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The gradient of a depthwise convolution's kernels, (C, 1, kh, kw), from x (B, C, H, W) and grad (B, C, h, w).

    One position of the kernel after the other: the sum of grad times what lay under that position.
    """
    x, grad = (t.permute(0, 2, 3, 1).contiguous() for t in (x, grad))  # (B, H, W, C): sums over long rows
    found = x.new_zeros(*kernel, x.shape[-1])
    sides = [
        dict(_overlaps(x.shape[1 + i], grad.shape[1 + i], kernel[i], stride[i], padding[i], dilation[i]))
        for i in (0, 1)
    ]
    for row, column in product(*sides):
        (ours, theirs), (mine, yours) = sides[0][row], sides[1][column]
        found[row, column] = (x[:, ours, mine] * grad[:, theirs, yours]).sum((0, 1, 2))
    return found.permute(2, 0, 1).unsqueeze(1)


def _overlaps(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Positions of a kernel along one side that ever lie on the map: where on it, and in which outputs."""
    for position in range(kernel):
        shift = position * dilation - padding  # of the input under output 0
        first, last = max(0, -(shift // stride)), min(out - 1, (size - 1 - shift) // stride)
        if first <= last:
            start, stop = first * stride + shift, last * stride + shift
            yield position, (slice(start, stop + 1, stride), slice(first, last + 1))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation = geometry
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            stride, padding, dilation = ctx.geometry
            for_x = conv2d_input(x.shape, weight, grad, stride, padding, dilation, len(weight))
        if ctx.needs_input_grad[1]:
            for_weight = kernel_gradient(x, grad, tuple(weight.shape[2:]), *ctx.geometry)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum((0, 2, 3))
        return for_x, for_weight, for_bias, None, None, None


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """As torch.nn.functional.conv2d, (B, I, H, W) -> (B, O, h, w), with the fast gradient where it applies."""
    if groups == x.shape[1] == len(weight) and _slow(x, weight, stride, padding, dilation):
        y: Tensor = _Depthwise.apply(x, weight, bias, stride, padding, dilation)
        return y
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _slow(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether a gradient is wanted that oneDNN has no fast way to."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not weight.requires_grad:
        return False
    kernel = weight.shape[2:]
    sides = zip(x.shape[2:], padding, kernel, dilation, stride, strict=True)
    outs = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, k, d, s in sides]
    return torch.is_grad_enabled() and any(out < k for out, k in zip(outs, kernel, strict=True))


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise torch.nn.Conv2d that differs in the speed of its gradient alone.

    `DepthwiseConv2d.of(conv)` shares the tensors of a convolution, and its names in a state dict.
    """

    padding: Pair
    stride: Pair
    dilation: Pair

    @classmethod
    def of(cls, conv: nn.Conv2d) -> DepthwiseConv2d:
        """The same convolution, with the same parameters. Raises ValueError for one that is not depthwise."""
        if not is_depthwise(conv):
            raise ValueError(f"{conv} is not a depthwise convolution with zeros around its map")
        made = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            device="meta",
        )
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a plain convolution with one kernel a channel, padded with zeros by a number of pixels."""
    if type(module) is not nn.Conv2d or module._forward_hooks or module._forward_pre_hooks:
        return False  # a subclass or a hook may compute something else
    one_each = module.groups == module.in_channels == module.out_channels > 1
    return one_each and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def quicken(model: nn.Module) -> nn.Module:
    """Put a DepthwiseConv2d in the place of every depthwise convolution; names, tensors and outputs stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_depthwise(child):
                setattr(parent, name, DepthwiseConv2d.of(child))  # type: ignore[arg-type]
    return model
