"""`results.parquet` read back: the photos of every run side by side, arm by arm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

RESULTS = "results.parquet"
AS_IT_IS = "as it is"
PAIRED = "paired"
# What these arms answer without a box is the plain prediction, as it is deployed; the others need their own.
_FALLING_BACK = ("cropped", "detector", "combined", "squashed", "center", "random", "background")
_KEY = ("condition", "backbone", "detector", "label_space")
_ANSWERS = ("index", "probability", "probability_true", "brier", "correct")
_MEASURES = ("score", "area_fraction", "iou", "x1", "y1", "x2", "y2")
_TEXTS = (*_KEY, "path", "arm", "background", "edge", "label_wnid", "no_crop_reason")
_COLUMNS = (*_KEY, "path", "arm", "scale", "background", "edge", "label_index", "label_wnid", "has_crop")

Array: TypeAlias = NDArray[Any]
Columns: TypeAlias = Mapping[str, Array]


class UnreadableResults(ValueError):
    """A results table lacks a column, or holds an answer twice."""


@dataclass(frozen=True)
class Key:
    condition: str
    backbone: str
    detector: str
    label_space: str


@dataclass(frozen=True)
class Answers:
    """One arm's, by photo of the run. `present` (n,): False where the arm has no answer of its own nor plain's.

    `index` (n,) int64 in the label space, `confidence`, `probability_true`, `brier` (n,) float64, `correct` (n,) bool.
    """

    index: Array
    confidence: Array
    probability_true: Array
    brier: Array
    correct: Array
    present: Array


@dataclass(frozen=True)
class Run:
    """All photos (n,) under one condition, by one backbone and one detector, over one label space.

    `score`, `area`, `iou` (n,) float64 and `boxes` (n, 4) xyxy pixels are the detected box's, NaN without one;
    `reasons` (n,) say why there is no crop, "" where there is one.
    """

    key: Key
    scale: float
    background: str | None
    edge: str | None
    paths: Array
    wnids: Array
    labels: Array
    has_crop: Array
    reasons: Array
    score: Array
    area: Array
    iou: Array
    boxes: Array
    arms: Mapping[str, Answers] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def as_it_is(self) -> bool:
        return self.key.condition == AS_IT_IS

    def only(self, chosen: Array) -> "Run":
        """The same run over some of its photos: `chosen` is (n,) bool, or positions."""
        named = ("paths", "wnids", "labels", "has_crop", "reasons", "score", "area", "iou", "boxes")
        arms = {
            arm: Answers(**{name: values[chosen] for name, values in vars(found).items()})
            for arm, found in self.arms.items()
        }
        return replace(self, **{name: getattr(self, name)[chosen] for name in named}, arms=arms)


def read_runs(folder: Path) -> list[Run]:
    """In the order of their first rows. Raises `UnreadableResults`, and `OSError` without a table."""
    table = pq.read_table(folder / RESULTS)
    needed = {*_COLUMNS, *_ANSWERS, *_MEASURES, "no_crop_reason"}
    if missing := sorted(needed - set(table.column_names)):
        raise UnreadableResults(f"{folder / RESULTS} has no column {', '.join(missing)}")
    texts: dict[str, Array] = {}
    columns: dict[str, Array] = {}
    for name in sorted(needed):
        if name in _TEXTS:
            columns[name], texts[name] = _coded(table.column(name))
        else:
            columns[name] = _numbers(table.column(name))
    return [_run(part, texts) for part in _groups(columns)]


def _coded(column: Any) -> tuple[Array, Array]:
    """A column of texts as (rows,) int64 positions in its sorted texts, -1 for null: millions of rows hold few."""
    if pa.types.is_null(column.type):
        return np.full(len(column), -1), np.array([], object)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    coded = column.dictionary_encode().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):  # a table without rows has no chunk
        return np.zeros(0, np.int64), np.array([], object)
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = np.array(coded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(texts.astype(str))
    # The last one is what -1 finds.
    rank = np.append(np.argsort(order), -1)
    return rank[codes], texts[order]


def _numbers(column: Any) -> Array:
    """A column of numbers or truths; null is NaN, -1 or False."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        return np.asarray(column.fill_null(False).to_numpy())
    if pa.types.is_integer(kind):
        return np.asarray(column.fill_null(-1).to_numpy())
    return np.asarray(column.to_numpy(), np.float64)


def _groups(columns: Columns) -> Iterator[Columns]:
    """The rows of each run."""
    rows = len(columns["path"])
    group = np.zeros(rows, np.int64)
    for name in _KEY:
        group = group * (int(columns[name].max(initial=0)) + 1) + columns[name]
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    parts = np.split(order, starts[1:]) if rows else []
    for place in np.argsort(first, kind="stable"):
        yield {name: values[parts[place]] for name, values in columns.items()}


def _run(rows: Columns, texts: Columns) -> Run:
    codes, first, photo = np.unique(rows["path"], return_index=True, return_inverse=True)
    key = Key(*(str(texts[name][rows[name][0]]) for name in _KEY))
    arms = {str(texts["arm"][code]): int(code) for code in dict.fromkeys(rows["arm"].tolist())}
    at = {arm: _positions(rows["arm"] == code, photo, len(codes), key) for arm, code in arms.items()}
    leading = at.get("cropped", at.get("plain", first))
    leading = np.where(leading >= 0, leading, first)

    def told(name: str, place: int) -> str | None:
        code = int(rows[name][place])
        return None if code < 0 else str(texts[name][code])

    return Run(
        key,
        float(rows["scale"][0]),
        told("background", 0),
        told("edge", 0),
        texts["path"][codes].astype(str),
        texts["label_wnid"][rows["label_wnid"][leading]].astype(str),
        rows["label_index"][leading].astype(np.int64),
        rows["has_crop"][leading].astype(bool),
        np.array([told("no_crop_reason", place) or "" for place in leading], object),
        rows["score"][leading],
        rows["area_fraction"][leading],
        rows["iou"][leading],
        np.stack([rows[name][leading] for name in ("x1", "y1", "x2", "y2")], axis=1),
        {arm: _answers(rows, places, _stand_in(arm, at)) for arm, places in at.items()},
    )


def _positions(chosen: Array, photo: Array, photos: int, key: Key) -> Array:
    """(photos,) int64: the row of each photo for one arm, -1 where it has none."""
    places = np.full(photos, -1, np.int64)
    rows = np.flatnonzero(chosen)
    places[photo[rows]] = rows
    if len(rows) != len(np.unique(photo[rows])):
        raise UnreadableResults(f"a photo has two answers of one arm: {key}")
    return places


def _stand_in(arm: str, at: Mapping[str, Array]) -> Array | None:
    return at.get("plain") if arm in _FALLING_BACK else None


def _answers(rows: Columns, places: Array, stand_in: Array | None) -> Answers:
    if stand_in is not None:
        places = np.where(places >= 0, places, stand_in)
    present = places >= 0
    index, confidence, probability_true, brier, correct = (rows[name][np.maximum(places, 0)] for name in _ANSWERS)
    return Answers(
        index.astype(np.int64),
        confidence.astype(np.float64),
        probability_true.astype(np.float64),
        brier.astype(np.float64),
        correct.astype(bool) & present,
        present,
    )
