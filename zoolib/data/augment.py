"""Augmentation of whole batches: uint8 images in, float images in [0, 1] out, every choice drawn from one generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoolib.spec import Settings


def to_float(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The central size x size window of (B, H, W, 3)."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def random_boxes(
    count: int,
    side: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """(count, 4) boxes (top, left, height, width) in pixels of a square of that side, as RandomResizedCrop draws them.

    Area uniform in `scale`, aspect ratio log-uniform; where a draw does not fit, another of ten is taken, else the
    square.
    """
    area = side * side * torch.empty(count, 10).uniform_(*scale, generator=generator)
    log_ratio = torch.empty(count, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator)
    width = (area * log_ratio.exp()).sqrt().round()
    height = (area / log_ratio.exp()).sqrt().round()
    fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
    first = fits.float().argmax(1, keepdim=True)
    any_fits = fits.any(1, keepdim=True)
    width = torch.where(any_fits, width.gather(1, first), torch.full((count, 1), float(side)))
    height = torch.where(any_fits, height.gather(1, first), torch.full((count, 1), float(side)))
    position = torch.rand(count, 2, generator=generator)
    top = (position[:, :1] * (side - height + 1)).floor()
    left = (position[:, 1:] * (side - width + 1)).floor()
    return torch.cat([top, left, height, width], dim=1)


def crop_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Each box of (B, 3, H, W) resampled bilinearly to (B, 3, size, size), pixel centres as in F.interpolate.

    Border pixels stand in for what lies outside the image, not outside the box: a box of one pixel can see its
    neighbours.
    """
    top, left, height, width = boxes.to(images).unbind(1)
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size
    y = (top[:, None] + steps * height[:, None]) / images.shape[2] * 2 - 1  # (B, size)
    x = (left[:, None] + steps * width[:, None]) / images.shape[3] * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def shift_crop(images: Tensor, size: int, pad: int, generator: torch.Generator) -> Tensor:
    """A random size x size window of each image of (B, H, W, 3), which is edge-padded by `pad` pixels first."""
    count, side = images.shape[0], images.shape[1]
    top, left = torch.randint(0, side + 2 * pad - size + 1, (2, count), generator=generator)
    window = torch.arange(size)
    rows = (top[:, None] + window - pad).clamp(0, side - 1)  # (B, size)
    cols = (left[:, None] + window - pad).clamp(0, side - 1)
    return images[torch.arange(count)[:, None, None], rows[:, :, None], cols[:, None, :]]


def train_batch(images: Tensor, settings: Settings, flip: bool, generator: torch.Generator) -> Tensor:
    """Augmented training images: (B, S, S, 3) uint8 -> (B, 3, image_size, image_size) float in [0, 1]."""
    size = settings.image_size
    if settings.crop == "resized":
        boxes = random_boxes(len(images), images.shape[1], settings.crop_scale, generator)
        out = crop_resize(to_float(images), boxes, size)
    elif settings.crop == "shift":
        out = to_float(shift_crop(images, size, max(1, size // 16), generator))
    else:
        out = to_float(centre_crop(images, size))
    if flip:
        mirrored = torch.rand(len(out), generator=generator) < 0.5
        out = torch.where(mirrored[:, None, None, None], out.flip(-1), out)
    return out


def test_crops(images: Tensor, settings: Settings, flip: bool) -> list[Tensor]:
    """The views whose logits are averaged: the centre, or (ten crops) four corners and the centre with their flips.

    Without `flip`, where a mirrored image may be one of another class, ten crops are the first five.
    """
    size, side = settings.image_size, images.shape[1]
    if settings.test_crops == 1:
        return [to_float(centre_crop(images, size))]
    far = side - size
    corners = [images[:, y : y + size, x : x + size] for y in (0, far) for x in (0, far)]
    views = [to_float(view) for view in [*corners, centre_crop(images, size)]]
    return [*views, *(view.flip(-1) for view in views)] if flip else views
