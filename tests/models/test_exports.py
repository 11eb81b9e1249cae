import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.backbones import BUNDLED, Backbone, Facts, ModelError, bundled_backbone
from models.catalog import DEFAULT_DETECTORS, Catalog
from models.detectors import FcosDetector
from models.exports import Exports
from models.label_spaces import LabelSpace
from models.preprocessing import Preprocessing
from tests.conftest import LITE0

PETS = LabelSpace("pets", ("n1", "n2"), ("tabby", "Käse"))
HALVES = (0.5, 0.5, 0.5)


def pets(name: str = "me/my pets") -> Backbone:
    """From a hub or a manifest, as after its export: nothing asks timm or its weights."""
    facts = Facts("a" * 64, 7, Preprocessing(64, HALVES, HALVES, 0.9, "bilinear"))
    return Backbone(name, "resnet18", "manifest", PETS, model_args={"num_classes": 2}, facts=facts)


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    return Exports(tmp_path / "exports")


def test_an_empty_folder_knows_nothing(exports: Exports) -> None:
    assert exports.names("backbones") == []
    assert exports.backbone(LITE0) is None
    assert exports.detector(DEFAULT_DETECTORS[0]) is None
    assert not exports.folder.exists()


def test_a_bundled_backbone_comes_back_with_all_that_serving_needs(exports: Exports) -> None:
    known = bundled_backbone(LITE0)
    exports.remember(known)
    found = exports.backbone(LITE0)
    assert found is not None
    assert (found.sha256, found.parameters, found.preprocessing) == (
        known.sha256,
        known.parameters,
        known.preprocessing,
    )
    assert (found.graph().weights, found.graph().name) == (known.graph().weights, known.graph().name)
    assert found.label_space.labels == known.label_space.labels
    assert found.checkpoint == known.checkpoint


def test_a_manifest_s_backbone_brings_its_label_space_and_has_no_weights(exports: Exports) -> None:
    exports.remember(pets())
    assert exports.names("backbones") == ["me/my pets"]
    found = exports.backbone("me/my pets")
    assert found is not None
    assert (found.label_space.wnids, found.label_space.labels) == (PETS.wnids, PETS.labels)
    assert found.model_args == {"num_classes": 2}
    assert found.graph().name == pets().graph().name
    with pytest.raises(ModelError, match="its exported graph is here, its weights are not"):
        _ = found.module


def test_a_detector_comes_back_with_its_head(exports: Exports, random_head: Path) -> None:
    known = FcosDetector("mine", bundled_backbone(LITE0), random_head, "manifest")
    exports.remember(known)
    found = exports.detector("mine")
    assert found is not None
    assert found.head.is_relative_to(exports.folder)
    assert found.head.read_bytes() == random_head.read_bytes()
    assert (found.sha256, found.file, found.parameters) == (known.sha256, known.file, known.parameters)
    found.head.write_bytes(b"another")
    with pytest.raises(ModelError, match="has sha256"):
        _ = replace(found).sha256


def _changed(exports: Exports, kind: str, name: str, change: Any) -> None:
    path = exports.folder / kind / f"{name}.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_other_weights_in_the_installation_make_the_record_void(exports: Exports) -> None:
    exports.remember(bundled_backbone(LITE0))
    _changed(exports, "backbones", LITE0, lambda record: record["facts"].update(sha256="b" * 64))
    assert exports.backbone(LITE0) is None
    assert Catalog(exports=exports).backbone(LITE0).sha256 == BUNDLED[LITE0].sha256


def test_another_head_in_the_installation_makes_the_record_void(exports: Exports) -> None:
    name = DEFAULT_DETECTORS[0]
    known = Catalog().detector(name)
    assert isinstance(known, FcosDetector)
    exports.remember(known)
    assert exports.detector(name) is not None
    _changed(exports, "detectors", name, lambda record: record.update(head_sha256="b" * 64))
    assert exports.detector(name) is None
    found = Catalog(exports=exports).detector(name)
    assert isinstance(found, FcosDetector)
    assert found.head == known.head


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}'])
def test_a_record_of_another_version_is_left_alone(
    text: str, exports: Exports, caplog: pytest.LogCaptureFixture
) -> None:
    exports.remember(bundled_backbone(LITE0))
    path = exports.folder / "backbones" / f"{LITE0}.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING, "figureground.exports"):
        assert exports.backbone(LITE0) is None
    assert "is of no use" in caplog.text
    assert path.read_text() == text


def test_what_is_known_already_is_not_written_again(exports: Exports) -> None:
    exports.remember(pets())
    (path,) = (exports.folder / "backbones").iterdir()
    written = path.stat().st_mtime_ns
    exports.remember(pets())
    assert path.stat().st_mtime_ns == written
    assert [one.name for one in path.parent.iterdir()] == [path.name]
