from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.backbones import Backbone
from models.catalog import Catalog
from models.photo import Photo
from models.views import plain
from training.baselines import activated, activation_maps, centred, main


@pytest.mark.parametrize(("side", "box"), [(1.0, (0, 0, 1, 1)), (0.5, (0.25, 0.25, 0.75, 0.75))])
def test_a_centred_square(side: float, box: tuple[float, ...]) -> None:
    scores, boxes = centred(side, np.zeros((3, 8, 8, 3), np.uint8))
    assert scores.tolist() == [[1]] * 3
    assert boxes.tolist() == [[list(box)]] * 3


@pytest.mark.parametrize(
    ("cut", "box"),
    [
        (0.1, (0.0, 0.0, 1.0, 0.75)),  # all that is not 0 hangs together
        (0.3, (0.25, 0.25, 0.75, 0.75)),  # four weaker cells are a larger piece than the peak
        (0.9, (0.75, 0.0, 1.0, 0.25)),
    ],
)
def test_the_box_around_the_largest_piece(cut: float, box: tuple[float, ...]) -> None:
    heat = np.zeros((1, 4, 4), np.float32)
    heat[0, :3] = 0.2
    heat[0, 1:3, 1:3] = 0.6
    heat[0, 0, 3] = 1.0
    _, boxes = activated(lambda _: heat, cut, np.zeros((1, 8, 8, 3), np.uint8))
    assert boxes.tolist() == [[list(box)]]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Catalog().backbone("tf_efficientnet_lite0.in1k")


def test_the_map_of_a_small_object_lies_on_it(backbone: Backbone, samples: dict[str, Photo]) -> None:
    """A cup pasted into a corner of plain grey."""
    cup = samples["coffee"].image.resize((112, 112))
    view = plain(samples["coffee"], backbone.preprocessing)
    canvas = np.full_like(view, 128)
    canvas[112:, :112] = np.asarray(cup)
    heat = activation_maps(backbone, canvas[None])[0]
    assert heat.shape == (64, 64)
    assert heat.min() >= 0
    assert heat[32:, :32].sum() > 0.6 * heat.sum()
    _, boxes = activated(partial(activation_maps, backbone), 0.5, canvas[None])
    x1, y1, x2, y2 = boxes[0, 0]
    assert (x1 + x2) / 2 < 0.5 < (y1 + y2) / 2


def test_a_backbone_without_such_a_map(backbone: Backbone) -> None:
    class Odd:
        name, preprocessing = "odd", backbone.preprocessing

        class module:  # noqa: N801
            @staticmethod
            def get_classifier() -> None:
                return None

            @staticmethod
            def forward_features(pixels: object) -> object:
                return pixels

    with pytest.raises(ValueError, match="odd has no class-activation map"):
        activation_maps(Odd, np.zeros((1, 32, 32, 3), np.uint8))


def test_the_command(photos_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(f"tiny-imagenet:{photos_folder}")
    lines: list[str] = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0].split(",")[0].split(" of ")[0] for line in lines] == [
        "the whole photo",
        "the centred square",
        "class-activation map",
    ]
    corlocs: NDArray[np.float64] = np.array([float(line.split("CorLoc ")[1].split()[0]) for line in lines])
    # No square of the photos covers half of its photo.
    assert corlocs[0] == 0
    assert corlocs[1] > 0
    assert all(line.endswith("6 photos") for line in lines)
