from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from evaluation.cases import Condition, LabelledFolder, read_folder
from evaluation.looks import CANDIDATES, MIN_CROPS, Looks, _likeliest, collect, places, reached
from models.comparison import Comparison, Options
from models.detectors import LoadedFcos
from models.heads import Tuning
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served
from tests.evaluation.photos import WNIDS

TUNINGS = [
    Tuning(min_score=0, certain=1.0),
    Tuning(min_score=0, margin_small=-0.1, margin_large=-0.1, certain=0.2, covers_image=0.3),
    Tuning(min_score=0.3, margin_small=0.2, margin_large=0.2, certain=1.0, area_weight=0.5, score_weight=0.3),
    Tuning(min_score=0.0, closer_look=0.2, certain=0.4, score_slope=0.4, score_offset=-0.5, score_weight=1.0),
    Tuning(min_score=0.97, certain=0.9),
    Tuning(min_score=0, min_crop=MIN_CROPS[-1], closer_look=0.1, certain=1.0),
]
# Of a photo's shorter side, and how it is shown.
SHOWN = [(None, Condition()), (None, Condition(0.5)), (64, Condition())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: Mapping[str, Photo]) -> LabelledFolder:
    path = tmp_path_factory.mktemp("labelled")
    for name in WNIDS:
        samples[name].image.save(path / f"{name}.png")
    (path / "labels.csv").write_text("file,wnid\n" + "".join(f"{name}.png,{wnid}\n" for name, wnid in WNIDS.items()))
    return read_folder(path)


@pytest.fixture(scope="module", params=SHOWN, ids=["as it is", "pasted", "small"])
def shown(request: pytest.FixtureRequest, folder: LabelledFolder) -> tuple[LabelledFolder, Condition]:
    side, condition = request.param
    return replace(folder, side=side), condition


@pytest.fixture(scope="module")
def looks(served: Served, shown: tuple[LabelledFolder, Condition]) -> Looks:
    folder, condition = shown
    cases = folder.cases(condition, seed=1)
    return collect(served.classifier(None), served.detector(None), cases, len(folder), TUNINGS, "made")


def answered(served: Served, shown: tuple[LabelledFolder, Condition], tuning: Tuning) -> list[Comparison]:
    """What the pipeline itself says."""
    detector = served.detector(None)
    assert isinstance(detector, LoadedFcos)
    model = replace(detector.model)
    vars(model)["file"] = replace(detector.model.file, tuning=tuning)
    pipeline = Pipeline(replace(served, detectors={model.name: replace(detector, model=model)}))
    folder, condition = shown
    return [pipeline.compare(case.photo, Options()) for case in folder.cases(condition, seed=1)]


@pytest.mark.parametrize("tuning", TUNINGS, ids=range(len(TUNINGS)))
def test_as_the_pipeline_answers(
    tuning: Tuning, served: Served, shown: tuple[LabelledFolder, Condition], looks: Looks
) -> None:
    found = reached(looks, tuning)
    comparisons = answered(served, shown, tuning)
    labels = list(shown[0].labels)

    def percent(right: list[bool]) -> float:
        return pytest.approx(100 * float(np.mean(right)))  # type: ignore[return-value]

    pairs = list(zip(comparisons, labels, strict=True))
    assert found.plain == percent([one.plain.first == label for one, label in pairs])
    assert found.rescored == percent([(one.cropped or one.plain).first == label for one, label in pairs])
    assert found.combined == percent([one.combined.first == label for one, label in pairs])
    true = [float(one.combined.probabilities[label]) for one, label in pairs]
    assert found.log_loss == pytest.approx(-np.log(np.array(true) + 1e-6).mean(), rel=0.02)
    assert found.no_detection == percent([one.no_crop_reason == "no_detection" for one in comparisons])
    assert found.forwards == pytest.approx(np.mean([sum(one.batches["classify"]) for one in comparisons]))
    assert found.oracle >= max(found.plain, found.first_crop, found.rescored)


def test_there_is_a_look_wherever_a_tuning_looks(looks: Looks) -> None:
    assert looks.rows.shape[:2] == looks.scores.shape == (len(looks.labels), CANDIDATES)
    for tuning in TUNINGS:
        for place in places(tuning, looks.shares[:, 0], looks.sides[:, 0]):
            rows = looks.rows[np.arange(len(place)), 0, place]
            assert (rows >= 0).all()
            assert (looks.covered[rows] > 0).all()
    assert len(looks.crops) == looks.rows.max() + 1
    assert (np.diff(looks.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        (Tuning(), [5, 5]),
        (Tuning(closer_look=0.1), [5, 4]),
        (Tuning(margin_small=-0.2, margin_large=0.2), [5, 5]),
        (Tuning(margin_small=-0.2, margin_large=-0.06), [4, 4]),
        (Tuning(margin_small=0.9, margin_large=0.9), [10, 10]),
        (Tuning(min_crop=56, closer_look=0.1), [5, 11 + MIN_CROPS.index(56)]),
    ],
)
def test_places_of_a_box_of_60_pixels_that_is_half_the_photo(tuning: Tuning, expected: list[int]) -> None:
    """The margin in tenths, from -5; behind them the least sizes."""
    assert places(tuning, np.array([0.5]), np.array([60.0]))[:, 0].tolist() == expected


def test_of_a_photos_classes_every_views_first_and_the_label_are_kept() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(500, 0.1), 20)
    probabilities[3] = np.linspace(1.9, 2.1, 500) / 1000  # a view that says next to nothing
    place, kept = _likeliest(123, probabilities)
    assert kept.shape == (20, 64)
    np.testing.assert_array_equal(kept.max(1), probabilities.max(1))
    np.testing.assert_array_equal(kept[:, place], probabilities[:, 123])
