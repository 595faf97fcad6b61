"""Hubs of pretrained models: build an architecture with its weights, give it one common face."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib import runtime
from zoolib.checkpoints import behead, check_sum, load, read_weights, weights_file
from zoolib.data.manifests import hub as hub_manifest
from zoolib.data.schema import HubManifest, MemberManifest
from zoolib.layers.depthwise import quicken
from zoolib.nets import NETS
from zoolib.spec import ZoolibError, reason, unknown

_AUXILIARY = (
    "inception_v3",
    "googlenet",
)  # torchvision's networks with a second head, which returns tuples in training


def feature_map(network: Any, x: Tensor) -> Tensor:
    """The last feature map of a backbone, (B, 3, H, W) -> (B, C, h, w); its pooling and head do not run.

    Serves networks with timm's `forward_features`, this package's `maps` (the outputs of all stages), torchvision's
    `features`, and torchvision's ResNets. Raises ZoolibError for one whose last features are no map.
    """
    if hasattr(network, "forward_features"):
        maps: Tensor = network.forward_features(x)
        last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    elif hasattr(network, "maps"):
        maps, last = network.maps(x)[-1], False
    elif hasattr(network, "features"):
        maps = network.features(x)
        last = hasattr(network, "permute")  # torchvision's Swin Transformers
        maps = network.norm(maps) if last else maps
    elif hasattr(network, "layer4"):
        maps = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps = stage(maps)
        last = False
    else:
        maps, last = x.flatten(1), False
    if maps.dim() != 4:
        raise ZoolibError(
            f"{type(network).__name__} offers no feature map (B, C, h, w); use a network with forward_features"
        )
    return maps.permute(0, 3, 1, 2).contiguous() if last else maps


class HubModel(nn.Module):
    """A pretrained backbone that normalises its own input: images in [0, 1] -> features.

    Features are the backbone's pooled ones, (B, num_features), or its last map, (B, num_features, h, w), if `spatial`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, member: MemberManifest, backbone: nn.Module, spatial: bool = False) -> None:
        super().__init__()
        self.name = member.name
        self.num_features = member.num_features
        self.spatial = spatial
        self.fixed_size = member.input_size if member.fixed_input else 0
        self.backbone = quicken(backbone)
        self.register_buffer("mean", torch.tensor(member.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(member.std).view(1, 3, 1, 1), persistent=False)
        if spatial:  # the map before the pooling may have other channels than what comes after it
            self.num_features = self._channels(member.input_size)

    @torch.no_grad()
    def _channels(self, size: int) -> int:
        was = self.backbone.training
        channels: int = self.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.train(was)
        return channels

    def normalise(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] as this backbone was pre-trained to see them."""
        if self.fixed_size and x.shape[-1] != self.fixed_size:
            x = F.interpolate(x, size=(self.fixed_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> features (B, num_features), or (B, num_features, h, w) if spatial."""
        x = self.normalise(x)
        features: Tensor = feature_map(self.backbone, x) if self.spatial else self.backbone(x)
        return features


def architecture(name: str) -> nn.Module:
    """A random network by its manifest name ("timm:…", "torchvision:…", "zoolib:…"), source head included."""
    family, _, model = name.partition(":")
    if family == "zoolib":
        if model not in NETS:
            raise unknown("zoolib architecture", model, NETS)
        return NETS[model]()
    runtime.require_torchvision()
    if family == "torchvision":
        import torchvision

        if model not in torchvision.models.list_models():
            raise unknown("torchvision architecture", model, torchvision.models.list_models())
        auxiliary = {"init_weights": True} if model in _AUXILIARY else {}  # they warn when it is not said
        network: nn.Module = torchvision.models.get_model(model, weights=None, **auxiliary)
        return network
    import timm

    if not timm.is_model(model):
        raise unknown("timm architecture", model, timm.list_models())
    created: nn.Module = timm.create_model(model, pretrained=False)
    return created


def build(member: MemberManifest, pretrained: bool = True, keep_head: bool = False, spatial: bool = False) -> HubModel:
    """A member of a hub. Without `keep_head` its source head becomes the identity, so that it returns features.

    `spatial` makes it return its last feature map.

    `pretrained=False` leaves the random initialisation of torch's current generator. A member whose manifest says
    "random" has weights of its own, drawn from a seed made of its name.
    """
    with torch.random.fork_rng(devices=[], enabled=pretrained):
        if pretrained:
            # Not torch.manual_seed, which would seed the GPUs as well, and nothing puts their generators back.
            torch.default_generator.manual_seed(zlib.crc32(member.name.encode()))
        network = architecture(member.architecture)
    dropped = _drop_auxiliary(network)
    headless = member.architecture.startswith("zoolib:")  # packaged networks have no source head
    if pretrained and member.weights != "random":
        path = weights_file(member)
        check_sum(path, member)
        state = read_weights(path, entry=member.entry)
        second = tuple(f"{member.prefix}{name}." for name in dropped)
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(second)} if second else state
        load(network, kept, member, str(path), keep_head or headless)
    if not (keep_head or headless):
        behead(network)
    return HubModel(member, network, spatial)


def _drop_auxiliary(network: nn.Module) -> list[str]:
    """Remove the second heads of Inception and GoogLeNet, which end with the pre-training; their names.

    Before weights are read: a checkpoint of other classes, or one saved without them, fits as well.
    """
    if not getattr(network, "aux_logits", False):
        return []
    setattr(network, "aux_logits", False)  # noqa: B010  a plain attribute, which mypy takes for a module
    found = [name for name in ("AuxLogits", "aux1", "aux2") if hasattr(network, name)]
    for name in found:
        setattr(network, name, None)
    return found


def check_same_input(members: Sequence[HubModel]) -> None:
    """Raises ZoolibError where members whose weights are mixed normalise images differently, or take other sizes."""
    first = members[0]
    for other in members[1:]:
        for name in ("mean", "std"):
            mine, theirs = getattr(first, name).flatten(), getattr(other, name).flatten()
            if not torch.allclose(mine, theirs):
                raise ZoolibError(
                    f"{first.name!r} and {other.name!r} normalise images differently ({name} {mine.tolist()} and "
                    f"{theirs.tolist()}); aggregate members that share mean and std"
                )
        if first.fixed_size != other.fixed_size:
            raise ZoolibError(
                f"{first.name!r} and {other.name!r} take images of different sizes ({first.fixed_size or 'any'} and "
                f"{other.fixed_size or 'any'} pixels); aggregate members of one input size"
            )


@torch.no_grad()
def check_features(model: HubModel, member: MemberManifest, size: int = 64) -> None:
    """Raises ZoolibError where a member does not take images of any size, or gives other features than it says."""
    side = member.input_size if member.fixed_input else size
    try:
        features = model.eval()(torch.rand(2, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ZoolibError(
            f"{member.name!r} does not take images of {side} pixels ({reason(error)}); say fixed_input: true and its "
            "input_size in the hub's YAML"
        ) from None
    if features.shape != (2, member.num_features):
        raise ZoolibError(
            f"{member.name!r} gives features of {tuple(features.shape[1:])}, and its num_features says "
            f"{member.num_features}; correct it in the hub's YAML"
        )
    if not torch.isfinite(features).all():
        raise ZoolibError(
            f"{member.name!r} gives features that are not finite; its weights are damaged, replace the file"
        )


def split(member: MemberManifest) -> tuple[HubModel, nn.Linear | None]:
    """A pretrained member as its backbone, which returns features, and its source head, None where it has none.

    None as well where the file has another head than the architecture, or none: that of a checkpoint of your own; and
    where the head is no single Linear layer.
    """
    if not member.source_head:
        return build(member), None
    try:
        model = build(member, keep_head=True)
    except ZoolibError:
        return build(member), None  # what is wrong with more than the head is said here
    taken = behead(model.backbone)
    return model, taken[0] if len(taken) == 1 and isinstance(taken[0], nn.Linear) else None


class Hub:
    """A hub by name (or the path of your own YAML): its manifest and its models, built when asked for.

    `spatial`: its models return their last feature map (B, C, h, w), not its mean (B, C).
    """

    def __init__(self, name: str, spatial: bool = False) -> None:
        self.manifest: HubManifest = hub_manifest(name)
        self.spatial = spatial

    @property
    def names(self) -> list[str]:
        """Member names in the manifest's order, which is the order of gates and pathway weights everywhere."""
        return [member.name for member in self.manifest.members]

    def model(self, name: str, pretrained: bool = True) -> HubModel:
        """One member, freshly built."""
        return build(self.manifest.member(name), pretrained, spatial=self.spatial)

    def models(self) -> list[HubModel]:
        """Every member, freshly built."""
        return [build(member, spatial=self.spatial) for member in self.manifest.members]
