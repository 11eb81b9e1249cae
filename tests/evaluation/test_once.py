from dataclasses import dataclass, field

import numpy as np

from evaluation.once import OnceEngine, once
from models.comparison import Options
from models.engines import Array, EngineName
from models.label_spaces import LabelSpace, imagenet_a
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served
from tests.evaluation.photos import WNIDS


@dataclass
class Doubling:
    """Doubles what it is given, and remembers how many rows that were."""

    name: EngineName = "torch"
    device: str = "cpu"
    batches: list[int] = field(default_factory=list)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        self.batches.append(len(inputs[0]))
        return tuple(array * 2 for array in inputs)


def test_every_row_is_computed_once_and_answered_in_place() -> None:
    engine = Doubling()
    remembered = OnceEngine(engine)
    first, second, third = (np.full((2, 3), value) for value in (1, 2, 3))
    (found,) = remembered.run(np.stack([first, second, first]))
    assert np.array_equal(found, 2 * np.stack([first, second, first]))
    (found,) = remembered.run(np.stack([third, second]))
    assert np.array_equal(found, 2 * np.stack([third, second]))
    remembered.run(np.stack([second]))
    assert engine.batches == [2, 1]


def test_rows_differ_where_any_of_the_inputs_does() -> None:
    engine = Doubling()
    remembered = OnceEngine(engine)
    pixels, boxes = np.ones((2, 4)), np.array([[0.0, 1.0], [0.0, 2.0]])
    one, two = remembered.run(pixels, boxes)
    assert np.array_equal(one, 2 * pixels)
    assert np.array_equal(two, 2 * boxes)
    assert engine.batches == [2]


def test_models_answer_the_same_and_in_the_data_sets_classes(served: Served, samples: dict[str, Photo]) -> None:
    photos = list(samples.values())[:3]
    mask = LabelSpace("data set", tuple(WNIDS.values()), tuple(WNIDS))
    shared = once(served, mask)
    options = [Options(arms=("detector", "center"))] * len(photos)
    for _ in range(2):
        for ours, theirs in zip(
            Pipeline(shared).compare_all(photos, options), Pipeline(served).compare_all(photos, options), strict=True
        ):
            assert ours.boxes == theirs.boxes
            np.testing.assert_array_equal(ours.plain.probabilities, theirs.plain.probabilities)
            np.testing.assert_array_equal(ours.combined.probabilities, theirs.combined.probabilities)
    masked = Pipeline(shared).compare(photos[0], Options(label_space="data set"))
    assert masked.plain.probabilities.shape == (len(WNIDS),)
    # A named subset can be asked for all the same.
    assert shared.classifier(None).space("imagenet-a") == imagenet_a()
