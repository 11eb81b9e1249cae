"""Which layout a data set has, told by what is there."""

from collections.abc import Sequence

from evaluation.data import folders, shards, tables
from evaluation.data.boxes import with_boxes
from evaluation.data.files import Place, expand
from evaluation.data.listing import DataError, DataSet


def open_data(source: str, boxes: str | None = None) -> DataSet:
    """`source`: a path, an fsspec URL, or a pattern of files (`val*.parquet`, `shard-{000..127}.tar`).

    A folder of `<wnid>/<photo>`, one with a labels.csv, Tiny ImageNet's own; CSV, TSV or Parquet; WebDataset tars;
    ImageNet's LOC csv. `boxes`: a LOC csv, or a folder of VOC XML. Raises `DataError`.
    """
    data = _opened(source, expand(source))
    return data if boxes is None else with_boxes(data, boxes)


def _opened(source: str, places: Sequence[Place]) -> DataSet:
    if all(place.is_file() for place in places):
        return _files(source, places)
    if len(places) > 1:
        raise DataError(f"{source}: names several folders; only files may be several")
    return _folder(places[0])


def _files(source: str, places: Sequence[Place]) -> DataSet:
    suffixes = {place.root.rpartition(".")[2].lower() for place in places}
    if suffixes == {"parquet"}:
        return tables.parquet_table(places)
    if suffixes == {"tar"}:
        return shards.tar_shards(places)
    if len(places) == 1 and suffixes <= {"csv", "tsv"}:
        return tables.csv_table(places[0])
    raise DataError(f"{source}: neither a folder, nor Parquet or .tar files, nor one CSV or TSV")


def _folder(place: Place) -> DataSet:
    if place.has("labels.csv"):
        return tables.csv_table(Place(f"{place.url}/labels.csv", place.fs, place.at("labels.csv")))
    if folders.is_tiny_imagenet(place):
        return folders.tiny_imagenet(place)
    files = place.files()
    for suffix in (".parquet", ".tar"):
        found = [name for name in files if name.endswith(suffix) and "/" not in name]
        if found:
            return _shards_of(place, found)
    if folders.is_tiny_imagenet_train(files):
        return folders.tiny_imagenet_train(place, files)
    return folders.class_folders(place)


def _shards_of(place: Place, names: Sequence[str]) -> DataSet:
    splits = sorted({name.split("-")[0].split(".")[0] for name in names})
    if len(splits) > 1:
        raise DataError(f"{place.url}: holds {', '.join(splits)}; name the files of one, as in {splits[-1]}*")
    return _files(place.url, [Place(f"{place.url}/{name}", place.fs, place.at(name)) for name in names])
