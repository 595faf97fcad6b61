"""The papers' hubs from files of the official layout, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from benchmarks import checkpoints
from zoolib import hub as hubs
from zoolib.checkpoints import load_backbone, read_weights
from zoolib.data import manifests
from zoolib.data.schema import MemberManifest
from zoolib.hub import Hub, build
from zoolib.reference import is_papers_hub
from zoolib.spec import ZoolibError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in which the weights of both hubs are written once."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(autouse=True)
def _roots(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOLIB_DATA", str(root))
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def written(root: Path, hub: str, name: str) -> MemberManifest:
    return checkpoints.write(manifests.hub(hub).member(name), root / "weights")


@pytest.mark.parametrize("name", ["imagenet", "moco", "maskrcnn", "deeplab", "keypoint"])
def test_a_resnet_of_the_zoo_loads_every_tensor_below_its_prefix_and_loses_its_head(name: str, root: Path) -> None:
    member = written(root, "resnet50-zoo", name)
    model = build(member).eval()
    content = torch.load(root / "weights" / member.weights.partition(":")[2], weights_only=True)
    state = content[member.entry] if member.entry else content
    own = {k: v for k, v in model.backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(own) == 265 and not any(key.startswith("fc.") for key in own)  # 53 convolutions and 53 batch norms
    assert all(torch.equal(tensor, state[member.prefix + key]) for key, tensor in own.items())
    assert own["bn1.running_mean"].abs().sum() > 0 and own["layer4.2.bn3.running_var"].std() > 0
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2048)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "efficientnet_b3", "swin_t", "convnext_tiny"])
def test_a_member_of_the_heterogeneous_hub_returns_the_features_that_its_manifest_promises(
    name: str, root: Path
) -> None:
    member = written(root, "heterogeneous", name)
    model = build(member).eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, member.num_features)


def test_both_hubs_are_the_papers_and_share_the_backbone_of_mask_r_cnn() -> None:
    zoo, mixed = manifests.hub("resnet50-zoo"), manifests.hub("heterogeneous")
    assert zoo.homogeneous and not mixed.homogeneous
    assert is_papers_hub("resnet50-zoo") and is_papers_hub("heterogeneous")
    assert zoo.member("maskrcnn") == mixed.member("maskrcnn")
    for member in (*zoo.members, *mixed.members):
        name = member.weights.partition(":")[2]
        assert all(url.endswith("/" + name) for url in member.download)
        assert member.sha256_prefix is None or f"-{member.sha256_prefix}.pth" in name


def test_absent_weights_say_how_to_get_them_and_torchvisions_own_cache_is_used(root: Path, tmp_path: Path) -> None:
    member = manifests.hub("heterogeneous").member("swin_t").model_copy(update={"weights": "fetch:none-12345678.pth"})
    with pytest.raises(ZoolibError, match="run `python -m zoolib fetch`") as error:
        build(member)
    assert str(root / "weights/none-12345678.pth") in str(error.value)
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / "none-12345678.pth").write_bytes(b"x")
    with pytest.raises(ZoolibError, match="its sha256 is"):
        build(member)


def test_a_file_that_is_not_what_its_name_says_is_refused(root: Path) -> None:
    written(root, "heterogeneous", "mobilenet_v3_large")
    member = manifests.hub("heterogeneous").member("mobilenet_v3_large")  # with the published start of its checksum
    with pytest.raises(
        ZoolibError, match=r"mobilenet_v3_large-8738ca79\.pth: its sha256 is .*not the manifest's 8738ca79"
    ):
        build(member)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 7))


def state(prefix: str = "", drop: str = "", **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    return {prefix + k: v + 1 for k, v in network().state_dict().items() if k != drop} | extra


def test_heads_of_any_size_and_other_parts_are_left_out() -> None:
    target, given = network(), state("backbone.", neck=torch.zeros(2))
    given["backbone.3.weight"] = torch.zeros(99, 4)
    load_backbone(target, given, "backbone.", "w")
    assert torch.equal(target[0].weight, given["backbone.0.weight"])
    assert torch.equal(target[1].running_var, given["backbone.1.running_var"])
    without_head = {k: v for k, v in given.items() if not k.startswith("backbone.3")}
    load_backbone(target, without_head, "backbone.", "w")


@pytest.mark.parametrize(
    ("given", "prefix", "message"),
    [
        (state("body."), "backbone.", r"no tensor begins with 'backbone\.'; it has body\.0\.weight"),
        (state("b.", drop="1.running_mean"), "b.", r"1 tensors are missing, such as b\.1\.running_mean"),
        (state("b.") | {"b.9.weight": torch.zeros(1)}, "b.", r"1 have no place, such as b\.9\.weight"),
        (state() | {"0.weight": torch.zeros(4, 3, 5, 5)}, "", r"0\.weight is \(4, 3, 5, 5\) where \(4, 3, 3, 3\)"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_tensor(given, prefix: str, message: str) -> None:
    with pytest.raises(ZoolibError, match=message) as error:
        load_backbone(network(), given, prefix, "w.pth")
    assert "\n" not in str(error.value) and str(error.value).startswith("w.pth: ")


def test_a_missing_entry_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "model": state()}, path)
    with pytest.raises(ZoolibError, match=r"there is no 'state_dict' in it; it has epoch, model"):
        read_weights(path, entry="state_dict")
    with pytest.raises(ZoolibError, match="no tensors in it; set the member's entry to one of epoch, model"):
        read_weights(path)
    assert read_weights(path, entry="model").keys() == state().keys()
    torch.save([1, 2], path)
    with pytest.raises(ZoolibError, match="it has a list"):
        read_weights(path, entry="model")


def test_a_local_checkpoint_with_entry_prefix_and_another_head_is_a_member_of_your_own_hub(tmp_path: Path) -> None:
    source = hubs.architecture("torchvision:mobilenet_v3_small")
    tensors = {f"module.{k}": v for k, v in source.state_dict().items()}
    tensors["module.classifier.3.weight"], tensors["module.classifier.3.bias"] = torch.zeros(5, 1024), torch.zeros(5)
    torch.save({"epoch": 1, "state_dict": tensors}, tmp_path / "mine.pth")
    fields = {
        "name": "mine", "title": "Mine", "description": "d", "homogeneous": False,
        "members": [{
            "name": "small", "title": "Small", "architecture": "torchvision:mobilenet_v3_small",
            "weights": f"file:{tmp_path / 'mine.pth'}", "entry": "state_dict", "prefix": "module.",
            "pretraining": "my own", "num_features": 1024, "mean": [0.5] * 3, "std": [0.5] * 3, "input_size": 64,
            "licence": "mine",
        }],
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(fields))
    (model,) = Hub(str(tmp_path / "mine.yaml")).models()
    first = model.backbone.features[0][0].weight
    assert torch.equal(first, source.features[0][0].weight)
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 1024)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
@pytest.mark.parametrize("second", ["ten classes", "none"])
def test_a_network_with_second_heads_takes_checkpoints_tuned_with_and_without_them(name: str, second: str, tmp_path):
    source = torchvision.models.get_model(name, weights=None, init_weights=False, aux_logits=second != "none")
    for layer in [part.AuxLogits if name == "inception_v3" else part.aux1 for part in [source] if second != "none"]:
        last = "fc" if name == "inception_v3" else "fc2"
        setattr(layer, last, nn.Linear(getattr(layer, last).in_features, 10))
    torch.save({f"net.{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pth")
    member = manifests.hub("resnet50-random").members[0].model_copy(update={
        "architecture": f"torchvision:{name}", "weights": f"file:{tmp_path / 'w.pth'}", "prefix": "net.",
        "sha256": None,
    })  # fmt: skip
    built = build(member).backbone.state_dict()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in built.items() if key != "fc.weight")
    assert len(built) > 100 and not any(key.startswith(("Aux", "aux")) for key in built)


def test_an_inception_network_sees_299_pixels_and_returns_features_in_training_too() -> None:
    member = (
        manifests.hub("resnet50-random")
        .members[0]
        .model_copy(update={"architecture": "torchvision:inception_v3", "fixed_input": True, "input_size": 299})
    )
    model = build(member)
    assert model.normalise(torch.rand(1, 3, 224, 224)).shape[-2:] == (299, 299)
    assert model.train()(torch.rand(2, 3, 96, 96)).shape == (2, 2048)
