"""Hubs: real weights that know the world, loading that refuses what does not fit."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoolib import hub as hubs
from zoolib import own
from zoolib.checkpoints import heads, load_backbone, load_in_order, read_weights
from zoolib.data import manifests
from zoolib.hub import Hub, build
from zoolib.nets import resnet9, tiny_resnet
from zoolib.spec import ZoolibError


def classify(name, image):
    member = manifests.hub("imagenet-lite").member(name)
    model = build(member, keep_head=True).eval()
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    pixels = nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        return model(pixels).topk(5).indices[0].tolist()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_imagenet_hub_knows_a_cat_and_a_cup_of_coffee(name):
    data = pytest.importorskip("skimage.data")
    cat, coffee = classify(name, data.cat()), classify(name, data.coffee())
    assert cat[0] in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert 967 in coffee[:3]  # espresso


def test_members_return_features_of_the_promised_size_from_images_in_0_1():
    for name in ("imagenet-lite", "digits-zoo"):
        hub = Hub(name)
        for model in hub.models():
            features = model.eval()(torch.rand(2, 3, 32, 32))
            assert features.shape == (2, model.num_features) and features.isfinite().all()


def test_a_member_normalises_its_own_input():
    model = Hub("imagenet-lite").model("efficientnet_lite0")
    assert torch.allclose(model.normalise(torch.full((1, 3, 4, 4), 0.75)), torch.full((1, 3, 4, 4), 0.5))


def test_a_member_with_a_fixed_input_resizes():
    member = manifests.hub("digits-zoo").members[0].model_copy(update={"fixed_input": True, "input_size": 16})
    assert build(member).normalise(torch.rand(1, 3, 40, 40)).shape[-1] == 16


def test_packaged_members_differ_from_each_other_and_from_random_weights():
    first, second, third = Hub("digits-zoo").models()
    weights = [m.backbone.conv1.weight for m in (first, second, third)]
    assert not torch.allclose(weights[0], weights[1]) and not torch.allclose(weights[1], weights[2])
    torch.manual_seed(0)
    assert not torch.allclose(Hub("digits-zoo").model("jigsaw", pretrained=False).backbone.conv1.weight, weights[1])


def test_random_members_are_the_same_in_every_run_and_leave_the_generator_alone():
    hub = Hub("digits-zoo").manifest.members[0].model_copy(update={"weights": "random", "sha256": None})
    torch.manual_seed(1)
    first, after = build(hub), torch.rand(1)
    torch.manual_seed(2)
    second = build(hub)
    torch.manual_seed(1)
    assert torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight) and torch.equal(after, torch.rand(1))


def test_building_a_member_seeds_no_gpu(monkeypatch):
    seeded = []
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    Hub("digits-zoo").model("rotation")
    assert seeded == []


def test_scratch_models_follow_the_run_s_seed():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(Hub("digits-zoo").model("rotation", pretrained=False).backbone.conv1.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_checkpoint_of_another_architecture_is_refused_with_both_shapes():
    state = resnet9(4).state_dict()
    with pytest.raises(ZoolibError, match="checkpoint of another architecture"):
        load_in_order(tiny_resnet(), state, "w.pth")
    wrong = tiny_resnet().state_dict()
    wrong["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    with pytest.raises(ZoolibError, match=r"conv1.weight is \(16, 3, 5, 5\), conv1.weight is \(16, 3, 3, 3\)"):
        load_in_order(tiny_resnet(), wrong, "w.pth")


def test_a_checkpoint_of_a_wrapper_is_told_from_another_architecture_by_its_prefix():
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))

    wrapped = {f"module.{name}": value for name, value in network(4).state_dict().items()}
    with pytest.raises(ZoolibError, match=r"if it is the same, set the member's prefix to 'module\.'$"):
        load_backbone(network(4), wrapped, "", "w.pth")
    with pytest.raises(ZoolibError, match="checkpoint of another architecture") as told:
        load_backbone(network(5), wrapped, "", "w.pth")
    assert "prefix" not in str(told.value)


def test_renamed_tensors_load_by_order_and_keep_batch_norm_buffers():
    source, target = tiny_resnet(), tiny_resnet()
    source.bn1.running_mean.fill_(3.0)
    renamed = {f"module.{i}": v for i, (k, v) in enumerate(source.state_dict().items()) if "num_batches" not in k}
    load_in_order(target, renamed, "w")
    assert torch.equal(target.bn1.running_mean, source.bn1.running_mean)
    assert torch.equal(target.layer3.conv2.weight, source.layer3.conv2.weight)


def test_damaged_weights_are_refused_by_checksum_and_by_content(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"not weights")
    with pytest.raises(ZoolibError, match="sha256 is not the manifest's"):
        read_weights(file, "0" * 64)
    with pytest.raises(ZoolibError, match="not a readable checkpoint"):
        read_weights(file)


def test_an_empty_file_is_no_checkpoint(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ZoolibError, match=r"w\.pth: not a readable checkpoint \(EOFError"):
        read_weights(tmp_path / "w.pth")


def test_a_pickle_with_code_in_it_is_not_executed(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    file = tmp_path / "w.pth"
    file.write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ZoolibError, match="could run code and is not read"):
        read_weights(file)


def test_a_missing_weights_package_names_what_to_install():
    member = manifests.hub("imagenet-lite").members[0].model_copy(update={"weights": "package:no_such_model"})
    with pytest.raises(ZoolibError, match="install the package no-such-model"):
        build(member)


def test_your_own_yaml_is_a_hub(tmp_path):
    hub = manifests.hub("digits-zoo").model_dump(mode="json")
    hub |= {"name": "mine", "members": hub["members"][:2]}
    torch.save(Hub("digits-zoo").model("jigsaw").backbone.state_dict(), tmp_path / "my.pth")
    hub["members"][0] |= {"weights": f"file:{tmp_path / 'my.pth'}", "sha256": None}
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(hub))
    mine = Hub(str(file))
    assert mine.names == ["rotation", "jigsaw"]
    first, second = mine.models()  # my file holds the jigsaw's weights
    assert torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight)


@pytest.mark.parametrize(("beside", "word"), [(np.float64(0.9), "scalar"), (Namespace(lr=0.1), "argparse.Namespace")])
def test_what_lies_beside_the_tensors_of_a_checkpoint_is_named_with_the_way_out(beside, word, tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "best": beside}, tmp_path / "run.pth")
    with pytest.raises(ZoolibError, match=rf"it holds [\w.]*{word} beside its tensors.*weights_only=False") as caught:
        read_weights(tmp_path / "run.pth", entry="state_dict")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["timm:no_such_net", "torchvision:no_such_net", "zoolib:no_such_net"])
def test_an_unknown_architecture_is_refused(name):
    with pytest.raises(ZoolibError, match="no_such_net"):
        hubs.architecture(name)


def test_the_head_of_torchvision_and_timm_models_is_found():
    assert heads(hubs.architecture("torchvision:mobilenet_v3_small")) == ["classifier.3"]
    assert heads(hubs.architecture("timm:efficientnet_lite0")) == ["classifier"]
    with pytest.raises(ZoolibError, match="no Linear layer"):
        heads(torch.nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("levit_128s", ["head.linear", "head_dist.linear"], 224),  # two: their mean answers
        ("resnetv2_50", ["head.fc"], 64),  # a convolution
        ("eva02_tiny_patch14_224", [], 224),  # none: its last Linear layer belongs to a block
    ],
)
def test_members_with_two_heads_a_convolution_or_none_return_their_features(name, expected, size, tmp_path):
    network = hubs.architecture(f"timm:{name}").eval()
    assert heads(network) == expected
    path = tmp_path / "it.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    (member,) = own.hub([name], f"file:{path}").members
    model, head = hubs.split(member)
    assert head is None, "no single Linear layer that LwF or Co-Tuning could go on training"
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        features, logits = model.eval()(x), network(model.normalise(x))
        if expected == ["head.fc"]:
            features = network.get_submodule("head.fc")(features[:, :, None, None]).flatten(1)
        if len(expected) < 2:
            assert torch.allclose(features, logits, atol=1e-4), "with its head again it is the network"
    assert all(isinstance(model.backbone.get_submodule(layer), nn.Identity) for layer in expected)
    hubs.check_features(model, member, size)


def test_a_cpu_only_torch_wheel_is_named_as_the_cause(monkeypatch):
    import builtins

    from zoolib import runtime

    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ZoolibError, match=r"operator torchvision::nms does not exist.*not a matching pair"):
        runtime.require_torchvision()


def test_tensors_in_another_order_are_refused_even_where_every_shape_fits():
    source = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    state = {f"module.{name}": value for name, value in sorted(source.state_dict().items())}  # as safetensors has them
    with pytest.raises(ZoolibError, match=r"tensors in another order; set the member's prefix to 'module\.'"):
        load_in_order(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)), state, "w.safetensors")
