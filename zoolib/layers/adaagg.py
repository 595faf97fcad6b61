"""The adaptive aggregation (AdaAgg) convolution of Zoo-Tuning (ICML 2021): a kernel a sample, summed over m models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoolib.layers.depthwise import conv2d
from zoolib.spec import unknown

STRATEGIES = ("auto", "grouped", "unfold", "matmul", "stacked")
# CPU: a grouped convolution is faster unless the map is small and the kernel large (it reorders all weights per call).
_SMALL_MAP, _LARGE_KERNEL = 12, 100_000  # output side in pixels; O * I * kh * kw of one sample

Pair = int | tuple[int, int]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _make_gate(in_channels: int, num_models: int) -> nn.Sequential:
    """Gate on pooled inputs, (B, I) -> (B, m) in (0, 1); linear layers are 1x1 convolutions of a 1x1 map."""
    hidden = in_channels // 4 + 1
    squeeze, excite = nn.Linear(in_channels, hidden, bias=False), nn.Linear(hidden, num_models)
    for layer in (squeeze, excite):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(excite.bias)
    return nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())


def _pooled(x: Tensor) -> Tensor:
    """Mean over positions, (B, I, H, W) -> (B, I); the gradient of a sum, unlike that of a mean, fills no tensor."""
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


class _Mix(torch.autograd.Function):
    """gates (B, m) times kernels (m, N), where N is in the millions and the other sizes are a few.

    Autograd's product for the gates, (B, N) @ (N, m), takes twice as long as its transpose on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(gates, kernels)
        return gates @ kernels

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gates, kernels = ctx.saved_tensors
        for_gates, for_kernels = ctx.needs_input_grad
        return (kernels @ grads[0].t()).t() if for_gates else None, gates.t() @ grads[0] if for_kernels else None


class AdaAggConv2d(nn.Module):
    """Convolve each sample b with its own kernel, sum_i a_i(b) T_i W_i, and bias, sum_i a_i(b) b_i.

    Zoo-Tuning (ICML 2021), adaptive aggregation: W_i are the m models' kernels; T_i, where `align`, is a 1x1
    convolution over the output channels of W_i that starts at the identity; a_i are sigmoid gates on the pooled input,
    not normalised over models.

    Lite (`lite=True`): the gate is averaged over the batch, so that one kernel is convolved. Evaluation uses an
    exponential moving average of the training gates (momentum `gate_momentum`). The authors' code starts that average
    at zero and uses it as it is, so that early evaluation sees kernels scaled by 1 - (1 - momentum)^steps; here that
    factor is divided out (the two agree at convergence). Before the first training step the gate is sigmoid(0) = 1/2.

    x (B, I, H, W) -> (B, O, H', W'). `last_gates` (B, m) holds the gates of the last forward pass, detached.
    In evaluation without gradients aligned kernels are computed once; in-place changes of a parameter, `train()`,
    `load_state_dict()` and moves renew them (a write through `.data` is not seen before the next `train()`).

    Args:
        weights: kernels of the m models, (m, O, I/groups, kh, kw); the parameter `weight` keeps them as (m, O, K).
        biases: (m, O) or None.
        padding: zeros on both sides, or "valid", or "same" (output size ceil(input / stride), any stride).
        strategy: "auto" picks by shape; "grouped", "unfold", "matmul" (1x1 kernels only) and "stacked" (one group
            only) force one way to compute. Stacked is all m kernels on every sample, then the gated sum of m outputs: m
            times the operations of a plain convolution, but no sample's kernel is written down, which is the fastest
            way where a map has no more pixels than there are models.
        recompute: rebuild the per-sample kernels in the backward pass instead of keeping them (less memory, more time).

    Raises ZoolibError for an unknown strategy or padding; ValueError for shapes that do not fit.
    """

    gate_mean: Tensor
    gate_mass: Tensor
    bias: Tensor | None
    alignment: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        biases: Tensor | None = None,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        align: bool = True,
        lite: bool = False,
        gate_momentum: float = 0.1,
        strategy: str = "auto",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if weights.dim() != 5:
            raise ValueError(f"weights must be (m, O, I/groups, kh, kw), not {tuple(weights.shape)}")
        m, out_channels, per_group, kh, kw = weights.shape
        if out_channels % groups:
            raise ValueError(f"{out_channels} output channels do not divide into {groups} groups")
        if biases is not None and biases.shape != (m, out_channels):
            raise ValueError(f"biases must be (m, O) = {(m, out_channels)}, not {tuple(biases.shape)}")
        if strategy not in STRATEGIES:
            raise unknown("strategy", strategy, STRATEGIES)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise unknown("padding", padding, ("same", "valid"))
        self.num_models, self.out_channels, self.in_channels = m, out_channels, per_group * groups
        self.kernel_size, self.groups = (kh, kw), groups
        self.stride, self.dilation = _pair(stride), _pair(dilation)
        self.padding: tuple[int, int] | str = padding if isinstance(padding, str) else _pair(padding)
        if strategy == "matmul" and self.kernel_size != (1, 1):
            raise ValueError(f"strategy 'matmul' serves 1x1 kernels, not {kh}x{kw}; use 'auto'")
        if strategy == "stacked" and groups > 1:
            raise ValueError(f"strategy 'stacked' serves one group, not {groups}; use 'auto'")
        self.lite, self.gate_momentum, self.strategy, self.recompute = lite, gate_momentum, strategy, recompute

        # Flat kernels: the matrix products need them so, and a change of memory format leaves them alone.
        self.weight = nn.Parameter(weights.detach().flatten(2).clone())  # (m, O, K), K = I/groups * kh * kw
        self.bias = None if biases is None else nn.Parameter(biases.detach().clone())  # (m, O)
        identity = torch.eye(out_channels).repeat(m, 1, 1).to(weights) if align else None
        self.alignment = None if identity is None else nn.Parameter(identity)  # (m, O, O), T_i
        self.gate = _make_gate(self.in_channels, m).to(weights)
        if lite:
            self.register_buffer("gate_mean", weights.new_zeros(m))  # moving average, from zero
            self.register_buffer("gate_mass", weights.new_zeros(()))  # 1 - (1 - momentum)^steps, the average's weight
        self.last_gates: Tensor | None = None
        self._cache: tuple[Any, Tensor] | None = None

    @classmethod
    def from_convs(cls, convs: Sequence[nn.Conv2d], padding: Pair | str | None = None, **options: Any) -> AdaAggConv2d:
        """The layer that aggregates these convolutions of one shape. Raises ValueError for padding other than zeros."""
        first = convs[0]
        if first.padding_mode != "zeros":
            raise ValueError(f"padding_mode {first.padding_mode!r} is not supported; use 'zeros'")
        weights = torch.stack([conv.weight.detach() for conv in convs])
        biases = None if first.bias is None else torch.stack([c.bias.detach() for c in convs if c.bias is not None])
        if padding is None:
            padding = first.padding if isinstance(first.padding, str) else _pair(first.padding)  # type: ignore[arg-type]
        stride, dilation = _pair(first.stride), _pair(first.dilation)  # type: ignore[arg-type]
        return cls(weights, biases, stride, padding, dilation, first.groups, **options)

    def extra_repr(self) -> str:
        """Shapes and switches, for print(model)."""
        return (
            f"{self.num_models} models, {self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, align={self.alignment is not None}, lite={self.lite}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        if self.lite:
            return self._forward_lite(x)
        gates = self.gate(_pooled(x))  # (B, m), each in (0, 1), not normalised
        self.last_gates = gates.detach()
        kernels = self.aligned()  # (m, O, K)
        if self.recompute and torch.is_grad_enabled():
            y: Tensor = checkpoint(self._convolve, x, gates, kernels, use_reentrant=False)
            return y
        return self._convolve(x, gates, kernels)

    def _forward_lite(self, x: Tensor) -> Tensor:
        if self.training:
            gates = self.gate(_pooled(x)).mean(0)  # (m,)
            self._track(gates.detach())
        else:
            gates = self.mean_gates()
        self.last_gates = gates.detach().expand(len(x), -1)  # (B, m), one row repeated without memory
        kernel = self._cached(lambda: self._mixed(gates), gates_fixed=True)  # (O, K)
        bias = None if self.bias is None else gates.to(self.bias.dtype) @ self.bias  # (O,)
        x, padding = self._pad(x)
        return conv2d(x, kernel.view(self._kernel_shape), bias, self.stride, padding, self.dilation, self.groups)

    # Gates of the lite layer ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _track(self, gates: Tensor) -> None:
        self.gate_mean.lerp_(gates.to(self.gate_mean.dtype), self.gate_momentum)
        self.gate_mass.lerp_(torch.ones_like(self.gate_mass), self.gate_momentum)

    def mean_gates(self) -> Tensor:
        """The lite layer's gates in evaluation, (m,): the moving average over its weight; 1/2 before any training."""
        tiny = torch.finfo(self.gate_mass.dtype).tiny
        return torch.where(self.gate_mass > 0, self.gate_mean / self.gate_mass.clamp_min(tiny), 0.5)

    # Kernels ----------------------------------------------------------------------------------------------------------

    @property
    def _kernel_shape(self) -> tuple[int, int, int, int]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def aligned(self) -> Tensor:
        """T_i W_i for all models in one batched product, (m, O, K); W_i itself where there is no alignment."""
        if self.alignment is None:
            return self.weight
        alignment = self.alignment
        return self._cached(lambda: torch.bmm(alignment, self.weight))

    def _mixed(self, gates: Tensor) -> Tensor:
        """sum_i a_i T_i W_i for one gate, (m,) -> (O, K): [a_1 T_1 ... a_m T_m] times the stacked kernels."""
        if self.alignment is None:
            return (gates @ self.weight.flatten(1)).view(self.out_channels, -1)
        scaled = gates.to(self.alignment.dtype).view(-1, 1, 1) * self.alignment  # (m, O, O)
        return scaled.transpose(0, 1).flatten(1) @ self.weight.flatten(0, 1)  # (O, m O) @ (m O, K)

    @staticmethod
    def _mix(gates: Tensor, kernels: Tensor) -> Tensor:
        device = gates.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else kernels.dtype
        mixed: Tensor = _Mix.apply(gates.to(dtype), kernels.to(dtype))
        return mixed

    def _cached(self, make: Any, gates_fixed: bool = False) -> Tensor:
        """What `make` returns, kept while evaluating without gradients until a tensor it came from changes."""
        sources = [self.weight, self.alignment, *([self.gate_mean, self.gate_mass] if gates_fixed else [])]
        tensors = [t for t in sources if t is not None]
        if self.training or torch.is_grad_enabled() or any(t.is_inference() for t in tensors):
            self._cache = None  # a step may follow that leaves no trace: torch's fused optimisers raise no version
            made: Tensor = make()
            return made
        device = self.weight.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (precision, torch.is_inference_mode_enabled(), [(id(t), t.data_ptr(), t._version) for t in tensors])
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, make())
        return self._cache[1]

    def train(self, mode: bool = True) -> AdaAggConv2d:
        """As nn.Module.train; training forgets cached kernels, evaluation goes on with those it has."""
        if mode:
            self._cache = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> AdaAggConv2d:
        self._cache = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._cache = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cache": None, "last_gates": None}

    # Convolution of every sample with its own kernel ------------------------------------------------------------------

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input and the symmetric padding left to apply to it."""
        if not isinstance(self.padding, str):
            return x, self.padding
        if self.padding == "valid":
            return x, (0, 0)
        sides: list[int] = []  # "same": left, right, top, bottom; the odd zero goes to the right and below
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (-(-size // stride) - 1) * stride + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max(reach - size, 0)
            sides += [total // 2, total - total // 2]
        return F.pad(x, sides), (0, 0)

    def _choose(self, out_size: tuple[int, int], x: Tensor) -> str:
        """The way to compute that was fastest for such shapes (measured on CPU; on GPU by count of operations)."""
        if self.strategy != "auto":
            return self.strategy
        if self.groups == 1 and x.device.type == "cpu" and out_size[0] * out_size[1] <= self.num_models:
            return "stacked"
        if self.kernel_size == (1, 1) and self.groups == 1:
            return "matmul"
        if self.groups > 1:
            return "grouped"
        heavy = min(out_size) < _SMALL_MAP and self.weight[0].numel() >= _LARGE_KERNEL
        return "grouped" if x.device.type == "cpu" and not heavy else "unfold"

    def _convolve(self, x: Tensor, gates: Tensor, kernels: Tensor) -> Tensor:
        """x (B, I, H, W), gates (B, m), kernels (m, O, K) -> (B, O, H', W')."""
        batch = len(x)
        x, padding = self._pad(x)
        geometry = zip(x.shape[2:], padding, self.kernel_size, self.dilation, self.stride, strict=True)
        height, width = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, k, d, s in geometry)
        bias = None if self.bias is None else gates @ self.bias.to(gates.dtype)  # (B, O)
        strategy = self._choose((height, width), x)
        if strategy == "stacked":
            weight = kernels.view(-1, *self._kernel_shape[1:])  # (m O, I, kh, kw)
            y = F.conv2d(x, weight, None, self.stride, padding, self.dilation)
            y = y.unflatten(1, (self.num_models, -1))  # (B, m, O, H', W'), in whatever memory format
            y = (gates.to(y.dtype)[:, :, None, None, None] * y).sum(1)
            return y if bias is None else y + bias.to(y.dtype).view(batch, -1, 1, 1)
        mixed = self._mix(gates, kernels.flatten(1))  # (B, O K): the kernel of each sample
        if strategy == "grouped":
            weight = mixed.view(batch * self.out_channels, *self._kernel_shape[1:])
            folded = x.reshape(1, batch * self.in_channels, *x.shape[2:])
            flat_bias = None if bias is None else bias.flatten()
            y = conv2d(folded, weight, flat_bias, self.stride, padding, self.dilation, batch * self.groups)
            return y.reshape(batch, self.out_channels, height, width)
        if strategy == "matmul":
            x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
            columns = x[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)  # (B, I, H'W')
        else:
            columns = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)  # (B, I kh kw, H'W')
        rows = batch * self.groups
        columns = columns.reshape(rows, -1, height * width)  # (B g, K, H'W')
        y = torch.bmm(mixed.view(rows, self.out_channels // self.groups, -1), columns)  # (B g, O/g, H'W')
        y = y.view(batch, self.out_channels, height, width)
        return y if bias is None else y + bias.to(y.dtype).view(batch, -1, 1, 1)
