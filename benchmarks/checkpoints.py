"""Files of random weights in the layouts of the papers' hubs: the official key names, heads and necks included."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from zoolib.data.schema import HubManifest, MemberManifest
from zoolib.hub import architecture

#: the start of a file's name -> the torchvision network whose state it holds
_NETWORKS = {
    "maskrcnn_resnet50_fpn_coco": "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn_coco": "keypointrcnn_resnet50_fpn",
    "deeplabv3_resnet50_coco": "deeplabv3_resnet50",
}


def _names(network: str) -> dict[str, Tensor]:
    """Every tensor of a torchvision network, without its memory: one number, seen in the tensor's shape."""
    import torchvision

    with torch.device("meta"):
        built: nn.Module = torchvision.models.get_model(network, weights=None, weights_backbone=None)
    return {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in built.state_dict().items()
    }


def state_of(member: MemberManifest, seed: int) -> dict[str, object]:
    """What a member's official file holds, with random numbers in its backbone."""
    torch.manual_seed(seed)
    backbone = architecture(member.architecture).state_dict()
    for name, tensor in backbone.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    name = member.weights.partition(":")[2].rpartition("-")[0]
    if name in _NETWORKS:
        state = _names(_NETWORKS[name])
        for key, tensor in backbone.items():
            frozen = name != "deeplabv3_resnet50_coco" and key.endswith("num_batches_tracked")
            if not key.startswith("fc.") and not frozen:
                state[member.prefix + key] = tensor
        if name != "deeplabv3_resnet50_coco":  # frozen batch norms count no batches
            state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        return dict(state)
    if member.entry:  # MoCo: two encoders with a head of 128, and the queue
        state = {}
        for encoder in ("encoder_q", "encoder_k"):
            state |= {
                f"module.{encoder}.{key}": tensor for key, tensor in backbone.items() if not key.startswith("fc.")
            }
            state |= {
                f"module.{encoder}.fc.weight": torch.zeros(128, 2048),
                f"module.{encoder}.fc.bias": torch.zeros(128),
            }
        state |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
        return {"epoch": 200, "arch": "resnet50", member.entry: state, "optimizer": {"state": {}, "param_groups": []}}
    return dict(backbone)


def write(member: MemberManifest, folder: Path, seed: int = 0) -> MemberManifest:
    """Write a member's file and return the member with that file's checksum in place of the published one."""
    path = folder / member.weights.partition(":")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        torch.save(state_of(member, seed), path)
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return member.model_copy(update={"sha256": digest, "sha256_prefix": None, "md5_prefix": None})


def write_hub(manifest: HubManifest, folder: Path) -> HubManifest:
    """A hub's files in `folder`, and its manifest with their checksums."""
    members = [write(member, folder, seed) for seed, member in enumerate(manifest.members)]
    return manifest.model_copy(update={"members": members})
