"""Hubs of pretrained models: build an architecture, verify and load its weights, give it one common face."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from zoolib import runtime
from zoolib.data import download, fetch
from zoolib.data.manifests import file_sha256
from zoolib.data.manifests import hub as hub_manifest
from zoolib.data.schema import HubManifest, MemberManifest
from zoolib.nets import NETS
from zoolib.paths import data_roots, made_weights, packaged_weights
from zoolib.spec import ZoolibError, unknown

StateDict = dict[str, Tensor]
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
        self.backbone = backbone
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


def last_linear(module: nn.Module) -> tuple[nn.Module, str]:
    """Parent and attribute of the last Linear layer, the source task's head. Raises ZoolibError if there is none."""
    names = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    if not names:
        raise ZoolibError(f"{type(module).__name__} has no Linear layer to take as its head")
    parent, _, attribute = names[-1].rpartition(".")
    return module.get_submodule(parent), attribute


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


def weights_file(member: MemberManifest) -> Path:
    """The file of a member's weights. Raises ZoolibError naming the package to install or the file that is missing."""
    source, _, name = member.weights.partition(":")
    if source == "packaged":
        path = packaged_weights(name)
    elif source == "made":
        path = made_weights(name)
        if not path.is_file():
            hub = name.partition("/")[0]
            raise ZoolibError(f"weights of {member.name!r} do not ship: make them with python -m zoolib pretrain {hub}")
    elif member.own_file:
        path = member.own_file
    elif source == "fetch":
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name  # where torchvision itself would have put it
        stored = fetch.stored_weights(member) or (cached if cached.is_file() else None)
        if stored is None:
            place = data_roots()[0] / fetch.WEIGHTS / name
            raise ZoolibError(
                f"weights of {member.name!r} are not on this machine: run `python -m zoolib fetch` with the "
                f"hub's name, or put the file at {place}"
            )
        path = stored
    else:
        try:
            package = importlib.import_module(name)
        except ImportError:
            fix = f"install the package {name.replace('_', '-')} (or zoolib[hubs])"
            raise ZoolibError(f"weights of {member.name!r} are not on this machine: {fix}") from None
        path = next(iter(sorted(Path(str(package.__file__)).parent.rglob("*.pth"))), Path(name))
    if not path.is_file():
        raise ZoolibError(f"weights of {member.name!r} are missing: {path}")
    return path


def check_sum(path: Path, member: MemberManifest) -> None:
    """Raises ZoolibError when the checksum of a member's file does not begin as the manifest says."""
    known = fetch.weights_sum(member)
    digest = file_sha256(path) if known.sha256 else ""
    if known.sha256 and not digest.startswith(known.sha256):
        wrong = f"its sha256 is {digest[:12]}, not the manifest's {known.sha256[:12]}"
    else:
        wrong = download.mismatch(path, known.model_copy(update={"sha256": None}))
    if wrong:
        raise ZoolibError(f"{path}: {wrong}; delete the file and install or fetch it again")


def read_weights(path: Path, sha256: str | None = None, entry: str = "") -> StateDict:
    """Tensors of a .pth or .safetensors file, below a key of it where `entry` is given; nothing else is unpickled.

    Raises ZoolibError if its checksum is another, it is damaged, or there are no tensors where they should be.
    """
    if sha256 and file_sha256(path) != sha256:
        raise ZoolibError(f"{path}: its sha256 is not the manifest's; delete the file and install it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own
        raise ZoolibError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None
    found = content.get(entry) if entry and isinstance(content, dict) else content
    if not isinstance(found, dict):
        raise ZoolibError(f"{path}: there is no {entry!r} in it; it has {_some(content)}")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ZoolibError(f"{path}: no tensors in it; set the member's entry to one of {_some(found)}")
    return tensors


def _some(content: object) -> str:
    names = [str(name)[:60] for name in content] if isinstance(content, dict) else []
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or f"a {type(content).__name__}"


def load_backbone(network: nn.Module, state: StateDict, prefix: str, where: str) -> None:
    """Copy a checkpoint's tensors below a prefix into a network by name; both heads are left out.

    Batch-norm buffers count as tensors like any other. Raises ZoolibError naming the first tensor that is missing, left
    over, or of another shape.
    """
    parent, attribute = last_linear(network)
    name = next(name for name, module in network.named_modules() if module is parent)
    head = f"{name}.{attribute}." if name else f"{attribute}."
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not given:
        raise ZoolibError(f"{where}: no tensor begins with {prefix!r}; it has {_some(state)}")
    own, given = ({k: v for k, v in tensors.items() if _counts(k, head)} for tensors in (network.state_dict(), given))
    missing, unused = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unused:
        what = f"{len(missing)} tensors are missing, such as {prefix}{missing[0]}" if missing else ""
        rest = f"{len(unused)} have no place, such as {prefix}{unused[0]}" if unused else ""
        prefixed = _wrapping(own, state)
        hint = f"; if it is the same, set the member's prefix to {prefixed!r}" if prefixed else ""
        raise ZoolibError(f"{where}: checkpoint of another architecture: {'; '.join(filter(None, (what, rest)))}{hint}")
    for key, value in given.items():
        if own[key].shape != value.shape:
            shapes = f"{prefix}{key} is {tuple(value.shape)} where {tuple(own[key].shape)} is needed"
            raise ZoolibError(f"{where}: checkpoint of another architecture: {shapes}")
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in given.items()}, strict=False)


def _wrapping(own: StateDict, state: StateDict) -> str:
    """What stands before every name of a network in a checkpoint of its wrapper, such as "module."; "" for nothing."""
    first = min(own)
    for prefix in sorted(key.removesuffix(first) for key in state if key.endswith(f".{first}")):
        if all(prefix + key in state and state[prefix + key].shape == own[key].shape for key in own):
            return prefix
    return ""


def _counts(key: str, head: str) -> bool:
    return not key.startswith(head) and not key.endswith("num_batches_tracked")


def load_in_order(network: nn.Module, state: StateDict, where: str) -> None:
    """Copy a checkpoint into a network by name, or, when the names differ but the shapes agree one for one, by order.

    Half-precision tensors become the network's own type. Raises ZoolibError naming the first tensor that does not fit:
    a checkpoint of another architecture.
    """
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    pairs: Iterable[tuple[str, str]] = zip(own, own, strict=True) if own.keys() == given.keys() else zip(own, given)  # noqa: B905
    if len(own) != len(given):
        raise ZoolibError(
            f"{where}: checkpoint of another architecture: {len(given)} tensors where {len(own)} are needed"
        )
    mapped = {}
    for name, source in pairs:
        if own[name].shape != given[source].shape:
            shapes = f"{source} is {tuple(given[source].shape)}, {name} is {tuple(own[name].shape)}"
            raise ZoolibError(f"{where}: checkpoint of another architecture: {shapes}")
        mapped[name] = given[source].to(own[name].dtype)
    network.load_state_dict(mapped, strict=False)


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
    headless = member.architecture.startswith("zoolib:")  # packaged networks have no source head
    if pretrained and member.weights != "random":
        path = weights_file(member)
        check_sum(path, member)
        _load(network, read_weights(path, entry=member.entry), member, str(path), keep_head or headless)
    if getattr(network, "aux_logits", False):  # second heads end with the pre-training
        setattr(network, "aux_logits", False)  # noqa: B010  a plain attribute, which mypy takes for a module
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(network, name):
                setattr(network, name, None)
    if not (keep_head or headless):
        parent, attribute = last_linear(network)
        setattr(parent, attribute, nn.Identity())
    return HubModel(member, network, spatial)


@torch.no_grad()
def check_features(model: HubModel, member: MemberManifest, size: int = 64) -> None:
    """Raises ZoolibError where a member does not take images of any size, or gives other features than it says."""
    side = member.input_size if member.fixed_input else size
    try:
        features = model.eval()(torch.rand(2, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ZoolibError(
            f"{member.name!r} does not take images of {side} pixels ({reason}); say fixed_input: true and its "
            "input_size in the hub's YAML"
        ) from None
    if features.shape != (2, member.num_features):
        raise ZoolibError(
            f"{member.name!r} gives features of {tuple(features.shape[1:])}, and its num_features says "
            f"{member.num_features}; correct it in the hub's YAML"
        )


def split(member: MemberManifest) -> tuple[HubModel, nn.Linear | None]:
    """A pretrained member as its backbone, which returns features, and its source head, None where it has none."""
    if not member.source_head:
        return build(member), None
    model = build(member, keep_head=True)
    parent, attribute = last_linear(model.backbone)
    head = getattr(parent, attribute)
    setattr(parent, attribute, nn.Identity())
    return model, head


def _load(network: nn.Module, state: StateDict, member: MemberManifest, where: str, whole: bool) -> None:
    """By name where the names of all tensors but the head's agree, else in order."""
    if not whole:
        parent_names = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
        if member.prefix or len(parent_names & state.keys()) > len(parent_names) / 2:
            return load_backbone(network, state, member.prefix, where)
    below = {key.removeprefix(member.prefix): value for key, value in state.items() if key.startswith(member.prefix)}
    return load_in_order(network, below, where)


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
