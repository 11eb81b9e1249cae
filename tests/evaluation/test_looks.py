from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from evaluation.cases import Condition, LabelledFolder, read_folder
from evaluation.looks import CANDIDATES, HIGHEST, LOWEST, Looks, collect, reached, tenths
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
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: Mapping[str, Photo]) -> LabelledFolder:
    path = tmp_path_factory.mktemp("labelled")
    for name in WNIDS:
        samples[name].image.save(path / f"{name}.png")
    (path / "labels.csv").write_text("file,wnid\n" + "".join(f"{name}.png,{wnid}\n" for name, wnid in WNIDS.items()))
    return read_folder(path)


@pytest.fixture(scope="module", params=[Condition(), Condition(0.5)], ids=lambda condition: condition.name)
def looks(request: pytest.FixtureRequest, served: Served, folder: LabelledFolder) -> Looks:
    def margins(share: float, first: bool) -> set[int]:
        return {margin for tuning in TUNINGS for margin in tenths(tuning, share, first)}

    return collect(served.classifier(None), served.detector(None), folder, request.param, margins, seed=1)


def answered(served: Served, folder: LabelledFolder, looks: Looks, tuning: Tuning) -> list[Comparison]:
    """What the pipeline itself says."""
    detector = served.detector(None)
    assert isinstance(detector, LoadedFcos)
    model = replace(detector.model)
    vars(model)["file"] = replace(detector.model.file, tuning=tuning)
    pipeline = Pipeline(replace(served, detectors={model.name: replace(detector, model=model)}))
    condition = Condition() if looks.name == "as it is" else Condition(0.5)
    return [pipeline.compare(case.photo, Options()) for case in folder.cases(condition, seed=1)]


@pytest.mark.parametrize("tuning", TUNINGS, ids=range(len(TUNINGS)))
def test_as_the_pipeline_answers(tuning: Tuning, served: Served, folder: LabelledFolder, looks: Looks) -> None:
    found = reached(looks, tuning)
    comparisons = answered(served, folder, looks, tuning)
    labels = looks.labels.tolist()

    def percent(right: list[bool]) -> float:
        return pytest.approx(100 * float(np.mean(right)))  # type: ignore[return-value]

    pairs = list(zip(comparisons, labels, strict=True))
    assert found.plain == percent([one.plain.first == label for one, label in pairs])
    assert found.rescored == percent([(one.cropped or one.plain).first == label for one, label in pairs])
    assert found.combined == percent([one.combined.first == label for one, label in pairs])
    true = [float(one.combined.probabilities[label]) for one, label in pairs]
    assert found.log_loss == pytest.approx(-np.log(np.array(true) + 1e-6).mean(), rel=0.02)
    assert found.no_detection == percent([one.no_crop_reason == "no_detection" for one in comparisons])
    assert found.forwards == pytest.approx(np.mean([sum(one.batches) for one in comparisons]))
    assert found.oracle >= max(found.plain, found.first_crop, found.rescored)


def test_there_is_a_look_wherever_a_tuning_looks(looks: Looks) -> None:
    assert looks.crops.shape[1:3] == (CANDIDATES, HIGHEST - LOWEST + 1)
    places = sorted({margin - LOWEST for tuning in TUNINGS for margin in tenths(tuning, 0.5, True)})
    np.testing.assert_allclose(looks.crops[:, 0, places].sum(-1, dtype=np.float32), 1, atol=0.02)
    assert (looks.covered[:, 0, places] > 0).all()
    assert (np.diff(looks.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("tuning", "first", "expected"),
    [
        (Tuning(), True, [0]),
        (Tuning(closer_look=0.1), True, [0, -1]),
        (Tuning(closer_look=0.1), False, [0]),
        (Tuning(margin_small=-0.2, margin_large=0.2), True, [0]),
        (Tuning(margin_small=-0.2, margin_large=-0.06), True, [-1]),
    ],
)
def test_margins_in_tenths(tuning: Tuning, first: bool, expected: list[int]) -> None:
    assert list(tenths(tuning, 0.5, first)) == expected
