from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from evaluation.samples import SAMPLES
from models import views
from models.backbones import (
    BUNDLED,
    Backbone,
    ModelError,
    bundled_backbone,
    example_pixels,
    file_sha256,
    hub_backbone,
    read_checkpoint,
)
from models.engines import TorchEngine
from models.label_spaces import LabelSpace, imagenet_1k
from models.photo import Photo

PETS = LabelSpace("pets", ("n1", "n2", "n3"), ("cat", "dog", "fish"))
ARCHITECTURE = "test_resnet.r160_in1k"


@pytest.fixture
def tiny(tmp_path: Path) -> Backbone:
    """timm's smallest ResNet with three classes, from a checkpoint of random weights."""
    module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=len(PETS))
    path = tmp_path / "tiny.safetensors"
    save_file(module.state_dict(), path)
    return Backbone("pets.mine", ARCHITECTURE, "manifest", PETS, path)


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("tf_efficientnet_lite0.in1k", 224, 4_652_008),
        ("tf_efficientnet_lite1.in1k", 240, 5_416_680),
        ("tf_efficientnet_lite2.in1k", 260, 6_092_072),
    ],
)
def test_bundled(name: str, size: int, parameters: int) -> None:
    backbone = bundled_backbone(name)
    assert (backbone.name, backbone.source) == (name, "bundled")
    assert backbone.label_space == imagenet_1k()
    assert backbone.preprocessing.input_size == size
    assert backbone.sha256 == backbone.expected_sha256
    assert backbone.parameters == parameters == sum(value.numel() for value in backbone.module.parameters())
    assert not backbone.module.training


def test_the_bundled_tensors_get_the_names_of_timm() -> None:
    """The packages' files name them after another library; equal shapes would hide two that are swapped."""
    backbone = bundled_backbone("tf_efficientnet_lite0.in1k")
    assert backbone.checkpoint is not None
    theirs = read_checkpoint(backbone.checkpoint, backbone.name)
    ours = backbone.module.state_dict()
    pairs = {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn0.running_var": "blocks.1.0.bn1.running_var",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.15._bn2.running_mean": "blocks.6.0.bn3.running_mean",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.bias": "bn2.bias",
        "_fc.bias": "classifier.bias",
    }
    assert pairs.items() <= dict(zip(theirs, ours, strict=True)).items(), list(theirs)[:9] + list(theirs)[-9:]
    for their_name, our_name in pairs.items():
        assert torch.equal(theirs[their_name], ours[our_name])


def test_lite0_knows_the_sample_photos(samples: Mapping[str, Photo]) -> None:
    backbone = bundled_backbone("tf_efficientnet_lite0.in1k")
    engine = TorchEngine(backbone.graph().build(), "cpu")
    pixels = np.stack([views.plain(photo, backbone.preprocessing) for photo in samples.values()])
    (logits,) = engine.run(pixels)
    found = {name: imagenet_1k().labels[row.argmax()] for name, row in zip(samples, logits, strict=True)}
    assert {name: label for name, label in found.items() if label not in SAMPLES[name].labels} == {}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_changed_byte_is_refused(name: str, tmp_path: Path) -> None:
    backbone = bundled_backbone(name)
    assert backbone.checkpoint is not None
    data = bytearray(backbone.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "changed.pth"
    changed.write_bytes(data)
    with pytest.raises(ModelError, match=r"changed\.pth has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}$"):
        _ = replace(backbone, checkpoint=changed).module


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_of_mine", "unknown backbone 'resnet_of_mine'"),
        ("", "unknown backbone ''"),
        ("../etc/passwd", "unknown backbone"),
        ("resnet18.no_such_tag", "unknown backbone 'resnet18.no_such_tag'"),
        ("test_byobnet.no_such_tag", "unknown backbone"),
        ("resnet10t_of_mine.a1_in1k", "unknown backbone"),
        ("efficientnet_b8", "unknown backbone 'efficientnet_b8'"),
        ("vit_base_patch16_224.augreg_in21k", "has 21843 classes; only ImageNet-1k"),
        ("vit_base_patch14_dinov2.lvd142m", "has 0 classes; only ImageNet-1k"),
    ],
)
def test_a_name_that_cannot_be_served(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        hub_backbone(name)


@pytest.mark.parametrize(
    ("name", "architecture", "size"),
    [
        ("convnext_tiny.fb_in1k", "convnext_tiny", 224),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", "vit_base_patch16_384", 384),
        ("resnet18", "resnet18", 224),
    ],
)
def test_a_classifier_of_timm_by_name(name: str, architecture: str, size: int) -> None:
    backbone = hub_backbone(name)
    assert (backbone.name, backbone.architecture, backbone.source) == (name, architecture, "hub")
    assert backbone.preprocessing.input_size == size
    assert backbone.label_space == imagenet_1k()


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"^backbone 'test_resnet\.r160_in1k' cannot be fetched: [^\n]+$"):
        _ = hub_backbone(ARCHITECTURE).module


def test_weights_of_a_hub_are_hashed_by_content(tiny: Backbone) -> None:
    """Without a file, the hash follows every tensor: equal weights give an equal hash, one changed value another."""
    first, second = (replace(tiny, checkpoint=None) for _ in range(2))
    for backbone in (first, second):
        vars(backbone)["module"] = replace(tiny).module
    assert first.sha256 == second.sha256
    third = replace(tiny, checkpoint=None)
    changed = replace(tiny).module
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1
    vars(third)["module"] = changed
    assert third.sha256 != first.sha256


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".wrapped.pth"])
def test_checkpoints_in_every_form_give_the_same_answers(tiny: Backbone, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{suffix}"
    state = tiny.module.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == ".wrapped.pth" else state, path)
    other = replace(tiny, checkpoint=path)
    pixels = example_pixels(tiny.preprocessing.input_size)
    expected, found = (TorchEngine(backbone.graph().build(), "cpu").run(pixels)[0] for backbone in (tiny, other))
    assert expected.shape == (2, len(PETS))
    np.testing.assert_array_equal(found, expected)


class Unpicklable:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.mkdir, (Path("must-not-be-made"),)


@pytest.mark.parametrize("kind", ["junk", "empty", "code", "no dict", "missing"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_no_checkpoint(kind: str, suffix: str, tmp_path: Path, tiny: Backbone) -> None:
    path = tmp_path / f"wrong{suffix}"
    if kind == "code":
        torch.save({"weight": Unpicklable()}, path)
    elif kind == "no dict":
        torch.save([torch.zeros(1)], path)
    elif kind != "missing":
        path.write_bytes(b"junk" if kind == "junk" else b"")
    with pytest.raises(ModelError, match=r"^'pets\.mine': [^\n]+$"):
        _ = replace(tiny, checkpoint=path).module
    assert not Path("must-not-be-made").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_space": imagenet_1k()}, "the checkpoint does not fit: size mismatch for fc"),
        ({"architecture": "resnet18.a1_in1k"}, "the checkpoint does not fit: Missing key"),
        ({"architecture": "resnet_of_mine"}, "resnet_of_mine"),
        ({"architecture": "resnet18.no_such_tag"}, "resnet18.no_such_tag"),
        ({"model_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"model_args": {"num_classes": 2}}, "num_classes 2 is not the 3 classes of the label space pets"),
        ({"preprocessing_overrides": {"std": [0, 0, 0]}}, "std must be above 0"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny: Backbone, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        replace(tiny, **changes).graph().build()
    assert "\n" not in str(caught.value)


def test_more_classes_than_the_label_space_has_are_refused(tiny: Backbone, tmp_path: Path) -> None:
    """Its answers would be the wrong labels."""
    path = tmp_path / "five.safetensors"
    save_file(timm.create_model(ARCHITECTURE, pretrained=False, num_classes=5).state_dict(), path)
    with pytest.raises(ModelError, match="num_classes"):
        _ = replace(tiny, checkpoint=path, model_args={"num_classes": 5}).module


def test_file_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path, "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ModelError, match="'x': no file"):
        file_sha256(tmp_path / "missing", "x")
    with pytest.raises(ModelError, match="'x': no file"):
        file_sha256(tmp_path, "x")
