"""Landmark heatmaps: Gaussian targets, their loss, and decoding. Points are in crop coordinates, [0, 1] in the crop."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussians(points: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) of each heatmap pixel's centre from each point, (..., 2) -> (..., height, width).

    The peak is 1 where a point meets the centre of a pixel; points keep their sub-pixel place (HRNet's code rounds them
    to a pixel). Distances and sigma are in heatmap pixels. Not annotated points (NaN) give zeros.
    """
    across = []
    for place, size in ((points[..., 1], height), (points[..., 0], width)):
        centres = torch.arange(size, device=points.device, dtype=points.dtype) + 0.5
        across.append(torch.exp(-((centres - place[..., None] * size) ** 2) / (2 * sigma**2)))
    rows, columns = across  # (..., height), (..., width)
    return torch.nan_to_num(rows[..., :, None] * columns[..., None, :])


def squared_error(heatmaps: Tensor, points: Tensor, sigma: float) -> Tensor:
    """Mean squared error of heatmaps (B, K, h, w) against the Gaussians of points (B, K, 2), one value a face: (B,).

    The mean runs over the annotated points of a face; a face without any has error 0.
    """
    target = gaussians(points.float(), heatmaps.shape[-2], heatmaps.shape[-1], sigma)
    known = torch.isfinite(points).all(-1)  # (B, K)
    each = (heatmaps.float() - target).square().mean((-2, -1))  # (B, K)
    return torch.where(known, each, torch.zeros_like(each)).sum(1) / known.sum(1).clamp_min(1)


def decode(heatmaps: Tensor) -> Tensor:
    """The point of each heatmap, (..., h, w) -> (..., 2): arg max, then a quarter pixel toward the larger neighbour.

    HRNet's rule, and Hub-Pathway's (section 4.2): each axis moves on its own and stays where both neighbours are
    equal; a peak at a border stays in both axes. Of equal peaks the first in reading order counts, so that an empty
    heatmap gives its first pixel. Pixel i becomes (i + 1/2) / size.
    """
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.flatten(-2)
    peak = flat.argmax(-1)  # (...)
    y, x = peak // width, peak % width
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    safe = torch.where(inside, peak, torch.full_like(peak, min(width + 1, height * width - 1)))

    def lean(step: int) -> Tensor:
        ahead, behind = ((safe + sign * step).clamp(0, height * width - 1) for sign in (1, -1))
        difference = flat.gather(-1, ahead[..., None]) - flat.gather(-1, behind[..., None])
        return torch.where(inside, 0.25 * difference.squeeze(-1).float().sign(), torch.zeros((), device=flat.device))

    place = torch.stack([x + lean(1) + 0.5, y + lean(width) + 0.5], -1)
    return place / place.new_tensor([width, height])
