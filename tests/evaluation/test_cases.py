from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cases import Condition, LabelledFolder, read_folder, sample
from evaluation.data import open_data
from models.label_spaces import imagenet_1k, imagenet_a
from models.photo import UnreadablePhoto

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
WNIDS = ["n01498041", "n02123045", "n07920052"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,{wnid}" for number, wnid in enumerate(WNIDS)]
    (tmp_path / "labels.csv").write_text("file,wnid\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_photos_as_they_are(folder: Path) -> None:
    photos = read_folder(folder)
    assert len(photos) == 3
    cases = list(photos.cases(Condition(), canvases=5))
    assert [case.path.name for case in cases] == ["0.png", "1.png", "2.png"]
    assert [imagenet_1k().wnids[case.label] for case in cases] == WNIDS
    for case, colour in zip(cases, COLOURS, strict=True):
        assert case.rectangle is None
        assert case.photo.size == (60, 40)
        assert case.photo.image.getpixel((30, 20)) == colour


def test_photos_in_clutter(folder: Path) -> None:
    """Each on another photo's canvas, never on its own."""
    photos = read_folder(folder)
    cases = list(photos.cases(Condition(0.25, "colour"), seed=3, canvases=4))
    assert [case.path.name for case in cases] == ["0.png", "1.png", "2.png"] * 4
    behind = set()
    for case in cases:
        assert case.rectangle is not None
        left, top, right, bottom = case.rectangle
        pixels = np.asarray(case.photo.image)
        own = COLOURS[int(case.path.stem)]
        assert (pixels[top:bottom, left:right] == own).all()
        rest = {tuple(int(value) for value in pixel) for pixel in pixels[:: 640 - 1, :: 640 - 1].reshape(-1, 3)} - {own}
        assert rest <= set(COLOURS)
        behind |= {(case.path.name, colour) for colour in rest}
    assert len(behind) == 6
    assert len({case.rectangle for case in cases}) > 6


def test_the_same_seed_gives_the_same_canvases(folder: Path) -> None:
    photos, condition = read_folder(folder), Condition(0.5, "tiles", "feathered")
    first, again, other = ([case.rectangle for case in photos.cases(condition, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_canvases_begin_with_the_same(folder: Path) -> None:
    photos, condition = read_folder(folder), Condition(0.5)
    one, two = ([case.rectangle for case in photos.cases(condition, 0, canvases)] for canvases in (1, 2))
    assert two[:3] == one
    assert two[3:] != one


def test_a_single_photo_is_its_own_background(folder: Path) -> None:
    (folder / "labels.csv").write_text(f"file,wnid\n0.png,{WNIDS[0]}\n")
    (case,) = read_folder(folder).cases(Condition(0.5))
    assert (np.asarray(case.photo.image) == COLOURS[0]).all()


def test_a_label_space_of_its_own(folder: Path) -> None:
    (folder / "labels.csv").write_text(f"file,wnid\n0.png,{WNIDS[0]}\n")
    assert read_folder(folder, imagenet_a()).labels == (0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"has no labels\.csv with the columns file and wnid$"),
        ("file,wnid\n0.png,n00000000\n", r"'n00000000' is no class of imagenet-1k"),
        ("file,wnid\n", r"labels\.csv names no photo"),
        ("name,class\n0.png,n02123045\n", r"labels\.csv has no columns file and wnid"),
        ("", r"labels\.csv has no columns file and wnid"),
    ],
)
def test_what_cannot_be_measured(text: str | None, message: str, folder: Path) -> None:
    (folder / "labels.csv").unlink()
    if text is not None:
        (folder / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(folder)


def test_a_photo_that_cannot_be_read(folder: Path) -> None:
    (folder / "1.png").write_bytes(b"junk")
    cases = read_folder(folder).cases(Condition())
    next(cases)
    with pytest.raises(UnreadablePhoto):
        next(cases)


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (Condition(), "as it is"),
        (Condition(background="colour"), "as it is"),
        (Condition(0.35), "tiles 0.35 hard"),
        (Condition(0.5, "colour", "feathered"), "colour 0.5 feathered"),
        (Condition(swap="removed"), "background removed"),
        (Condition(paired=True), "paired"),
    ],
)
def test_names(condition: Condition, name: str) -> None:
    assert condition.name == name


def test_a_folder_without_photos_has_no_cases() -> None:
    assert list(LabelledFolder((), ()).cases(Condition(0.5), canvases=3)) == []


@pytest.mark.parametrize("side", [32, 64, 1000])
def test_photos_made_small(folder: Path, side: int) -> None:
    before = [case.photo for case in read_folder(folder).cases(Condition())]
    after = [case.photo for case in replace(read_folder(folder), side=side).cases(Condition())]
    assert [min(photo.width, photo.height) for photo in after] == [min(side, one.width, one.height) for one in before]
    assert [photo.width / photo.height for photo in after] == pytest.approx(
        [photo.width / photo.height for photo in before], rel=0.05
    )


def test_a_sample_of_a_data_set(folder: Path) -> None:
    data = open_data(str(folder / "labels.csv"))
    whole = read_folder(folder)
    everything = sample(data, 100, seed=1)
    assert everything.labels == whole.labels
    photos = [(case.label, case.photo.image.size) for case in everything.cases()]
    assert photos == [(case.label, case.photo.image.size) for case in whole.cases(Condition())]
    some = sample(data, 2, seed=1)
    assert len(some) == len(list(some.cases())) == 2
    assert some == sample(data, 2, seed=1)
