from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from models import views
from models.boxes import area
from models.photo import Photo
from models.preprocessing import CropMode, Interpolation, Preprocessing
from models.views import Pixels

HALF = (0.5, 0.5, 0.5)
LITE0 = Preprocessing(224, HALF, HALF, 0.875, "bicubic")
CONFIGS = {
    "lite0": LITE0,
    "lite1": Preprocessing(240, HALF, HALF, 0.882, "bicubic"),
    "lite2": Preprocessing(260, HALF, HALF, 0.89, "bicubic"),
    "bilinear": Preprocessing(224, HALF, HALF, 0.96, "bilinear"),
    "squash": Preprocessing(256, HALF, HALF, 0.95, "bicubic", "squash"),
    "padded, as volo_d5": Preprocessing(256, HALF, HALF, 1.15, "bicubic"),
}
ODD_SIZES = ((1, 1), (1, 300), (300, 1), (64, 64), (225, 224), (333, 331), (97, 1003), (1003, 97), (2000, 17))


def noise(width: int, height: int) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(Image.fromarray(pixels), "PNG")


def of_timm(photo: Photo, preprocessing: Preprocessing) -> Pixels:
    """timm's own evaluation transform, before it turns bytes into floats."""
    transform = create_transform(
        (3, preprocessing.input_size, preprocessing.input_size),
        use_prefetcher=True,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    return np.asarray(transform(photo.image)).transpose(1, 2, 0)


def difference(ours: Pixels, theirs: Pixels) -> tuple[int, float]:
    """The largest and the mean difference in grey levels."""
    apart = np.abs(ours.astype(int) - theirs)
    return int(apart.max()), float(apart.mean())


@pytest.mark.parametrize("config", CONFIGS)
def test_plain_is_the_transform_of_timm(config: str, samples: Mapping[str, Photo]) -> None:
    preprocessing = CONFIGS[config]
    whole = samples["flower"].image
    photos = {str(size): Photo(whole.resize(size), "JPEG") for size in ODD_SIZES}
    found = {
        name: difference(views.plain(photo, preprocessing), of_timm(photo, preprocessing))
        for name, photo in [*samples.items(), *photos.items()]
    }
    print(f"{config}: largest {max(found.values())}, mean {np.mean([mean for _, mean in found.values()]):.5f}")
    # Pillow keeps a window in float32 and counts in fixed point: either of its two passes may round otherwise.
    assert {name: largest for name, (largest, _) in found.items() if largest > 2} == {}
    assert {name: mean for name, (_, mean) in found.items() if mean > (0.005 if name in samples else 0.1)} == {}


@pytest.mark.parametrize(("interpolation", "largest"), [("bilinear", 2), ("hamming", 2), ("box", 1), ("bicubic", 30)])
def test_plain_of_a_small_tall_photo_of_noise(interpolation: Interpolation, largest: int) -> None:
    """Pillow resizes one axis first, which one depends on the sizes; between the two, bicubic clips its overshoot."""
    preprocessing = Preprocessing(224, HALF, HALF, 0.875, interpolation)
    photo = noise(97, 1003)
    found, mean = difference(views.plain(photo, preprocessing), of_timm(photo, preprocessing))
    assert found <= largest
    assert mean < 0.5


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_every_view_of_the_smallest_photos(config: str, size: tuple[int, int]) -> None:
    preprocessing, photo = CONFIGS[config], Photo(Image.new("RGB", size, (10, 20, 30)), "PNG")
    whole = np.array([0.0, 0.0, *size])
    shape = (preprocessing.input_size, preprocessing.input_size, 3)
    for view in (
        views.plain(photo, preprocessing),
        views.squashed(photo, preprocessing),
        views.background(photo, whole, preprocessing),
        views.cropped(photo, whole, preprocessing),
        views.cropped(photo, views.center_crop(photo, whole / 2), preprocessing),
    ):
        assert view.dtype == np.uint8
        assert view.shape == shape
        shown = view[view.any(2)] if preprocessing.crop_pct > 1 else view
        assert shown.size > 0
        np.testing.assert_array_equal(shown, np.broadcast_to((10, 20, 30), shown.shape))


@pytest.mark.parametrize(
    "crop", [(0, 0, 451, 300), (10, 20, 110, 120), (10.25, 20.5, 60.75, 71), (450, 299, 451, 300), (0, 0, 451, 1)]
)
def test_cropped_is_one_resize_of_pillow(crop: tuple[float, float, float, float], samples: Mapping[str, Photo]) -> None:
    photo = samples["chelsea"]
    assert photo.size == (451, 300)
    expected = photo.image.resize((224, 224), Image.Resampling.BICUBIC, box=crop)
    np.testing.assert_array_equal(views.cropped(photo, np.array(crop, np.float32), LITE0), np.asarray(expected))


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_squashed_shows_the_whole_photo_whatever_the_transform(mode: CropMode, samples: Mapping[str, Photo]) -> None:
    preprocessing = Preprocessing(224, HALF, HALF, 0.875, "bicubic", mode)
    photo = samples["coffee"]
    expected = np.asarray(photo.image.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(views.squashed(photo, preprocessing), expected)
    np.testing.assert_array_equal(views.squashed_to(photo, 224), expected)
    assert difference(views.squashed_to(photo, 224, "nearest"), expected)[0] > 10


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((300, 200), (100, 50, 180, 130)),
        ((300, 200), (100.4, 50.6, 180.2, 130.9)),
        ((300, 200), (0, 0, 40, 200)),
        ((40, 60), (10, 10, 30, 35)),
        ((200, 900), (20, 400, 180, 500)),
        ((1000, 800), (400.5, 400.5, 401, 401)),
    ],
)
def test_background_leaves_no_pixel_of_the_object(
    config: str, size: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    """Where the object is far darker and lighter than the ground and the mean, nothing like it is to be seen."""
    preprocessing, (width, height) = CONFIGS[config], size
    pixels = np.full((height, width, 3), 100, np.uint8)
    left, top, right, bottom = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
    inside = pixels[int(top) : int(bottom), int(left) : int(right)]
    inside[:], inside[::2, ::2], inside[1::2, 1::2] = 10, 255, 200
    striped = Photo(Image.fromarray(pixels), "PNG")
    mean = int(views.mean_colour(striped)[0])
    found = views.background(striped, np.array(box), preprocessing)
    shown = found[found > 0] if preprocessing.crop_pct > 1 else found
    # The ground and the mean, mixed at the box's edge, where bicubic overshoots a little.
    overshoot = 0.1 * abs(mean - 100) + 1
    assert shown.min() >= min(100, mean) - overshoot
    assert shown.max() <= max(100, mean) + overshoot


def test_background_covers_the_box_and_leaves_the_rest(samples: Mapping[str, Photo]) -> None:
    photo = samples["coffee"]
    assert photo.size == (600, 400)
    before = np.asarray(photo.image).copy()
    plain = views.plain(photo, LITE0)
    # The plain view of 600x400 shows 25..575 of the width and 25..375 of the height; a quarter of it is filled.
    found = views.background(photo, np.array([0, 0, 300, 200]), LITE0)
    np.testing.assert_array_equal(found[:108, :108], np.broadcast_to(views.mean_colour(photo), (108, 108, 3)))
    np.testing.assert_array_equal(found[116:], plain[116:])
    np.testing.assert_array_equal(found[:, 116:], plain[:, 116:])
    np.testing.assert_array_equal(np.asarray(photo.image), before)


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((400, 300), (10, 20, 110, 120), (150, 100, 250, 200)),
        ((400, 300), (0, 0, 200, 50), (150, 100, 250, 200)),
        ((400, 300), (0, 0, 400, 300), (0, 0, 400, 300)),
        ((400, 100), (0, 0, 200, 100), (100, 0, 300, 100)),
        ((100, 400), (0, 0, 100, 200), (0, 100, 100, 300)),
        ((400, 300), (7, 7, 7, 7), (199.5, 149.5, 200.5, 150.5)),
        ((1, 1), (0, 0, 1, 1), (0, 0, 1, 1)),
        ((1, 900), (0, 0, 1, 9), (0, 445.5, 1, 454.5)),
    ],
)
def test_center_crop(
    size: tuple[int, int], box: tuple[float, float, float, float], expected: tuple[float, float, float, float]
) -> None:
    found = views.center_crop(Photo(Image.new("RGB", size), "PNG"), np.array(box))
    assert found == pytest.approx(np.array(expected))
    assert float(area(found)) == pytest.approx(max(float(area(np.array(box))), 1.0))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (500, 3)])
def test_mean_colour(size: tuple[int, int]) -> None:
    photo = noise(*size)
    expected = np.asarray(photo.image).reshape(-1, 3).mean(0)
    assert views.mean_colour(photo) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("size", "inner"),
    [((200, 100), (64, 32)), ((100, 200), (32, 64)), ((10, 10), (64, 64)), ((1, 700), (1, 64)), ((640, 427), (64, 43))],
)
def test_fitted_into_keeps_the_aspect_ratio_and_fills_the_rest(size: tuple[int, int], inner: tuple[int, int]) -> None:
    photo = Photo(Image.new("RGB", size, (255, 0, 0)), "PNG")
    pixels, extent = views.fitted_into(photo, 64, (0.0, 1.0, 0.2))
    expected = np.full((64, 64, 3), (0, 255, 51), np.uint8)
    expected[: inner[1], : inner[0]] = (255, 0, 0)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_allclose(extent * inner / 64, size, rtol=1e-6)
