"""Faces as batches: crops and points under one similarity each, so that image and points cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoolib.data.faces import CONTEXT, Faces, load
from zoolib.data.schema import DatasetManifest, Landmarks
from zoolib.spec import Settings, ZoolibError


@dataclass(frozen=True)
class Similarity:
    """How each of B crops is seen: mirrored first, then turned by `angle` (radians, from x toward y), then scaled."""

    angle: Tensor  # (B,)
    scale: Tensor  # (B,); 2 shows the face twice as large
    mirrored: Tensor  # (B,) bool

    @staticmethod
    def identity(count: int) -> Similarity:
        """The crops as they are."""
        return Similarity(torch.zeros(count), torch.ones(count), torch.zeros(count, dtype=torch.bool))

    def _matrix(self) -> Tensor:
        """(B, 2, 2), from offsets in the crop to offsets in the view."""
        cos, sin = self.angle.cos() * self.scale, self.angle.sin() * self.scale
        sign = torch.where(self.mirrored, -1.0, 1.0)
        return torch.stack([torch.stack([cos * sign, -sin], -1), torch.stack([sin * sign, cos], -1)], -2)

    def points(self, points: Tensor, flip_pairs: list[tuple[int, int]]) -> Tensor:
        """Crop coordinates (B, K, 2) -> view coordinates; the points of a mirrored face change places."""
        moved = 0.5 + (points - 0.5) @ self._matrix().to(points).transpose(1, 2)
        return torch.where(self.mirrored[:, None, None], moved[:, swapped(points.shape[1], flip_pairs)], moved)

    def back(self, points: Tensor, flip_pairs: list[tuple[int, int]]) -> Tensor:
        """The inverse of `points`: view coordinates (B, K, 2) -> crop coordinates, without rounding."""
        moved = 0.5 + (points - 0.5) @ torch.linalg.inv(self._matrix()).to(points).transpose(1, 2)
        return torch.where(self.mirrored[:, None, None], moved[:, swapped(points.shape[1], flip_pairs)], moved)

    def images(self, squares: Tensor, size: int) -> Tensor:
        """Decoded squares (B, D, D, 3) uint8 -> views (B, 3, size, size) in [0, 1], bilinear; black outside."""
        whole = squares.permute(0, 3, 1, 2).float() / 255
        inverse = torch.linalg.inv(self._matrix()) / CONTEXT  # from the view to the square, whose side is CONTEXT
        theta = torch.cat([inverse, inverse.new_zeros(len(inverse), 2, 1)], -1)  # (B, 2, 3)
        grid = F.affine_grid(theta, [len(whole), 3, size, size], align_corners=False)
        return F.grid_sample(whole, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def swapped(count: int, flip_pairs: list[tuple[int, int]]) -> Tensor:
    """For each point of a mirrored face, the index of the point that takes its place: (count,)."""
    order = torch.arange(count)
    for one, other in flip_pairs:
        order[one], order[other] = other, one
    return order


def draw(count: int, settings: Settings, flip: bool, generator: torch.Generator) -> Similarity:
    """Random similarities: half of the faces mirrored where allowed, a share of them turned by a uniform angle.

    As in HRNet's code the box is scaled, by a uniform factor from 1 - scaling to 1 + scaling, and the face inversely.
    """
    scale = 1 / (1 + settings.scaling * (2 * torch.rand(count, generator=generator) - 1))
    angle = math.radians(settings.rotation) * (2 * torch.rand(count, generator=generator) - 1)
    turned = torch.rand(count, generator=generator) < settings.rotation_share
    mirrored = (torch.rand(count, generator=generator) < 0.5) & flip
    return Similarity(torch.where(turned, angle, torch.zeros(count)), scale, mirrored)


@dataclass(frozen=True)
class FaceImages:
    """One split of a landmark dataset, served as crops."""

    faces: Faces
    landmarks: Landmarks

    @property
    def sha256(self) -> str:
        """Of the file the faces came from."""
        return self.faces.sha256

    def _take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.ascontiguousarray(self.faces.pixels[rows])), torch.from_numpy(
            self.faces.points[rows]
        )

    def training(
        self, rows: np.ndarray, settings: Settings, flip: bool, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented crops (B, 3, S, S) in [0, 1] and their points (B, K, 2) in view coordinates, NaN where missing."""
        squares, points = self._take(rows)
        view = draw(len(rows), settings, flip, generator)
        return view.images(squares, settings.image_size), view.points(points, self.landmarks.flip_pairs)

    def views(self, rows: np.ndarray, settings: Settings, flip: bool) -> tuple[list[Tensor], Tensor]:
        """The one view that a face is scored in, never mirrored, [(B, 3, S, S)], and its points (B, K, 2)."""
        squares, points = self._take(rows)
        return [Similarity.identity(len(rows)).images(squares, settings.image_size)], points

    def split_rows(self, settings: Settings) -> dict[str, np.ndarray]:
        """Train and val rows of the training file, person by person where people are known; the seed is fixed."""
        count = len(self.faces)
        groups = np.arange(count) if self.faces.groups is None else self.faces.groups
        people = np.random.default_rng(0).permutation(np.unique(groups))
        sizes = np.bincount(groups, minlength=groups.max() + 1)[people]
        held = people[: 1 + int(np.searchsorted(sizes.cumsum(), settings.val_fraction * count))]
        in_val = np.isin(groups, held)
        train = np.random.default_rng(0).permutation(np.flatnonzero(~in_val))
        train = train[: settings.train_limit or None]
        train = train[: round(settings.train_fraction * len(train))]
        if len(train) == 0:
            raise ZoolibError(f"val_fraction {settings.val_fraction} leaves no training face; lower it")
        return {"train": np.sort(train), "val": np.flatnonzero(in_val)}


def load_split(manifest: DatasetManifest, split: str, size: int) -> FaceImages:
    """One split ("train" or "test"), decoded at `size` pixels. Raises ZoolibError for absent or damaged files."""
    assert manifest.landmarks is not None  # the manifest has checked it
    return FaceImages(load(manifest, split, size), manifest.landmarks)
