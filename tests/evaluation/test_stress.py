from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cases import Condition
from evaluation.classes import resolve
from evaluation.data import DataError, DataSet, open_data
from evaluation.stress import SCALES, Shown, Stage, chosen, conditions
from models.label_spaces import imagenet_1k
from models.photo import UnreadablePhoto
from tests.evaluation.photos import WNIDS, class_folders


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return open_data(str(class_folders(tmp_path, 2)))


def stage(data: DataSet, *shown: Condition, seed: int = 0, partner: DataSet | None = None) -> Stage:
    return Stage(data, resolve(data, [imagenet_1k()]).wnids, shown, seed, partner)


def show(stage: Stage, index: int) -> list[Shown]:
    return stage.show(index, stage.data.read(index))


def boxed(tmp_path: Path) -> DataSet:
    """Two photos of one class and one of another: a white object in a box on a dark ground; and one without a box."""
    tmp_path.mkdir(exist_ok=True)
    rows = []
    for number, wnid in enumerate([*list(WNIDS.values())[:1] * 2, *list(WNIDS.values())[1:3]]):
        image = Image.new("RGB", (80, 60), (0, 40 * number + 20, 0))
        image.paste((255, 255, 255), (10, 10, 30, 40))
        image.save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{wnid}")
    (tmp_path / "labels.csv").write_text("file,wnid\n" + "\n".join(rows))
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        + "\n".join(f"{number},{row.split(',')[1]} 10 10 29 39" for number, row in enumerate(rows[:3]))
    )
    return open_data(str(tmp_path), str(tmp_path / "LOC_val_solution.csv"))


def test_chosen_conditions() -> None:
    zoomed = conditions(("zoom-out", "background"))
    assert chosen(zoomed, ("*",)) == zoomed
    some = [condition.name for condition in chosen(zoomed, ("tiles * hard", "background same*"))]
    assert some == ["as it is", *(f"tiles {scale:g} hard" for scale in SCALES), "background same class"]
    with pytest.raises(DataError, match="no condition is named 'rain'; there are: as it is, "):
        chosen(zoomed, ("rain",))


def test_a_photo_is_shown_once_more_as_it_was(data: DataSet) -> None:
    shown = stage(data, *conditions(("zoom-out",)))
    for one in show(shown, 1)[::6]:
        again = shown.photo(one.path, one.condition.name)
        assert np.array_equal(np.asarray(again.image), np.asarray(one.photo.image))
    with pytest.raises(OSError, match="lists no"):
        shown.photo("nowhere.jpg", "as it is")
    with pytest.raises(OSError, match="is not shown as 'paired'"):
        shown.photo(data.entries[1].path, "paired")


def test_conditions() -> None:
    assert [condition.name for condition in conditions(())] == ["as it is"]
    zoomed = conditions(("zoom-out",))
    assert len(zoomed) == len({condition.name for condition in zoomed}) == 1 + 3 * 2 * len(SCALES)
    assert {condition.scale for condition in zoomed} == {1.0, *SCALES}
    assert [condition.name for condition in conditions(("background",), paired=True)] == [
        "as it is",
        "paired",
        "background same class",
        "background another class",
        "background removed",
    ]


def test_the_same_seed_shows_the_same_whatever_else_is_shown(data: DataSet) -> None:
    wanted = Condition(0.5, "tiles", "hard")
    alone, among = stage(data, wanted), stage(data, *conditions(("zoom-out",)))
    one = show(alone, 3)[0]
    same = next(shown for shown in show(among, 3) if shown.condition == wanted)
    assert one.rectangle == same.rectangle
    assert one.photo.image.tobytes() == same.photo.image.tobytes()
    other = show(stage(data, wanted, seed=1), 3)[0]
    assert other.photo.image.tobytes() != one.photo.image.tobytes()


def test_hard_and_feathered_edges_share_canvas_and_place(data: DataSet) -> None:
    hard, soft = show(stage(data, Condition(0.5, "photo", "hard"), Condition(0.5, "photo", "feathered")), 0)
    assert hard.rectangle == soft.rectangle
    assert hard.rectangle is not None
    left, top, right, bottom = hard.rectangle
    one, two = np.array(hard.photo.image), np.array(soft.photo.image)
    assert not np.array_equal(one, two)
    one[top:bottom, left:right] = two[top:bottom, left:right] = 0
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("scale", SCALES)
def test_the_longer_side_has_the_scale_and_the_boxes_go_along(tmp_path: Path, scale: float) -> None:
    shown = show(stage(boxed(tmp_path), Condition(scale, "colour", "hard")), 0)[0]
    assert shown.rectangle is not None
    left, top, right, bottom = shown.rectangle
    assert (right - left) / shown.photo.width == pytest.approx(scale, abs=1 / 640)
    x1, y1, x2, y2 = (round(value) for value in shown.boxes[0])
    assert left <= x1 < x2 <= right
    assert top <= y1 < y2 <= bottom
    pixels = np.array(shown.photo.image)
    inset = 3
    assert pixels[y1 + inset : y2 - inset, x1 + inset : x2 - inset].min() > 250


def test_backgrounds_are_swapped_around_the_kept_object(tmp_path: Path) -> None:
    data = boxed(tmp_path)
    whole, same, another, removed = show(stage(data, *conditions(("background",))), 0)
    own = np.array(whole.photo.image)
    for shown, green in ((same, {60}), (another, {100}), (removed, {0})):
        pixels = np.array(shown.photo.image)
        np.testing.assert_array_equal(pixels[10:40, 10:30], own[10:40, 10:30])
        pixels[10:40, 10:30] = pixels[0, 0]
        # The other photo's white object is gone from its background.
        assert {int(value) for value in np.unique(pixels[..., 1])} == green
        assert shown.boxes == whole.boxes
    # No other photo of its class; no box at all.
    assert [shown.condition.name for shown in show(stage(data, *conditions(("background",))), 2)] == [
        "as it is",
        "background another class",
        "background removed",
    ]
    assert [shown.condition.name for shown in show(stage(data, *conditions(("background",))), 3)] == ["as it is"]


def test_paired_photos(tmp_path: Path, data: DataSet) -> None:
    entry = data.entries[0]
    cut = tmp_path.parent / f"{tmp_path.name}-cut" / entry.path
    cut.parent.mkdir(parents=True)
    Image.new("RGB", (20, 30)).save(cut)
    partner = open_data(str(cut.parents[1]))
    paired = stage(data, *conditions((), paired=True), partner=partner)
    assert [shown.photo.size for shown in show(paired, 0)] == [show(paired, 0)[0].photo.size, (20, 30)]
    assert [shown.condition.name for shown in show(paired, 1)] == ["as it is"]


def test_boxes_are_scaled_from_the_size_they_were_drawn_on(tmp_path: Path) -> None:
    data = boxed(tmp_path)
    half = tuple(replace(entry, boxed_size=(40, 30)) for entry in data.entries)
    assert show(stage(data.with_entries(half), Condition()), 0)[0].boxes == ((20.0, 20.0, 60.0, 80.0),)


def test_broken_photos_are_told(data: DataSet) -> None:
    with pytest.raises(UnreadablePhoto):
        stage(data, Condition()).show(0, b"junk")


@pytest.mark.parametrize(
    ("keep", "condition", "message"),
    [(1, Condition(0.5), "there is only one"), (9, Condition(swap="removed"), "needs hand-drawn boxes")],
)
def test_a_stress_set_that_cannot_be_made_is_told_before_the_run(
    data: DataSet, keep: int, condition: Condition, message: str
) -> None:
    few = data.with_entries(data.entries[:keep])
    with pytest.raises(DataError, match=message):
        Stage(few, ["n02123045"] * keep, [condition], 0)
