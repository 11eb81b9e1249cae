"""Tables of photos: CSV with paths, Parquet with paths or the photos' bytes, ImageNet's LOC_*_solution.csv."""

import csv
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.data.boxes import parse_loc
from evaluation.data.files import Place
from evaluation.data.folders import reader_of
from evaluation.data.listing import DataError, DataSet, Entry, inclusive_box

PATHS = ("path", "file", "filename", "file_name", "image_path")
LABELS = ("wnid", "label", "class", "synset", "target")
PHOTOS = ("image", "bytes", "jpg", "png", "webp")
KEYS = ("name", *PATHS, "key", "__key__", "id")
BOX = "box_xyxy"

_GROUPS_KEPT = 4


def csv_table(table: Place) -> DataSet:
    """A photo a line: a column of paths, relative to the table's folder or absolute, and one of labels."""
    separator = "\t" if table.root.endswith(".tsv") else ","
    rows = list(csv.DictReader(io.StringIO(table.read().decode("utf-8-sig")), delimiter=separator))
    columns = list(rows[0]) if rows else []
    if {"ImageId", "PredictionString"} <= set(columns):
        return _loc_table(table, rows)
    path, label = _column(table, columns, PATHS, "path"), _column(table, columns, LABELS, "label")
    entries = tuple(Entry(row[path].strip(), (row[label] or "").strip()) for row in rows)
    return DataSet(table.url, "CSV", entries, reader_of(_Anywhere.of(table), [entry.path for entry in entries]))


def parquet_table(tables: Sequence[Place]) -> DataSet:
    """A photo a row: its bytes (binary, or a struct with `bytes`, as Hugging Face's) or its path, and its label.

    A column `box_xyxy` holds hand-drawn boxes, both ends inclusive; a null or degenerate one is none.
    """
    files = [_Parquet(table) for table in tables]
    photo = next((name for name in PHOTOS if name in files[0].columns), None)
    entries, places = [], []
    for number, file in enumerate(files):
        for row, entry in enumerate(_entries(file, photo, len(files) > 1)):
            entries.append(entry)
            places.append((number, row))
    url = tables[0].url if len(tables) == 1 else f"{tables[0].url} and {len(tables) - 1} more"
    if photo is None:
        reader = reader_of(_Anywhere.of(tables[0]), [entry.path for entry in entries])
        return DataSet(url, "Parquet with paths", tuple(entries), reader)

    def read(index: int) -> bytes:
        number, row = places[index]
        return files[number].photo(row, photo)

    return DataSet(url, "Parquet with photos", tuple(entries), read)


class _Anywhere(Place):
    """The folder of a table whose paths may also be absolute."""

    @classmethod
    def of(cls, table: Place) -> "_Anywhere":
        folder = table.folder()
        return cls(folder.url, folder.fs, folder.root)

    def at(self, path: str) -> str:
        return path if path.startswith("/") or "://" in path else super().at(path)


class _Parquet:
    """One file. Row groups are read when a photo of theirs is wanted; the last few are kept."""

    def __init__(self, table: Place) -> None:
        self.table = table
        try:
            self.file = pq.ParquetFile(table.fs.open(table.root, "rb"))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{table.url}: no Parquet file: {str(error).splitlines()[0]}") from error
        self.columns: list[str] = list(self.file.schema_arrow.names)
        self.starts = [0]
        for group in range(self.file.num_row_groups):
            self.starts.append(self.starts[-1] + self.file.metadata.row_group(group).num_rows)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.file.read(columns=[name]).column(name).to_pylist()
        return values

    def photo(self, row: int, column: str) -> bytes:
        """Raises `OSError` for a row without one."""
        group = next(index for index, start in enumerate(self.starts) if start > row) - 1
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self.file.read_row_group(group, columns=[column]).column(column)
                while len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            value = self._kept[group][row - self.starts[group]].as_py()
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise OSError(f"row {row} of {self.table.root} has no bytes of a photo")
        return value


def _entries(file: _Parquet, photo: str | None, several: bool) -> list[Entry]:
    label = _column(file.table, file.columns, LABELS, "label")
    keys = [name for name in (KEYS if photo else PATHS) if name in file.columns]
    if photo is None and not keys:
        _column(file.table, file.columns, (*PHOTOS, *PATHS), "photos or paths")
    labels = file.column(label)
    stem = file.table.root.rpartition("/")[2].removesuffix(".parquet")
    names = [str(name) for name in file.column(keys[0])] if keys else [f"{row:06d}" for row in range(len(labels))]
    if photo and (several or len(set(names)) < len(names)):
        names = [f"{stem}/{row:06d}" if not keys else f"{stem}/{name}" for row, name in enumerate(names)]
    boxes = file.column(BOX) if BOX in file.columns else [None] * len(labels)
    return [
        Entry(name, label if isinstance(label, int) else str(label), () if box is None else inclusive_box(*box))
        for name, label, box in zip(names, labels, boxes, strict=True)
    ]


def _column(table: Place, columns: Sequence[str], known: Sequence[str], means: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise DataError(f"{table.url}: no column of {means}; one of {', '.join(known)} is expected, found: {columns}")


def _loc_table(table: Place, rows: Sequence[Mapping[str, str]]) -> DataSet:
    """ImageNet's LOC_val_solution.csv or LOC_train_solution.csv, beside ImageNet's `ILSVRC` or the photos."""
    folder = table.folder()
    known = {name: parse_loc(text) for name, text in ((row["ImageId"], row["PredictionString"]) for row in rows)}
    entries = tuple(Entry(f"{name}.JPEG", wnid, boxes) for name, (wnid, boxes) in known.items())
    names = [entry.path for entry in entries]
    if folder.has("ILSVRC/Data/CLS-LOC"):
        # A training photo's name begins with its class, and lies in that class's folder.
        names = [
            f"ILSVRC/Data/CLS-LOC/train/{entry.label}/{entry.path}"
            if entry.path.startswith(f"{entry.label}_")
            else f"ILSVRC/Data/CLS-LOC/val/{entry.path}"
            for entry in entries
        ]
    return DataSet(table.url, "ImageNet's LOC csv", entries, reader_of(folder, names))
