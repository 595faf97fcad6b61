"""Pretraining of the packaged hubs: pretexts against oracles; members see nothing of a target's test split."""

import itertools
import json

import numpy as np
import pytest
import torch

from zoolib import galleries
from zoolib.checkpoints import read_weights
from zoolib.data import embedded, loaders, manifests, render
from zoolib.data.schema import MemberManifest
from zoolib.hub import Hub, HubModel
from zoolib.nets import NETS
from zoolib.paths import packaged_weights
from zoolib.pretraining import digits, moco, require, scenes, scores
from zoolib.pretraining.dense import Dense, Detection, Keypoints, Segmentation
from zoolib.pretraining.moco import Contrast, MoCo, view
from zoolib.pretraining.recipes import RECIPES
from zoolib.spec import ZoolibError

DENSE = ("detection", "segmentation", "keypoints")


def backbone(seed: int = 0) -> HubModel:
    torch.manual_seed(seed)
    return HubModel(manifests.hub("mini-zoo").member("moco"), NETS["mini_resnet"]())


def drawn(kind: str, count: int) -> tuple[render.Scenes, render.Rendered, np.ndarray]:
    described = scenes.KINDS[kind].describe(np.random.default_rng(0), count)
    seen = render.render(described, scenes.SIDE)
    return described, seen, scenes.KINDS[kind].label(described, seen)


# Metrics --------------------------------------------------------------------------------------------------------------


def test_a_perfect_detector_has_all_the_average_precision_and_one_that_also_sees_ghosts_first_has_half() -> None:
    targets = np.array([[[0, 2, 2, 10, 10]], [[0, 4, 4, 12, 12]]], np.float32)
    boxes = targets[:, 0, 1:]
    perfect = scores.Detections(np.array([0, 1]), np.array([0, 0]), np.array([0.9, 0.8]), boxes)
    assert scores.average_precision(perfect, targets, 1) == 100
    ghosts = scores.Detections(
        np.array([0, 1, 0, 1]), np.zeros(4, int), np.array([0.9, 0.8, 0.5, 0.4]), np.concatenate([boxes + 20, boxes])
    )
    assert scores.average_precision(ghosts, targets, 1) == 50  # precision 1/3 and 2/4, made monotone: 1/2 and 1/2


def test_an_object_is_found_once_and_a_second_box_on_it_is_wrong() -> None:
    targets = np.array([[[0, 2, 2, 10, 10], [0, 20, 20, 30, 30]]], np.float32)
    twice = scores.Detections(np.zeros(2, int), np.zeros(2, int), np.array([0.9, 0.8]), targets[0, [0, 0], 1:])
    assert scores.average_precision(twice, targets, 1) == 50


def test_overlap_of_half_shifted_squares_is_a_third() -> None:
    assert scores.overlap(np.array([0, 0, 4, 4.0]), np.array([[2, 0, 6, 4.0]]))[0] == pytest.approx(1 / 3)


def test_mean_iou_of_one_wrong_pixel_in_four() -> None:
    truth, found = np.array([[[0, 0], [1, 1]]]), np.array([[[0, 1], [1, 1]]])
    assert scores.mean_iou(found, truth, 3) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)  # class 2 does not occur


def test_keypoints_count_where_they_are_seen() -> None:
    targets = np.array([[[5, 5, 1], [9, 9, 1], [0, 0, 0]]], np.float32)
    found = np.array([[[5, 6], [9, 13], [30, 30]]], np.float32)
    assert scores.keypoint_errors(found, targets) == {"pck": 50.0, "mean_error_px": 2.5}


def test_neighbours_leave_the_feature_itself_out_and_come_nearest_first() -> None:
    angles = np.array([0.0, 0.1, 0.3, 2.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    near = scores.neighbours(features, features, 2, skip_self=True)
    assert near[0].tolist() == [1, 2] and near[3].tolist() == [2, 1]
    assert scores.vote(np.array([[0, 1, 2]]), np.array([3, 1, 1]), 4).tolist() == [1]


# Dense pretexts -------------------------------------------------------------------------------------------------------


def oracle(task: Detection | Segmentation | Keypoints, target: torch.Tensor) -> torch.Tensor:
    """The decoder's map that says exactly what the labels say."""
    side, stride = task.side, scenes.SIDE // task.side
    out = torch.full((len(target), task.outputs, side, side), -9.0)
    for image, labels in enumerate(target):
        for k, row in enumerate(labels):
            if isinstance(task, Segmentation) or (isinstance(task, Keypoints) and not row[2]):
                continue
            if isinstance(task, Keypoints):
                x, y = (row[:2] / stride).clamp(0, side - 1).long().tolist()
                out[image, k, y, x] = 9
            elif row[0] >= 0:
                centre, extent = (row[1:3] + row[3:]) / 2 / stride, (row[3:] - row[1:3]) / stride
                x, y = centre.long().tolist()
                out[image, int(row[0]), y, x] = 9
                out[image, task.classes :, y, x] = torch.cat([centre - torch.tensor([x, y]) - 0.5, (extent / 2).log()])
    return out


@pytest.mark.parametrize(("kind", "task"), [("detection", Detection(10)), ("keypoints", Keypoints(4))])
def test_a_decoder_that_says_what_the_labels_say_scores_well_and_costs_little(
    kind: str, task: Detection | Keypoints
) -> None:
    _, _, labels = drawn(kind, 40)
    target = torch.from_numpy(labels)
    perfect = oracle(task, target)
    assert task.metrics(perfect, target)[task.metric] > 97  # two centres of one class can share a cell
    assert task.loss(perfect, target) < 0.5 < task.loss(torch.zeros_like(perfect), target)


def test_the_loss_of_a_detector_that_says_nothing_is_that_of_64_undecided_cells_and_of_the_boxes() -> None:
    first, second, none = [0, 4, 4, 12, 12], [0, 16, 20, 24, 28], [-1, 0, 0, 0, 0]
    target = torch.tensor([[first, none], [first, second], [none, none]], dtype=torch.float32)
    found = Detection(1).sample_loss(torch.zeros(3, 5, 8, 8), target)
    focal = 64 * 0.25 * np.log(2)  # a half is off by a half, whatever the cell holds
    box = 2 * (2 * 0.5 * 0.5**2)  # twice the smooth L1 of a centre half a cell off in x and in y; the size is right
    assert found.tolist() == pytest.approx([focal + box, (focal + 2 * box) / 2, focal])


def test_the_loss_of_keypoints_is_the_cross_entropy_of_the_cells_of_those_that_are_seen() -> None:
    prediction = torch.zeros(2, 2, 16, 16)
    prediction[:, 0, 4, 2] = float(np.log(255))  # as likely as the 255 other cells together
    seen, hidden = [5.0, 9.0, 1.0], [30.0, 30.0, 0.0]
    target = torch.tensor([[seen, hidden], [seen, [30.0, 30.0, 1.0]]])
    found = Keypoints(2).sample_loss(prediction, target)
    assert found.tolist() == pytest.approx([np.log(2), (np.log(2) + np.log(256)) / 2], rel=1e-4)


def test_segmentation_reads_the_class_of_every_pixel_from_the_mask() -> None:
    described, seen, labels = drawn("segmentation", 20)
    scene, y, x = np.argwhere(seen.mask > 0)[7]
    assert labels[scene, y, x] == 1 + described.objects[scene, seen.mask[scene, y, x] - 1]
    assert (labels == 0).sum() == (seen.mask == 0).sum()
    task, target = Segmentation(7), torch.from_numpy(labels)
    coarse = torch.nn.functional.one_hot(target.long()[:, ::2, ::2], 7).permute(0, 3, 1, 2).float() * 20
    assert task.metrics(coarse, target)["mean_iou"] > 60  # at half the resolution


def test_the_left_tip_of_a_glider_is_left_in_the_image() -> None:
    _, _, labels = drawn("keypoints", 60)
    both = (labels[:, 1, 2] > 0) & (labels[:, 2, 2] > 0)
    assert (labels[both, 1, 0] < labels[both, 2, 0]).all()
    assert scenes.KINDS["keypoints"].classes == ("nose", "left tip", "right tip", "tail")


@pytest.mark.parametrize("task", [Detection(10), Segmentation(7), Keypoints(4)], ids=DENSE)
def test_every_stage_of_the_backbone_learns_from_a_dense_pretext(task: Detection | Segmentation | Keypoints) -> None:
    method = Dense(backbone(), task)
    kind = DENSE[[Detection, Segmentation, Keypoints].index(type(task))]
    target = torch.from_numpy(drawn(kind, 4)[2])
    output = method(torch.rand(4, 3, 32, 32))
    assert output.prediction.shape == (4, task.outputs, task.side, task.side)
    method.loss(output, target, task, 0.0)["task"].backward()  # type: ignore[arg-type]
    grads = {name: parameter.grad for name, parameter in method.backbone.named_parameters()}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    with pytest.raises(ZoolibError, match="trains one network"):
        task.aggregator(2)


# MoCo -----------------------------------------------------------------------------------------------------------------


def test_moco_moves_its_keys_by_the_momentum_and_keeps_their_gradient_out() -> None:
    method = MoCo(backbone(), length=16, momentum=0.9).train()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter += 1.0
    before = method.key_backbone.backbone.conv1.weight.clone()
    method.loss(method(torch.rand(8, 3, 32, 32)), torch.zeros(8, dtype=torch.long), Contrast(2), 0.0)["task"].backward()
    assert torch.allclose(method.key_backbone.backbone.conv1.weight, before + 0.1, atol=1e-6)
    assert all(parameter.grad is None for parameter in method.key_backbone.parameters())


def test_the_logits_of_moco_are_products_of_unit_vectors_over_the_temperature(monkeypatch) -> None:
    method = MoCo(backbone(), dim=2, length=3, momentum=1.0, temperature=0.1, parts=1).train()
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for name, weight in (("backbone", torch.eye(2)), ("key_backbone", swapped)):
        layer = torch.nn.Linear(2, 2, bias=False)
        layer.weight = torch.nn.Parameter(weight)
        setattr(method, name, layer)
    method.projector, method.key_projector = torch.nn.Identity(), torch.nn.Identity()
    method.queue.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    monkeypatch.setattr(moco, "view", lambda x: x)
    logits = method(
        torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    ).prediction  # queries (.6, .8), (0, 1); keys (.8, .6), (1, 0)
    expected = torch.tensor([[9.6, 6.0, 8.0, -6.0], [0.0, 0.0, 10.0, 0.0]])
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(method.queue, torch.tensor([[0.8, 0.6], [1.0, 0.0], [-1.0, 0.0]]))


def test_moco_puts_keys_into_its_queue_in_a_circle() -> None:
    method = MoCo(backbone(), length=12, parts=2).train()
    first = method.queue.clone()
    with torch.no_grad():
        logits = method(torch.rand(8, 3, 32, 32)).prediction
        assert logits.shape == (8, 13)
        assert not torch.equal(method.queue[:8], first[:8]) and torch.equal(method.queue[8:], first[8:])
        second = method.queue.clone()
        method(torch.rand(8, 3, 32, 32))
    assert int(method.place) == 4 and torch.equal(method.queue[4:8], second[4:8])
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(12), atol=1e-5)


def test_shuffled_keys_come_back_in_the_order_of_their_images() -> None:
    method = MoCo(backbone(), length=8, parts=3).eval()  # running statistics: an image's key has no other images in it
    images = torch.rand(7, 3, 32, 32)
    with torch.no_grad():
        alone = torch.cat([method._encode(image[None]) for image in images])
        assert torch.allclose(method._encode(images), alone, atol=1e-5)


def test_infonce_wants_the_first_logit() -> None:
    task, target = Contrast(2), torch.zeros(2, dtype=torch.long)
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    found, lost = task.sample_loss(logits, target)
    assert found == pytest.approx(float(np.log1p(2 * np.exp(-5)))) and lost > 4


def test_two_views_of_one_image_differ_and_stay_images() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32)
    one, two = view(images), view(images)
    assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1 and not torch.allclose(one, two)


# Pretexts on digits ---------------------------------------------------------------------------------------------------


def test_rotations_are_quarter_turns_against_the_clock() -> None:
    images, labels = digits.rotation(np.array([[1, 2], [3, 4]])[None, :, :, None], np.random.default_rng(0))
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert images[..., 0].tolist() == expected and labels.tolist() == [0, 1, 2, 3]


def test_the_label_of_a_jigsaw_is_the_order_of_its_quadrants() -> None:
    image = np.kron(np.arange(4).reshape(2, 2), np.ones((3, 3), int))[None, :, :, None]
    images, labels = digits.jigsaw(np.concatenate([image, image]), np.random.default_rng(0))
    orders = list(itertools.permutations(range(4)))
    assert images.shape == (16, 6, 6, 1) and len(set(labels.tolist())) > 8
    for shuffled, label in zip(images, labels, strict=True):
        assert shuffled[::3, ::3, 0].flatten().tolist() == list(orders[label])
        assert (shuffled[:3, :3] == shuffled[0, 0]).all()


def test_corruptions_are_none_noise_a_blur_and_an_erased_block_by_their_labels() -> None:
    image = np.zeros((1, 30, 30, 3), np.uint8)
    image[:, 15, 15] = 90
    dot, _, blurred, erased = digits.corruption(image, np.random.default_rng(0))[0]
    assert (dot == image).all()
    copies = blurred[12:19:3, 12:19:3]
    assert (copies == 10).all() and blurred.sum() == copies.sum()
    ys, xs = np.nonzero((erased == 128).all(-1))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1, len(ys)) == (10, 10, 100)
    grey = np.full((1, 60, 60, 3), 128, np.uint8)
    images, labels = digits.corruption(np.concatenate([grey, grey]), np.random.default_rng(0))
    noise = images[labels == 1].astype(float) - 128
    assert abs(noise.mean()) < 1 and abs(noise.std() - 25) < 1
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


# The packaged hubs ----------------------------------------------------------------------------------------------------

MADE = [(hub, name) for hub in RECIPES for name in galleries.notes(hub) if hub != "digits-zoo"]


@pytest.mark.parametrize(("hub", "name"), [(h, n) for h, n in MADE if h in ("mini-zoo", "mini-hub")])
def test_packaged_weights_are_those_of_the_provenance_and_the_manifest_and_small(hub: str, name: str) -> None:
    note, member = galleries.notes(hub)[name], manifests.hub(hub).member(name)
    path = packaged_weights(member.weights.removeprefix("packaged:"))
    assert note["sha256"] == member.sha256 and path.stat().st_size < 2e6
    assert all(tensor.isfinite().all() for tensor in read_weights(path, note["sha256"]).values())
    assert note["value"] > note["baseline"] + 10


def test_dense_members_descend_from_the_supervised_one_and_moco_does_not() -> None:
    starts = {name: recipe.start for name, recipe in RECIPES["mini-zoo"].items()}
    assert starts == {"supervised": "", "moco": ""} | dict.fromkeys(DENSE, "supervised")
    assert not any(recipe.start for recipe in RECIPES["mini-zoo-independent"].values())
    weights = {model.name: model.backbone.layer3[0].conv1.weight.flatten() for model in Hub("mini-zoo").models()}

    def alike(name: str) -> float:
        return float(torch.cosine_similarity(weights["supervised"], weights[name], dim=0).detach())

    assert min(map(alike, DENSE)) > 0.3 > abs(alike("moco"))


def test_the_manifest_of_an_unmade_hub_names_the_command(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    with pytest.raises(ZoolibError, match="python -m zoolib pretrain mini-zoo-independent"):
        Hub("mini-zoo-independent").model("detection")
    with pytest.raises(ZoolibError, match="unknown member of mini-zoo"):
        require("mini-zoo", "moko")


def test_windows_need_32_pixels_and_other_sizes_are_resized() -> None:
    member = manifests.hub("mini-hub").member("window")
    model = HubModel(weightless(member), NETS["mini_window"]())
    assert member.fixed_input and model(torch.rand(2, 3, 48, 48)).shape == (2, member.num_features)


def weightless(member: MemberManifest) -> MemberManifest:
    return member.model_copy(update={"weights": "random", "sha256": None})


# Disjointness ---------------------------------------------------------------------------------------------------------


def contents(images: np.ndarray) -> set[bytes]:
    return {np.ascontiguousarray(image).tobytes() for image in images}


@pytest.mark.parametrize("kind", DENSE)
def test_no_scene_of_a_pretext_is_described_as_a_test_image_of_a_target(kind: str, monkeypatch) -> None:
    grey = np.full((500, 32, 32, 3), 128, np.uint8)
    plain = loaders.Images(grey, np.zeros(500, np.int64), [], "")
    rows = {split: np.arange(500) for split in ("train", "val", "test")}
    behind = loaders.Dataset(manifests.dataset("cifar100-source"), plain, plain, rows, "")
    described = []

    def blank(found: render.Scenes, side: int, _: np.ndarray | None = None) -> render.Rendered:
        described.append(found.key)
        count, objects, points = found.keypoints.shape[:3]
        mask = np.zeros((count, side, side), np.int8)
        boxes, seen = np.zeros((count, objects, 4), np.float32), np.zeros((count, objects, points), bool)
        return render.Rendered(np.zeros((count, side, side, 3), np.uint8), mask, boxes, found.keypoints, seen)

    monkeypatch.setattr(scenes, "photographs", lambda _: behind)
    monkeypatch.setattr(scenes, "render", blank)
    scenes.load.cache_clear()
    data = scenes.load(kind, 0, RECIPES["mini-zoo"][kind].settings)
    scenes.load.cache_clear()
    assert [len(part) for part in described] == [24_000, 1_000, 1_000] and len(data.train.pixels) == 25_000
    keys = set(np.concatenate(described).tolist())
    tested = {name: embedded.described(name, "test").key for name in ("shapes", "gliders", "tiles")}
    monkeypatch.setattr(render, "render", blank)
    embedded.mixture("test")  # which keeps no description, so it is drawn again
    tested["mixture"] = np.concatenate(described[3:])
    assert len(tested["mixture"]) == 960
    assert [name for name, found in tested.items() if keys & set(found.tolist())] == []


def test_photographs_of_the_pretexts_are_in_no_split_of_the_target() -> None:
    assert manifests.dataset("cifar100-source").apart_from == "cifar100-novel"
    try:
        manifests.find(manifests.dataset("cifar100"))
    except ZoolibError:
        pytest.skip("the files of cifar100 are not on this machine")
    settings = RECIPES["mini-zoo"]["supervised"].settings
    source, novel = (loaders.load(manifests.dataset(f"cifar100-{part}"), settings) for part in ("source", "novel"))
    seen = contents(source.train.pixels)
    assert not seen & (contents(novel.test.pixels) | contents(novel.train.pixels))
    assert not {name for name in source.train.classes} & set(novel.train.classes)


def test_provenance_says_what_was_made_of_what() -> None:
    for hub, name in MADE:
        note = galleries.notes(hub)[name]
        assert note["curve"] and note["settings"]["iterations"] and note["commit"] and len(note["data_sha256"]) == 64
        assert json.dumps(note)
