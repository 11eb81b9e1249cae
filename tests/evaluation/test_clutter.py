import numpy as np
import pytest
from PIL import Image

from evaluation.clutter import (
    BACKGROUNDS,
    EDGES,
    Background,
    Edge,
    feathered_edge,
    on_background,
    paste,
    shuffled_tiles,
    without_object,
)
from models.comparison import Corners

WHITE, BLUE = (255, 255, 255), (0, 0, 120)


def flat(size: tuple[int, int], colour: tuple[int, int, int] = WHITE) -> Image.Image:
    return Image.new("RGB", size, colour)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((300, 200), 0.5, (320, 213)),
        ((200, 300), 0.25, (107, 160)),
        ((50, 50), 0.35, (224, 224)),
        ((3000, 2000), 1.0, (640, 427)),
        ((1, 900), 0.5, (1, 320)),
        ((1, 1), 0.1, (64, 64)),
    ],
)
def test_the_photo_lies_in_its_rectangle(
    size: tuple[int, int], scale: float, expected: tuple[int, int], background: Background, edge: Edge
) -> None:
    pasted = paste(flat(size), flat((64, 48), BLUE), scale, np.random.default_rng(1), background, edge)
    left, top, right, bottom = pasted.rectangle
    assert (right - left, bottom - top) == expected
    assert 0 <= left < right <= 640
    assert 0 <= top < bottom <= 640
    pixels = np.asarray(pasted.image).astype(int)
    assert pixels.shape == (640, 640, 3)
    outside = np.ones((640, 640), bool)
    outside[top:bottom, left:right] = False
    assert (pixels[outside] == BLUE).all()
    # The middle of a feathered photo is as it was, up to the rounding of the mask.
    assert pixels[(top + bottom) // 2, (left + right) // 2, 0] >= (255 if edge == "hard" else 200)
    if edge == "hard":
        assert (pixels[~outside] == WHITE).all()


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_same_seed_gives_the_same_canvas(background: Background) -> None:
    photo, other = flat((60, 40)), noise(64, 64)
    first, again, different = (paste(photo, other, 0.3, np.random.default_rng(seed), background) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.rectangle == again.rectangle
    assert first.rectangle != different.rectangle


def test_places_are_spread_over_the_canvas() -> None:
    random = np.random.default_rng(0)
    corners = np.array([paste(flat((10, 10)), flat((8, 8)), 0.5, random, "colour").rectangle[:2] for _ in range(60)])
    assert corners.min(0).max() < 60
    assert corners.max(0).min() > 260
    assert corners.max() <= 320


@pytest.mark.parametrize(("size", "across"), [((64, 64), 8), ((640, 640), 8), ((60, 40), 4), ((64, 64), 1)])
def test_tiles_are_the_images_own_in_another_order(size: tuple[int, int], across: int) -> None:
    image = noise(*size)

    def tiles(of: Image.Image) -> list[bytes]:
        width, height = size[0] // across, size[1] // across
        return [
            of.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)).tobytes()
            for y in range(across)
            for x in range(across)
        ]

    shuffled = shuffled_tiles(image, across, np.random.default_rng(0))
    assert shuffled.size == size
    assert sorted(tiles(shuffled)) == sorted(tiles(image))
    if across > 1:
        moved = sum(ours != theirs for ours, theirs in zip(tiles(shuffled), tiles(image), strict=True))
        assert moved > 0.8 * across**2


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (1, 100), (67, 41)])
def test_tiles_of_sizes_that_do_not_divide(size: tuple[int, int]) -> None:
    assert shuffled_tiles(noise(*size), 8, np.random.default_rng(0)).size == size


@pytest.mark.parametrize("size", [(100, 60), (7, 6), (3, 3), (2, 50), (1, 1), (1, 9)])
def test_a_feathered_edge_hides_the_rim_and_shows_the_middle(size: tuple[int, int]) -> None:
    mask = feathered_edge(*size, radius=0.12 * min(size))
    pixels = np.asarray(mask).astype(int)
    assert (mask.mode, mask.size) == ("L", size)
    assert pixels[size[1] // 2, size[0] // 2] >= 200
    if min(size) > 20:
        assert pixels[[0, -1]].max() < 60
        assert pixels[:, [0, -1]].max() < 60
        assert (np.diff(pixels[size[1] // 2, : size[0] // 2]) >= 0).all()


@pytest.mark.parametrize(
    ("boxes", "shown"),
    [
        ([], []),
        ([(10.0, 5.0, 30.0, 25.0)], [(10, 5, 30, 25)]),
        ([(10.2, 5.9, 29.1, 24.5)], [(10, 5, 30, 25)]),
        ([(-5.0, -5.0, 99.0, 99.0)], [(0, 0, 40, 30)]),
        ([(39.9, 29.9, 39.95, 29.95)], [(39, 29, 40, 30)]),
        ([(0.0, 0.0, 5.0, 5.0), (20.0, 20.0, 30.0, 30.0)], [(0, 0, 5, 5), (20, 20, 30, 30)]),
    ],
)
def test_on_background(boxes: list[Corners], shown: list[tuple[int, int, int, int]]) -> None:
    photo = noise(40, 30)
    found = np.asarray(on_background(photo, boxes, flat((200, 90), BLUE)))
    expected = np.broadcast_to(np.array(BLUE, np.uint8), (30, 40, 3)).copy()
    for left, top, right, bottom in shown:
        expected[top:bottom, left:right] = np.asarray(photo)[top:bottom, left:right]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("box", "strip"),
    [
        ((10.0, 0.0, 20.0, 30.0), (20, 0, 40, 30)),
        ((25.0, 5.0, 35.0, 15.0), (0, 0, 25, 30)),
        ((0.0, 20.0, 40.0, 30.0), (0, 0, 40, 20)),
        ((0.0, 0.0, 40.0, 4.0), (0, 4, 40, 30)),
    ],
)
def test_the_object_is_replaced_by_the_largest_strip_beside_it(box: Corners, strip: tuple[int, int, int, int]) -> None:
    photo = noise(40, 30)
    before = np.asarray(photo)
    found = np.asarray(without_object(photo, [box]))
    left, top, right, bottom = (int(corner) for corner in box)
    tile = before[strip[1] : strip[3], strip[0] : strip[2]]
    repeats = (-(-(bottom - top) // tile.shape[0]), -(-(right - left) // tile.shape[1]), 1)
    expected = before.copy()
    expected[top:bottom, left:right] = np.tile(tile, repeats)[: bottom - top, : right - left]
    np.testing.assert_array_equal(found, expected)


def test_an_object_that_is_the_photo_leaves_black() -> None:
    assert np.asarray(without_object(noise(8, 8), [(0.0, 0.0, 8.0, 8.0)])).max() == 0
    photo = noise(8, 8)
    np.testing.assert_array_equal(np.asarray(without_object(photo, [])), np.asarray(photo))
