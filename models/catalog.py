"""Which models there are: bundled with the installation, by name from a hub, or from the operator's manifest."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from models.backbones import BUNDLED, Backbone, ModelError, bundled_backbone, hub_backbone, import_timm
from models.detectors import PREFIX, Detector, FcosDetector
from models.exports import Exports
from models.heads import BUNDLED as BUNDLED_HEADS
from models.heads import Tuning
from models.label_spaces import LABEL_SPACES, LabelSpace, label_space, read_label_space
from models.torchvision_detectors import NAMES as TORCHVISION_NAMES
from models.torchvision_detectors import TUNING, TorchvisionDetector

DEFAULT_BACKBONES = tuple(BUNDLED)
DEFAULT_DETECTORS = ("fcos_tf_efficientnet_lite0.figureground",)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Preprocessing(_Table):
    input_size: int | list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None


class _BackboneTable(_Table):
    architecture: str
    checkpoint: str
    label_space: str
    sha256: str | None = None
    model_args: dict[str, Any] = {}
    preprocessing: _Preprocessing = _Preprocessing()


class _DetectorTable(_Table):
    """Of a head only the first four: the rest stands in its file, and in its backbone's table."""

    architecture: str
    checkpoint: str
    label_space: str | None = None
    sha256: str | None = None
    model_args: dict[str, Any] = {}
    preprocessing: _Preprocessing = _Preprocessing()
    tuning: dict[str, float] = {}


class _Manifest(_Table):
    backbones: dict[str, _BackboneTable] = {}
    detectors: dict[str, _DetectorTable] = {}


@dataclass(frozen=True)
class Catalog:
    """All models that an operator can choose from, by name; `exports` are those of earlier starts, or of an image."""

    backbones: Mapping[str, Backbone] = field(default_factory=dict)
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    exports: Exports | None = None

    def backbone(self, name: str) -> Backbone:
        """From the manifest, else exported, else bundled, else from timm's hub. Raises `ModelError`."""
        found = self.backbones.get(name) or (self.exports and self.exports.backbone(name))
        if found:
            return found
        return bundled_backbone(name) if name in BUNDLED else hub_backbone(name)

    def detector(self, name: str) -> Detector:
        """From the manifest, else exported, else bundled, else from torchvision's hub. Raises `ModelError`."""
        found = self.detectors.get(name) or (self.exports and self.exports.detector(name))
        if found:
            return found
        heads = _bundled_heads()
        if name in TORCHVISION_NAMES:
            return TorchvisionDetector(name, name, "hub")
        if name not in heads:
            known = ", ".join([*sorted(self.names("detectors")), *TORCHVISION_NAMES])
            advice = "; a head of your own (figureground train) is served by a manifest" * name.startswith(PREFIX)
            raise ModelError(f"unknown detector {name!r}; known are {known}{advice}")
        return FcosDetector(name, self.backbone(heads[name]), BUNDLED_HEADS / f"{name}.safetensors", "bundled")

    def names(self, kind: Literal["backbones", "detectors"]) -> list[str]:
        """What can be served without a network, the default first."""
        exported = self.exports.names(kind) if self.exports else []
        if kind == "backbones":
            bundled = [name for name in DEFAULT_BACKBONES if name in exported or BUNDLED[name].checkpoint]
            return list(dict.fromkeys([*bundled, *exported, *self.backbones]))
        heads = _bundled_heads().items()
        bundled = [name for name, backbone in heads if name in exported or BUNDLED[backbone].checkpoint]
        return list(dict.fromkeys([*bundled, *exported, *self.detectors]))


def _bundled_heads() -> dict[str, str]:
    """The bundled detectors, and each one's backbone."""
    named = {f"{PREFIX}{name.split('.')[0]}.figureground": name for name in BUNDLED}
    return {name: backbone for name, backbone in named.items() if (BUNDLED_HEADS / f"{name}.safetensors").exists()}


def read_manifest(path: Path, exports: Exports | None = None) -> Catalog:
    """A catalog with the operator's own models too. Raises `ModelError`, one line, for anything wrong in it."""
    try:
        manifest = _Manifest.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError:
        raise ModelError(f"no manifest {str(path)!r}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path.name}: {where}: {first['msg']}") from error
    folder = path.parent
    backbones = {name: _backbone(name, table, folder) for name, table in manifest.backbones.items()}
    catalog = Catalog(backbones, exports=exports)
    detectors = {name: _detector(name, table, folder, catalog) for name, table in manifest.detectors.items()}
    return replace(catalog, detectors=detectors)


def _backbone(name: str, table: _BackboneTable, folder: Path) -> Backbone:
    if not import_timm(name).is_model(table.architecture.split(".")[0]):
        raise ModelError(f"backbone {name!r}: timm has no architecture {table.architecture!r}")
    return Backbone(
        name=name,
        architecture=table.architecture,
        source="manifest",
        label_space=_space(name, table.label_space, folder),
        checkpoint=_file(name, table.checkpoint, folder),
        expected_sha256=table.sha256,
        model_args=table.model_args,
        preprocessing_overrides=table.preprocessing.model_dump(exclude_none=True),
    )


def _detector(name: str, table: _DetectorTable, folder: Path, catalog: Catalog) -> Detector:
    # One of torchvision's begins with our prefix too.
    if table.architecture in TORCHVISION_NAMES:
        return TorchvisionDetector(
            name=name,
            architecture=table.architecture,
            source="manifest",
            checkpoint=_file(name, table.checkpoint, folder),
            expected_sha256=table.sha256,
            model_args=table.model_args,
            preprocessing_overrides=table.preprocessing.model_dump(exclude_none=True),
            tuning=_tuning(name, table.tuning),
        )
    if not table.architecture.startswith(PREFIX):
        raise ModelError(
            f"detector {name!r}: architecture must be {PREFIX}BACKBONE, a backbone's name, or one of torchvision's: "
            f"{', '.join(TORCHVISION_NAMES)}"
        )
    backbone = catalog.backbone(table.architecture.removeprefix(PREFIX))
    for key in ("model_args", "preprocessing", "tuning"):
        if key in table.model_fields_set:
            place = "in its file" if key == "tuning" else "in its backbone's table"
            raise ModelError(f"detector {name!r}: {key} of a head stands {place}")
    if table.label_space not in (None, backbone.label_space.name):
        raise ModelError(f"detector {name!r}: its label_space is its backbone's, {backbone.label_space.name}")
    head = _file(name, table.checkpoint, folder)
    return FcosDetector(name, backbone, head, "manifest", table.sha256)


def _tuning(name: str, numbers: Mapping[str, float]) -> Tuning:
    known = [one.name for one in fields(Tuning)]
    for key in numbers:
        if key not in known:
            raise ModelError(f"detector {name!r}: tuning has no {key}; it has {', '.join(known)}")
    return replace(TUNING, **numbers)


def _file(name: str, path: str, folder: Path) -> Path:
    found = folder / path
    if not found.is_file():
        raise ModelError(f"{name!r}: no file {str(found)!r}")
    return found


def _space(name: str, named: str, folder: Path) -> LabelSpace:
    if named in LABEL_SPACES:
        return label_space(named)
    try:
        return read_label_space(folder / named, Path(named).stem)
    except OSError:
        raise ModelError(f"{name!r}: label_space {named!r} is none of {', '.join(LABEL_SPACES)} and no file") from None
    except ValueError as error:
        raise ModelError(f"{name!r}: {error}") from error
