"""Say how wrong a detector's rows are: which cells answer for which object, and what they owe.

Cells near the middle of an object are candidates. Among them the share of the object's score that
a cell must reach follows how well its box fits, so the best box is also the best scored one.
Quality focal loss: Li et al., Generalized Focal Loss, 2020, equation 2. Box loss: Rezatofighi et
al., Generalized Intersection over Union, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engines.detectors.examples import Example
from engines.detectors.model import Config, to_boxes
from engines.detectors.signature import STREET_STRIDES as STRIDES

LEVELS_PX = ((0, 72), (44, 160), (100, 4096))
"""Longest side of the objects of each stride; where they overlap both strides learn."""

RADIUS = 1.5
"""Distance from an object's middle, in cells, at which a cell may still answer for it."""

_SHARPNESS = 3.0
_BOX_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class Targets:
    """Candidate pairs of cell and object, over a batch; pairs of one object lie together."""

    cell: Tensor
    """(pairs,) index into the batch's cells: picture * cells + row."""
    object: Tensor
    """(pairs,) index into the objects."""
    boxes_xyxy: Tensor
    """(objects, 4)."""
    scores: Tensor
    """(objects, classes) that the best cell must reach."""

    def to(self, device: torch.device) -> Targets:
        """Copy to a device."""
        return Targets(
            self.cell.to(device),
            self.object.to(device),
            self.boxes_xyxy.to(device),
            self.scores.to(device),
        )


def candidates(examples: Sequence[Example], config: Config) -> Targets:
    """Pair each object with the cells that may answer for it."""
    boxes = np.concatenate([example.boxes_xyxy for example in examples])
    picture = np.repeat(np.arange(len(examples)), [len(e.boxes_xyxy) for e in examples])
    cells, objects = [], []
    first = 0
    for stride, (smallest, largest) in zip(STRIDES, LEVELS_PX, strict=True):
        columns, rows = config.width // stride, config.height // stride
        longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        here = np.flatnonzero((longest >= smallest) & (longest < largest))
        column, row, which = _near_middle(boxes[here], stride)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        which = here[which[inside]]
        at = first + row[inside] * columns + column[inside]
        cells.append(picture[which] * config.cells + at)
        objects.append(which)
        first += columns * rows
    return Targets(
        torch.from_numpy(np.concatenate(cells)),
        torch.from_numpy(np.concatenate(objects)),
        torch.from_numpy(boxes),
        torch.from_numpy(np.concatenate([example.scores for example in examples])),
    )


def _near_middle(
    boxes: NDArray[np.float32], stride: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Cells (column, row) within RADIUS of each box's middle and inside it, and which box."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / stride  # (n, 2) in cells
    offsets = np.stack(np.meshgrid([-1, 0, 1, 2], [-1, 0, 1, 2]), axis=-1).reshape(-1, 2)
    base = np.floor(middle - 0.5).astype(np.intp)
    grid = base[:, None] + offsets  # (n, 16, 2)
    centre = grid + 0.5
    near = (np.abs(centre - middle[:, None]) <= RADIUS).all(axis=2)
    low, high = boxes[:, None, :2] / stride, boxes[:, None, 2:] / stride
    inside = ((centre > low) & (centre < high)).all(axis=2)
    own = (grid == np.floor(middle)[:, None]).all(axis=2)  # one cell even for the smallest
    which, offset = np.nonzero(near & inside | own)
    return grid[which, offset, 0], grid[which, offset, 1], which


def detection_loss(rows: Tensor, targets: Targets, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two parts of the loss, already weighted; their sum is minimised.

    Args:
        rows: (N, cells, 4 + classes) raw output in float32.
        targets: candidate pairs of the same batch.
        grid: (cells, 3) from cell_grid.

    Returns:
        Loss of the scores and loss of the boxes.
    """
    pictures, cells, _ = rows.shape
    flat = rows.flatten(0, 1)
    found = to_boxes(flat[targets.cell], grid[targets.cell % cells])
    wanted = targets.boxes_xyxy[targets.object]
    iou, giou = overlap(found, wanted)
    share, mine = _shares(iou.detach(), targets, pictures * cells)

    goal = torch.zeros_like(flat[:, 4:])
    goal[targets.cell[mine]] = targets.scores[targets.object[mine]] * share[mine, None]
    logits = flat[:, 4:]
    surprise = (goal - logits.detach().sigmoid()).abs().square()
    total = goal.amax(dim=1).sum().clamp(min=1.0)
    score_loss = (
        F.binary_cross_entropy_with_logits(logits, goal, reduction="none") * surprise
    ).sum() / total

    weight = targets.scores[targets.object].amax(dim=1) * mine
    box_loss = ((1 - giou) * weight).sum() / weight.sum().clamp(min=1.0)
    return score_loss, _BOX_WEIGHT * box_loss


def _shares(iou: Tensor, targets: Targets, cells: int) -> tuple[Tensor, Tensor]:
    """Share of its object's score that each pair's cell owes, and whether the cell is the pair's.

    A cell between two objects answers for the one that it fits better.
    """
    fit = iou.clamp(min=0.01)
    best_of_cell = torch.zeros(cells, device=iou.device).scatter_reduce(
        0, targets.cell, fit, "amax"
    )
    mine = fit >= best_of_cell[targets.cell]
    best_of_object = torch.full((len(targets.boxes_xyxy),), 0.01, device=iou.device).scatter_reduce(
        0, targets.object, fit * mine, "amax"
    )
    return (fit / best_of_object[targets.object]).clamp(max=1.0) ** _SHARPNESS, mine


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes_xyxy (n, 4) with their partners (n, 4)."""
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    both = inter.prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - both
    iou = both / union.clamp(min=1e-6)
    around = hull.prod(dim=1).clamp(min=1e-6)
    return iou, iou - (around - union) / around
