"""Label spaces: index <-> WordNet id <-> label, and which classes of one space are also in another."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The class lists are timm's, and a test compares them: a server without timm needs them too.
_DATA = Path(__file__).parent / "data"
# More digits than any class count, fewer than Python refuses to turn into an int.
_MAX_INDEX_DIGITS = 9


@dataclass(frozen=True)
class LabelSpace:
    """The classes that a model can answer with, in the order of its logits.

    `wnids` are unique WordNet ids such as "n02123045", `labels` short texts for people such as "tabby", which
    need not be unique. Two spaces are equal when their names are.

    Raises `ValueError` when there is no class, the lengths differ, or a wnid occurs twice.
    """

    name: str
    wnids: tuple[str, ...] = field(compare=False, repr=False)
    labels: tuple[str, ...] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.wnids:
            raise ValueError(f"label space {self.name} has no class")
        if len(self.wnids) != len(self.labels):
            raise ValueError(f"label space {self.name} has {len(self.wnids)} wnids but {len(self.labels)} labels")
        if len(self._by_wnid) != len(self.wnids):
            twice = next(wnid for wnid, count in Counter(self.wnids).items() if count > 1)
            raise ValueError(f"label space {self.name} has {twice} more than once")

    def __len__(self) -> int:
        return len(self.wnids)

    def find(self, text: str | int) -> int | None:
        """The index of a class by its wnid, its index, or its label, tried in this order; None if unknown.

        A label counts when its text is that of exactly one class, or else, with case ignored, of exactly one
        class: of ImageNet's two cranes neither is found by "crane", while "cardigan" is the garment and
        "Cardigan" the dog.
        """
        if isinstance(text, int):
            return text if 0 <= text < len(self) else None
        text = text.strip()
        if text in self._by_wnid:
            return self._by_wnid[text]
        if text.isascii() and text.isdecimal() and len(text) <= _MAX_INDEX_DIGITS and int(text) < len(self):
            return int(text)
        if text in self._by_label:
            return self._by_label[text]
        return self._by_casefolded_label.get(text.casefold())

    def is_subset_of(self, parent: "LabelSpace") -> bool:
        return self._by_wnid.keys() <= parent._by_wnid.keys()

    def indices_in(self, parent: "LabelSpace") -> NDArray[np.int64]:
        """(len(self),) int64, read only: where `parent` has each class of this space, in this space's order.

        Raises `ValueError`, naming the first missing wnids, when `parent` lacks a class.
        """
        # Wanted for every answer. By identity, for spaces are equal when their names are.
        if self._known.get(id(parent), (None,))[0] is not parent:
            self._known[id(parent)] = parent, self._positions_in(parent)
        return self._known[id(parent)][1]

    def _positions_in(self, parent: "LabelSpace") -> NDArray[np.int64]:
        missing = [wnid for wnid in self.wnids if wnid not in parent._by_wnid]
        if missing:
            named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"label space {self.name} is no subset of {parent.name}, which lacks {len(missing)}"
                f" of its {len(self)} classes: {named}"
            )
        positions = np.array([parent._by_wnid[wnid] for wnid in self.wnids], dtype=np.int64)
        positions.flags.writeable = False
        return positions

    @cached_property
    def _known(self) -> dict[int, tuple["LabelSpace", NDArray[np.int64]]]:
        return {}

    @cached_property
    def _by_wnid(self) -> dict[str, int]:
        return {wnid: index for index, wnid in enumerate(self.wnids)}

    @cached_property
    def _by_label(self) -> dict[str, int | None]:
        return _unique_positions(self.labels)

    @cached_property
    def _by_casefolded_label(self) -> dict[str, int | None]:
        return _unique_positions([label.casefold() for label in self.labels])


class UnknownLabelSpace(LookupError):
    """No label space of that name is built in; the message lists those that are."""


@cache
def imagenet_1k() -> LabelSpace:
    """The 1000 classes of ILSVRC 2012 in the order of timm's models; labels are the first WordNet lemmas."""
    return read_label_space(_DATA / "imagenet_1k.tsv", "imagenet-1k")


@cache
def imagenet_a() -> LabelSpace:
    """The 200 classes of ImageNet-A (Hendrycks et al., arXiv:1907.07174), sorted by wnid."""
    return _subset_of_imagenet("imagenet-a")


@cache
def tiny_imagenet() -> LabelSpace:
    """The 200 classes of Tiny ImageNet (Stanford CS231n), sorted by wnid."""
    return _subset_of_imagenet("tiny-imagenet")


LABEL_SPACES: dict[str, Callable[[], LabelSpace]] = {
    "imagenet-1k": imagenet_1k,
    "imagenet-a": imagenet_a,
    "tiny-imagenet": tiny_imagenet,
}


def label_space(name: str) -> LabelSpace:
    """A built-in label space. Raises `UnknownLabelSpace`."""
    if name not in LABEL_SPACES:
        raise UnknownLabelSpace(f"unknown label space {name}; known are {', '.join(LABEL_SPACES)}")
    return LABEL_SPACES[name]()


def read_label_space(path: Path, name: str) -> LabelSpace:
    """A user's own label space, from a UTF-8 file of one `wnid<TAB>label` a line, in the order of the logits.

    Blank lines are skipped. Raises `ValueError`, with the line's number, for a line without a tab, an empty
    or repeated wnid, or an empty label; `ValueError` too for an empty file or one that is not UTF-8, and
    `OSError` when the file cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8") from error
    labels: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        wnid, _, label = (part.strip() for part in line.partition("\t"))
        if not wnid or not label:
            raise ValueError(f"{path}, line {number}: expected wnid<TAB>label")
        if wnid in labels:
            raise ValueError(f"{path}, line {number}: {wnid} is already in an earlier line")
        labels[wnid] = label
    if not labels:
        raise ValueError(f"{path}: no wnid<TAB>label line in it")
    return LabelSpace(name, tuple(labels), tuple(labels.values()))


def _subset_of_imagenet(name: str) -> LabelSpace:
    wnids = (_DATA / f"{name.replace('-', '_')}_wnids.txt").read_text("ascii").split()
    parent = imagenet_1k()
    labels = dict(zip(parent.wnids, parent.labels, strict=True))
    return LabelSpace(name, tuple(wnids), tuple(labels[wnid] for wnid in wnids))


def _unique_positions(texts: Sequence[str]) -> dict[str, int | None]:
    """Each text's position; None where there are several, so that a twin is not mistaken for unknown."""
    positions: dict[str, int | None] = {}
    for index, text in enumerate(texts):
        positions[text] = None if text in positions else index
    return positions
