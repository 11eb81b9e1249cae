from dataclasses import replace

import pytest

from evaluation.classes import DATA_SET, NO_MASK, resolve
from evaluation.data import DataError, DataSet, Entry
from models.label_spaces import LabelSpace, imagenet_1k, imagenet_a, tiny_imagenet


def _data(*labels: str | int) -> DataSet:
    entries = tuple(Entry(f"{number}.jpg", label) for number, label in enumerate(labels))
    return DataSet("photos", "a list", entries, lambda _: b"")


OWN = imagenet_1k()
CAT = OWN.wnids[281]


@pytest.mark.parametrize("label", [CAT, 281, "281", "tabby", "Tabby"])
def test_labels_may_be_wnids_indices_or_names(label: str | int) -> None:
    assert resolve(_data(label, 17), [OWN]).wnids == (CAT, OWN.wnids[17])


def test_indices_count_in_the_named_label_space() -> None:
    classes = resolve(_data(*range(200)), [OWN], "imagenet-a")
    assert classes.wnids == imagenet_a().wnids
    assert classes.mask == imagenet_a()


@pytest.mark.parametrize(
    ("labels", "named", "mask", "expected"),
    [
        (imagenet_a().wnids, None, None, imagenet_a()),
        (tiny_imagenet().wnids, None, None, tiny_imagenet()),
        (imagenet_a().wnids[:3], "imagenet-a", None, imagenet_a()),
        (imagenet_a().wnids[:3], None, "imagenet-a", imagenet_a()),
        (imagenet_a().wnids[:3], None, NO_MASK, None),
        (imagenet_a().wnids[:1], None, None, None),
        (OWN.wnids, None, None, None),
    ],
)
def test_mask(labels: tuple[str, ...], named: str | None, mask: str | None, expected: LabelSpace | None) -> None:
    assert resolve(_data(*labels), [OWN], named, mask).mask == expected


def test_classes_without_a_name_are_those_of_the_data_set_in_the_models_order() -> None:
    found = resolve(_data(OWN.wnids[9], OWN.wnids[3], OWN.wnids[9]), [OWN]).mask
    assert found is not None
    assert (found.name, found.wnids) == (DATA_SET, (OWN.wnids[3], OWN.wnids[9]))


@pytest.mark.parametrize(
    ("labels", "named", "mask", "message"),
    [
        (("n00000000", CAT), None, None, r"'n00000000', the label of 0.jpg, is no class of imagenet-1k \(1 such"),
        ((1000,), None, None, "1000, the label of 0.jpg"),
        ((OWN.wnids[0],), "imagenet-a", None, "is no class of imagenet-a"),
        ((CAT,), "imagenet-22k", None, "unknown label space 'imagenet-22k'"),
        ((CAT, OWN.wnids[0]), None, "imagenet-a", "more classes are not in imagenet-a"),
        (tuple(range(200)), None, None, "the labels are the indices 0 to 199; --label-space tells"),
        (("0", "1", "2"), None, None, "the labels are the indices 0 to 2"),
    ],
)
def test_a_wrong_label_space_is_found_before_the_run(
    labels: tuple[str | int, ...], named: str | None, mask: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resolve(_data(*labels), [OWN], named, mask)


def test_every_backbone_must_have_all_classes() -> None:
    small = replace(OWN, name="pets", wnids=(CAT,), labels=("tabby",))
    with pytest.raises(DataError, match="more classes are not in pets"):
        resolve(_data(CAT, OWN.wnids[0]), [OWN, small])
