import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from models import views
from models.backbones import ModelError, bundled_backbone
from models.boxes import iou, merge_overlapping
from models.catalog import DEFAULT_DETECTORS, Catalog
from models.detectors import MAX_BOXES, Detection, FcosDetector, LoadedFcos
from models.engines import TorchEngine
from models.heads import Tuning, describe_head
from models.label_spaces import imagenet_1k
from models.photo import Photo
from models.served import Served
from tests.conftest import fcos


@pytest.fixture
def random(served: Served) -> LoadedFcos:
    loaded = served.detector("fcos_random")
    assert isinstance(loaded, LoadedFcos)
    return loaded


@pytest.fixture(scope="module")
def trained() -> LoadedFcos:
    """The bundled detector, under torch."""
    model = fcos(Catalog().detector(DEFAULT_DETECTORS[0]))
    engines = (TorchEngine(graph.build(), "cpu") for graph in (model.graph(), model.region_graph()))
    return LoadedFcos(model, *engines)


@pytest.mark.parametrize("size", [(640, 427), (90, 800), (800, 90), (1, 1), (1, 700)])
def test_boxes_lie_inside_the_photo_best_first(size: tuple[int, int], random: LoadedFcos) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (found,) = random.detect([Photo(Image.fromarray(pixels), "PNG")])
    assert 3 <= len(found.scores) <= MAX_BOXES
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.boxes.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array(size * 2)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_a_batch_is_its_photos_one_by_one(random: LoadedFcos, samples: Mapping[str, Photo]) -> None:
    together = random.detect(list(samples.values()))
    for photo, found in zip(samples.values(), together, strict=True):
        (alone,) = random.detect([photo])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_boxes_are_those_of_the_whole_photo_squashed(random: LoadedFcos, samples: Mapping[str, Photo]) -> None:
    photo = samples["rocket"]
    assert photo.size == (640, 427)
    scores, boxes = random.engine.run(views.squashed_to(photo, 64)[None])
    kept, kept_scores = merge_overlapping(boxes[0], scores[0], limit=MAX_BOXES)
    (found,) = random.detect([photo])
    np.testing.assert_allclose(found.boxes, kept * (640, 427, 640, 427), rtol=1e-5)
    np.testing.assert_allclose(found.scores, kept_scores, rtol=1e-5)


@pytest.mark.parametrize("least", [0.2, 0.9])
def test_boxes_below_a_score_may_be_left_out(least: float, trained: LoadedFcos, samples: Mapping[str, Photo]) -> None:
    photos = list(samples.values())
    for every, found in zip(trained.detect(photos), trained.detect(photos, least), strict=True):
        np.testing.assert_array_equal(found.above(least).boxes, every.above(least).boxes)
        np.testing.assert_array_equal(found.above(least).scores, every.above(least).scores)
        assert len(found.scores) < len(every.scores)


def test_scores_are_calibrated(random: LoadedFcos, samples: Mapping[str, Photo]) -> None:
    tuning = Tuning(score_slope=2.0, score_offset=-1.0)
    model = replace(random.model)
    vars(model)["file"] = replace(random.model.file, tuning=tuning)
    (before,), (after,) = (one.detect([samples["rocket"]]) for one in (random, replace(random, model=model)))
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_allclose(after.scores, tuning.calibrated(before.scores), rtol=1e-4)


@pytest.mark.parametrize(
    ("scores", "min_score", "expected"),
    [
        ([0.9, 0.5, 0.1], 0.0, [0.9, 0.5, 0.1]),
        ([0.9, 0.5, 0.1], 0.5, [0.9, 0.5]),
        ([0.9, 0.5, 0.1], 1.0, []),
        ([], 0.5, []),
    ],
)
def test_above(scores: list[float], min_score: float, expected: list[float]) -> None:
    boxes = np.arange(4 * len(scores), dtype=np.float32).reshape(-1, 4)
    found = Detection(boxes, np.array(scores, np.float32)).above(min_score)
    np.testing.assert_allclose(found.scores, np.array(expected, np.float32))
    np.testing.assert_array_equal(found.boxes, boxes[: len(expected)])


# Drawn by hand around what the photo shows, xyxy.
@pytest.mark.parametrize(
    ("name", "box"),
    [("coffee", (80, 20, 520, 395)), ("motorcycle_left", (20, 30, 725, 475)), ("chelsea", (5, 5, 440, 298))],
)
def test_the_bundled_detector_finds_the_object(
    name: str, box: tuple[int, int, int, int], trained: LoadedFcos, samples: Mapping[str, Photo]
) -> None:
    (found,) = trained.detect([samples[name]])
    assert iou(found.boxes[:1], np.array([box]))[0, 0] > 0.6
    assert found.scores[0] > 2 * found.scores[2]


@pytest.mark.parametrize(
    ("name", "labels"),
    [("chelsea", ("tiger cat", "Egyptian cat")), ("coffee", ("espresso",)), ("motorcycle_left", ("moped",))],
)
def test_regions_over_the_whole_photo_know_it(
    name: str, labels: tuple[str, ...], trained: LoadedFcos, samples: Mapping[str, Photo]
) -> None:
    photo = samples[name]
    (logits,) = trained.region_logits([photo], [np.array([0, 0, *photo.size], np.float32)])
    assert logits.shape == (1000,)
    assert imagenet_1k().labels[logits.argmax()] in labels


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("chelsea", "coffee", ["Egyptian cat", "espresso"]),
        ("motorcycle_left", "chelsea", ["moped", "Egyptian cat"]),
        ("coffee", "rocket", ["espresso", "missile"]),
    ],
)
def test_a_region_is_classified_by_what_is_in_it(
    left: str, right: str, expected: list[str], trained: LoadedFcos, samples: Mapping[str, Photo]
) -> None:
    """Two photos side by side, and a box in each."""
    canvas = Image.new("RGB", (1000, 500))
    for offset, name in ((0, left), (500, right)):
        canvas.paste(samples[name].image.resize((500, 500)), (offset, 0))
    photo = Photo(canvas, "PNG")
    boxes = [np.array([50, 50, 450, 450], np.float32), np.array([550, 50, 950, 450], np.float32)]
    logits = trained.region_logits([photo, photo], boxes)
    assert [imagenet_1k().labels[row.argmax()] for row in logits] == expected


@pytest.mark.parametrize(("number", "size"), [(0, 320), (1, 352), (2, 384)])
def test_region_size(number: int, size: int, random_head: Path) -> None:
    backbone = bundled_backbone(f"tf_efficientnet_lite{number}.in1k")
    assert FcosDetector("x", backbone, random_head, "manifest").region_size == size


def test_what_is_told_about_a_detector(catalog: Catalog) -> None:
    detector = fcos(catalog.detector("fcos_random"))
    assert detector.architecture == "fcos_tf_efficientnet_lite0"
    assert detector.input_size == 64
    state = load_file(detector.head)
    learned = sum(tensor.numel() for key, tensor in state.items() if "running" not in key)
    assert detector.parameters == detector.backbone.parameters + learned
    assert 100_000 < learned < 400_000


def test_graphs_of_other_heads_and_of_other_weights_are_told_apart(
    catalog: Catalog, random_head: Path, tmp_path: Path
) -> None:
    one = fcos(catalog.detector("fcos_random"))
    other_head = tmp_path / "other.safetensors"
    save_file(
        {**load_file(random_head), "extra": load_file(random_head)["side_biases"]}, other_head, _metadata(random_head)
    )
    other = replace(one, head=other_head)
    assert other.graph().weights != one.graph().weights
    assert other.region_graph().weights == one.region_graph().weights
    assert one.region_graph().name != one.graph().name
    padded = replace(one, backbone=replace(one.backbone, model_args={"pad_type": ""}))
    assert padded.graph().name != one.graph().name
    assert padded.region_graph().name != one.region_graph().name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("hash", r"random\.safetensors has sha256 [0-9a-f]{64}, expected 0+$"),
        (
            "backbone",
            r"was trained on other weights of 'tf_efficientnet_lite0\.in1k' than those of 'tf_efficientnet_lite1",
        ),
        ("missing", r"no head file|no file"),
        ("junk", r"junk\.safetensors is no head"),
        ("tensors", r"tensors\.safetensors does not fit its own description"),
    ],
)
def test_a_detector_that_cannot_be_loaded_is_one_line(
    wrong: str, message: str, catalog: Catalog, random_head: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{wrong}.safetensors"
    detector = fcos(catalog.detector("fcos_random"))
    if wrong == "hash":
        detector = replace(detector, expected_sha256="0" * 64)
    elif wrong == "backbone":
        detector = replace(detector, backbone=bundled_backbone("tf_efficientnet_lite1.in1k"))
    else:
        detector = replace(detector, head=path)
    if wrong == "junk":
        path.write_bytes(b"junk")
    if wrong == "tensors":
        state = load_file(random_head)
        state.pop("side_biases")
        save_file(state, path, _metadata(random_head))
    with pytest.raises(ModelError, match=message) as caught:
        detector.graph().build()
    assert "\n" not in str(caught.value)


def _metadata(head: Path) -> dict[str, str]:
    return {"figureground": json.dumps(asdict(describe_head(head)))}
