import csv
import io
import json
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.data import DataError, Entry, open_data
from evaluation.data.boxes import parse_loc
from evaluation.data.listing import inclusive_box
from evaluation.data.pairs import pair
from tests.evaluation.photos import WNIDS, class_folders, jpeg

CAT, COFFEE = WNIDS["chelsea"], WNIDS["coffee"]


def _labels(source: str) -> dict[str, str | int]:
    return {entry.path: entry.label for entry in open_data(source).entries}


def test_class_folders_are_read_recursively_without_what_is_no_photo(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / CAT / "deeper").mkdir()
    (tmp_path / CAT / "deeper" / "a.PNG").write_bytes(b"x")
    (tmp_path / CAT / ".DS_Store").write_bytes(b"x")
    (tmp_path / CAT / "._chelsea.jpg").write_bytes(b"x")
    (tmp_path / "LICENSE.txt").write_text("free")
    data = open_data(str(tmp_path))
    assert len(data) == len(WNIDS) + 1
    assert {entry.path: entry.label for entry in data.entries}[f"{CAT}/deeper/a.PNG"] == CAT
    position = [entry.path for entry in data.entries].index(f"{COFFEE}/coffee-0.jpg")
    assert data.read(position) == jpeg("coffee") == data.read_path(f"{COFFEE}/coffee-0.jpg")
    with pytest.raises(FileNotFoundError):
        data.read_path("unlisted.jpg")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", f"file,wnid\na.jpg,{CAT}\nb.jpg,{COFFEE}\n"),
        ("photos.csv", f"\ufeffpath,label\na.jpg,{CAT}\nb.jpg, {COFFEE}\n"),
        ("photos.tsv", f"label\tfilename\n{CAT}\ta.jpg\n{COFFEE}\tb.jpg\n"),
    ],
)
def test_csv(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "b.jpg").write_bytes(b"B")
    # A folder with a labels.csv may be named itself.
    data = open_data(str(tmp_path if name == "labels.csv" else tmp_path / name))
    assert [(entry.path, entry.label) for entry in data.entries] == [("a.jpg", CAT), ("b.jpg", COFFEE)]
    assert [data.read(0), data.read(1)] == [b"A", b"B"]


def test_csv_with_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.jpg"
    photo.write_bytes(b"A")
    (tmp_path / "table.csv").write_text(f"path,label\n{photo},{CAT}\n")
    assert open_data(str(tmp_path / "table.csv")).read(0) == b"A"


def test_parquet_with_photos_and_boxes(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [b"A", b"B", b"C"],
            "wnid": pa.array([CAT, COFFEE, CAT]).dictionary_encode(),
            "box_xyxy": pa.array([[0, 1, 9, 19], None, [5, 5, 5, 9]], pa.list_(pa.int16(), 4)),
            "name": ["a.jpg", "b.jpg", "c.jpg"],
        }
    )
    pq.write_table(table, tmp_path / "val.parquet", row_group_size=2)
    data = open_data(str(tmp_path / "val.parquet"))
    # Both ends of the file's boxes are inclusive; a box without an inside is none.
    assert data.entries == (
        Entry("a.jpg", CAT, ((0.0, 1.0, 10.0, 20.0),)),
        Entry("b.jpg", COFFEE),
        Entry("c.jpg", CAT),
    )
    assert [data.read(index) for index in (2, 0, 1)] == [b"C", b"A", b"B"]
    assert data.has_boxes


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for shard, rows in enumerate(([(b"A", 3), (b"B", 4)], [(b"C", 5)])):
        photos = pa.array([{"bytes": data, "path": "x.jpg"} for data, _ in rows], kind)
        table = pa.table({"image": photos, "label": [label for _, label in rows]})
        pq.write_table(table, tmp_path / f"test-{shard:05d}-of-00002.parquet")
    data = open_data(str(tmp_path))
    assert [entry.label for entry in data.entries] == [3, 4, 5]
    assert [data.read(index) for index in range(3)] == [b"A", b"B", b"C"]
    assert len({entry.path for entry in data.entries}) == 3


def test_parquet_with_paths(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"], "label": [CAT]}), tmp_path / "t.parquet")
    (tmp_path / "a.jpg").write_bytes(b"A")
    assert open_data(str(tmp_path / "t.parquet")).read(0) == b"A"


def test_several_splits_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pq.write_table(pa.table({"image": [b"A"], "label": [1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="train, val; name the files of one"):
        open_data(str(tmp_path))
    assert len(open_data(str(tmp_path / "val*.parquet"))) == 1


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_webdataset_shards(tmp_path: Path) -> None:
    _tar(tmp_path / "val-00.tar", {"a.jpg": b"A", "a.cls": b"7", "sub/b.jpg": b"BB", "sub/b.txt": CAT.encode()})
    _tar(tmp_path / "val-01.tar", {"a.json": json.dumps({"label": COFFEE}).encode(), "a.png": b"C"})
    expected = {"val-00/a": 7, "val-00/sub/b": CAT, "val-01/a": COFFEE}
    for source in (tmp_path, tmp_path / "val-{00..01}.tar", tmp_path / "val-*.tar"):
        data = open_data(str(source))
        assert {entry.path: entry.label for entry in data.entries} == expected
        assert [data.read(index) for index in range(3)] == [b"A", b"BB", b"C"]
    assert _labels(str(tmp_path / "val-00.tar")) == {"a": 7, "sub/b": CAT}


def test_tiny_imagenet_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images" / "val_0.JPEG").write_bytes(b"V")
    (tmp_path / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{CAT}\t0\t32\t44\t62\n")
    images = tmp_path / "train" / COFFEE / "images"
    images.mkdir(parents=True)
    (images / f"{COFFEE}_0.JPEG").write_bytes(b"T")
    (images.parent / f"{COFFEE}_boxes.txt").write_text(f"{COFFEE}_0.JPEG\t1\t2\t3\t4\n")
    for source in (tmp_path, tmp_path / "val"):
        data = open_data(str(source))
        assert data.entries == (Entry("val_0.JPEG", CAT, ((0.0, 32.0, 45.0, 63.0),)),)
        assert data.read(0) == b"V"
    train = open_data(str(tmp_path / "train"))
    assert train.entries == (Entry(f"{COFFEE}/images/{COFFEE}_0.JPEG", COFFEE, ((1.0, 2.0, 4.0, 5.0),)),)
    assert train.read(0) == b"T"


def test_imagenet_by_its_loc_csv(tmp_path: Path) -> None:
    val = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    val.mkdir(parents=True)
    (val / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"V")
    train = val.parent / "train" / CAT
    train.mkdir(parents=True)
    (train / f"{CAT}_10.JPEG").write_bytes(b"T")
    _loc(tmp_path / "LOC_val_solution.csv", {"ILSVRC2012_val_00000001": f"{COFFEE} 1 2 3 4 {COFFEE} 5 6 7 8 "})
    _loc(tmp_path / "LOC_train_solution.csv", {f"{CAT}_10": f"{CAT} 1 2 3 4"})
    data = open_data(str(tmp_path / "LOC_val_solution.csv"))
    assert data.entries[0].boxes == ((1.0, 2.0, 4.0, 5.0), (5.0, 6.0, 8.0, 9.0))
    assert data.entries[0].label == COFFEE
    assert data.read(0) == b"V"
    assert open_data(str(tmp_path / "LOC_train_solution.csv")).read(0) == b"T"


def _loc(path: Path, rows: dict[str, str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("ImageId", "PredictionString"), *rows.items()])


def test_boxes_beside_a_folder(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos")
    _loc(tmp_path / "LOC_val_solution.csv", {"chelsea-0": f"{CAT} 10 20 30 40"})
    boxed = {entry.path: entry for entry in open_data(str(photos), str(tmp_path / "LOC_val_solution.csv")).entries}
    assert boxed[f"{CAT}/chelsea-0.jpg"].boxes == ((10.0, 20.0, 31.0, 41.0),)
    assert boxed[f"{COFFEE}/coffee-0.jpg"].boxes == ()
    xml = (
        "<annotation><size><width>320</width><height>200</height></size>"
        f"<object><name>{CAT}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
        "<object><name>other</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    (tmp_path / "xml" / CAT).mkdir(parents=True)
    (tmp_path / "xml" / CAT / "chelsea-0.xml").write_text(xml)
    drawn = {entry.path: entry for entry in open_data(str(photos), str(tmp_path / "xml")).entries}
    assert drawn[f"{CAT}/chelsea-0.jpg"] == Entry(
        f"{CAT}/chelsea-0.jpg", CAT, ((1.0, 2.0, 4.0, 5.0),), boxed_size=(320, 200)
    )


def test_data_anywhere_that_fsspec_reaches() -> None:
    files = fsspec.filesystem("memory")
    files.pipe(f"/evaluated/{CAT}/a.jpg", b"A")
    data = open_data("memory://evaluated")
    assert data.entries == (Entry(f"{CAT}/a.jpg", CAT),)
    assert data.read(0) == b"A"
    files.pipe("/evaluated/t.csv", f"path,label\n{CAT}/a.jpg,{CAT}\n".encode())
    assert open_data("memory://evaluated/t.csv").read(0) == b"A"


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "nowhere", "no such file or folder"),
        ({"a.jpg": b"A"}, "", "photos without a label"),
        ({"readme.txt": b"x"}, "", "no photo in it"),
        ({"x.zip": b"x"}, "x.zip", "neither a folder"),
        ({"t.csv": b"photo,what\na.jpg,cat\n"}, "t.csv", "no column of path"),
        ({"t.csv": b"path,label\na.jpg,1\na.jpg,2\n"}, "t.csv", "'a.jpg' is listed 2 times"),
        ({"t.parquet": b"x"}, "t.parquet", "no Parquet file"),
        ({"t.tar": b"x" * 2000}, "t.tar", "no uncompressed tar"),
        ({}, "none-*.tar", "no such file"),
        ({"LOC_val_solution.csv": b"ImageId,PredictionString\nx,n01 1 2\n"}, "LOC_val_solution.csv", "four numbers"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, files: dict[str, bytes], source: str, message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_data(str(tmp_path / source) if source else str(tmp_path))
    assert "\n" not in str(caught.value)


def test_unlabelled_sample_in_a_shard(tmp_path: Path) -> None:
    _tar(tmp_path / "t.tar", {"a.jpg": b"A"})
    with pytest.raises(DataError, match="a has no label"):
        open_data(str(tmp_path / "t.tar"))


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0, 0, 63, 63), ((0.0, 0.0, 64.0, 64.0),)),
        ((5, 5, 5, 9), ()),
        ((9, 5, 3, 9), ()),
        ((0, 0, float("nan"), 3), ()),
    ],
)
def test_inclusive_box(corners: tuple[float, float, float, float], expected: object) -> None:
    assert inclusive_box(*corners) == expected


def test_parse_loc_keeps_the_first_class_alone() -> None:
    assert parse_loc("n1 0 0 1 1 n2 0 0 9 9 n1 2 2 4 4") == ("n1", ((0.0, 0.0, 2.0, 2.0), (2.0, 2.0, 5.0, 5.0)))


def test_the_hash_follows_the_list(tmp_path: Path) -> None:
    class_folders(tmp_path)
    first = open_data(str(tmp_path)).sha256
    assert open_data(str(tmp_path)).sha256 == first
    (tmp_path / CAT / "more.jpg").write_bytes(b"x")
    assert open_data(str(tmp_path)).sha256 != first


def test_pairs_go_by_path_whatever_the_suffix(tmp_path: Path) -> None:
    whole = open_data(str(class_folders(tmp_path / "whole")))
    (tmp_path / "cut" / CAT).mkdir(parents=True)
    (tmp_path / "cut" / CAT / "chelsea-0.png").write_bytes(b"x")
    assert pair(whole, open_data(str(tmp_path / "cut"))) == {f"{CAT}/chelsea-0.jpg": 0}
    (tmp_path / "other" / CAT).mkdir(parents=True)
    (tmp_path / "other" / CAT / "z.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no photo has the path"):
        pair(whole, open_data(str(tmp_path / "other")))
