"""A run's results on disk: part after part while it works, so that a kill costs one part; one file in the end."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = "results.parquet"
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("condition", pa.string()),
        ("scale", pa.float64()),
        ("background", pa.string()),
        ("edge", pa.string()),
        ("label_index", pa.int32()),
        ("label_wnid", pa.string()),
        ("backbone", pa.string()),
        ("detector", pa.string()),
        ("label_space", pa.string()),
        ("arm", pa.string()),
        ("index", pa.int32()),
        ("probability", pa.float64()),
        ("probability_true", pa.float64()),
        ("brier", pa.float64()),
        ("correct", pa.bool_()),
        ("has_crop", pa.bool_()),
        ("no_crop_reason", pa.string()),
        ("score", pa.float64()),
        ("area_fraction", pa.float64()),
        ("iou", pa.float64()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
    ]
)

_KEY = b"figureground"
_PARTS_A_GROUP = 200
_PART = re.compile(r"parts/\d{6,}\.parquet")


@dataclass
class Photos:
    """What is told of the photos of one part: the SHA-256 of each file, and why the broken ones are."""

    sha256: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Photos") -> None:
        self.sha256 |= other.sha256
        self.broken |= other.broken


@dataclass(frozen=True)
class Parts:
    """The parts of one run in `folder`/parts. A part is there whole or not at all."""

    folder: Path

    def done(self) -> set[int]:
        """The numbers of the parts that are written."""
        return {int(path.stem) for path in self._folder.glob("*.parquet")}

    def photos(self, number: int) -> Photos:
        return Photos(**json.loads(pq.read_schema(self._path(number)).metadata[_KEY]))

    def write(self, number: int, rows: Sequence[Mapping[str, Any]], photos: Photos) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        told = {_KEY: json.dumps({"sha256": photos.sha256, "broken": photos.broken}).encode()}
        fresh = self._path(number).with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA).replace_schema_metadata(told), fresh)
        fresh.replace(self._path(number))

    def merge(self) -> int:
        """All parts in order into results.parquet, which appears whole; the number of its rows."""
        fresh, rows = self.folder / f"{RESULTS}.tmp", 0
        with pq.ParquetWriter(fresh, SCHEMA, compression="zstd") as writer:
            for numbers in _batched(sorted(self.done()), _PARTS_A_GROUP):
                tables = [pq.read_table(self._path(number), schema=SCHEMA) for number in numbers]
                table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
                writer.write_table(table)
                rows += table.num_rows
        fresh.replace(self.folder / RESULTS)
        return rows

    def remove(self) -> None:
        for path in list(self._files()):
            path.unlink()
        if self._folder.exists():
            self._folder.rmdir()

    def _files(self) -> Iterator[Path]:
        return (path for path in self._folder.glob("*") if path.suffix in (".parquet", ".tmp"))

    @property
    def _folder(self) -> Path:
        return self.folder / "parts"

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"


def is_part(name: str) -> bool:
    """Whether a path inside a run's folder is that of a part."""
    return _PART.fullmatch(name) is not None


def _batched(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
