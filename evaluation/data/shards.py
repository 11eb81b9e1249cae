"""WebDataset shards: tars whose members KEY.jpg and KEY.cls (or .json, .txt) lie next to each other."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evaluation.data.files import Place
from evaluation.data.listing import PHOTO_SUFFIXES, DataError, DataSet, Entry
from evaluation.data.tables import LABELS

_LABEL_SUFFIXES = (".cls", ".txt", ".json")


class _Span(NamedTuple):
    """Bytes of a tar that are one member."""

    shard: Place
    offset: int
    size: int

    def read(self) -> bytes:
        return self.shard.read_part("", self.offset, self.size)


@dataclass
class _Sample:
    photo: _Span | None = None
    labels: dict[str, bytes] = field(default_factory=dict)


def tar_shards(shards: Sequence[Place]) -> DataSet:
    """Uncompressed tars. The photo's path is its key with its suffix; with several shards, after the shard's name.

    Raises `DataError` for a photo without a label, or a tar that cannot be read from its middle.
    """
    entries, spans = [], []
    for shard in shards:
        prefix = f"{shard.root.rpartition('/')[2].removesuffix('.tar')}/" if len(shards) > 1 else ""
        for key, sample in _samples(shard).items():
            if sample.photo is None:
                continue
            entries.append(Entry(prefix + key, _label(shard, key, sample)))
            spans.append(sample.photo)
    url = shards[0].url if len(shards) == 1 else f"{shards[0].url} and {len(shards) - 1} more"
    return DataSet(url, "WebDataset", tuple(entries), lambda index: spans[index].read())


def _samples(shard: Place) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    try:
        with shard.fs.open(shard.root, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, suffix = _key(member.name)
                if not member.isfile():
                    continue
                sample = samples.setdefault(key, _Sample())
                if suffix in PHOTO_SUFFIXES:
                    sample.photo = _Span(shard, member.offset_data, member.size)
                elif suffix in _LABEL_SUFFIXES and (content := tar.extractfile(member)) is not None:
                    sample.labels[suffix] = content.read()
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard.url}: no uncompressed tar: {error}") from error
    return samples


def _key(name: str) -> tuple[str, str]:
    """WebDataset splits a name at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _label(shard: Place, key: str, sample: _Sample) -> str | int:
    for suffix in (".cls", ".json", ".txt"):
        if suffix not in sample.labels:
            continue
        text = sample.labels[suffix].decode("utf-8", "replace").strip()
        if suffix != ".json":
            return int(text) if text.isascii() and text.isdecimal() else text
        described = json.loads(text)
        found = next((described[name] for name in LABELS if name in described), None)
        if isinstance(found, str | int):
            return found
    raise DataError(f"{shard.url}: {key} has no label (.cls, .txt, or .json with one of {', '.join(LABELS)})")
