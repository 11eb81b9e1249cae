"""Which class every photo shows, and which classes an answer may choose among."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.data import DataError, DataSet
from models.label_spaces import LABEL_SPACES, LabelSpace, label_space

DATA_SET = "data set"
"""The label space of just the classes that a data set has, where it is none with a name."""
NO_MASK = "none"


@dataclass(frozen=True)
class Classes:
    """`wnids` has the true class of every photo, in the data set's order.

    `mask` are the classes that masked answers choose among (ImageNet-A is scored so); None where the data set has
    all classes of the backbones, or only one.
    """

    wnids: tuple[str, ...]
    mask: LabelSpace | None


def resolve(
    data: DataSet, backbones: Iterable[LabelSpace], named: str | None = None, mask: str | None = None
) -> Classes:
    """The classes of a data set whose labels are wnids, indices or names in the label space `named`.

    Without `named` they are read in the first backbone's own. `mask` is a label space, `NO_MASK`, or None for the
    named one, else the classes found. Raises `DataError` where a label is unknown, a backbone has not all classes, or
    indices may belong to another label space.
    """
    owns = list(backbones)
    space = owns[0] if named is None else _named(named, owns)
    if named is None:
        _refuse_guessing(data, space)
    wnids = _wnids(data, space)
    for own in owns:
        missing = sorted(set(wnids) - set(own.wnids))
        if missing:
            raise DataError(f"{data.source}: {missing[0]} and {len(missing) - 1} more classes are not in {own.name}")
    if mask == NO_MASK:
        return Classes(wnids, None)
    if mask is None and space not in owns:
        mask = space.name
    return Classes(wnids, _found(wnids, space, owns) if mask is None else _asked(mask, data, wnids, owns))


def _named(name: str, owns: Sequence[LabelSpace]) -> LabelSpace:
    for own in owns:
        if own.name == name:
            return own
    if name not in LABEL_SPACES:
        known = dict.fromkeys([*LABEL_SPACES, *(own.name for own in owns)])
        raise DataError(f"unknown label space {name!r}; known are {', '.join(known)}")
    return label_space(name)


def _refuse_guessing(data: DataSet, space: LabelSpace) -> None:
    """Indices 0 to 199 fit into 1000 classes, and would be other classes than ImageNet-A's, without any error."""
    indices = {int(entry.label) for entry in data.entries if _is_index(entry.label)}
    if indices and len(indices) < len(space) and indices == set(range(len(indices))) and len(indices) > 1:
        raise DataError(
            f"{data.source}: the labels are the indices 0 to {len(indices) - 1}; --label-space tells of which classes"
        )


def _is_index(label: str | int) -> bool:
    return isinstance(label, int) or (label.isascii() and label.isdecimal())


def _wnids(data: DataSet, space: LabelSpace) -> tuple[str, ...]:
    known = {label: space.find(label) for label in {entry.label for entry in data.entries}}
    unknown = [entry for entry in data.entries if known[entry.label] is None]
    if unknown:
        labels = len({entry.label for entry in unknown})
        raise DataError(
            f"{data.source}: {unknown[0].label!r}, the label of {unknown[0].path}, is no class of {space.name} "
            f"({labels} such labels on {len(unknown)} of {len(data)} photos); another --label-space may know it"
        )
    return tuple(space.wnids[found] for entry in data.entries if (found := known[entry.label]) is not None)


def _asked(name: str, data: DataSet, wnids: Sequence[str], owns: Sequence[LabelSpace]) -> LabelSpace:
    mask = _named(name, owns)
    if missing := sorted(set(wnids) - set(mask.wnids)):
        raise DataError(f"{data.source}: {missing[0]} and {len(missing) - 1} more classes are not in {name}")
    for own in owns:
        if not mask.is_subset_of(own):
            raise DataError(f"label space {name} has classes that a backbone on {own.name} has not")
    return mask


def _found(wnids: Sequence[str], space: LabelSpace, owns: Sequence[LabelSpace]) -> LabelSpace | None:
    found = set(wnids)
    if len(found) < 2 or all(found == set(own.wnids) for own in owns):
        return None
    for name in LABEL_SPACES:
        known = label_space(name)
        if set(known.wnids) == found:
            return known
    kept = [(wnid, label) for wnid, label in zip(space.wnids, space.labels, strict=True) if wnid in found]
    return LabelSpace(DATA_SET, tuple(wnid for wnid, _ in kept), tuple(label for _, label in kept))
