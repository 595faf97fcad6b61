"""Checkpoints of members: find the file of the weights, check it, read it, copy its tensors into a network."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zoolib.data import download, fetch
from zoolib.data.manifests import file_sha256
from zoolib.data.schema import MemberManifest
from zoolib.paths import data_roots, made_weights, packaged_weights
from zoolib.spec import ZoolibError, reason

StateDict = dict[str, Tensor]

# What torch says of an object in a checkpoint that is no tensor, such as a NumPy scalar or parsed arguments.
_FOREIGN = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


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
        if held := _FOREIGN.search(str(error)):
            raise ZoolibError(
                f"{path}: it holds {held[1]} beside its tensors, which could run code and is not read; if you trust "
                f"it, save the tensors alone: torch.save(torch.load({str(path)!r}, weights_only=False)['state_dict'], "
                "'weights.pth'), with the name of its own entry, or .state_dict() where it is a whole network"
            ) from None
        raise ZoolibError(f"{path}: not a readable checkpoint ({reason(error)})") from None
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
    """Copy a checkpoint's tensors below a prefix into a network by name; the heads of both are left out.

    Batch-norm buffers count as tensors like any other. Raises ZoolibError naming the first tensor that is missing, left
    over, or of another shape.
    """
    head = tuple(f"{name}." for name in heads(network))
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


def _counts(key: str, head: tuple[str, ...]) -> bool:
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
    mapped, kinds = {}, {name.rpartition(".")[2] for name in own}
    for name, source in pairs:
        if own[name].shape != given[source].shape:
            shapes = f"{source} is {tuple(given[source].shape)}, {name} is {tuple(own[name].shape)}"
            raise ZoolibError(f"{where}: checkpoint of another architecture: {shapes}")
        kind, expected = source.rpartition(".")[2], name.rpartition(".")[2]
        if kind != expected and kind in kinds:  # safetensors sorts names; four tensors of a batch norm have one shape
            prefixed = _wrapping(own, given)
            way = f"set the member's prefix to {prefixed!r}" if prefixed else "name its tensors as the network does"
            raise ZoolibError(f"{where}: {source} stands where {name} should: tensors in another order; {way}")
        mapped[name] = given[source].to(own[name].dtype)
    network.load_state_dict(mapped, strict=False)


def heads(network: nn.Module) -> list[str]:
    """Names of the layers that end with the pre-training: timm's word where the network has one, else the last Linear.

    A few have two (LeViT, distilled DeiT), a convolution (ResNet v2), or none (EVA). Raises ZoolibError where there is
    nothing to go by.
    """
    layers = dict(network.named_modules())
    named = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
    known = [name for name in ([named] if isinstance(named, str) else named) if name in layers]
    if known:
        return [name for name in known if not isinstance(layers[name], nn.Identity)]
    linear = [name for name, child in layers.items() if isinstance(child, nn.Linear)]
    if not linear:
        raise ZoolibError(f"{type(network).__name__} has no Linear layer to take as its head")
    return linear[-1:]


def behead(network: nn.Module) -> list[nn.Module]:
    """Put the identity in the place of every head, so that the network returns features; the heads."""
    taken = []
    for name in heads(network):
        parent, _, attribute = name.rpartition(".")
        taken.append(network.get_submodule(name))
        setattr(network.get_submodule(parent), attribute, nn.Identity())
    return taken


def load(network: nn.Module, state: StateDict, member: MemberManifest, where: str, whole: bool) -> None:
    """Copy a member's checkpoint: by name where the names of all tensors but the head's agree, else in order.

    `whole` copies the head as well. Raises ZoolibError for a checkpoint of another architecture.
    """
    if not whole:
        parent_names = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
        if member.prefix or len(parent_names & state.keys()) > len(parent_names) / 2:
            return load_backbone(network, state, member.prefix, where)
    below = {key.removeprefix(member.prefix): value for key, value in state.items() if key.startswith(member.prefix)}
    return load_in_order(network, below, where)
