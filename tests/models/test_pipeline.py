import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models import views
from models.backbones import bundled_backbone
from models.boxes import POLICIES, BoxPolicy, Floats, area, crop_box, order_by_policy
from models.catalog import Catalog
from models.comparison import ARMS, Comparison, Options
from models.detectors import LoadedFcos
from models.engines import Array, Engine, TorchEngine
from models.fusion import FusionRule, fuse
from models.heads import Tuning
from models.label_spaces import LabelSpace, imagenet_1k, imagenet_a
from models.photo import Photo
from models.pipeline import BoxOutsidePhoto, Pipeline
from models.served import Classifier, Served, UnservedChoice
from tests.conftest import fcos

LITE0, LITE1 = "tf_efficientnet_lite0.in1k", "tf_efficientnet_lite1.in1k"
ENGINES = (("detectors", "fcos_random"), ("backbones", LITE0))
RULE = FusionRule()


class Counting:
    """An engine that counts the rows it is given, in any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.device = engine, engine.name, engine.device
        self.batches: list[int] = []

    @property
    def rows(self) -> int:
        return sum(self.batches)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        self.batches.append(len(inputs[0]))
        return self.engine.run(*inputs)


@pytest.fixture(scope="module")
def pipeline(served: Served) -> Pipeline:
    """Its detector's boxes mean nothing, which is all the same to the pipeline; with scores from 0.01 to 1."""
    return Pipeline(served)


@pytest.fixture(scope="module")
def two(served: Served) -> Pipeline:
    """Two backbones, lite1 of them under torch."""
    second = bundled_backbone(LITE1)
    classifier = Classifier(second, TorchEngine(second.graph().build(), "cpu"))
    return Pipeline(replace(served, backbones={**served.backbones, LITE1: classifier}))


def tuned(served: Served, **tuning: float) -> Pipeline:
    """The same models, the detector's head tuned otherwise."""
    detector = served.detector("fcos_random")
    assert isinstance(detector, LoadedFcos)
    model = replace(detector.model)
    vars(model)["file"] = replace(detector.model.file, tuning=Tuning(**tuning))
    return Pipeline(replace(served, detectors={"fcos_random": replace(detector, model=model)}))


def probabilities(pipeline: Pipeline, pixels: views.Pixels) -> Floats:
    (logits,) = pipeline.served.classifier(LITE0).logits(pixels[None])
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())


def assert_same(found: Comparison, expected: Comparison) -> None:
    assert (found.backbone, found.detector, found.size) == (expected.backbone, expected.detector, expected.size)
    assert found.no_crop_reason == expected.no_crop_reason
    assert len(found.boxes) == len(expected.boxes)
    for box, other in zip(found.boxes, expected.boxes, strict=True):
        assert box.xyxy == pytest.approx(other.xyxy, abs=1e-2)
    pairs = [(found.plain, expected.plain), (found.cropped, expected.cropped), (found.combined, expected.combined)]
    pairs += [(found.arms[arm], expected.arms[arm]) for arm in expected.arms]
    for ours, theirs in pairs:
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)


def test_a_photo_of_a_sample(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    """Everything that is answered, against the pieces it is made of."""
    photo = samples["coffee"]
    found = pipeline.compare(photo, Options(min_score=0, box_policy="score", margin=0.1))
    detection = pipeline.served.detector(None).detect([photo])[0]
    assert (found.size, found.format) == ((600, 400), "PNG")
    assert (found.backbone, found.detector, found.label_space) == (LITE0, "fcos_random", imagenet_1k())
    assert [box.score for box in found.boxes] == pytest.approx(detection.scores.tolist(), abs=1e-5)
    for box, xyxy in zip(found.boxes, detection.boxes, strict=True):
        assert box.xyxy == pytest.approx(xyxy.tolist(), abs=1e-2)
        assert box.area_fraction == pytest.approx(float(area(xyxy)) / (600 * 400), rel=1e-3)
    assert found.box == found.boxes[0]
    crop = crop_box(detection.boxes[0], 0.1, 600, 400)
    assert found.crop == pytest.approx(crop.tolist(), abs=1e-2)
    preprocessing = pipeline.served.classifier(None).model.preprocessing
    plain = probabilities(pipeline, views.plain(photo, preprocessing))
    cropped = probabilities(pipeline, views.cropped(photo, crop, preprocessing))
    np.testing.assert_allclose(found.plain.probabilities, plain, atol=1e-5)
    assert found.cropped is not None
    np.testing.assert_allclose(found.cropped.probabilities, cropped, atol=1e-4)
    score = float(detection.scores[0])
    weights = [RULE.plain_weight(plain, found.boxes[0].area_fraction), RULE.crop_weight(cropped, score, score)]
    np.testing.assert_allclose(found.combined.probabilities, fuse([plain, cropped], weights), atol=1e-4)
    assert set(found.stages) == {"detect", "crop", "classify"}
    assert min(found.stages.values()) > 0


@pytest.mark.parametrize("options", [Options(min_score=0), Options(min_score=0, box_policy="largest", arms=ARMS)])
def test_a_batch_equals_its_photos_one_by_one(
    options: Options, pipeline: Pipeline, samples: Mapping[str, Photo]
) -> None:
    photos = [samples[name] for name in ("chelsea", "coffee", "rocket", "flower")]
    together = pipeline.compare_all(photos, [options] * len(photos))
    for photo, found in zip(photos, together, strict=True):
        assert_same(found, pipeline.compare(photo, options))


def test_photos_of_one_batch_have_options_of_their_own(two: Pipeline, samples: Mapping[str, Photo]) -> None:
    photo = samples["chelsea"]
    options = [
        Options(min_score=0),
        Options(backbone=LITE1, min_score=0, arms=("center",)),
        Options(backbone=LITE1, min_score=1),
        Options(box_policy="central", min_score=0, label_space="imagenet-a"),
    ]
    together = two.compare_all([photo] * len(options), options)
    assert [found.backbone for found in together] == [LITE0, LITE1, LITE1, LITE0]
    assert [len(found.plain.probabilities) for found in together] == [1000, 1000, 1000, 200]
    for found, chosen in zip(together, options, strict=True):
        assert_same(found, two.compare(photo, chosen))


def test_the_tuned_margin_grows_with_the_box(served: Served, samples: Mapping[str, Photo]) -> None:
    """From box to box; what the request asks for goes before."""
    pipeline = tuned(served, min_score=0, margin_small=-0.1, margin_large=0.3)
    for name in ("coffee", "motorcycle_left"):
        photo = samples[name]
        found = pipeline.compare(photo, Options(box_policy="score"))
        assert found.box is not None
        box = np.array(found.box.xyxy)
        margin = -0.1 + 0.4 * found.box.area_fraction
        assert found.crop == pytest.approx(crop_box(box, margin, *photo.size).tolist(), abs=0.1)
        asked = pipeline.compare(photo, Options(box_policy="score", margin=0.2))
        assert asked.crop == pytest.approx(crop_box(box, 0.2, *photo.size).tolist(), abs=0.1)


def test_a_doubt_takes_a_closer_look(served: Served, samples: Mapping[str, Photo]) -> None:
    """At the first box alone, where the request leaves the margin to the tuning."""
    closer, once = (tuned(served, min_score=0, certain=1.0, closer_look=look) for look in (0.35, 0.0))
    nearer = 0
    for photo in samples.values():
        found, before = (pipeline.compare(photo, Options()) for pipeline in (closer, once))
        assert found.batches == {"detect": (1,), "classify": (2, 3)}
        assert before.batches == {"detect": (1,), "classify": (2, 2)}
        assert found.box is not None
        box = np.array(found.box.xyxy)
        wide, near = (crop_box(box, margin, *photo.size).tolist() for margin in (0.0, -0.35))
        nearer += found.crop == pytest.approx(near, abs=0.1)
        assert found.crop in (pytest.approx(wide, abs=0.1), pytest.approx(near, abs=0.1))
        assert sorted(box.xyxy for box in found.boxes) == sorted(box.xyxy for box in before.boxes)
        asked = closer.compare(photo, Options(margin=0.0))
        assert_same(asked, before)
    assert 0 < nearer < len(samples)


def test_the_fused_answer_weighs_as_tuned(served: Served, samples: Mapping[str, Photo]) -> None:
    photo = samples["coffee"]
    found = tuned(served, min_score=0, area_weight=0.5).compare(photo, Options(box_policy="score"))
    assert found.cropped is not None
    assert found.box is not None
    plain, cropped = found.plain.probabilities, found.cropped.probabilities
    weights = [
        FusionRule(area_weight=0.5).plain_weight(plain, found.box.area_fraction),
        RULE.crop_weight(cropped, 1, 1),
    ]
    np.testing.assert_allclose(found.combined.probabilities, fuse([plain, cropped], weights), atol=1e-5)


def test_a_photo_that_is_asked_about_twice_is_looked_at_once(served: Served, samples: Mapping[str, Photo]) -> None:
    """Over two label spaces: of what both ask nothing is computed twice, and each is answered as if it were alone."""
    counted = {name: Counting(getattr(served, kind)[name].engine) for kind, name in ENGINES}
    loaded = served.detector(None)
    assert isinstance(loaded, LoadedFcos)
    detector = replace(loaded, engine=counted["fcos_random"])
    classifier = replace(served.classifier(None), engine=counted[LITE0])
    pipeline = Pipeline(replace(served, backbones={LITE0: classifier}, detectors={"fcos_random": detector}))
    photo, options = samples["coffee"], Options(box_policy="score", min_score=0, arms=("center", "squashed"))
    both = [options, replace(options, label_space="imagenet-a")]
    for found, chosen in zip(pipeline.compare_all([photo] * 2, both), both, strict=True):
        assert_same(found, Pipeline(served).compare(photo, chosen))
    # The plain photo, the crop and two arms.
    assert (counted["fcos_random"].rows, counted[LITE0].rows) == (1, 4)


def test_an_empty_batch(pipeline: Pipeline) -> None:
    assert pipeline.compare_all([], []) == []


def test_as_many_options_as_photos(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    with pytest.raises(ValueError, match="zip"):
        pipeline.compare_all([samples["coffee"]], [])


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "rescored"])
def test_a_policy_orders_the_boxes(policy: BoxPolicy, pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    photo = samples["motorcycle_left"]
    found = pipeline.compare(photo, Options(box_policy=policy, min_score=0))
    boxes = np.array([box.xyxy for box in found.boxes])
    scores = np.array([box.score for box in found.boxes])
    assert len(boxes) >= 3
    assert order_by_policy(policy, boxes, scores, *photo.size).tolist() == list(range(len(boxes)))
    assert found.crop == pytest.approx(crop_box(boxes[0], 0, *photo.size).tolist(), abs=1e-2)


def test_the_policies_do_not_all_choose_alike(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    options = [Options(box_policy=policy, min_score=0) for policy in POLICIES]
    found = pipeline.compare_all([samples["motorcycle_left"]] * len(options), options)
    assert len({comparison.crop for comparison in found}) >= 3


def test_rescored_chooses_among_three_by_the_rule(served: Served, samples: Mapping[str, Photo]) -> None:
    """With no crop ever certain, for every photo: the crop of the largest weight, and the mixture of four views."""
    pipeline = tuned(served, min_score=0, certain=1.0)
    preprocessing = served.classifier(None).model.preprocessing
    places = []
    for photo in samples.values():
        detection = served.detector(None).detect([photo])[0]
        crops = [crop_box(box, 0, *photo.size) for box in detection.boxes[:3]]
        seen = [probabilities(pipeline, views.cropped(photo, crop, preprocessing)) for crop in crops]
        scores = [float(score) for score in detection.scores]
        weights = [RULE.crop_weight(view, score, scores[0]) for view, score in zip(seen, scores, strict=False)]
        best = int(np.argmax(weights))
        places.append(best)
        plain = probabilities(pipeline, views.plain(photo, preprocessing))
        share = float(area(detection.boxes[0])) / (photo.width * photo.height)
        expected = fuse([plain, *seen], [RULE.plain_weight(plain, share), *weights])

        found = pipeline.compare(photo, Options())
        order = [*np.argsort(-np.array(weights), kind="stable").tolist(), *range(3, len(scores))]
        assert [box.score for box in found.boxes] == pytest.approx([scores[index] for index in order], abs=1e-5)
        if found.cropped is not None:
            assert found.crop == pytest.approx(crops[best].tolist(), abs=1e-2)
            np.testing.assert_allclose(found.cropped.probabilities, seen[best], atol=1e-4)
            np.testing.assert_allclose(found.combined.probabilities, expected, atol=1e-4)
    assert len(set(places)) > 1


def test_a_certain_first_crop_ends_the_search(served: Served, samples: Mapping[str, Photo]) -> None:
    photo = samples["chelsea"]
    certain = tuned(served, min_score=0, certain=0.0).compare(photo, Options())
    first = tuned(served, min_score=0).compare(photo, Options(box_policy="score"))
    assert_same(certain, first)


@pytest.mark.parametrize("name", ["chelsea", "flower", "camera"])
@pytest.mark.parametrize("policy", POLICIES)
def test_without_a_detection_combined_is_plain(
    policy: BoxPolicy, name: str, pipeline: Pipeline, samples: Mapping[str, Photo]
) -> None:
    found = pipeline.compare(samples[name], Options(min_score=1, box_policy=policy, arms=ARMS))
    assert (found.no_crop_reason, found.outcome) == ("no_detection", "no_detection")
    assert (found.box, found.boxes, found.crop, found.cropped, found.agreement) == (None, (), None, None, None)
    assert found.combined is found.plain
    squashed = found.arms["squashed"]
    assert squashed is not None
    assert {arm: found.arms[arm] for arm in ARMS if arm != "squashed"} == dict.fromkeys(ARMS[:3])
    preprocessing = pipeline.served.classifier(None).model.preprocessing
    expected = probabilities(pipeline, views.squashed(samples[name], preprocessing))
    np.testing.assert_allclose(squashed.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(("policy", "margin", "reason"), [("score", 0.0, None), ("largest", 1.0, "covers_image")])
def test_a_crop_that_is_the_photo_is_no_crop(
    policy: BoxPolicy, margin: float, reason: str | None, pipeline: Pipeline, samples: Mapping[str, Photo]
) -> None:
    found = pipeline.compare(samples["camera"], Options(min_score=0, box_policy=policy, margin=margin))
    assert found.no_crop_reason == reason
    assert (found.crop is None) == (found.cropped is None) == (reason is not None)
    assert found.boxes
    assert (found.combined is found.plain) == (reason is not None)


def test_the_crop_of_a_narrow_photo_covers_it(pipeline: Pipeline) -> None:
    found = pipeline.compare(Photo(Image.new("RGB", (1, 1)), "PNG"), Options(min_score=0))
    assert found.no_crop_reason == "covers_image"
    assert found.plain.probabilities.sum() == pytest.approx(1, abs=1e-4)


def test_all_arms_are_about_the_answers_box(served: Served, samples: Mapping[str, Photo]) -> None:
    """The box that was chosen among three, which need not be the detector's first."""
    pipeline = tuned(served, min_score=0, certain=1.0)
    preprocessing = served.classifier(None).model.preprocessing
    chosen_later = 0
    for photo in samples.values():
        found = pipeline.compare(photo, Options(arms=ARMS))
        assert found.box is not None
        box = np.array(found.box.xyxy, np.float32)
        scores = [box.score or 0 for box in found.boxes]
        chosen_later += scores[0] < max(scores)
        expected = {
            "background": probabilities(pipeline, views.background(photo, box, preprocessing)),
            "center": probabilities(pipeline, views.cropped(photo, views.center_crop(photo, box), preprocessing)),
            "squashed": probabilities(pipeline, views.squashed(photo, preprocessing)),
        }
        logits = served.detector(None).region_logits([photo], [box])[0]
        expected["detector"] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for arm, prediction in found.arms.items():
            assert prediction is not None
            np.testing.assert_allclose(prediction.probabilities, expected[arm], atol=1e-3, err_msg=arm)
    assert chosen_later > 0


BOX = (120.0, 40.5, 430.0, 350.0)


def test_a_given_box_takes_the_place_of_the_detection(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    """Whatever the detector's options are; a sure one, so that combined weighs one crop against the whole."""
    photo = samples["coffee"]
    options = Options(box=BOX, margin=0.1, min_score=1, max_boxes=20, arms=("background", "center", "detector"))
    found = pipeline.compare(photo, options)
    assert [(box.xyxy, box.score) for box in found.boxes] == [(BOX, None)]
    assert found.boxes[0].area_fraction == pytest.approx(310 * 309.5 / (600 * 400))
    crop = crop_box(np.array(BOX), 0.1, 600, 400)
    assert found.crop == pytest.approx(crop.tolist(), abs=1e-3)
    preprocessing = pipeline.served.classifier(None).model.preprocessing
    plain = probabilities(pipeline, views.plain(photo, preprocessing))
    cropped = probabilities(pipeline, views.cropped(photo, crop, preprocessing))
    assert found.cropped is not None
    np.testing.assert_allclose(found.cropped.probabilities, cropped, atol=1e-4)
    weights = [RULE.plain_weight(plain, found.boxes[0].area_fraction), RULE.crop_weight(cropped, 1, 1)]
    np.testing.assert_allclose(found.combined.probabilities, fuse([plain, cropped], weights), atol=1e-4)
    assert all(arm is not None for arm in found.arms.values())


def test_a_given_box_over_the_whole_photo_is_no_crop(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    found = pipeline.compare(samples["coffee"], Options(box=(0, 0, 600, 400)))
    assert (found.no_crop_reason, found.crop, found.box is not None) == ("covers_image", None, True)


@pytest.mark.parametrize("box", [(0, 0, 600.5, 400), (-1, 0, 9, 9), (5, 5, 5, 9), (9, 5, 5, 9), (0, 0, np.nan, 1)])
def test_a_box_that_leaves_the_photo(
    box: tuple[float, float, float, float], pipeline: Pipeline, samples: Mapping[str, Photo]
) -> None:
    with pytest.raises(BoxOutsidePhoto, match="0,0,600,400"):
        pipeline.compare(samples["coffee"], Options(box=box))


def test_given_and_detected_boxes_in_one_batch(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    photos = [samples["coffee"], samples["chelsea"], samples["coffee"]]
    options = [Options(box=BOX), Options(), Options(min_score=0)]
    for found, photo, chosen in zip(pipeline.compare_all(photos, options), photos, options, strict=True):
        assert_same(found, pipeline.compare(photo, chosen))


def test_only_the_arms_that_were_asked_for(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    found = pipeline.compare(samples["coffee"], Options(min_score=0, arms=("center",)))
    assert list(found.arms) == ["center"]


def test_a_subset_is_the_masked_softmax(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    indices = imagenet_a().indices_in(imagenet_1k())
    options = Options(min_score=0, box_policy="score", arms=("detector",))
    for photo in samples.values():
        whole, part = pipeline.compare_all([photo] * 2, [options, replace(options, label_space="imagenet-a")])
        assert part.label_space == imagenet_a()
        pairs = [
            (whole.plain, part.plain),
            (whole.cropped, part.cropped),
            (whole.arms["detector"], part.arms["detector"]),
        ]
        for of_whole, of_part in pairs:
            assert of_whole is not None
            assert of_part is not None
            masked = of_whole.probabilities[indices].astype(np.float64)
            np.testing.assert_allclose(of_part.probabilities, masked / masked.sum(), rtol=1e-2, atol=1e-4)
            assert of_part.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert part.combined.probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(backbone="resnet18.a1_in1k"), rf"backbone 'resnet18\.a1_in1k' is not served; served are: {LITE0}$"),
        (Options(backbone=""), r"backbone '' is not served"),
        (Options(detector="fcos_resnet18"), r"detector 'fcos_resnet18' is not served; served are: fcos_random$"),
        (Options(label_space="places"), r"label_space 'places' .* served are: imagenet-1k, imagenet-a, tiny-imagenet$"),
    ],
)
def test_what_is_not_served(options: Options, message: str, pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    for ask in (pipeline.check, lambda options: pipeline.compare(samples["coffee"], options)):
        with pytest.raises(UnservedChoice, match=message):
            ask(options)
    with pytest.raises(UnservedChoice, match=message):
        pipeline.compare_all([samples["coffee"]] * 2, [Options(), options])


def test_check_lets_pass_what_is_served(pipeline: Pipeline) -> None:
    pipeline.check(Options())
    pipeline.check(Options(backbone=LITE0, detector="fcos_random", label_space="tiny-imagenet"))


def test_the_detectors_own_class_needs_its_label_space(served: Served, samples: Mapping[str, Photo]) -> None:
    """A classifier of other classes than the detector's: the arm is absent, not wrong."""
    pets = LabelSpace("pets", tuple(f"x{index}" for index in range(1000)), imagenet_1k().labels)
    lite0 = served.classifier(None)
    own = Classifier(replace(lite0.model, name="pets", source="manifest", label_space=pets), lite0.engine)
    pipeline = Pipeline(replace(served, backbones={"pets": own}))
    found = pipeline.compare(samples["coffee"], Options(min_score=0, arms=("detector", "center")))
    assert found.arms["detector"] is None
    assert found.arms["center"] is not None


def test_several_threads_at_once(pipeline: Pipeline, samples: Mapping[str, Photo]) -> None:
    photos = [samples[name] for name in ("chelsea", "coffee", "rocket")]
    alone = [pipeline.compare(photo, Options(min_score=0)) for photo in photos]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda index: pipeline.compare(photos[index % 3], Options(min_score=0)), range(9)))
    for index, found in enumerate(together):
        assert_same(found, alone[index % 3])


@pytest.mark.parametrize("cores", [2, 5])
@pytest.mark.parametrize(
    "options", [Options(min_score=0), Options(min_score=1), Options(box=(9, 9, 90, 90), arms=ARMS), Options(arms=ARMS)]
)
def test_cores_to_spare_change_no_answer(
    options: Options, cores: int, served: Served, samples: Mapping[str, Photo]
) -> None:
    """And cost no more work."""
    classifier = served.classifier(None)
    counting = Counting(classifier.engine)
    pipeline = Pipeline(replace(served, backbones={LITE0: replace(classifier, engine=counting)}))
    photos = [samples[name] for name in ("chelsea", "coffee", "rocket")]
    alone = pipeline.compare_all(photos, [options] * 3)
    rows = counting.rows
    for found, expected in zip(pipeline.compare_all(photos, [options] * 3, cores), alone, strict=True):
        assert_same(found, expected)
        assert sum(found.batches["classify"]) == sum(expected.batches["classify"]) == rows
    assert counting.rows == 2 * rows


class Doing:
    """An engine that does something first."""

    def __init__(self, engine: Engine, first: Callable[[], object], device: str = "cpu") -> None:
        self.engine, self.name, self.device, self.first = engine, engine.name, device, first

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        self.first()
        return self.engine.run(*inputs)


def doing(served: Served, detector: Callable[[], object], classifier: Callable[[], object]) -> Pipeline:
    """The same models, which do something before each forward."""
    finder, backbone = served.detector(None), served.classifier(None)
    assert isinstance(finder, LoadedFcos)
    finders = {"fcos_random": replace(finder, engine=Doing(finder.engine, detector))}
    return Pipeline(Served({LITE0: replace(backbone, engine=Doing(backbone.engine, classifier))}, finders, {}))


def test_with_cores_to_spare_the_classifier_does_not_wait_for_the_detector(
    served: Served, samples: Mapping[str, Photo]
) -> None:
    asked = threading.Event()
    assert doing(served, lambda: asked.wait(30), asked.set).compare(samples["coffee"], Options(), cores=2).plain
    assert asked.is_set()


def test_with_cores_to_spare_the_caller_works_too(served: Served, samples: Mapping[str, Photo]) -> None:
    """A thread that only waits for two others leaves it to the system to give each a core of its own."""
    threads = list[int]()
    pipeline = doing(served, lambda: None, lambda: threads.append(threading.get_ident()))
    pipeline.compare(samples["coffee"], Options(box=(9, 9, 90, 90), arms=("background", "center")), cores=2)
    assert (len(threads), threads.count(threading.get_ident())) == (4, 2)


def test_on_a_gpu_plain_and_crop_share_a_batch_always(served: Served, samples: Mapping[str, Photo]) -> None:
    backbone = served.classifier(None)
    on_gpu = replace(backbone, engine=Doing(backbone.engine, lambda: None, "cuda:0"))
    pipeline = Pipeline(replace(served, backbones={LITE0: on_gpu}))
    assert pipeline.compare(samples["coffee"], Options(min_score=0), cores=2).batches["classify"][0] == 2


def test_an_error_waits_for_what_is_done_meanwhile(served: Served, samples: Mapping[str, Photo]) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slowly() -> None:
        begun.set()
        time.sleep(0.1)
        ended.set()

    def fail() -> None:
        assert begun.wait(30)
        raise MemoryError

    with pytest.raises(MemoryError):
        doing(served, fail, slowly).compare(samples["coffee"], Options(), cores=2)
    assert ended.is_set()


def test_an_error_of_what_is_done_meanwhile(served: Served, samples: Mapping[str, Photo]) -> None:
    with pytest.raises(ZeroDivisionError):
        doing(served, lambda: None, lambda: 1 / 0).compare(samples["coffee"], Options(min_score=1), cores=2)


@pytest.mark.parametrize(("name", "label"), [("coffee", "espresso"), ("motorcycle_left", "moped"), ("flower", "daisy")])
def test_the_default_models_on_the_samples(
    name: str, label: str, samples: Mapping[str, Photo], bundled: Pipeline
) -> None:
    found = bundled.compare(samples[name], Options(arms=("detector",)))
    assert imagenet_1k().labels[found.plain.first] == label
    assert imagenet_1k().labels[found.combined.first] == label
    assert found.box is not None
    assert found.box.score is not None
    assert found.box.score > 0.3


@pytest.fixture(scope="module")
def bundled(served: Served) -> Pipeline:
    """The bundled detector, under torch."""
    model = fcos(Catalog().detector("fcos_tf_efficientnet_lite0.figureground"))
    engines = (TorchEngine(graph.build(), "cpu") for graph in (model.graph(), model.region_graph()))
    return Pipeline(replace(served, detectors={model.name: LoadedFcos(model, *engines)}))
