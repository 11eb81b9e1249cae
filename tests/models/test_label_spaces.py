import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.label_spaces import (
    LABEL_SPACES,
    LabelSpace,
    UnknownLabelSpace,
    imagenet_1k,
    imagenet_a,
    label_space,
    read_label_space,
    tiny_imagenet,
)

PETS = LabelSpace("pets", ("n1", "n2", "n3", "n4"), ("tabby", "Cardigan", "cardigan", "tabby"))


@pytest.mark.parametrize(
    ("name", "classes", "first", "last"),
    [
        ("imagenet-1k", 1000, ("n01440764", "tench"), ("n15075141", "toilet tissue")),
        ("imagenet-a", 200, ("n01498041", "stingray"), ("n12267677", "acorn")),
        ("tiny-imagenet", 200, ("n01443537", "goldfish"), ("n12267677", "acorn")),
    ],
)
def test_built_in_spaces(name: str, classes: int, first: tuple[str, str], last: tuple[str, str]) -> None:
    space = label_space(name)
    assert space.name == name
    assert len(space) == len(space.wnids) == len(space.labels) == classes
    assert list(space.wnids) == sorted(set(space.wnids))
    assert (space.wnids[0], space.labels[0]) == first
    assert (space.wnids[-1], space.labels[-1]) == last
    assert label_space(name) is space


def test_an_unknown_space_names_the_known_ones() -> None:
    with pytest.raises(UnknownLabelSpace, match=r"places; known are imagenet-1k, imagenet-a, tiny-imagenet$"):
        label_space("places")
    assert set(LABEL_SPACES) == {make().name for make in LABEL_SPACES.values()}


def test_the_order_is_that_of_timm() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    assert list(imagenet_1k().wnids) == info.label_names()
    described = [text.split(",")[0] for text in info.label_descriptions(detailed=False)]
    assert list(imagenet_1k().labels) == described


def test_imagenet_a_agrees_with_the_indices_of_timm() -> None:
    import timm.data

    lines = (Path(timm.data.__file__).parent / "_info" / "imagenet_a_indices.txt").read_text().split()
    assert imagenet_a().indices_in(imagenet_1k()).tolist() == [int(line) for line in lines]


def test_class_lists_need_no_import_of_timm_or_torch() -> None:
    code = (
        "import sys, models.label_spaces as spaces; [make() for make in spaces.LABEL_SPACES.values()]; "
        "print({'timm', 'torch'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n02123045", 281),
        (" n02123045 ", 281),
        (281, 281),
        ("281", 281),
        ("tabby", 281),
        ("TABBY", 281),
        ("N02123045", None),
        ("tabby, tabby cat", None),
        ("n99999999", None),
        ("", None),
        (-1, None),
        ("-1", None),
        (1000, None),
        ("1000", None),
        ("9" * 10_000, None),
        ("\u0662", None),
        ("crane", None),
        ("Crane", None),
        ("maillot", None),
        ("cardigan", 474),
        ("Cardigan", 264),
        ("CARDIGAN", None),
    ],
)
def test_find(text: str | int, expected: int | None) -> None:
    assert imagenet_1k().find(text) == expected


def test_every_class_is_found_by_its_wnid() -> None:
    space = imagenet_1k()
    assert [space.find(wnid) for wnid in space.wnids] == list(range(1000))


def test_subsets() -> None:
    parent = imagenet_1k()
    for space in (imagenet_a(), tiny_imagenet(), parent):
        indices = space.indices_in(parent)
        assert indices.dtype == np.int64
        assert tuple(parent.wnids[index] for index in indices) == space.wnids
        assert tuple(parent.labels[index] for index in indices) == space.labels
        assert space.is_subset_of(parent)
    assert not parent.is_subset_of(imagenet_a())
    assert not tiny_imagenet().is_subset_of(imagenet_a())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (PETS, "pets is no subset of imagenet-1k, which lacks 4 of its 4 classes: n1, n2, n3, ...$"),
        (
            LabelSpace("two", ("n02123045", "n9"), ("tabby", "x")),
            "two is no subset of imagenet-1k, which lacks 1 of its 2 classes: n9$",
        ),
    ],
)
def test_a_space_that_is_no_subset(space: LabelSpace, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space.indices_in(imagenet_1k())


def test_positions_are_of_the_space_itself_whatever_its_name() -> None:
    part = LabelSpace("part", ("n2",), ("two",))
    parents = [LabelSpace("whole", wnids, wnids) for wnids in (("n1", "n2"), ("n2", "n1"))]
    for _ in range(2):
        assert [part.indices_in(parent).tolist() for parent in parents] == [[1], [0]]


def test_equality_goes_by_name() -> None:
    twin = LabelSpace("pets", ("n7",), ("other",))
    assert twin == PETS
    assert hash(twin) == hash(PETS)
    assert LabelSpace("more pets", PETS.wnids, PETS.labels) != PETS
    assert repr(PETS) == "LabelSpace(name='pets')"


@pytest.mark.parametrize(
    ("wnids", "labels", "message"),
    [
        ((), (), "label space x has no class"),
        (("n1", "n2"), ("a",), "label space x has 2 wnids but 1 labels"),
        (("n1", "n2", "n1"), ("a", "b", "c"), "label space x has n1 more than once"),
    ],
)
def test_impossible_spaces(wnids: tuple[str, ...], labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSpace("x", wnids, labels)


@pytest.mark.parametrize(
    "content",
    [
        b"n2\tdog\nn1\tK\xc3\xa4tzchen, Katze\n",
        b"\xef\xbb\xbfn2\tdog\r\nn1\tK\xc3\xa4tzchen, Katze",
        b"\nn2\t dog \n\n  \nn1\tK\xc3\xa4tzchen, Katze\n\n",
    ],
)
def test_a_space_of_ones_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pets.tsv"
    path.write_bytes(content)
    space = read_label_space(path, "own")
    assert (space.name, space.wnids, space.labels) == ("own", ("n2", "n1"), ("dog", "Kätzchen, Katze"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no wnid<TAB>label line in it"),
        (b"\n \n", "no wnid<TAB>label line in it"),
        (b"n1\tcat\nn2 dog\n", "line 2: expected wnid<TAB>label"),
        (b"n1\tcat\n\n\tdog\n", "line 3: expected wnid<TAB>label"),
        (b"n1\t\n", "line 1: expected wnid<TAB>label"),
        (b"n1\tcat\nn2\tdog\nn1\tpuss\n", "line 3: n1 is already in an earlier line"),
        (b"n1\tK\xe4tzchen\n", "not UTF-8"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pets.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_label_space(path, "own")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_label_space(tmp_path / "none.tsv", "own")
