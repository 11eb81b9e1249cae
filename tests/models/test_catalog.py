import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from models.backbones import BUNDLED, ModelError, example_pixels
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog, read_manifest
from models.detectors import PREFIX, FcosDetector
from models.engines import TorchEngine
from tests.conftest import LITE0, fcos

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
GOOD = {
    "architecture": '"test_efficientnet.r160_in1k"',
    "checkpoint": '"weights/pets.safetensors"',
    "label_space": '"pets.tsv"',
}
BACKBONE = "[backbones.pets]\n" + "\n".join(f"{key} = {value}" for key, value in GOOD.items())
DETECTOR = '[detectors.finder]\narchitecture = "fcos_tf_efficientnet_lite0.in1k"\ncheckpoint = "head.safetensors"\n'


@pytest.fixture
def folder(tmp_path: Path, random_head: Path) -> Path:
    """A half-precision checkpoint of three classes, their labels, and a head for lite0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model("test_efficientnet", num_classes=3)
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in module.state_dict().items()
    }
    (tmp_path / "weights").mkdir()
    save_file(state, tmp_path / "weights" / "pets.safetensors")
    (tmp_path / "pets.tsv").write_text("n1\tcat\nn2\tdog\nn3\tfish\n")
    (tmp_path / "head.safetensors").write_bytes(random_head.read_bytes())
    return tmp_path


def manifest(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("with_hash", [False, True])
def test_a_backbone_of_ones_own(folder: Path, with_hash: bool) -> None:
    checkpoint = folder / "weights" / "pets.safetensors"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    text = (
        f"{BACKBONE}\n"
        + (f'sha256 = "{digest}"\n' if with_hash else "")
        + '[backbones.pets.model_args]\npad_type = "same"\n'
        + f"[backbones.pets.preprocessing]\ninput_size = [3, 96, 96]\nmean = {MEAN}\nstd = {STD}\ncrop_pct = 1.0\n"
    )
    backbone = read_manifest(manifest(folder, text)).backbone("pets")
    assert (backbone.source, backbone.sha256) == ("manifest", digest)
    assert (backbone.label_space.name, backbone.label_space.labels) == ("pets", ("cat", "dog", "fish"))
    assert backbone.preprocessing.crop_pct == 1
    assert backbone.preprocessing.interpolation == "bicubic"

    pixels = example_pixels(96)
    (found,) = TorchEngine(backbone.graph().build(), "cpu").run(pixels)
    answers = {}
    for pad_type in ("same", ""):
        module = timm.create_model("test_efficientnet", num_classes=3, pad_type=pad_type).eval()
        module.load_state_dict(backbone.module.state_dict())
        inputs = (pixels / 255 - np.array(MEAN)) / np.array(STD)
        with torch.inference_mode():
            answers[pad_type] = module(torch.from_numpy(inputs.transpose(0, 3, 1, 2)).float()).numpy()
    np.testing.assert_allclose(found, answers["same"], rtol=1e-4, atol=1e-5)
    assert np.abs(answers["same"] - answers[""]).max() > 1e-3 * np.abs(found).max()


def test_a_detector_of_ones_own(folder: Path) -> None:
    catalog = read_manifest(manifest(folder, DETECTOR))
    detector = fcos(catalog.detector("finder"))
    assert (detector.name, detector.source, detector.input_size) == ("finder", "manifest", 64)
    assert (detector.backbone.name, detector.backbone.source) == (LITE0, "bundled")
    assert catalog.names("detectors")[-1] == "finder"


def test_a_detector_on_a_backbone_of_ones_own(folder: Path) -> None:
    text = f"{BACKBONE}\n{DETECTOR.replace('tf_efficientnet_lite0.in1k', 'pets')}"
    detector = fcos(read_manifest(manifest(folder, text)).detector("finder"))
    assert detector.backbone.name == "pets"
    with pytest.raises(ModelError, match="was trained on other weights"):
        _ = detector.file


@pytest.mark.parametrize("space", ["imagenet-1k", "imagenet-a", "tiny-imagenet"])
def test_a_built_in_label_space(folder: Path, space: str) -> None:
    text = BACKBONE.replace("pets.tsv", space)
    assert read_manifest(manifest(folder, text)).backbone("pets").label_space.name == space


def test_an_absolute_path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = BACKBONE.replace('"weights', f'"{folder.as_posix()}/weights').replace(
        '"pets.tsv', f'"{folder.as_posix()}/pets.tsv'
    )
    assert (
        read_manifest(manifest(elsewhere, text)).backbone("pets").checkpoint == folder / "weights" / "pets.safetensors"
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[backbones]\n"])
def test_an_empty_manifest(folder: Path, text: str) -> None:
    catalog = read_manifest(manifest(folder, text))
    assert (catalog.backbones, catalog.detectors) == ({}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[backbones", r"^models\.toml is no TOML: "),
        ("[classifiers.pets]\n", r"^models\.toml: classifiers: "),
        (BACKBONE + '\nlabels = "x"', r"^models\.toml: backbones\.pets\.labels: "),
        (BACKBONE + "\n[backbones.pets.preprocessing]\ncrop = 1", r"backbones\.pets\.preprocessing\.crop: "),
        (BACKBONE + '\n[backbones.pets.preprocessing]\nmean = "x"', r"backbones\.pets\.preprocessing\.mean: "),
        ('[backbones.pets]\narchitecture = "resnet18"', r"backbones\.pets\.checkpoint: Field required"),
        (BACKBONE.replace("pets.safetensors", "none.pth"), r"^'pets': no file '[^']+none\.pth'$"),
        (BACKBONE.replace("weights/pets.safetensors", "weights"), r"^'pets': no file '[^']+weights'$"),
        (
            BACKBONE.replace("test_efficientnet.r160_in1k", "resnet_of_mine"),
            "timm has no architecture 'resnet_of_mine'",
        ),
        (BACKBONE.replace("pets.tsv", "none.tsv"), r"label_space 'none\.tsv' is none of imagenet-1k, .* and no file"),
        (BACKBONE.replace("pets.tsv", "weights"), r"label_space 'weights' is none of"),
        (BACKBONE.replace("pets.tsv", "weights/pets.safetensors"), r"^'pets': .*not UTF-8"),
        (DETECTOR.replace("head.safetensors", "none.safetensors"), r"^'finder': no file"),
        (DETECTOR.replace("fcos_", ""), r"architecture must be fcos_BACKBONE"),
        (DETECTOR.replace("lite0", "lite9"), r"unknown backbone 'tf_efficientnet_lite9\.in1k'"),
        (DETECTOR + "margin = 0.1\n", r"^models\.toml: detectors\.finder\.margin: "),
    ],
)
def test_whatever_is_wrong_stops_the_start_with_one_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_manifest(manifest(folder, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BACKBONE + f'\nsha256 = "{"0" * 64}"', r"^'pets': pets\.safetensors has sha256 [0-9a-f]{64}, expected 0+$"),
        (BACKBONE + "\n[backbones.pets.preprocessing]\ncrop_pct = 0", r"^backbone 'pets': crop_pct must be above 0"),
        (BACKBONE + "\n[backbones.pets.preprocessing]\ninput_size = [3, 224, 256]", r"^backbone 'pets': input_size"),
        (BACKBONE + "\n[backbones.pets.model_args]\nno_such_argument = 1", "no_such_argument"),
        (BACKBONE.replace("pets.tsv", "imagenet-a"), "the checkpoint does not fit: size mismatch"),
        (BACKBONE.replace(".r160_in1k", ".no_such_tag"), "no_such_tag"),
    ],
)
def test_what_only_loading_finds_is_one_line_too(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_manifest(manifest(folder, text)).backbone("pets").graph().build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["none.toml", "weights"])
def test_no_manifest(folder: Path, path: str) -> None:
    with pytest.raises(ModelError, match=rf"^no manifest '[^']*{path}'$"):
        read_manifest(folder / path)


def test_a_manifest_that_is_no_text(folder: Path) -> None:
    path = folder / "models.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"^models\.toml is no TOML: "):
        read_manifest(path)


def test_what_is_there_without_a_manifest() -> None:
    catalog = Catalog()
    assert catalog.names("backbones") == list(DEFAULT_BACKBONES) == list(BUNDLED)
    assert catalog.names("detectors") == [f"{PREFIX}{name.split('.')[0]}.figureground" for name in BUNDLED]
    assert catalog.names("detectors")[0] == DEFAULT_DETECTORS[0]
    for name in catalog.names("backbones"):
        assert (catalog.backbone(name).name, catalog.backbone(name).source) == (name, "bundled")
    for name in catalog.names("detectors"):
        detector = catalog.detector(name)
        assert isinstance(detector, FcosDetector)
        assert (detector.name, detector.source) == (name, "bundled")
        assert name == f"{PREFIX}{detector.backbone.architecture}.figureground"
        assert detector.file.backbone == detector.backbone.name


def test_the_operators_own_come_after_the_bundled_ones(folder: Path) -> None:
    catalog = read_manifest(manifest(folder, f"{DETECTOR}\n{BACKBONE}"))
    assert catalog.names("backbones") == [*BUNDLED, "pets"]
    assert catalog.names("detectors") == [*Catalog().names("detectors"), "finder"]


@pytest.mark.parametrize("name", ["", "fcos_resnet18.a1_in1k", "FCOS_TF_EFFICIENTNET_LITE0.FIGUREGROUND"])
def test_an_unknown_detector_names_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^unknown detector {name!r}; known are .*{DEFAULT_DETECTORS[0]}"):
        Catalog().detector(name)


def test_an_unknown_backbone() -> None:
    with pytest.raises(ModelError, match="unknown backbone 'pets'"):
        Catalog().backbone("pets")


def test_the_checkpoint_of_a_manifest_is_never_unpickled(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (str(folder / "touched"),)

    torch.save({"weight": Evil()}, folder / "evil.pth")
    catalog = read_manifest(manifest(folder, BACKBONE.replace("weights/pets.safetensors", "evil.pth")))
    with pytest.raises(ModelError, match=r"evil\.pth cannot be read"):
        _ = catalog.backbone("pets").module
    assert not (folder / "touched").exists()
