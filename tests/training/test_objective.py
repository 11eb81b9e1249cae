import math

import pytest
import torch
from torch import Tensor

from training.objective import Losses, _paired_iou, assign, losses, pairwise_iou

# 8 x 8 points, the centres of cells of an eighth.
GRID = (torch.arange(8) + 0.5) / 8
POINTS = torch.stack((GRID.repeat(8), GRID.repeat_interleave(8)), 1)
NOTHING = [0.0, 0.0, 0.0, 0.0]


def boxes_around(points: Tensor, half: float) -> Tensor:
    return torch.cat((points - half, points + half), 1)


@pytest.mark.parametrize(
    ("found", "truth", "iou", "generalised"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1, 1),
        ([0, 0, 2, 1], [1, 0, 3, 1], 1 / 3, 1 / 3),
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),
        ([0, 0, 1, 1], [1, 1, 2, 2], 0, -0.5),
        ([0, 0, 2, 2], [0.5, 0.5, 1.5, 1.5], 0.25, 0.25),
        ([0, 0, 1, 1], [0, 0, 0, 0], 0, 0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),
        # Corners out of order count as empty.
        ([1, 1, 0, 0], [0, 0, 1, 1], 0, 0),
    ],
)
def test_iou_of_pairs(found: list[float], truth: list[float], iou: float, generalised: float) -> None:
    ours, theirs = torch.tensor([found]).float(), torch.tensor([truth]).float()
    plain, general = _paired_iou(ours, theirs)
    assert plain.item() == pytest.approx(iou, abs=1e-6)
    assert general.item() == pytest.approx(generalised, abs=1e-6)
    assert pairwise_iou(ours[None], theirs[None]).item() == pytest.approx(iou, abs=1e-6)


def test_pairwise_iou_has_the_rows_of_the_first() -> None:
    first = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2.0]]])
    second = torch.tensor([[[0, 0, 1, 1], [1, 1, 2, 2], [5, 5, 6, 6.0]]])
    torch.testing.assert_close(pairwise_iou(first, second), torch.tensor([[[1, 0, 0], [0.25, 0.25, 0]]]))


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        # Nothing to find.
        ([NOTHING], {}),
        ([NOTHING, NOTHING], {}),
        # Four points inside, fewer than the twelve that it could have.
        ([[0.25, 0.25, 0.5, 0.5]], {18: 0, 19: 0, 26: 0, 27: 0}),
        # Smaller than a cell and between the points: the nearest one.
        ([[0.30, 0.30, 0.32, 0.32]], {18: 0}),
        # Two boxes with points of their own; the unused row in between changes nothing.
        ([[0.0, 0.0, 0.25, 0.125], NOTHING, [0.75, 0.875, 1.0, 1.0]], {0: 0, 1: 0, 62: 2, 63: 2}),
        # A point inside of both goes to the one that its own box overlaps more.
        ([[0.25, 0.25, 0.375, 0.375], [0.25, 0.25, 0.5, 0.375]], {18: 0, 19: 1}),
    ],
)
def test_assign(truth: list[list[float]], expected: dict[int, int]) -> None:
    boxes, wanted = boxes_around(POINTS, 1 / 16)[None], torch.tensor([truth])
    owner = assign(torch.full((1, 64), 0.5), pairwise_iou(wanted, boxes), POINTS, wanted)
    found = {index: int(value) for index, value in enumerate(owner[0]) if value >= 0}
    assert found == expected


def test_a_box_gets_its_twelve_best_points() -> None:
    """All 64 points are inside; the score decides where the overlap is the same, the overlap outweighs the score."""
    truth = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    boxes = torch.tensor([0.0, 0.0, 1.0, 0.5]).repeat(1, 64, 1)
    scores = torch.linspace(0.05, 0.9, 64)[None]
    owner = assign(scores, pairwise_iou(truth, boxes), POINTS, truth)
    assert torch.nonzero(owner[0] >= 0).flatten().tolist() == list(range(52, 64))
    boxes[0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    owner = assign(scores, pairwise_iou(truth, boxes), POINTS, truth)
    assert torch.nonzero(owner[0] >= 0).flatten().tolist() == [0, *range(53, 64)]


def test_photos_of_a_batch_are_apart() -> None:
    truth = torch.tensor([[[0.0, 0.0, 0.25, 0.125]], [NOTHING], [[0.75, 0.875, 1.0, 1.0]]])
    boxes = boxes_around(POINTS, 1 / 16).expand(3, 64, 4)
    owner = assign(torch.full((3, 64), 0.5), pairwise_iou(truth, boxes), POINTS, truth)
    assert [torch.nonzero(row >= 0).flatten().tolist() for row in owner] == [[0, 1], [], [62, 63]]


def test_losses_by_hand() -> None:
    """One box with one point, whose own box has an IoU of 1/2 with it, and no other point with a score."""
    truth = torch.tensor([[[0.25, 0.25, 0.375, 0.375]]])
    logits = torch.full((1, 64), -30.0)
    logits[0, 18] = 0.0
    boxes = torch.zeros(1, 64, 4)
    boxes[0, 18] = torch.tensor([0.25, 0.25, 0.375, 0.3125])
    found = losses(logits, boxes, POINTS, truth)
    # The score is already its IoU of 1/2: no error. Box: GIoU is IoU here, weighted by an IoU below 1.
    assert found.score.item() == pytest.approx(0, abs=1e-6)
    assert found.box.item() == pytest.approx(0.5 * 0.5 / 1)
    assert found.total.item() == pytest.approx(2 * 0.25)
    logits[0, 18] = math.log(3)
    found = losses(logits, boxes, POINTS, truth)
    # (1/2 - 3/4)^2 times the cross entropy of 3/4 against 1/2.
    assert found.score.item() == pytest.approx(0.25**2 * -(math.log(0.75) + math.log(0.25)) / 2)


def test_points_that_find_nothing_are_to_have_no_score() -> None:
    logits = torch.zeros(2, 64, requires_grad=True)
    boxes = boxes_around(POINTS, 1 / 16).repeat(2, 1, 1).requires_grad_()
    found = losses(logits, boxes, POINTS, torch.zeros(2, 3, 4))
    assert found.score.item() == pytest.approx(2 * 64 * 0.25 * math.log(2), rel=1e-5)
    assert found.box.item() == 0
    torch.autograd.backward(found.total)
    assert logits.grad is not None
    assert (logits.grad > 0).all()


@pytest.mark.parametrize(
    "truth",
    [
        [NOTHING],
        [[0.5, 0.5, 0.5, 0.5]],
        [[0.5, 0.2, 0.5, 0.8]],
        [[0.0, 0.0, 1.0, 1.0]],
        [[0.2, 0.2, 0.2001, 0.2001], [0.0, 0.0, 1.0, 1.0]],
    ],
)
def test_gradients_are_finite(truth: list[list[float]]) -> None:
    torch.manual_seed(0)
    logits = (10 * torch.randn(1, 64)).requires_grad_()
    boxes = torch.cat((POINTS - torch.rand(64, 2), POINTS + torch.rand(64, 2)), 1)[None].requires_grad_()
    found = losses(logits, boxes, POINTS, torch.tensor([truth]))
    torch.autograd.backward(found.total)
    assert found.total.isfinite()
    for leaf in (logits, boxes):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_descending_finds_the_box() -> None:
    truth = torch.tensor([[[0.1, 0.3, 0.8, 0.7], NOTHING]])
    logits = torch.full((1, 64), -3.0, requires_grad=True)
    sides = torch.full((1, 64, 4), 0.1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, sides], 0.02)
    first = 0.0
    for step in range(200):
        boxes = torch.cat((POINTS - sides[..., :2], POINTS + sides[..., 2:]), 2)
        cost: Losses = losses(logits, boxes, POINTS, truth)
        first = first if step else cost.total.item()
        optimizer.zero_grad()
        torch.autograd.backward(cost.total)
        optimizer.step()
    best = int(logits.argmax())
    assert cost.total.item() < first / 4
    assert boxes[0, best].tolist() == pytest.approx([0.1, 0.3, 0.8, 0.7], abs=0.05)
