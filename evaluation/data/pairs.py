"""Two data sets of the same photos, such as ImageNet-A and ImageNet-A-Plus, where the objects are cropped by hand."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from evaluation.data.listing import DataError, DataSet


def pair(data: DataSet, other: DataSet) -> Mapping[str, int]:
    """By path of `data` the position in `other` of the photo with the same path, whatever their suffixes.

    A photo without a partner is left out. Raises `DataError` where none has one, or partners differ in label.
    """
    known = {_key(entry.path): place for place, entry in enumerate(other.entries)}
    found = {entry.path: known[_key(entry.path)] for entry in data.entries if _key(entry.path) in known}
    if not found:
        raise DataError(f"{other.source}: no photo has the path of one in {data.source}")
    for entry in data.entries:
        if entry.path in found and other.entries[found[entry.path]].label != entry.label:
            raise DataError(f"{other.source}: {entry.path} has another label than in {data.source}")
    return found


def _key(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
