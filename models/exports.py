"""What is remembered of a model beside its exported graphs, so that it is served without its weights, timm and torch.

A folder of exports has a JSON file a model, `backbones/NAME.json` and `detectors/NAME.json`, and the graphs and heads
in folders named by the weights' sha256. The cache of an ordinary installation and the folder in an image are alike.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError

from models.backbones import BUNDLED, Backbone, Facts, Source, file_sha256
from models.detectors import FcosDetector
from models.heads import BUNDLED as BUNDLED_HEADS
from models.label_spaces import LabelSpace

log = logging.getLogger("figureground.exports")

_HEAD = "head.safetensors"


@dataclass(frozen=True)
class BackboneRecord:
    name: str
    architecture: str
    source: Source
    label_space: LabelSpace
    facts: Facts
    model_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectorRecord:
    """The head has its own description with it."""

    name: str
    source: Source
    backbone: BackboneRecord
    head_sha256: str


_Record = TypeVar("_Record", BackboneRecord, DetectorRecord)
_BACKBONE, _DETECTOR = TypeAdapter(BackboneRecord), TypeAdapter(DetectorRecord)


class Exports:
    """A folder of exports, read and written; it need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self, kind: str) -> list[str]:
        """Of the remembered "backbones" or "detectors", sorted."""
        return sorted(unquote(path.stem) for path in (self.folder / kind).glob("*.json"))

    def backbone(self, name: str) -> Backbone | None:
        record = self._read("backbones", name, _BACKBONE)
        return None if record is None else _backbone(record)

    def detector(self, name: str) -> FcosDetector | None:
        record = self._read("detectors", name, _DETECTOR)
        backbone = None if record is None or _is_old_head(record) else _backbone(record.backbone)
        if record is None or backbone is None:
            return None
        head = self.folder / record.head_sha256 / _HEAD
        return FcosDetector(record.name, backbone, head, record.source, record.head_sha256)

    def remember(self, model: Backbone | FcosDetector) -> None:
        """Write down a model whose graphs are in the folder. Raises OSError where the folder cannot be written to."""
        if isinstance(model, Backbone):
            self._write("backbones", model.name, _BACKBONE.dump_json(_backbone_record(model)))
            return
        head = self.folder / model.sha256 / _HEAD
        if not head.exists():
            with _fresh(head) as fresh:
                shutil.copyfile(model.head, fresh)
        record = DetectorRecord(model.name, model.source, _backbone_record(model.backbone), model.sha256)
        self._write("detectors", model.name, _DETECTOR.dump_json(record))

    def _read(self, kind: str, name: str, adapter: TypeAdapter[_Record]) -> _Record | None:
        path = self._path(kind, name)
        try:
            return adapter.validate_json(path.read_bytes())
        except OSError:
            return None
        except ValidationError as error:  # of another version, say
            log.warning("%s is of no use, and left alone: %s", path, error.errors()[0]["msg"])
            return None

    def _write(self, kind: str, name: str, text: bytes) -> None:
        path = self._path(kind, name)
        if path.is_file() and path.read_bytes() == text:
            return
        with _fresh(path) as fresh:
            fresh.write_bytes(text)

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{quote(name, safe='')}.json"


def _backbone_record(model: Backbone) -> BackboneRecord:
    facts = Facts(model.sha256, model.parameters, model.preprocessing)
    return BackboneRecord(
        model.name, model.architecture, model.source, model.label_space, facts, dict(model.model_args)
    )


def _is_old_head(record: DetectorRecord) -> bool:
    head = BUNDLED_HEADS / f"{record.name}.safetensors"
    return record.source == "bundled" and not (head.exists() and file_sha256(head, record.name) == record.head_sha256)


def _backbone(record: BackboneRecord) -> Backbone | None:
    """None where the bundled weights are other ones by now."""
    bundled = BUNDLED.get(record.name) if record.source == "bundled" else None
    if record.source == "bundled" and (bundled is None or bundled.sha256 != record.facts.sha256):
        return None
    return Backbone(
        name=record.name,
        architecture=record.architecture,
        source=record.source,
        label_space=record.label_space,
        checkpoint=None if bundled is None else bundled.checkpoint,
        expected_sha256=record.facts.sha256,
        model_args=record.model_args,
        facts=record.facts,
    )


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A file to write, which then takes its place: whole or not at all, also where several processes start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        yield fresh
        fresh.replace(path)
