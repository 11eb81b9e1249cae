"""Which points are to find which box, and what their errors cost.

Task-aligned assignment (TOOD: Feng et al. 2021, arXiv 2108.07755), quality focal loss (Li et al. 2020, arXiv
2006.04388), generalised IoU (Rezatofighi et al. 2019, arXiv 1902.09630).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_TOP_POINTS = 12
_IOU_POWER = 6
_BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class Losses:
    score: Tensor
    box: Tensor

    @property
    def total(self) -> Tensor:
        return self.score + _BOX_WEIGHT * self.box


def losses(logits: Tensor, boxes: Tensor, points: Tensor, truth: Tensor) -> Losses:
    """Of logits (N, P) and unit xyxy boxes (N, P, 4) at points (P, 2) against `truth` (N, M, 4), zero rows unused."""
    with torch.no_grad():
        overlaps = pairwise_iou(truth, boxes)
        owner = assign(logits.sigmoid(), overlaps, points, truth)
    chosen = owner >= 0
    targets = torch.zeros_like(logits)
    matched = truth.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 4))
    iou, generalised = _paired_iou(boxes[chosen], matched[chosen])
    targets[chosen] = iou.detach().clamp(0, 1)
    errors = (targets - logits.sigmoid()).abs().square()
    focal = errors * functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weights = targets[chosen]
    return Losses(
        score=focal.sum() / chosen.sum().clamp(min=1),
        box=((1 - generalised) * weights).sum() / weights.sum().clamp(min=1),
    )


def assign(scores: Tensor, overlaps: Tensor, points: Tensor, truth: Tensor) -> Tensor:
    """For every point the index of the box that it is to find, or -1: (N, P) int64.

    A box gets the `_TOP_POINTS` points inside of it whose score and IoU together are best; a point that two boxes
    want goes to the one that it overlaps more.
    """
    left_top, right_bottom = truth[:, :, None, :2], truth[:, :, None, 2:]
    inside = ((points > left_top) & (points < right_bottom)).all(3)
    centres = (truth[..., :2] + truth[..., 2:]) / 2
    nearest = (points - centres[:, :, None]).square().sum(3).argmin(2, keepdim=True)
    inside = inside.scatter(2, nearest, True)  # a box smaller than a cell still has one point
    used = (truth[..., 2] > truth[..., 0])[..., None]
    alignment = scores[:, None] * (overlaps.pow(_IOU_POWER) + 1e-12)
    alignment = torch.where(inside & used, alignment, alignment.new_tensor(-1.0))
    best, where = alignment.topk(_TOP_POINTS, 2)
    wanted = torch.zeros_like(inside).scatter(2, where, best > 0)
    overlap, owner = torch.where(wanted, overlaps, overlaps.new_tensor(-1.0)).max(1)
    return torch.where(overlap >= 0, owner, owner.new_tensor(-1))


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """(N, M, 4) and (N, P, 4) -> (N, M, P)."""
    left_top = torch.maximum(first[:, :, None, :2], second[:, None, :, :2])
    right_bottom = torch.minimum(first[:, :, None, 2:], second[:, None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(3)
    return shared / (_area(first)[:, :, None] + _area(second)[:, None] - shared).clamp(min=1e-9)


def _paired_iou(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes (K, 4) and (K, 4), both (K,)."""
    shared_sides = torch.minimum(found[:, 2:], truth[:, 2:]) - torch.maximum(found[:, :2], truth[:, :2])
    shared = shared_sides.clamp(min=0).prod(1)
    union = (_area(found) + _area(truth) - shared).clamp(min=1e-9)
    hull_sides = torch.maximum(found[:, 2:], truth[:, 2:]) - torch.minimum(found[:, :2], truth[:, :2])
    hull = hull_sides.prod(1).clamp(min=1e-9)
    iou = shared / union
    return iou, iou - (hull - union) / hull


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
