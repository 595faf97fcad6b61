"""Hubs of pretrained models: build an architecture, verify and load its weights, give it one common face."""

from __future__ import annotations

import hashlib
import importlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from zoolib import runtime
from zoolib.data.manifests import HubManifest, MemberManifest
from zoolib.data.manifests import hub as hub_manifest
from zoolib.nets import NETS
from zoolib.paths import made_weights, packaged_weights
from zoolib.spec import ZoolibError, unknown

StateDict = dict[str, Tensor]


class HubModel(nn.Module):
    """A pretrained backbone that normalises its own input: images in [0, 1] -> pooled features."""

    mean: Tensor
    std: Tensor

    def __init__(self, member: MemberManifest, backbone: nn.Module) -> None:
        super().__init__()
        self.name = member.name
        self.num_features = member.num_features
        self.fixed_size = member.input_size if member.fixed_input else 0
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(member.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(member.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] as this backbone was pre-trained to see them."""
        if self.fixed_size and x.shape[-1] != self.fixed_size:
            x = F.interpolate(x, size=(self.fixed_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> features (B, num_features)."""
        features: Tensor = self.backbone(self.normalise(x))
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
        network: nn.Module = torchvision.models.get_model(model, weights=None)
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
    elif source == "file":
        path = Path(name).expanduser()
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


def read_weights(path: Path, sha256: str | None = None) -> StateDict:
    """Tensors of a .pth or .safetensors file; nothing else is unpickled. Raises ZoolibError if it is damaged."""
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ZoolibError(f"{path}: its sha256 is not the manifest's; delete the file and install it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: StateDict = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own
        raise ZoolibError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None


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


def build(member: MemberManifest, pretrained: bool = True, keep_head: bool = False) -> HubModel:
    """A member of a hub. Without `keep_head` its source head becomes the identity, so that it returns features.

    `pretrained=False` leaves the random initialisation of torch's current generator. A member whose manifest says
    "random" has weights of its own, drawn from a seed made of its name.
    """
    with torch.random.fork_rng(devices=[], enabled=pretrained):
        if pretrained:
            torch.manual_seed(zlib.crc32(member.name.encode()))
        network = architecture(member.architecture)
    headless = member.architecture.startswith("zoolib:")  # packaged networks have no source head
    if pretrained and member.weights != "random":
        path = weights_file(member)
        load_in_order(network, read_weights(path, member.sha256), str(path))
    if not (keep_head or headless):
        parent, attribute = last_linear(network)
        setattr(parent, attribute, nn.Identity())
    return HubModel(member, network)


class Hub:
    """A hub by name (or the path of your own YAML): its manifest and its models, built when asked for."""

    def __init__(self, name: str) -> None:
        self.manifest: HubManifest = hub_manifest(name)

    @property
    def names(self) -> list[str]:
        """Member names in the manifest's order, which is the order of gates and pathway weights everywhere."""
        return [member.name for member in self.manifest.members]

    def model(self, name: str, pretrained: bool = True) -> HubModel:
        """One member, freshly built."""
        return build(self.manifest.member(name), pretrained)

    def models(self) -> list[HubModel]:
        """Every member, freshly built."""
        return [build(member) for member in self.manifest.members]
